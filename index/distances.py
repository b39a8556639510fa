"""Exact geodesic distances in float64 for the re-rank, from float32 space parts."""

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

TINY = float(np.finfo(np.float64).tiny)


def norms(space: Float64) -> Float64:
    """Euclidean norms along the last axis: (..., d) -> (...)."""
    return np.asarray(np.sqrt(np.square(space).sum(axis=-1)))


def radii(space: Float64, c: float) -> Float64:
    """Geodesic distance of points to the origin, asinh(sqrt(c) |x_s|) / sqrt(c): (..., d) -> (...)."""
    return np.asarray(np.arcsinh(np.sqrt(c) * norms(space)) / np.sqrt(c))


def distances(queries: Float64, points: npt.NDArray[np.floating], c: float) -> Float64:
    """Geodesic distances of each query to its own candidates.

    With r = asinh(sqrt(c) |x_s|) and the angle theta between the space parts,

        d = 2/sqrt(c) asinh( sqrt( sinh^2((r_x - r_y)/2) + sinh(r_x) sinh(r_y) sin^2(theta/2) ) )

    It is the asinh form 2/sqrt(c) asinh(sqrt(c)/2 |x - y|_L) with |x - y|_L^2 as a sum of two squares
    instead of a difference, which would lose a factor x_time^2 (1e-9 of the squared distance at radius 8.3,
    all of it at 17). Both squares come from delta = x_s - y_s, which float64 holds exactly for float32
    points: r_x - r_y from <delta, x_s + y_s>, and the angle from what is left of delta after its radial
    part. Relative error against 60 digits <= 1e-14 out to radius 15 (tests/index/test_distances.py); equal
    points are at exactly 0.

    Shapes: queries (q, d), points (q, m, d) -> (q, m). Memory: three float64 copies of `points`.
    """
    root = np.sqrt(c)
    x = np.array(points, dtype=np.float64)  # a copy: it is written over below
    x_norm, y_norm = np.sqrt(np.einsum("qmd,qmd->qm", x, x)), norms(queries)[:, None]
    delta = x - queries[:, None]
    squares = np.einsum("qmd,qmd->qm", delta, x) + np.einsum("qmd,qd->qm", delta, queries)  # |x|^2 - |y|^2
    y_divisor = np.where(y_norm > 0, y_norm, np.inf)  # of terms that vanish with y
    radial_part = squares / np.maximum(x_norm + y_norm, TINY)  # |x| - |y|
    # delta - radial_part y/|y| = |x| (x/|x| - y/|y|), and the same with x and y changed about where x is much the
    # shorter: radial_part is large there.
    shorter = 2 * x_norm < y_norm
    few = None
    if shorter.any():
        rows, norm = x[shorter], x_norm[shorter]
        few = delta[shorter] - rows * (radial_part[shorter] / np.where(norm > 0, norm, np.inf))[:, None]
    delta -= np.multiply(queries[:, None], (radial_part / y_divisor)[..., None], out=x)
    across = y_norm / np.maximum(np.maximum(x_norm, y_norm / 2), TINY) * np.einsum("qmd,qmd->qm", delta, delta)
    if few is not None:
        across[shorter] = (x_norm / y_divisor)[shorter] * np.square(few).sum(axis=-1)
    a, b = root * x_norm, root * y_norm
    cross = a * np.sqrt(1 + b * b) + b * np.sqrt(1 + a * a)
    half = np.arcsinh(c * squares / np.maximum(cross, TINY)) / 2  # half of asinh(a) - asinh(b)
    return np.asarray(2 / root * np.arcsinh(np.sqrt(np.square(np.sinh(half)) + c / 4 * across)))
