"""A point of the hyperboloid in other coordinates: those of the ball, of the tangent space at the origin, and time.

The maps of :mod:`hyperbolic.poincare` and :mod:`hyperbolic.lorentz` in float64 NumPy, for where no torch is loaded.
"""

import numpy as np
import numpy.typing as npt

from index.distances import Float64, norms


def time(space: npt.ArrayLike, c: float) -> Float64:
    """Time coordinate sqrt(1/c + |x_s|^2) of space parts: (..., d) -> (...)."""
    return np.asarray(np.hypot(1 / np.sqrt(c), norms(np.asarray(space, dtype=np.float64))))


def to_ball(space: npt.ArrayLike, c: float) -> Float64:
    """Points of the Poincare ball of the same c, p = x_s / (1 + sqrt(c) x_t): (..., d) -> (..., d).

    Relative error <= 1e-15 (tests/index/test_coordinates.py). As :func:`hyperbolic.poincare.from_lorentz`.
    """
    points = np.asarray(space, dtype=np.float64)
    return np.asarray(points / (1 + np.sqrt(c) * time(points, c)[..., None]))


def to_tangent(space: npt.ArrayLike, c: float) -> Float64:
    """Tangent vectors at the origin that point to x, asinh(s)/s x_s with s = sqrt(c) |x_s|: (..., d) -> (..., d).

    Their lengths are the points' distances to the origin. Relative error <= 1e-15 (tests/index/test_coordinates.py).
    As :func:`hyperbolic.lorentz.logmap0`.
    """
    points = np.asarray(space, dtype=np.float64)
    s = np.sqrt(c) * norms(points)[..., None]
    factor = np.divide(np.arcsinh(s), s, out=np.ones_like(s), where=s > 0)
    return np.asarray(factor * points)
