"""Coordinates in a centre's frame keep all distances, to within the rounding that the certificates allow for."""

import mpmath
import numpy as np
import pytest

from index.frames import Frames


def boosted(point: np.ndarray, centre: np.ndarray) -> list[float]:
    """The boost that takes `centre` to the origin, at 60 digits, of a point: both at curvature -1, time first."""
    with mpmath.workdps(60):
        x, mu = ([mpmath.mpf(float(value)) for value in values] for values in (point, centre))
        x_time, mu_time = (mpmath.sqrt(1 + mpmath.fsum(v * v for v in values)) for values in (x, mu))
        inner = mpmath.fsum(a * b for a, b in zip(x, mu, strict=True))
        # The matrix of the boost, written out: ((mu_t, -mu), (-mu, 1 + mu mu^T/(1 + mu_t))).
        time = mu_time * x_time - inner
        space = [a - b * x_time + b * inner / (1 + mu_time) for a, b in zip(x, mu, strict=True)]
        return [float(value) for value in (time, *space)]


@pytest.mark.parametrize("c", [0.3, 1.0])
@pytest.mark.parametrize("radius", [0.0, 1.0, 5.0, 8.3, 11.0])
def test_points_enter_a_frame_by_the_boost(radius: float, c: float) -> None:
    rng = np.random.default_rng(0)
    centre = rng.normal(size=(1, 6))
    centre *= np.sinh(radius) / np.linalg.norm(centre)
    near = centre * rng.normal(1, 0.3, size=(20, 1)) + rng.normal(size=(20, 6)) * 0.3
    frames = Frames(centre, c)
    scaled, times = frames.unit(near / np.sqrt(c))
    inside, cosh = frames.enter(scaled, times, np.zeros((20, 1), dtype=np.int64))
    expected = np.array([boosted(x, centre[0]) for x in scaled])
    allowed = frames.rounding(times, slice(0, 1))[:, None]
    float32 = 2.0**-24 * np.abs(expected)
    assert (np.abs(inside[:, 0] - expected) <= allowed + float32).all()
    assert (np.abs(cosh - expected[:, :1]) <= allowed).all()
    assert np.array_equal(
        frames.enter(scaled, times, np.zeros((20, 1), np.int64), flip_time=True)[0][:, 0, 0], -inside[:, 0, 0]
    )
    np.testing.assert_allclose(frames.cosh_to_all(scaled, times), cosh, rtol=0, atol=float(allowed.max()))
