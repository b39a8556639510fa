"""The ball against geoopt, 60 digits and the hyperboloid."""

import math

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperbolic import lorentz, poincare

CURVATURES = [0.1, 1.0, 3.0]


def ball_points(n, d, c, seed=0, largest=0.9):
    generator = torch.Generator().manual_seed(seed)
    u = torch.nn.functional.normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=-1)
    return u * torch.rand(n, 1, generator=generator, dtype=torch.float64) * largest / math.sqrt(c)


def close(actual, expected, rtol=1e-9, atol=1e-12):
    assert actual.shape == expected.shape
    assert bool(((actual.double() - expected.double()).abs() <= atol + rtol * expected.double().abs()).all())


@pytest.mark.parametrize("c", CURVATURES)
def test_distance_against_mpmath(c):
    p = torch.cat([ball_points(30, 5, c, largest=0.9999), torch.zeros(2, 5)]).float()
    q = torch.cat([ball_points(20, 5, c, seed=1, largest=0.9999).float(), p[20:30] * 1.0001, p[:1], p[30:31]])
    c_ = mpmath.mpf(c)
    for a, b, actual in zip(p, q, poincare.distance(p, q, c).double(), strict=True):
        x, y = ([mpmath.mpf(v) for v in row.double().tolist()] for row in (a, b))
        apart = mpmath.fsum((u - v) ** 2 for u, v in zip(x, y, strict=True))
        rims = (1 - c_ * mpmath.fdot(x, x)) * (1 - c_ * mpmath.fdot(y, y))
        expected = float(mpmath.acosh(1 + 2 * c_ * apart / rims) / mpmath.sqrt(c_))
        assert abs(float(actual) - expected) <= 2e-7 * expected


@pytest.mark.parametrize("c", CURVATURES)
def test_mobius_add_against_geoopt(c, geoopt):
    ball = geoopt.PoincareBall(c=torch.tensor(c, dtype=torch.float64))
    p, q = ball_points(20, 5, c), ball_points(20, 5, c, seed=1)
    close(poincare.mobius_add(p, q, c), ball.mobius_add(p, q), rtol=1e-8)
    single = poincare.mobius_add(p.float(), q.float(), c)
    reference = poincare.mobius_add(p.float().double(), q.float().double(), c)
    limit = torch.maximum(p.norm(dim=-1), q.norm(dim=-1))
    assert bool(((single - reference).norm(dim=-1) <= 1e-6 * limit).all())
    close(poincare.distance(p, q, c), ball.dist(p, q), rtol=1e-7)
    close(poincare.conformal_factor(p, c), ball.lambda_x(p))
    close(poincare.egrad2rgrad(p, q, c), ball.egrad2rgrad(p, q))


@pytest.mark.parametrize("c", CURVATURES)
def test_expmap_and_logmap_against_geoopt(c, geoopt):
    ball = geoopt.PoincareBall(c=torch.tensor(c, dtype=torch.float64))
    p, q = ball_points(20, 5, c), ball_points(20, 5, c, seed=1)
    u = poincare.logmap(p, q, c)
    close(u, ball.logmap(p, q), rtol=1e-6, atol=1e-8)
    close(poincare.expmap(p, u, c), q)
    close(poincare.expmap(p, q * 0.3, c), ball.expmap(p, q * 0.3), rtol=1e-7, atol=1e-9)
    close(poincare.expmap0(q, c), ball.expmap0(q))
    close(poincare.logmap0(p, c), ball.logmap0(p), rtol=1e-7)
    assert torch.equal(poincare.expmap(p, torch.zeros_like(p), c), p)
    assert torch.equal(poincare.logmap(p, p, c), torch.zeros_like(p))
    for function in (poincare.expmap, lambda p, u, c: poincare.logmap(p, p + u, c)):
        jacobian = torch.autograd.functional.jacobian(
            lambda u, f=function: f(p[0], u, c), torch.zeros(5, dtype=torch.float64)
        )
        close(jacobian, torch.eye(5, dtype=torch.float64), atol=1e-9)


