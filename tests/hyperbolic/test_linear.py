"""Rotation, boost and the Lorentz linear layer: isometries, 60 digits, no overflow in the tangent space."""

import math

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperbolic import lorentz
from hyperbolic.nn.linear import LorentzLinear, boost, boost_tangent, cayley, rotation
from hyperbolic.nn.rescale import MaxDistanceRescale


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def trained(in_features, out_features, speed=0.3, seed=0):
    """A layer away from its starting point."""
    torch.manual_seed(seed)
    layer = LorentzLinear(in_features, out_features)
    with torch.no_grad():
        layer.proper_velocity.copy_(normal(out_features, seed=seed + 1).float() * speed / math.sqrt(out_features))
        if layer.isometric:
            layer.skew.copy_(normal(out_features, out_features, seed=seed + 2).float() * 0.2)
    return layer


def exact_tangent_boost(z, p, c):
    """logmap0(boost(expmap0(z))) at 60 digits (more where the radius is large)."""
    with mpmath.workdps(60 + int(z.norm() * math.sqrt(c) * 0.9)):
        c, root = mpmath.mpf(c), mpmath.sqrt(mpmath.mpf(c))
        z, p = [mpmath.mpf(v) for v in z.tolist()], [mpmath.mpf(v) for v in p.tolist()]
        r = root * mpmath.sqrt(mpmath.fdot(z, z))
        s = [mpmath.sinh(r) / r * v for v in z] if r else z
        t = mpmath.cosh(r) / root
        gamma, along = mpmath.sqrt(1 + mpmath.fdot(p, p)), mpmath.fdot(p, s)
        space = [v + w * along / (gamma + 1) - w * t for v, w in zip(s, p, strict=True)]
        length = root * mpmath.sqrt(mpmath.fdot(space, space))
        point = [float(v) for v in space] if r < 50 else None
        return point, [float(mpmath.asinh(length) / length * v) if length else 0.0 for v in space]


def test_cayley_is_a_rotation():
    for n in (1, 2, 7, 128):
        q = cayley(normal(n, n, seed=n, dtype=torch.float32).clamp(-1, 1))
        assert float((q.T @ q - torch.eye(n)).abs().max()) <= 5e-6
        assert float(torch.linalg.det(q.double())) == pytest.approx(1.0, abs=1e-4)
    assert torch.equal(cayley(torch.zeros(5, 5)), torch.eye(5))
    skew = normal(4, 4)
    assert torch.equal(cayley(skew), cayley(torch.tril(skew, -1)))


