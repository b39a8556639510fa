"""Maximum-distance rescaling, eq. (1)-(3), against 60 digits and against its own promises."""

import math

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperbolic import lorentz
from hyperbolic.nn.rescale import MaxDistanceRescale


def exact_radius(length: float, c: float, x_time_max: float, tightness: float) -> float:
    c_, root = mpmath.mpf(c), mpmath.sqrt(mpmath.mpf(c))
    d_max = mpmath.acosh(root * x_time_max) / root
    assert c_ > 0
    return float(d_max * mpmath.tanh(mpmath.atanh(mpmath.mpf("0.99")) / (tightness * d_max) * mpmath.mpf(length)))


@pytest.mark.parametrize("c", [0.1, 1.0, 3.0])
@pytest.mark.parametrize(("x_time_max", "tightness"), [(2e3, 2.0), (7.1, 1.0), (2e3, 3.0)])
def test_tangent_against_mpmath(c, x_time_max, tightness):
    rescale = MaxDistanceRescale(x_time_max, tightness)
    u = torch.nn.functional.normalize(torch.randn(12, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    z = u * torch.tensor([1e-30, 1e-6, 1e-2, 0.1, 0.5, 1, 3, 8, 16, 36, 500, 1e18])[:, None]
    out = rescale.tangent(z, c)
    expected = [exact_radius(float(row.double().norm()), c, x_time_max, tightness) for row in z]
    for row, given_row, length in zip(out.double(), z.double(), expected, strict=True):
        assert float(row.norm()) == pytest.approx(length, rel=1e-6, abs=1e-38)
        assert float((row / row.norm() - given_row / given_row.norm()).norm()) <= 3e-7
    assert torch.equal(rescale.tangent(torch.zeros(2, 8), c), torch.zeros(2, 8))


def test_the_constants_of_the_paper_with_r_corrected():
    rescale = MaxDistanceRescale()
    d_max = lorentz.max_distance(1.0, 2e3)
    at_limit = rescale.tangent(torch.tensor([[2.0 * d_max, 0.0]], dtype=torch.float64), 1.0)
    assert float(at_limit[0, 0]) == pytest.approx(0.99 * d_max, rel=1e-12)
    slope = rescale.tangent(torch.tensor([[1e-9]], dtype=torch.float64), 1.0) / 1e-9
    assert float(slope) == pytest.approx(2.647 / 2.0, rel=1e-3)


@settings(max_examples=40)
@given(st.floats(0.05, 5.0), st.floats(0.0, 40.0), st.floats(0.5, 4.0), st.floats(10.0, 5e3))
def test_no_point_passes_x_time_max(c, length, tightness, x_time_max):
    rescale = MaxDistanceRescale(x_time_max, tightness)
    z = torch.tensor([[0.6, -0.8]]) * length
    x = lorentz.expmap0(rescale.tangent(z, c), c)
    assert float(x[0, 0]) <= x_time_max * (1 + 1e-5)
    assert float(rescale.tangent(z * 1.01, c).norm()) >= float(rescale.tangent(z, c).norm()) * (1 - 1e-6)


def test_points_and_tangents_agree():
    rescale = MaxDistanceRescale()
    z = torch.randn(10, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2
    expected = lorentz.expmap0(rescale.tangent(z, 0.7), 0.7)
    assert torch.allclose(rescale(lorentz.expmap0(z, 0.7), 0.7), expected, rtol=1e-9, atol=0)


def test_gradients_at_zero_and_far_out():
    rescale = MaxDistanceRescale()
    z = torch.randn(3, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True)
    c = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rescale.tangent, (z, c))
    assert torch.autograd.gradcheck(lambda z, c: rescale(lorentz.lift(z, c), c), (z, c))
    zero = torch.zeros(1, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(rescale.tangent(zero, 1.0).sum(), zero)
    assert torch.allclose(gradient, torch.full((1, 3), math.atanh(0.99) / 2), rtol=1e-6, atol=0)
    far = torch.full((1, 4), 250.0, requires_grad=True)
    (gradient,) = torch.autograd.grad(rescale.tangent(far, torch.tensor(1.0)).sum(), far)
    assert torch.isfinite(gradient).all()


def test_half_precision_and_bad_settings():
    rescale = MaxDistanceRescale()
    z = torch.randn(3, 8, generator=torch.Generator().manual_seed(3)).half() * 100
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = rescale.tangent(z, torch.tensor(1.0))
    assert out.dtype == torch.float32
    assert torch.equal(out, rescale.tangent(z.float(), torch.tensor(1.0)))
    with pytest.raises(ValueError, match="expected x_time_max > 0"):
        MaxDistanceRescale(x_time_max=-1.0)
    assert "tightness=2" in repr(rescale)