@pytest.mark.parametrize("c", CURVATURES)
def test_isometry_round_trip(c):
    p, q = (
        ball_points(20, 5, c, largest=0.9999).float(),
        ball_points(20, 5, c, seed=1, largest=0.9999).float(),
    )
    x = poincare.to_lorentz(p, c)
    exact = 2 * p.double() / (1 - c * p.double().square().sum(-1, keepdim=True))
    assert float(((x[:, 1:] - exact).norm(dim=-1) / exact.norm(dim=-1)).max()) <= 2e-7
    assert float(((poincare.from_lorentz(x, c) - p).norm(dim=-1) / p.norm(dim=-1)).max()) <= 2e-7
    y = poincare.to_lorentz(q.double(), c)
    close(
        lorentz.distance(poincare.to_lorentz(p.double(), c), y, c),
        poincare.distance(p.double(), q.double(), c),
    )


@pytest.mark.parametrize("c", CURVATURES)
def test_maps_agree_with_the_hyperboloid(c):
    z = ball_points(20, 5, c) * 3
    close(poincare.to_lorentz(poincare.expmap0(z, c), c), lorentz.expmap0(2 * z, c), rtol=1e-8)
    close(poincare.logmap0(poincare.from_lorentz(lorentz.expmap0(2 * z, c), c), c), z, rtol=1e-8)
    single = poincare.expmap0(z.float(), c)
    reference = poincare.expmap0(z.float().double(), c)
    assert float(((single - reference).norm(dim=-1) / reference.norm(dim=-1)).max()) <= 2e-7
    p, w = (
        ball_points(6, 5, c),
        torch.rand(6, generator=torch.Generator().manual_seed(2), dtype=torch.float64),
    )
    close(poincare.to_lorentz(poincare.centroid(p, w, c), c), lorentz.centroid(poincare.to_lorentz(p, c), w, c))
    moved = poincare.change_curvature(p, c, 0.5 * c)
    close(
        poincare.distance(moved, torch.zeros_like(p), 0.5 * c),
        poincare.distance(p, torch.zeros_like(p), c),
        rtol=1e-8,
    )


@pytest.mark.parametrize("c", CURVATURES)
def test_centroid_is_the_einstein_midpoint(c):
    p, w = (
        ball_points(6, 5, c),
        torch.rand(6, generator=torch.Generator().manual_seed(3), dtype=torch.float64),
    )
    klein = 2 * p / (1 + c * p.square().sum(-1, keepdim=True))
    gamma = 1 / torch.sqrt(1 - c * klein.square().sum(-1))
    mean = ((w * gamma)[:, None] * klein).sum(0) / (w * gamma).sum()
    close(poincare.centroid(p, w, c), mean / (1 + torch.sqrt(1 - c * mean.square().sum())), rtol=1e-9)


@pytest.mark.parametrize("c", CURVATURES)
def test_pairwise_distance_equals_distance(c):
    p, q = ball_points(15, 6, c, largest=0.999).float(), ball_points(12, 6, c, seed=1, largest=0.999).float()
    p[0], q[0] = 0, 0
    leaves = [t.clone().requires_grad_() for t in (p, q, p, q)]
    both = poincare.pairwise_distance(leaves[0], leaves[1], c)
    each = poincare.distance(leaves[2][:, None], leaves[3][None], c)
    close(both, each, rtol=5e-7)
    assert float(both[0, 0].detach()) == 0.0
    assert float(poincare.pairwise_distance(p, p, c).diagonal().abs().max()) == 0.0
    both.sum().backward()
    each.sum().backward()
    for fast, slow in zip(leaves[:2], leaves[2:], strict=True):
        assert float(((fast.grad - slow.grad).norm(dim=-1) / slow.grad.norm(dim=-1)).max()) <= 1e-5


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.floats(0.05, 5.0), st.floats(0.0, 0.99))
def test_moebius_addition_is_a_gyrogroup(seed, c, largest):
    p, q = ball_points(4, 3, c, seed=seed, largest=largest), ball_points(4, 3, c, seed=seed + 1, largest=0.99)
    close(poincare.mobius_add(-p, poincare.mobius_add(p, q, c), c), q, rtol=1e-6, atol=1e-6)  # left cancellation
    assert torch.equal(poincare.mobius_add(p, torch.zeros_like(p), c), p)
    moved = poincare.distance(poincare.mobius_add(p, q, c), poincare.mobius_add(p, q.flip(0), c), c)
    close(moved, poincare.distance(q, q.flip(0), c), rtol=1e-6, atol=1e-7)  # translations are isometries
    assert float((poincare.mobius_add(p, q, c).norm(dim=-1) * math.sqrt(c)).max()) < 1.0