def test_rotation_keeps_norms():
    z, weight = normal(50, 20, dtype=torch.float32) * 3, normal(8, 20, seed=1, dtype=torch.float32)
    out = rotation(z, weight)
    assert out.shape == (50, 8)
    assert float((out.norm(dim=-1) / z.norm(dim=-1) - 1).abs().max()) <= 1e-6
    plain = z @ weight.T
    cosines = torch.nn.functional.cosine_similarity(out, plain, dim=-1)
    assert float((cosines - 1).abs().max()) <= 1e-6
    zero = torch.zeros(1, 20, requires_grad=True)
    (gradient,) = torch.autograd.grad(rotation(zero, weight).sum(), zero)
    assert torch.equal(rotation(zero, weight), torch.zeros(1, 8))
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("c", [0.1, 1.0, 3.0])
def test_boost_against_mpmath(c):
    for speed in (0.0, 1e-3, 0.5, 3.0):
        p = torch.nn.functional.normalize(normal(6, seed=2), dim=0).float() * speed
        for radius in (0.0, 1e-3, 1.0, 5.0, 8.29):
            z = torch.nn.functional.normalize(normal(4, 6, seed=3), dim=-1).float() * radius / math.sqrt(c)
            x = lorentz.expmap0(z, c)
            out = boost(x, p, c)
            gamma = math.sqrt(1 + speed**2)
            for row, start in zip(out, x, strict=True):
                tangent = lorentz.logmap0(start.double(), c)
                point, _ = exact_tangent_boost(tangent, p.double(), c)
                error = float((row[1:].double() - torch.tensor(point, dtype=torch.float64)).norm())
                assert error <= 3e-7 * gamma * max(float(start[0]), 1 / math.sqrt(c)) * 2


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.floats(0.05, 4.0), st.floats(0.0, 3.0), st.floats(0.0, 4.0))
def test_boost_is_an_isometry_with_an_inverse(seed, c, speed, radius):
    p = torch.nn.functional.normalize(normal(4, seed=seed), dim=0) * speed
    x = lorentz.expmap0(normal(5, 4, seed=seed + 1) * radius / 2 / math.sqrt(c), c)
    y = boost(x, p, c)
    before, after = (lorentz.distance(v[:, None], v[None], c) for v in (x, y))
    assert float((before - after).abs().max()) <= 1e-6
    assert float(lorentz.distance(boost(y, -p, c), x, c).max()) <= 1e-5
    o = lorentz.origin(4, c, x)
    moved = float(lorentz.distance(boost(o, p, c), o, c))
    assert moved == pytest.approx(math.asinh(speed) / math.sqrt(c), rel=1e-9, abs=1e-9)
    gamma = math.sqrt(1 + speed**2)
    times = gamma * lorentz.lift(x[:, 1:], c)[:, 0] - x[:, 1:] @ p
    assert torch.allclose(y[:, 0], times, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("c", [0.1, 1.0, 3.0])
def test_tangent_boost_against_mpmath(c):
    lengths = [0.0, 1e-20, 1e-3, 0.019, 0.021, 1.0, 8.0, 14.9, 15.1, 36.0, 88.0, 500.0]
    for speed in (0.0, 1e-6, 0.3, 1.0):
        p = torch.nn.functional.normalize(normal(5, seed=4), dim=0).float() * speed
        z = torch.nn.functional.normalize(normal(12, 5, seed=5), dim=-1).float()
        z = z * torch.tensor(lengths)[:, None] / math.sqrt(c)
        out = boost_tangent(z, p, c)
        for row, start in zip(out.double(), z.double(), strict=True):
            _, expected = exact_tangent_boost(start, p.double(), c)
            bound = 1e-6 * (1 / math.sqrt(c) + float(start.norm())) * (1 + speed)
            assert float((row - torch.tensor(expected, dtype=torch.float64)).norm()) <= bound


@pytest.mark.parametrize(("in_features", "out_features"), [(8, 8), (8, 12), (40, 8)])
@pytest.mark.parametrize("c", [0.1, 1.0])
@torch.no_grad()
def test_tangent_against_float64_points(in_features, out_features, c):
    """Rotation -> boost -> rescaling in float32 tangents, against the float64 composition of points."""
    layer, rescale = trained(in_features, out_features), MaxDistanceRescale()
    reference = LorentzLinear(in_features, out_features).double()
    reference.load_state_dict(layer.state_dict())
    u = torch.nn.functional.normalize(normal(9, in_features, seed=6), dim=-1)
    z = (u * torch.tensor([0, 1e-3, 0.5, 2, 8, 14, 16, 36, 300])[:, None]).float()
    out = layer.tangent(z, c)
    points = reference(lorentz.expmap0(z.double(), c), c)
    expected = lorentz.logmap0(points, c)
    bound = 1e-6 * (1 + z.double().norm(dim=-1)) / min(1.0, math.sqrt(c)) * 1.3
    assert bool(((out.double() - expected).norm(dim=-1) <= bound).all())
    assert out.dtype == torch.float32
    rescaled = rescale.tangent(out, c)
    expected = lorentz.logmap0(rescale(points, c), c)
    assert float((rescaled.double() - expected).norm(dim=-1).max()) <= 2e-5
    assert torch.isfinite(layer.tangent(u.float() * 1e18, c)).all()
    assert torch.allclose(layer(lorentz.expmap0(z[:5], c), c)[:, 1:].double(), points[:5, 1:], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_isometric_layer_keeps_distances_and_starts_orthogonal():
    for in_features, out_features in ((6, 6), (6, 9)):
        fresh = LorentzLinear(in_features, out_features)
        gram = fresh.matrix().T @ fresh.matrix()
        assert torch.allclose(gram, torch.eye(in_features), atol=2e-6)
        if in_features == out_features:
            assert float(torch.linalg.det(fresh.matrix())) == pytest.approx(1.0, abs=1e-5)
        layer = trained(in_features, out_features).double()
        assert layer.isometric
        x = lorentz.expmap0(normal(7, in_features, seed=7), 0.5)
        y = layer(x, 0.5)
        before, after = (lorentz.distance(v[:, None], v[None], 0.5) for v in (x, y))
        assert float((before - after).abs().max()) <= 1e-6
        times = lorentz.lift(y[:, 1:], 0.5)[:, 0]
        assert torch.allclose(y[:, 0], times)
    reducing = LorentzLinear(20, 5)
    assert torch.allclose(reducing.weight @ reducing.weight.T, torch.eye(5), atol=2e-6)


@torch.no_grad()
def test_small_curvature_tends_to_the_euclidean_layer():
    for sizes in ((6, 6), (12, 6)):
        layer = trained(*sizes).double()
        b = layer.proper_velocity.detach().clone()
        z = normal(10, sizes[0], seed=8)
        turned = layer.rotate(z)
        errors = []
        for c in (1e-2, 1e-4, 1e-6):
            layer.proper_velocity.data = b * math.sqrt(c)
            errors.append(float((layer.tangent(z, c) - (turned - b)).norm(dim=-1).max()))
        assert errors[0] <= 0.2
        assert errors[1] <= 2e-3
        assert errors[2] <= 2e-5


def test_gradients():
    z, p = normal(3, 4, seed=9).requires_grad_(), (normal(4, seed=10) * 0.3).requires_grad_()
    c = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    skew = normal(4, 4, seed=11).requires_grad_()
    weight = normal(2, 4, seed=12).requires_grad_()
    assert torch.autograd.gradcheck(boost_tangent, (z, p, c))
    assert torch.autograd.gradcheck(boost_tangent, ((z * 12).detach().requires_grad_(), p, c))
    assert torch.autograd.gradcheck(lambda z, p, c: boost(lorentz.lift(z, c), p, c), (z, p, c))
    assert torch.autograd.gradcheck(cayley, (skew,))
    assert torch.autograd.gradcheck(rotation, (z, weight))
    # at z = 0, at p = 0 and at both: the boost moves z against p at unit rate
    zero = torch.zeros(1, 3, requires_grad=True)
    still = torch.zeros(3, requires_grad=True)
    for_z, for_p = torch.autograd.functional.jacobian(lambda z, p: boost_tangent(z, p, 1.0)[0], (zero, still))
    assert torch.equal(for_z[:, 0], torch.eye(3))
    assert torch.equal(for_p, -torch.eye(3))


@pytest.mark.parametrize("sizes", [(32, 8), (8, 8)])
def test_half_features_under_autocast(sizes):
    layer = trained(*sizes)
    features = normal(4, sizes[0], seed=13).half() * 6
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer.tangent(features, torch.tensor(0.1))
        points = layer(lorentz.expmap0(features * 0.1, 0.1), 0.1)
    assert out.dtype == points.dtype == torch.float32
    assert torch.equal(out, layer.tangent(features.float(), torch.tensor(0.1)))
    assert torch.isfinite(points).all()
    out.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in layer.parameters())


def test_state_is_complete_and_sizes_are_checked():
    layer = trained(6, 9)
    other = LorentzLinear(6, 9)
    other.load_state_dict(layer.state_dict())
    z = normal(3, 6, dtype=torch.float32)
    assert torch.equal(layer.tangent(z, 1.0), other.tangent(z, 1.0))
    with pytest.raises(ValueError, match="expected in_features >= 1"):
        LorentzLinear(0, 3)
    assert "isometry" in repr(layer)
