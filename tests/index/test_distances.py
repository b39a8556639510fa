"""Distances against 60 digits; the bounds are those in the docstring of index.distances.distances."""

import mpmath
import numpy as np
import pytest

from index.distances import distances, radii


def reference(x: np.ndarray, y: np.ndarray, c: float) -> float:
    """arccosh(-c <x, y>_L) / sqrt(c), the textbook form, with 60 digits to lose."""
    with mpmath.workdps(60):
        c_ = mpmath.mpf(c)
        xs, ys = ([mpmath.mpf(float(v)) for v in point] for point in (x, y))
        times = [mpmath.sqrt(1 / c_ + mpmath.fsum(v * v for v in point)) for point in (xs, ys)]
        inner = mpmath.fsum(a * b for a, b in zip(xs, ys, strict=True)) - times[0] * times[1]
        return float(mpmath.acosh(-c_ * inner) / mpmath.sqrt(c_))


@pytest.mark.parametrize("c", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("radius", [0.01, 1.0, 5.0, 8.3, 15.0])
@pytest.mark.parametrize("gap", [1e-3, 0.3, 3.0])
def test_relative_error(c: float, radius: float, gap: float) -> None:
    rng = np.random.default_rng(0)
    root = np.sqrt(c)
    directions = rng.normal(size=(20, 16))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    turned = directions + rng.normal(size=directions.shape) * gap * np.exp(-radius) / 4
    turned /= np.linalg.norm(turned, axis=1, keepdims=True)
    x = (directions * np.sinh(radius) / root).astype(np.float32)
    y = (turned * np.sinh(radius + gap / 2) / root).astype(np.float32)
    expected = np.array([reference(a, b, c) for a, b in zip(x, y, strict=True)])
    found = distances(x.astype(np.float64), y[:, None], c)[:, 0]
    assert expected.min() > 0
    assert np.abs(found / expected - 1).max() <= 5e-14 + 5e-16 * np.exp(radius)


def test_equal_points_are_at_zero_and_the_origin_is_a_point() -> None:
    points = np.random.default_rng(0).normal(size=(50, 37)).astype(np.float32) * 300
    assert (distances(points.astype(np.float64), points[:, None], 1.0) == 0).all()
    origin = np.zeros((1, 37))
    np.testing.assert_allclose(
        distances(origin, points[None], 0.5)[0], radii(points.astype(np.float64), 0.5), rtol=1e-14
    )
    assert distances(origin, origin[None], 0.5) == 0
