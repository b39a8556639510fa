"""Entailment cones against the textbook forms at 60 digits, the ball's formulas and what cones are for."""

import math
from typing import Any

import mpmath
import pytest
import torch
from torch import Tensor

from hyperbolic import cones, lorentz, poincare

RADII = (0.05, 0.4, 1.05, 1.8, 3.0, 6.0, 8.3)


def shell(radius: float, c: float = 1.0, n: int = 6, d: int = 8, seed: int = 0) -> Tensor:
    """Points (n, d+1), float32, at one distance from the origin."""
    z = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    return lorentz.expmap0(z / z.norm(dim=-1, keepdim=True) * radius, c)


def hard_pairs(c: float) -> tuple[Tensor, Tensor]:
    """Apexes and points at all pairs of radii: any angle, nearly on the ray, behind, and nearly touching."""
    x, y = [], []
    for number, a in enumerate(RADII):
        for b in RADII:
            apex, other = shell(a, c, 2, seed=number), shell(b, c, 2, seed=number + 50)
            ray = apex[:, 1:] / apex[:, 1:].norm(dim=-1, keepdim=True) * other[:, 1:].norm(dim=-1, keepdim=True)
            for blend in (1.0, 1e-1, 1e-3, 1e-6):
                mixed = ray * (1 - blend) + other[:, 1:] * blend
                for sign in (1.0, -1.0):
                    x.append(apex)
                    y.append(lorentz.lift(sign * mixed, c))
        x.append(apex)
        y.append(lorentz.lift(apex[:, 1:] * (1 + 1e-5) + 1e-5 * other[:, 1:], c))
    return torch.cat(x), torch.cat(y)


def textbook_angle(exact: Any, x: Tensor, y: Tensor) -> float:
    """MERU's exterior angle, as printed."""
    p, q = exact.vector(x[1:]), exact.vector(y[1:])
    product = exact.c * exact.inner(p, q)
    cosine = (exact.time(q) + exact.time(p) * product) / (mpmath.sqrt(exact.dot(p, p)) * mpmath.sqrt(product**2 - 1))
    return float(mpmath.acos(max(-1, min(1, cosine))))


@pytest.mark.parametrize("c", [1.0, 0.1, 2.5])
def test_exterior_angle_against_mpmath(exact: Any, c: float) -> None:
    x, y = hard_pairs(c)
    expected = torch.tensor([textbook_angle(exact(c), a, b) for a, b in zip(x, y, strict=True)], dtype=torch.float64)
    found = cones.exterior_angle(x, y, c)
    assert found.dtype == torch.float32
    assert float((found.double() - expected).abs().max()) <= 3e-7
    in_double = cones.exterior_angle(x.double(), y.double(), c)
    assert float((in_double - expected).abs().max()) <= 1e-9
    assert float(expected.min()) < 1e-5  # the cases are what they are meant to be
    assert float(expected.max()) > 3.1415


@pytest.mark.parametrize("c", [1.0, 0.1, 2.5])
def test_half_aperture_against_mpmath(exact: Any, c: float) -> None:
    x = torch.cat([shell(r, c) for r in (0.21 / math.sqrt(c), 0.4 / math.sqrt(c), 1.05, 3.0, 8.3)])
    points = exact(c)
    for row, found in zip(x, cones.half_aperture(x, c, boundary=0.1).tolist(), strict=True):
        v = points.vector(row[1:])
        expected = float(mpmath.asin(mpmath.mpf(0.1) * 2 / mpmath.sqrt(points.c * points.dot(v, v))))
        assert found == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("c", [1.0, 0.4])
def test_both_angles_are_those_of_the_ball(c: float) -> None:
    """Ganea et al. 2018 (psi and Xi), on the images of the same points in the unit ball."""
    x, y = shell(0.8, c, 40).double(), shell(1.7, c, 40, seed=1).double()
    p, q = (poincare.from_lorentz(points, c) * math.sqrt(c) for points in (x, y))
    pp, qq, pq = (p * p).sum(-1), (q * q).sum(-1), (p * q).sum(-1)
    top = pq * (1 + pp) - pp * (1 + qq)
    bottom = pp.sqrt() * (p - q).norm(dim=-1) * (1 + pp * qq - 2 * pq).sqrt()
    assert torch.allclose(cones.exterior_angle(x, y, c), torch.acos(top / bottom), atol=1e-7)
    aperture = torch.asin(0.2 * (1 - pp) / pp.sqrt())
    assert torch.allclose(cones.half_aperture(x, c, boundary=0.2), aperture, atol=1e-10)


def test_pairwise_angles_are_the_elementwise_ones() -> None:
    x = torch.cat([shell(r, n=3) for r in RADII])
    y = torch.cat([shell(r, n=3, seed=3) for r in RADII] + [lorentz.lift(x[:, 1:] * 1.5, 1.0), -x])
    y = lorentz.lift(y[:, 1:], 1.0)
    found = cones.pairwise_exterior_angle(x[:, 1:], y[:, 1:], 1.0)
    expected = cones.exterior_angle(x[:, None], y[None], 1.0)
    apart = lorentz.distance(x[:, None], y[None], 1.0) >= 0.1
    assert found.shape == (len(x), len(y))
    assert float((found - expected).abs()[apart].max()) <= 5e-4
    u, v = (torch.nn.functional.normalize(points[:, 1:].double(), dim=-1) for points in (x, y))
    aside = apart & ((u[:, None] - v[None]).norm(dim=-1) >= 1e-4)
    assert float((found - expected).abs()[aside].max()) <= 1e-6