def test_clip_radius_is_hiers():
    z = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]], requires_grad=True)
    out = poincare.clip_radius(z, 2.3)
    hier = torch.minimum(torch.ones(3, 1), 2.3 / (z.detach().norm(dim=-1, keepdim=True) + 1e-5)) * z.detach()
    assert torch.allclose(out, hier, rtol=1e-5, atol=0)
    assert torch.equal(out[1:], z[1:])
    out.sum().backward()
    assert torch.equal(z.grad[1:], torch.ones(2, 2))
    assert float(z.grad[0] @ z.detach()[0]) == pytest.approx(0.0, abs=1e-6)


def test_maps_end_inside_the_ball_in_float32():
    z = torch.tensor([[30.0, 40.0], [3e4, -4e4], [6.0, 0.0]])
    for c in CURVATURES:
        p = poincare.expmap0(z, c)
        assert bool((p.norm(dim=-1) * math.sqrt(c) <= 1 - 0.99 * poincare.RIM).all())
        assert torch.isfinite(poincare.to_lorentz(p, c)).all()
        assert torch.isfinite(poincare.distance(p, -p, c)).all()
        assert torch.isfinite(poincare.logmap0(p, c)).all()
        far = poincare.expmap(p, z, c)
        assert bool((far.norm(dim=-1) * math.sqrt(c) < 1).all())
    leaf = z.clone().requires_grad_()
    poincare.to_lorentz(poincare.expmap0(leaf, 1.0), 1.0).sum().backward()
    assert torch.isfinite(leaf.grad).all()


def test_gradcheck_of_every_operation():
    p, q = (ball_points(3, 3, 0.8, seed=s).requires_grad_() for s in (1, 2))
    u = (ball_points(3, 3, 0.8, seed=3) * 0.5).requires_grad_()
    w = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64, requires_grad=True)
    c = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    for function, inputs in (
        (poincare.to_lorentz, (p, c)), (poincare.mobius_add, (p, q, c)), (poincare.distance, (p, q, c)),
        (poincare.pairwise_distance, (p, q, c)), (poincare.expmap0, (u, c)), (poincare.logmap0, (p, c)),
        (poincare.expmap, (p, u, c)), (poincare.logmap, (p, q, c)), (poincare.centroid, (p, w, c)),
        (lambda p, c: poincare.from_lorentz(lorentz.lift(p, c), c), (p, c)),
    ):  # fmt: skip
        assert torch.autograd.gradcheck(function, inputs)


@pytest.mark.parametrize("size", [0.0, 0.5, 0.999])
def test_gradients_are_zero_where_points_touch(size):
    p = torch.nn.functional.normalize(torch.randn(4, 5, generator=torch.Generator().manual_seed(4)), dim=-1) * size
    for function in (poincare.distance, lambda a, b, c: poincare.pairwise_distance(a, b, c).diagonal()):
        a, b = p.clone().requires_grad_(), p.clone().requires_grad_()
        function(a, b, 1.0).sum().backward()
        assert torch.equal(a.grad, torch.zeros_like(p))
        assert torch.equal(b.grad, torch.zeros_like(p))


def test_half_precision_under_autocast():
    z = torch.randn(5, 8, generator=torch.Generator().manual_seed(5)).half() * 4
    with torch.autocast("cpu", dtype=torch.bfloat16):
        p = poincare.expmap0(poincare.clip_radius(z, 2.3), torch.tensor(0.1).half())
        results = [
            p, poincare.to_lorentz(p, 0.1), poincare.distance(p, p.flip(0), 0.1),
            poincare.mobius_add(p, p, 0.1),
            poincare.pairwise_distance(p, p, 0.1), poincare.logmap0(p, 0.1),
            poincare.logmap(p, p.flip(0), 0.1),
            poincare.pairwise_distance(p.half(), p.half(), 0.1), poincare.project(z, 0.1),
        ]  # fmt: skip
    for result in results:
        assert result.dtype == torch.float32
        assert torch.isfinite(result).all()


def test_small_curvature_tends_to_twice_the_euclidean_distance():
    p, q = ball_points(10, 4, 1.0), ball_points(10, 4, 1.0, seed=1)
    for c in (1e-3, 1e-5, 1e-7):
        close(poincare.distance(p, q, c), 2 * (p - q).norm(dim=-1), rtol=3 * c)
        close(poincare.mobius_add(p, q, c), p + q, rtol=0, atol=10 * c)
