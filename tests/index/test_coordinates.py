"""Coordinates against mpmath at 60 digits, and against the maps that training uses."""

import mpmath
import numpy as np
import pytest
import torch

from hyperbolic import lorentz, poincare
from index.coordinates import time, to_ball, to_tangent

BOUND = 1e-15  # of the exact value; a float64 has 1.1e-16


def points(rng: np.random.Generator, c: float) -> np.ndarray:
    directions = rng.normal(size=(40, 5))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return (directions * np.geomspace(1e-6, 1e6, 40)[:, None] / np.sqrt(c)).astype(np.float32)


@pytest.mark.parametrize("c", [0.1, 1.0, 3.7])
def test_against_mpmath(c: float) -> None:
    space = points(np.random.default_rng(0), c)
    ball, tangent, times = to_ball(space, c), to_tangent(space, c), time(space, c)
    with mpmath.workdps(60):
        exact_c = mpmath.mpf(c)
        for number, row in enumerate(space):
            x = [mpmath.mpf(float(value)) for value in row]
            square = mpmath.fsum(value**2 for value in x)
            x_time = mpmath.sqrt(1 / exact_c + square)
            s = mpmath.sqrt(exact_c * square)
            for found, factor in (
                (ball[number], 1 / (1 + mpmath.sqrt(exact_c) * x_time)),
                (tangent[number], mpmath.asinh(s) / s),
            ):
                errors = [abs(each / (factor * value) - 1) for each, value in zip(found, x, strict=True)]
                assert max(errors) <= BOUND
            assert abs(times[number] / x_time - 1) <= BOUND


def test_the_origin_and_the_maps_of_training() -> None:
    assert (to_ball(np.zeros(3), 2.0) == 0).all()
    assert (to_tangent(np.zeros((1, 3)), 2.0) == 0).all()
    assert time(np.zeros(3), 4.0) == 0.5
    space = torch.from_numpy(points(np.random.default_rng(1), 0.7)).double()
    x = lorentz.lift(space, 0.7)
    np.testing.assert_allclose(to_ball(space.numpy(), 0.7), poincare.from_lorentz(x, 0.7).numpy(), rtol=1e-12)
    np.testing.assert_allclose(to_tangent(space.numpy(), 0.7), lorentz.logmap0(x, 0.7).numpy(), rtol=1e-12)
