"""The hyperboloid against 60-digit arithmetic and geoopt, at and around the points where formulas break."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hyperbolic import lorentz

D_MAX = math.acosh(2e3)
CURVATURES = [0.1, 1.0, 3.0]
properties = settings(max_examples=40)


def worst(actual, expected, floor=0.0):
    """Largest relative error over vectors (or numbers); NaN stays NaN, so that comparisons with it fail."""
    actual = torch.as_tensor(actual, dtype=torch.float64)
    expected = torch.as_tensor(expected, dtype=torch.float64)
    assert actual.shape == expected.shape
    if actual.dim() < 2:
        actual, expected = actual[..., None], expected[..., None]
    return float(((actual - expected).norm(dim=-1) / expected.norm(dim=-1).clamp_min(floor + 1e-300)).max())


def random_points(n, d, radius, c, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, d, generator=generator, dtype=torch.float64)
    z = z / z.norm(dim=-1, keepdim=True) * torch.rand(n, 1, generator=generator, dtype=torch.float64) * radius
    return lorentz.expmap0(z.to(dtype), c)


@st.composite
def tangents(draw, count=1, dims=3, radius=6.0):
    seed = draw(st.integers(0, 2**31))
    c = draw(st.floats(0.05, 5.0))
    sizes = [draw(st.floats(0.0, radius)) for _ in range(count)]
    u = np.random.default_rng(seed).normal(size=(count, dims))
    u /= np.linalg.norm(u, axis=-1, keepdims=True)
    return torch.tensor(u * np.array(sizes)[:, None] / math.sqrt(c)), c


# --- against 60 digits


@pytest.mark.parametrize("c", CURVATURES)
def test_distance_against_mpmath(c, exact, points):
    x, y = points.pairs(2000.0, c)
    expected = torch.tensor([exact(c).distance(a, b) for a, b in zip(x, y, strict=True)], dtype=torch.float64)
    actual = lorentz.distance(lorentz.lift(x, c), lorentz.lift(y, c), c)
    assert actual.dtype == torch.float32
    assert worst(actual, expected) <= 2e-7
    squared = [(2 / math.sqrt(c) * math.sinh(math.sqrt(c) * d / 2)) ** 2 for d in expected.tolist()]
    assert worst(lorentz.squared_distance(lorentz.lift(x, c), lorentz.lift(y, c), c), squared) <= 2e-7


def pairwise_bound(expected, x, y, c, dtype):
    """The bound that the docstring of `pairwise_distance` states, in units of 1/sqrt(c)."""
    r = expected * math.sqrt(c)
    s = torch.maximum(x.double().norm(dim=-1), y.double().norm(dim=-1)) * math.sqrt(c)
    return (3e-7 if dtype == torch.float32 else 0.0) * r + torch.minimum(7e-8 * s, 4e-15 * s**2 / r)


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pairwise_distance_against_mpmath(c, dtype, exact, points):
    x, y = points.pairs(2000.0, c)
    expected = torch.tensor([exact(c).distance(a, b) for a, b in zip(x, y, strict=True)], dtype=torch.float64)
    actual = lorentz.pairwise_distance(x.to(dtype), y.to(dtype), c).diagonal()
    assert actual.dtype == dtype
    error = (actual.double() - expected).abs() * math.sqrt(c)
    touching = expected == 0
    assert int(touching.sum()) == 6
    assert float(error[touching].max()) == 0.0
    assert bool((error <= pairwise_bound(expected, x, y, c, dtype) + 1e-14 * expected)[~touching].all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1.0, 100.0, 2000.0, 1e4])
def test_pairwise_distance_of_near_pairs(size, dtype):
    """Random near pairs in 128 dimensions, against the elementwise form in float64 (held to mpmath above)."""
    generator = torch.Generator().manual_seed(20)
    for step in (1e-4, 1e-3, 1e-2, 0.1, 1.0):
        u, w = (torch.randn(150, 128, generator=generator) for _ in range(2))
        x = u / u.norm(dim=-1, keepdim=True) * size
        y = x + w / w.norm(dim=-1, keepdim=True) * step + x * torch.randn(150, 1, generator=generator) * step * 0.3
        expected = lorentz.distance(lorentz.lift(x.double(), 1.0), lorentz.lift(y.double(), 1.0), 1.0)
        error = (lorentz.pairwise_distance(x.to(dtype), y.to(dtype), 1.0).diagonal().double() - expected).abs()
        assert bool((error <= pairwise_bound(expected, x, y, 1.0, dtype) + 1e-13 * expected).all())


@pytest.mark.parametrize("radius", [1e-3, 0.1, 1.0, 3.0, D_MAX])
def test_pairwise_distance_equals_distance_on_shells(radius, points):
    x, y = points.on_shell(radius, 1.0, n=40, d=128), points.on_shell(radius, 1.0, n=30, d=128, seed=1)
    elementwise = lorentz.distance(lorentz.lift(x, 1.0)[:, None], lorentz.lift(y, 1.0)[None], 1.0)
    assert worst(lorentz.pairwise_distance(x, y, 1.0).flatten(), elementwise.flatten()) <= 5e-7
    assert torch.equal(lorentz.pairwise_distance(x, x, 1.0).diagonal(), torch.zeros(40))


@pytest.mark.parametrize("c", CURVATURES)
def test_expmap0_against_mpmath(c, exact):
    generator = torch.Generator().manual_seed(1)
    u = torch.randn(14, 8, generator=generator)
    radii = torch.tensor([0, 1e-30, 1e-6, 0.019, 0.021, 0.049, 0.051, 0.5, 1, 3, 5, 7, D_MAX, 8.3])
    z = u / u.norm(dim=-1, keepdim=True) * radii[:, None] / math.sqrt(c)
    expected = torch.tensor([exact(c).expmap0(row) for row in z], dtype=torch.float64)
    x = lorentz.expmap0(z, c)
    assert worst(x[:, 1:], expected) <= 2e-6
    deep = (z * 40 / 8.3)[-1:]
    assert worst(lorentz.expmap0(deep, c)[:, 1:], [exact(c).expmap0(deep[0])]) <= 43 * 1.2e-7


@pytest.mark.parametrize("c", CURVATURES)
def test_logmap0_against_mpmath(c, exact):
    generator = torch.Generator().manual_seed(2)
    u = torch.randn(11, 8, generator=generator)
    sizes = torch.tensor([0, 1e-30, 1e-6, 0.019, 0.021, 0.5, 1, 10, 100, 2000, 1e6])
    x = u / u.norm(dim=-1, keepdim=True) * sizes[:, None] / math.sqrt(c)
    expected = torch.tensor([exact(c).logmap0(row) for row in x], dtype=torch.float64)
    assert worst(lorentz.logmap0(lorentz.lift(x, c), c), expected) <= 5e-7


@pytest.mark.parametrize("c", CURVATURES)
def test_centroid_against_mpmath(c, exact, points):
    for radius in (0.1, 1.0, 4.0, D_MAX / math.sqrt(max(c, 1.0))):
        x = points.on_shell(radius, c, n=6)
        x[1:3] = x[0] * torch.tensor([[1.001], [0.9]])  # a cluster: its sum is nearly light-like far out
        for w in (
            torch.ones(6),
            torch.tensor([1.0, 1, 1, 0, 0, 0]),
            torch.tensor([0.5, 0.2, 0.1, 1e-3, 0.1, 0]),
        ):
            actual = lorentz.centroid(lorentz.lift(x, c), w, c)
            assert worst(actual[1:], exact(c).centroid(x, w)) <= 1e-6


# --- against geoopt in float64


@pytest.mark.parametrize("c", CURVATURES)
def test_expmap_and_logmap_against_geoopt(c, geoopt):
    space = geoopt.Lorentz(k=torch.tensor(1 / c, dtype=torch.float64))
    x, y = random_points(20, 6, 2.0, c), random_points(20, 6, 2.0, c, seed=1)
    u = lorentz.logmap(x, y, c)
    assert worst(u, space.logmap(x, y)) <= 1e-7  # geoopt's own logmap adds 1e-8 in places
    assert worst(lorentz.expmap(x, u, c), space.expmap(x, u)) <= 1e-9
    assert worst(lorentz.expmap(x, u, c), y) <= 1e-12
    assert worst(lorentz.distance(x, y, c), space.dist(x, y)) <= 1e-7
    # float32 points far out, against the same operations on their exact values in float64
    for radius in (3.0, D_MAX / math.sqrt(max(c, 1.0))):
        x32 = lorentz.expmap0(lorentz.logmap0(x, c).float() * radius / 2, c)
        y32 = lorentz.expmap0(lorentz.logmap0(y, c).float() * radius / 2, c)
        u32 = lorentz.logmap(x32, y32, c)
        assert worst(u32[:, 1:], lorentz.logmap(x32.double(), y32.double(), c)[:, 1:]) <= 2e-7
        assert worst(lorentz.expmap(x32, u32, c)[:, 1:], lorentz.expmap(x32.double(), u32.double(), c)[:, 1:]) <= 2e-7


@pytest.mark.parametrize("c", CURVATURES)
def test_tangent_operations_against_geoopt(c, geoopt):
    space = geoopt.Lorentz(k=torch.tensor(1 / c, dtype=torch.float64))
    x, y = random_points(20, 6, 2.0, c), random_points(20, 6, 2.0, c, seed=1)
    v = torch.randn(20, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    u = lorentz.project_tangent(x, v, c)
    assert worst(u, space.proju(x, v)) <= 1e-12
    assert worst(lorentz.egrad2rgrad(x, v, c), space.egrad2rgrad(x, v)) <= 1e-12
    assert worst(lorentz.transport(x, y, u, c), space.transp(x, y, u)) <= 1e-9
    assert worst(lorentz.inner(x, y), space.inner(None, x, y, keepdim=False)) <= 1e-12
    assert worst(lorentz.tangent_norm(x, u, c), lorentz.norm(u)) <= 1e-9
    assert worst(lorentz.norm(u) ** 2, space.inner(x, u, u, keepdim=False)) <= 1e-9


@pytest.mark.parametrize("c", CURVATURES)
def test_tangent_operations_far_out(c, exact, points):
    x = points.on_shell(D_MAX / math.sqrt(c), c)
    g = torch.randn(12, 9, generator=torch.Generator().manual_seed(4))
    for u in (
        lorentz.project_tangent(lorentz.lift(x, c), g, c),
        lorentz.egrad2rgrad(lorentz.lift(x, c), g, c),
    ):
        assert u.dtype == torch.float32
        x_time = lorentz.lift(x.double(), c)[:, 0]
        expected_time = (x.double() * u[:, 1:].double()).sum(-1) / x_time
        assert float(((u[:, 0] - expected_time).abs() / u[:, 1:].norm(dim=-1)).max()) <= 1.2e-7
    mp = exact(c)
    for i in range(12):
        a, b = mp.vector(x[i]), mp.vector(u[i, 1:])
        length = float((mp.dot(b, b) - mp.dot(a, b) ** 2 / mp.time(a) ** 2) ** 0.5)
        assert abs(float(lorentz.tangent_norm(lorentz.lift(x[i], c), u[i], c)) / length - 1) <= 2e-7
    # along the radius the length is the space length over cosh; a plain difference has no digit of it left
    far, ray = lorentz.lift(torch.tensor([[3e5, 4e5]]), c), torch.tensor([[0.0, 3.0, 4.0]])
    assert float(lorentz.tangent_norm(far, ray, c)) == pytest.approx(5 / math.sqrt(1 + c * 25e10), rel=2e-7)


@pytest.mark.parametrize("c", CURVATURES)
def test_transport_keeps_lengths_and_angles(c, points):
    for radius in (1.0, D_MAX / math.sqrt(c)):
        x, y = (
            lorentz.lift(points.on_shell(radius, c), c),
            lorentz.lift(points.on_shell(radius, c, seed=1), c),
        )
        u = lorentz.egrad2rgrad(x, torch.randn(12, 9, generator=torch.Generator().manual_seed(5)), c)
        moved = lorentz.transport(x, y, u, c)
        assert worst(moved[:, 1:], lorentz.transport(x.double(), y.double(), u.double(), c)[:, 1:]) <= 2e-7
        assert worst(lorentz.tangent_norm(y, moved, c), lorentz.tangent_norm(x, u, c)) <= 1e-5
        back = lorentz.transport(y.double(), x.double(), lorentz.transport(x.double(), y.double(), u.double(), c), c)
        assert worst(back[:, 1:], u[:, 1:]) <= 1e-8
    # the direction of the geodesic itself goes over into its direction at the other end
    a, b = random_points(9, 4, 2.0, c), random_points(9, 4, 2.0, c, seed=6)
    assert worst(lorentz.transport(a, b, lorentz.logmap(a, b, c), c), -lorentz.logmap(b, a, c)) <= 1e-9


# --- on the manifold, curvature, limits


@pytest.mark.parametrize("c", CURVATURES)
def test_lift_puts_points_on_the_manifold(c, exact, points):
    mp = exact(c)
    x, y = points.pairs(2000.0, c)
    u = lorentz.logmap(lorentz.lift(x, c), lorentz.lift(y, c), c)
    results = {
        "lift": lorentz.lift(x, c),
        "expmap0": lorentz.expmap0(lorentz.logmap0(lorentz.lift(x, c), c), c),
        "expmap": lorentz.expmap(lorentz.lift(x, c), u, c),
        "centroid": lorentz.centroid(lorentz.lift(torch.stack([x, y], 1), c), torch.ones(len(x), 2), c),
        "change_curvature": lorentz.change_curvature(lorentz.lift(x, c), c, c),
    }
    for name, result in results.items():
        times = [float(mp.time(mp.vector(row[1:]))) for row in result]
        assert worst(result[:, 0], times) <= 2e-7, name


def test_origin_is_a_point():
    o = lorentz.origin(5, 0.25)
    assert torch.equal(o, torch.tensor([2.0, 0, 0, 0, 0, 0]))
    assert lorentz.origin(3, 1.0, torch.zeros(1, dtype=torch.float64)).dtype == torch.float64
    x = random_points(7, 5, 3.0, 0.25)
    assert worst(lorentz.distance(o.double(), x, 0.25), lorentz.logmap0(x, 0.25).norm(dim=-1)) <= 1e-12


def test_change_of_curvature():
    z = torch.randn(20, 8, generator=torch.Generator().manual_seed(7))
    z = z / z.norm(dim=-1, keepdim=True) * torch.linspace(0.0, 7.0, 20)[:, None]
    x = lorentz.expmap0(z, 0.7)
    moved = lorentz.change_curvature(x, 0.7, torch.tensor(1.3))
    expected = lorentz.expmap0(lorentz.logmap0(x.double(), 0.7), float(torch.tensor(1.3)))
    assert worst(moved[:, 1:], expected[:, 1:]) <= 2e-7
    assert worst(lorentz.logmap0(moved, 1.3), z, floor=1e-30) <= 2e-6


def test_max_distance():
    assert lorentz.max_distance(1.0, 2e3) == pytest.approx(8.29405, abs=1e-5)
    c = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    d = lorentz.max_distance(c, 2e3)
    assert float(lorentz.expmap0(d.detach()[None], 0.1)[0]) == pytest.approx(2e3)
    assert torch.autograd.gradcheck(lambda c: lorentz.max_distance(c, 2e3), (c,))
    with pytest.raises(ValueError, match="no point has x_time <= 2"):
        lorentz.max_distance(0.2, 2.0)


@pytest.mark.parametrize("c", [0.0, -1.0, float("nan")])
def test_a_curvature_that_is_not_positive_is_refused(c):
    with pytest.raises(ValueError, match="pass c, not -c"):
        lorentz.pairwise_distance(torch.zeros(1, 2), torch.zeros(1, 2), c)
    with pytest.raises(ValueError, match="pass c, not -c"):
        lorentz.expmap0(torch.zeros(1, 2), c)


def test_small_curvature_tends_to_euclidean_space():
    generator = torch.Generator().manual_seed(8)
    z, w = (torch.randn(10, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    errors = []
    for c in (1e-2, 1e-4, 1e-6):
        x, y = lorentz.expmap0(z, c), lorentz.expmap0(w, c)
        errors.append(worst(lorentz.distance(x, y, c), (z - w).norm(dim=-1)))
        assert worst(lorentz.pairwise_distance(x[:, 1:], y[:, 1:], c).diagonal(), (z - w).norm(dim=-1)) <= 3 * c
        mean = lorentz.centroid(torch.stack([x, y], 1), torch.ones(10, 2, dtype=torch.float64), c)
        assert worst(mean[:, 1:], (z + w) / 2) <= 10 * c
    assert errors[0] <= 3e-2
    assert errors[1] <= 3e-4
    assert errors[2] <= 3e-6


# --- properties


@properties
@given(tangents(count=3))
def test_distance_is_a_metric(case):
    z, c = case
    x, y, w = lorentz.expmap0(z, c)
    d = lorentz.distance
    assert float(d(x, y, c)) == float(d(y, x, c))
    assert float(d(x, x, c)) == 0.0
    assert float(d(x, w, c)) <= (float(d(x, y, c)) + float(d(y, w, c))) * (1 + 1e-9) + 1e-9
    assert float(d(lorentz.origin(3, c, x), x, c)) == pytest.approx(float(z[0].norm()), rel=1e-9, abs=1e-12)


@properties
@given(tangents(count=2))
@example((torch.tensor([[7e-163, -7e-163, 4e-162], [0.16, -0.82, 0.55]], dtype=torch.float64), 1.0))  # |x|^2 underflows
def test_expmap_and_logmap_are_inverse(case):
    z, c = case
    x, y = lorentz.expmap0(z, c)
    u = lorentz.logmap(x, y, c)
    assert float(lorentz.tangent_norm(x, u, c)) == pytest.approx(float(lorentz.distance(x, y, c)), rel=1e-6, abs=1e-9)
    assert float(lorentz.distance(lorentz.expmap(x, u, c), y, c)) <= 1e-5
    assert worst(lorentz.logmap0(lorentz.expmap0(z, c), c), z, floor=1e-9) <= 1e-9


@properties
@given(tangents(count=2))
def test_pairwise_gradients_agree_with_finite_differences(case):
    z, c = case
    x = lorentz.expmap0(z[:1] / 2, c)[:, 1:].requires_grad_()
    y = (lorentz.expmap0(z[1:] / 2, c)[:, 1:] + 0.1).requires_grad_()
    curvature = torch.tensor(c, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lorentz.pairwise_distance, (x, y, curvature), atol=1e-4)


# --- gradients


def grads(function, *inputs):
    leaves = [i.detach().clone().requires_grad_() for i in inputs]
    return torch.autograd.grad(function(*leaves).sum(), leaves, materialize_grads=True)


def test_gradcheck_of_every_operation():
    x, y = (random_points(3, 3, 2.0, 0.8, seed=s)[:, 1:].clone().requires_grad_() for s in (1, 2))
    v = torch.randn(3, 3, generator=torch.Generator().manual_seed(9), dtype=torch.float64, requires_grad=True)
    w = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64, requires_grad=True)
    c = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    lift = lorentz.lift

    def pad(v):
        return torch.cat([torch.zeros_like(v[..., :1]), v], -1)

    cases = {
        "lift": (lorentz.lift, (x, c)),
        "distance": (lambda x, y, c: lorentz.distance(lift(x, c), lift(y, c), c), (x, y, c)),
        "squared": (lambda x, y, c: lorentz.squared_distance(lift(x, c), lift(y, c), c), (x, y, c)),
        "pairwise": (lorentz.pairwise_distance, (x, y, c)),
        "expmap0": (lorentz.expmap0, (v, c)),
        "logmap0": (lambda x, c: lorentz.logmap0(lift(x, c), c), (x, c)),
        "expmap": (lambda x, v, c: lorentz.expmap(lift(x, c), pad(v), c), (x, v, c)),
        "logmap": (lambda x, y, c: lorentz.logmap(lift(x, c), lift(y, c), c), (x, y, c)),
        "transport": (lambda x, y, v, c: lorentz.transport(lift(x, c), lift(y, c), pad(v), c), (x, y, v, c)),
        "centroid": (lambda x, w, c: lorentz.centroid(lift(x, c), w, c), (x, w, c)),
        "tangent_norm": (lambda x, v, c: lorentz.tangent_norm(lift(x, c), pad(v), c), (x, v, c)),
        "egrad2rgrad": (lambda x, v, c: lorentz.egrad2rgrad(lift(x, c), pad(v), c), (x, v, c)),
        "change": (lambda x, c: lorentz.change_curvature(lift(x, c), c, 2 * c), (x, c)),
    }
    for name, (function, inputs) in cases.items():
        assert torch.autograd.gradcheck(function, inputs), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [0.0, 1e-4, 1.0, 2000.0])
def test_gradients_are_zero_where_points_touch(dtype, size):
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(10), dtype=dtype)
    x = x / x.norm(dim=-1, keepdim=True) * size
    c = torch.tensor(1.0, dtype=dtype)
    for g in grads(lambda x, y, c: lorentz.distance(lorentz.lift(x, c), lorentz.lift(y, c), c), x, x, c):
        assert torch.equal(g, torch.zeros_like(g))
    for g in grads(lambda x, y, c: lorentz.pairwise_distance(x, y, c).diagonal(), x, x, c):
        assert torch.equal(g, torch.zeros_like(g))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_at_the_origin(dtype):
    zero, c = torch.zeros(1, 4, dtype=dtype), torch.tensor(0.6, dtype=dtype)
    far = torch.tensor([[3.0, 0, -4.0, 0]], dtype=dtype)
    # moving the origin towards a point shortens the distance at unit rate
    for function in (
        lorentz.pairwise_distance,
        lambda x, y, c: lorentz.distance(lorentz.lift(x, c), lorentz.lift(y, c), c),
    ):
        g = grads(function, zero, far, c)
        assert worst(g[0], -far / 5) <= 1e-6
        assert worst(g[1], far / 5 / math.sqrt(1 + 0.6 * 25)) <= 1e-6
    jacobian = torch.autograd.functional.jacobian(lambda z: lorentz.expmap0(z, 0.6)[0, 1:], zero).squeeze()
    assert torch.equal(jacobian, torch.eye(4, dtype=dtype))
    jacobian = torch.autograd.functional.jacobian(
        lambda x: lorentz.logmap0(lorentz.lift(x, 0.6), 0.6)[0], zero
    ).squeeze()
    assert torch.equal(jacobian, torch.eye(4, dtype=dtype))
    o = lorentz.lift(zero, 0.6)
    u = torch.zeros(1, 5, dtype=dtype)
    jacobian = torch.autograd.functional.jacobian(lambda u: lorentz.expmap(o, u, 0.6)[0], u).squeeze()
    assert torch.equal(jacobian[1:, 1:], torch.eye(4, dtype=dtype))
    jacobian = torch.autograd.functional.jacobian(lambda y: lorentz.logmap(o, y, 0.6)[0], o).squeeze()
    assert torch.equal(jacobian[1:, 1:], torch.eye(4, dtype=dtype))


@pytest.mark.parametrize("radius", [1.0, 5.0, D_MAX])
def test_pairwise_gradients_far_out(radius, points):
    """Float32 gradients of all pairs, against autograd through the elementwise form in float64."""
    x, y = points.on_shell(radius, 1.0, n=20, d=32), points.on_shell(radius * 0.9, 1.0, n=16, d=32, seed=1)
    y[:4] = x[:4] * 0.8  # near pairs on one ray
    y[4:8] = x[4:8] + 1e-3 * x[4:8].norm(dim=-1, keepdim=True) * torch.randn(
        4, 32, generator=torch.Generator().manual_seed(2)
    )
    c = torch.tensor(1.0)
    weights = torch.rand(20, 16, generator=torch.Generator().manual_seed(3))
    got = grads(lambda x, y, c: weights * lorentz.pairwise_distance(x, y, c), x, y, c)
    expected = grads(
        lambda x, y, c: weights * lorentz.distance(lorentz.lift(x, c)[:, None], lorentz.lift(y, c)[None], c),
        x.double(), y.double(), c.double(),
    )  # fmt: skip
    for g, e in zip(got, expected, strict=True):
        assert worst(g.reshape(-1, g.shape[-1] if g.dim() else 1), e.reshape(-1, e.shape[-1] if e.dim() else 1)) <= 2e-6
    # the radial part is cosh(radius) times smaller and must be right by itself
    radial = [((g * p).sum(-1) / p.norm(dim=-1)) for g, p in ((got[0], x), (expected[0], x.double()))]
    assert worst(radial[0], radial[1]) <= 2e-3


# --- half precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_inputs_under_autocast_come_out_float32_and_finite(dtype):
    z = torch.randn(6, 8, generator=torch.Generator().manual_seed(11)).to(dtype)
    z = z / z.float().norm(dim=-1, keepdim=True).to(dtype) * 8
    c = torch.tensor(1.0, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = lorentz.expmap0(z, c)
        reference = lorentz.expmap0(z.float(), 1.0)
        assert torch.equal(x, reference)
        u = lorentz.logmap(x, x.flip(0), c)
        results = [
            x, u, lorentz.lift(z, c), lorentz.logmap0(x, c), lorentz.distance(x, x.flip(0), c),
            lorentz.pairwise_distance(x[:, 1:], x[:, 1:].flip(0), c), lorentz.expmap(x, u, c),
            lorentz.inner(x, x), lorentz.transport(x, x.flip(0), u, c),
            lorentz.centroid(x, torch.ones(6, dtype=dtype), c),
            lorentz.pairwise_distance(z, z.flip(0), c), lorentz.change_curvature(x, c, 0.5),
        ]  # fmt: skip
        for result in results:
            assert result.dtype == torch.float32
            assert torch.isfinite(result).all()
        assert torch.is_autocast_enabled("cpu")
    leaf = z.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lorentz.pairwise_distance(leaf, z.flip(0), 1.0).sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.dtype == dtype
    assert torch.isfinite(leaf.grad).all()


# --- hyperbolicity


def brute_delta(d):
    n = len(d)
    gromov = [[(d[i][0] + d[j][0] - d[i][j]) / 2 for j in range(n)] for i in range(n)]
    triples = ((i, j, k) for i in range(n) for j in range(n) for k in range(n))
    return max(min(gromov[i][k], gromov[k][j]) - gromov[i][j] for i, j, k in triples)


def test_delta_rel_of_trees_circles_and_points():
    # a caterpillar tree: leaves i, j at distance |i - j| + 2
    i = torch.arange(9.0)
    tree = (i[:, None] - i[None]).abs() + 2 * (1 - torch.eye(9))
    assert lorentz.delta_rel(tree) == 0.0
    around = torch.arange(12.0)
    gap = (around[:, None] - around[None]).abs()
    circle = torch.minimum(gap, 12 - gap)
    assert lorentz.delta_rel(circle) == pytest.approx(2 * 3 / 6)  # the 12-cycle is 3-hyperbolic, of diameter 6
    z = torch.randn(25, 3, generator=torch.Generator().manual_seed(12), dtype=torch.float64)
    d = torch.cdist(z, z)
    expected = 2 * brute_delta(d.tolist()) / float(d.max())
    assert lorentz.delta_rel(d) == pytest.approx(expected, rel=1e-12)
    assert lorentz.delta_rel(d, chunk_bytes=1) == pytest.approx(expected, rel=1e-12)
    assert lorentz.delta_rel(torch.zeros(3, 3)) == 0.0


def test_delta_rel_falls_with_the_radius(points):
    """Far out the hyperboloid looks like a tree: delta is bounded while the diameter grows."""
    values = []
    for radius in (0.1, 2.0, 8.0):
        x = points.on_shell(radius, 1.0, n=40, d=4).double()
        values.append(lorentz.delta_rel(lorentz.pairwise_distance(x, x, 1.0)))
    assert values[0] > values[1] > values[2] > 0
    assert values[2] <= 2 * math.log(2) / 8  # delta of the hyperbolic plane is log 2; diameter >= 8