def test_on_the_ray_ahead_is_0_and_back_to_the_origin_is_pi() -> None:
    x = shell(3.0)
    z = lorentz.logmap0(x, 1.0)
    ahead, back = (lorentz.expmap0(z * share, 1.0) for share in (1.4, 0.4))
    assert cones.exterior_angle(x, ahead, 1.0).tolist() == pytest.approx([0.0] * 6, abs=1e-5)
    assert cones.exterior_angle(x, back, 1.0).tolist() == pytest.approx([math.pi] * 6, abs=1e-5)
    assert cones.exterior_angle(x, lorentz.origin(8, 1.0), 1.0).tolist() == pytest.approx([math.pi] * 6, abs=1e-6)


def test_gradients_are_finite_where_points_touch_on_the_ray_and_at_the_origin() -> None:
    x = shell(2.0, n=5)[:, 1:]
    others = torch.stack([x[0], 1.5 * x[1], 0.5 * x[2], torch.zeros(8), x[4] * (1 + 1e-7)])
    for pairwise in (False, True):
        for swap in (False, True):
            a = (others if swap else x).clone().requires_grad_()
            b = (x if swap else others).clone().requires_grad_()
            c = torch.tensor(1.0, requires_grad=True)
            if pairwise:
                angle = cones.pairwise_exterior_angle(a, b, c)
            else:
                angle = cones.exterior_angle(lorentz.lift(a, c), lorentz.lift(b, c), c)
            (angle.sum() + cones.half_aperture(lorentz.lift(a, c), c).sum()).backward()
            for tensor in (a.grad, b.grad, c.grad):
                assert tensor is not None
                assert torch.isfinite(tensor).all()
            if not pairwise:
                assert float(angle[0].detach()) == 0.0
                assert torch.equal(b.grad[0], torch.zeros(8))  # type: ignore[index]


@pytest.mark.parametrize("radius", RADII)
def test_gradients_are_those_of_finite_differences(radius: float) -> None:
    x, y = shell(radius, n=2, d=3).double()[:, 1:], shell(0.7 * radius + 1.0, n=2, d=3, seed=9).double()[:, 1:]
    c = torch.tensor(0.8, dtype=torch.float64)

    def excess(a: Tensor, b: Tensor, curvature: Tensor) -> Tensor:
        apex, point = lorentz.lift(a, curvature), lorentz.lift(b, curvature)
        return cones.exterior_angle(apex, point, curvature) - cones.half_aperture(apex, curvature, 0.01)

    inputs = tuple(t.requires_grad_() for t in (x, y, c))
    assert torch.autograd.gradcheck(excess, inputs, eps=1e-6 * radius, atol=1e-5, rtol=1e-4)
    assert torch.autograd.gradcheck(cones.pairwise_exterior_angle, inputs, eps=1e-6 * radius, atol=1e-4, rtol=1e-3)


def test_a_cone_holds_itself_what_is_behind_it_and_the_cones_of_what_it_holds() -> None:
    generator = torch.Generator().manual_seed(0)
    x = shell(1.0, n=400, d=3)
    y = lorentz.lift(x[:, 1:] * 2.5 + 0.6 * torch.randn(400, 3, generator=generator), 1.0)
    w = lorentz.lift(y[:, 1:] * 3.0 + 0.4 * torch.randn(400, 3, generator=generator), 1.0)
    boundary = 0.4
    assert cones.contains(x, x, 1.0, boundary).all()
    assert cones.contains(lorentz.origin(3, 1.0), y, 1.0, boundary).all()
    assert not cones.contains(y, x, 1.0, boundary).any()
    first, second = cones.contains(x, y, 1.0, boundary), cones.contains(y, w, 1.0, boundary)
    chained = first & second
    assert 40 < int(chained.sum()) < 360
    assert cones.contains(x, w, 1.0, boundary)[chained].all()
    assert int(cones.contains(x, w.roll(1, 0), 1.0, boundary).sum()) < 200  # not just anything lies in a cone


def test_cones_narrow_with_the_radius_and_are_half_spaces_near_the_origin() -> None:
    apertures = [float(cones.half_aperture(shell(r, n=1), 1.0, boundary=0.3)) for r in (0.1, 0.7, 1.0, 3.0, 8.0)]
    assert apertures[0] == pytest.approx(math.pi / 2)
    assert apertures[0] > apertures[1] > apertures[2] > apertures[3] > apertures[4] > 0
    near = shell(0.1, n=1).requires_grad_()
    cones.half_aperture(near, 1.0, boundary=0.3).sum().backward()
    assert torch.equal(near.grad, torch.zeros_like(near))  # type: ignore[arg-type]


def test_a_boundary_that_is_no_radius_is_refused() -> None:
    with pytest.raises(ValueError, match="boundary > 0"):
        cones.half_aperture(shell(1.0), 1.0, boundary=0.0)
    with pytest.raises(ValueError, match="c must be > 0"):
        cones.exterior_angle(shell(1.0), shell(2.0), -1.0)


def test_half_precision_inputs_are_computed_in_full() -> None:
    x, y = shell(1.0), shell(3.0, seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = cones.exterior_angle(x, y, 1.0)
        pairs = cones.pairwise_exterior_angle(x[:, 1:], y[:, 1:], 1.0)
    assert torch.equal(found, cones.exterior_angle(x, y, 1.0))
    assert torch.equal(pairs, cones.pairwise_exterior_angle(x[:, 1:], y[:, 1:], 1.0))
