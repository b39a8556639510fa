"""Riemannian AdamW and SGD: torch's own on numbers, geoopt's on points, and the curvature-aware step."""

import copy
import itertools
import math

import mpmath
import pytest
import torch
from torch import nn

from hyperbolic import lorentz
from hyperbolic.curvature import Curvature, LorentzParameter
from hyperbolic.optim.adamw import RiemannianAdamW
from hyperbolic.optim.curvature_step import REACH, decay_to_origin
from hyperbolic.optim.sgd import RiemannianSGD

D_MAX = math.acosh(2e3)


def adamw(params, **options):
    return RiemannianAdamW(params, **{"lr": 1e-2, "weight_decay": 0.0, **options})


def sgd(params, **options):
    return RiemannianSGD(params, **{"lr": 1e-2, "momentum": 0.9, **options})


def shell(n, d, radius, seed=0, dtype=torch.float32):
    z = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (z / z.norm(dim=-1, keepdim=True) * radius).to(dtype)


class Model(nn.Module):
    """Points on two hyperboloids with their own learned curvatures, and a Euclidean layer."""

    def __init__(self, radius=D_MAX - 0.1, n=24, d=8, dtype=torch.float32):
        super().__init__()
        torch.manual_seed(0)
        self.curvature, self.other_curvature = Curvature(1.0), Curvature(0.5)
        self.points = LorentzParameter(lorentz.expmap0(shell(n, d, radius, dtype=dtype), 1.0), self.curvature)
        other = lorentz.expmap0(shell(5, d, 2.0, seed=1, dtype=dtype), self.other_curvature().detach())
        self.other_points = LorentzParameter(other, self.other_curvature)
        self.linear = nn.Linear(d, d, dtype=dtype)
        self.targets = shell(6, d, radius, seed=2, dtype=dtype)

    def loss(self, step=0):
        c, other_c = self.curvature(), self.other_curvature()
        targets = lorentz.expmap0(self.targets, c)[:, 1:]
        d = lorentz.pairwise_distance(self.points[:, 1:], targets.roll(step // 20, 0), c)
        between = lorentz.pairwise_distance(self.other_points[:, 1:], self.other_points[:, 1:], other_c)
        features = self.linear(lorentz.logmap0(self.other_points, other_c))
        # the curvature is pulled about, as a temperature is in training
        swing = (torch.log(c) - 0.4 * math.sin(step / 15)) ** 2 + (torch.log(other_c) - 0.3 * math.cos(step / 15)) ** 2
        return (
            nn.functional.softplus(d - 1.0).mean() - between.mean() * 0.1 + features.square().mean() * 0.1 + 5 * swing
        )


def train(model, optimiser, steps, after=None, start=0):
    losses = []
    for step in range(start, start + steps):
        optimiser.zero_grad()
        loss = model.loss(step)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
        if after is not None:
            after(step)
    return losses


def violations(optimiser, parameter):
    """How far the time entries of points and of momenta are from what their space parts demand (relative)."""
    c = parameter.curvature().detach().double()
    x, u = parameter.detach().double(), optimiser.state[parameter][optimiser.tangent_state].double()
    x_time = lorentz.lift(x[:, 1:], c)[:, 0]
    u_time = (x[:, 1:] * u[:, 1:]).sum(-1) / x_time
    point = (x[:, 0] - x_time).abs() / x_time
    tangent = (u[:, 0] - u_time).abs() / u.norm(dim=-1).clamp_min(1e-30)
    return float(point.max()), float(tangent.max())


# --- Euclidean parameters: torch's own


@pytest.mark.parametrize("foreach", [None, False, True])
@pytest.mark.parametrize(("lr", "weight_decay"), [(1e-2, 0.1), (1e-3, 0.0)])
def test_adamw_on_euclidean_parameters_is_torchs(foreach, lr, weight_decay):
    ours = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2))
    theirs = copy.deepcopy(ours)
    x = torch.randn(16, 5, generator=torch.Generator().manual_seed(1))
    groups = [
        [{"params": list(m[0].parameters()), "lr": lr * 3}, {"params": list(m[2].parameters())}] for m in (ours, theirs)
    ]
    a = RiemannianAdamW(groups[0], lr=lr, weight_decay=weight_decay, foreach=foreach)
    b = torch.optim.AdamW(groups[1], lr=lr, weight_decay=weight_decay, foreach=foreach)
    for step in range(20):
        for model, optimiser in ((ours, a), (theirs, b)):
            optimiser.zero_grad()
            (
                model(x).square().sum() if step % 3 else model[0](x).square().sum()
            ).backward()  # some steps without gradients
            optimiser.step()
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(p, q)
            assert torch.isfinite(p).all()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_on_euclidean_parameters_is_torchs(momentum):
    ours = nn.Linear(5, 7)
    theirs = copy.deepcopy(ours)
    x = torch.randn(16, 5, generator=torch.Generator().manual_seed(1))
    a = RiemannianSGD(ours.parameters(), lr=1e-2, momentum=momentum, weight_decay=1e-3)
    b = torch.optim.SGD(theirs.parameters(), lr=1e-2, momentum=momentum, weight_decay=1e-3)
    for _ in range(20):
        for model, optimiser in ((ours, a), (theirs, b)):
            optimiser.zero_grad()
            model(x).square().mean().backward()
            optimiser.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q)
        assert torch.isfinite(p).all()


# --- points: geoopt's, with a fixed curvature


@pytest.mark.parametrize("c", [0.5, 1.0])
@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_fixed_curvature_is_geoopts(kind, c, geoopt):
    space = geoopt.Lorentz(k=torch.tensor(1 / c, dtype=torch.float64))
    start = lorentz.expmap0(shell(6, 4, 1.5, dtype=torch.float64), c)
    target = lorentz.expmap0(shell(6, 4, 1.0, seed=3, dtype=torch.float64), c)
    curvature = Curvature(c, learnable=False)
    ours = LorentzParameter(start.clone(), curvature)
    # geoopt keeps one second moment per point only as a copy per coordinate; a point each makes them equal
    theirs = [geoopt.ManifoldParameter(row.clone(), manifold=space) for row in start]
    if kind == "adam":
        a = adamw([ours], lr=0.05)
        b = geoopt.optim.RiemannianAdam(theirs, lr=0.05)
    else:
        # geoopt starts its momentum with the Euclidean gradient; the momentum is tested by hand below
        a, b = sgd([ours], lr=0.05, momentum=0.0), geoopt.optim.RiemannianSGD(theirs, lr=0.05)
    for _ in range(25):
        a.zero_grad()
        (-lorentz.inner(ours, target) * c - 1).sum().backward()
        a.step()
        b.zero_grad()
        (-lorentz.inner(torch.stack(theirs), target) * c - 1).sum().backward()
        b.step()
    result = torch.stack([p.detach() for p in theirs])
    assert float((ours.detach() - result).abs().max()) <= 1e-6
    assert float((ours.detach() - start).abs().max()) >= 0.1
    if kind == "adam":
        assert a.state[ours]["exp_avg_sq"].shape == (6, 1)


# --- weight decay


@pytest.mark.parametrize("c", [0.1, 1.0, 3.0])
def test_decay_is_the_centroid_with_the_origin(c, exact):
    for radius in (0.0, 1e-3, 1.0, 4.0, D_MAX):
        x = lorentz.expmap0(shell(4, 6, radius / math.sqrt(c)), c)
        for weight in (1e-6, 1e-4, 1e-2, 0.3, 1.0):
            decayed = decay_to_origin(x, weight, c)
            w = torch.tensor([1 - weight, weight], dtype=torch.float64)
            with_origin = torch.stack([x, lorentz.origin(6, c).expand_as(x)], dim=1)
            centroid = lorentz.centroid(with_origin.double(), w.expand(4, 2), c)
            for got, mean, row in zip(decayed.double(), centroid, x, strict=True):
                truth = torch.tensor(exact(c).centroid(torch.stack([row[1:], torch.zeros(6)]), w), dtype=torch.float64)
                for candidate, bound in ((got, 2e-7), (mean, 1e-8)):
                    assert float((candidate[1:] - truth).norm()) <= bound * float(truth.norm()) + 1e-30
            assert decayed.dtype == torch.float32


def test_decay_far_out_is_about_220_times_the_euclidean_one():
    x = lorentz.expmap0(shell(1, 8, D_MAX, dtype=torch.float64), 1.0)
    radius = float(lorentz.logmap0(decay_to_origin(x, 1e-6, 1.0), 1.0).norm())
    assert 200 <= (D_MAX - radius) / (1e-6 * D_MAX) <= 250


@pytest.mark.parametrize("make", [adamw, sgd])
def test_decay_alone_moves_points_inwards_and_stays_finite_in_float32(make):
    curvature = Curvature(1.0, learnable=False)
    points = LorentzParameter(lorentz.expmap0(shell(12, 16, D_MAX), 1.0), curvature)
    start = lorentz.logmap0(points.detach(), 1.0)
    optimiser = make([points], lr=1e-2, weight_decay=1e-2)
    radii = [D_MAX]
    for _ in range(100):
        points.grad = torch.zeros_like(points)
        optimiser.step()
        radii.append(float(lorentz.logmap0(points.detach(), 1.0).norm(dim=-1).max()))
    assert all(b < a for a, b in itertools.pairwise(radii))
    expected = x = lorentz.expmap0(start.double(), 1.0)
    for _ in range(100):
        x = decay_to_origin(x, 1e-4, 1.0)
    assert torch.allclose(points.detach().double()[:, 1:], x[:, 1:], rtol=2e-5, atol=1e-9)
    assert not torch.equal(x, expected)


# --- the curvature-aware step


@pytest.mark.parametrize("make", [adamw, sgd])
def test_aware_step_keeps_constraints_and_naive_does_not(make):
    """300 steps near D_max with two learned curvatures: float32's rounding against a real violation."""
    worst = {}
    for order in ("aware", "naive"):
        model = Model()
        options = {"lr": 1e-2} if make is adamw else {"lr": 2e-3}
        optimiser = make(model.parameters(), curvature_order=order, **options)
        seen, cs = [], []

        def look(_, model=model, optimiser=optimiser, seen=seen, cs=cs):
            cs.append(float(model.curvature().detach()))
            seen.append([violations(optimiser, p) for p in (model.points, model.other_points)])

        steps = 300 if order == "aware" else 60
        losses = train(model, optimiser, steps, look)
        worst[order] = torch.tensor(seen, dtype=torch.float64).amax(0)
        if order == "aware":
            assert max(cs) - min(cs) >= 0.05  # c was really learned
            assert all(math.isfinite(loss) for loss in losses)
            assert losses[-1] < losses[0]
            assert all(torch.isfinite(p).all() for p in model.parameters())
            assert float(worst["aware"].max()) <= 2e-7
    naive = worst["naive"]
    # near the origin, where time entries matter, the naive order is off by percents, or has become NaN
    assert not float(naive[1, 0]) <= 1e-3
    assert not float(naive.max()) <= 1e4 * float(worst["aware"].max())


@pytest.mark.parametrize("make", [adamw, sgd])
def test_move_keeps_tangent_vectors_at_the_origin(make):
    """Step (3) by itself: points keep their tangent vector at the origin, momenta theirs after transport there."""
    model = Model(radius=3.0, dtype=torch.float64)
    optimiser = make(model.parameters())
    train(model, optimiser, 5)
    before = optimiser.state[model.points][optimiser.tangent_state].clone()
    x, c_old = model.points.detach().clone(), model.curvature().detach().double()
    optimiser.zero_grad()
    model.curvature.log_ratio.grad = torch.tensor(2.0)  # only c has a gradient
    optimiser.step()
    c_new = model.curvature().detach().double()
    assert abs(float(c_new / c_old) - 1) >= 1e-3
    y, after = model.points.detach(), optimiser.state[model.points][optimiser.tangent_state]
    assert torch.allclose(lorentz.logmap0(y, c_new), lorentz.logmap0(x, c_old), rtol=1e-10, atol=1e-12)
    at_origin = [
        lorentz.transport(p, lorentz.origin(8, c, p), v, c)[:, 1:]
        for p, v, c in ((x, before, c_old), (y, after, c_new))
    ]
    assert torch.allclose(at_origin[0], at_origin[1], rtol=1e-9, atol=1e-14)
    assert float(before.abs().max()) > 0
    lengths = [lorentz.tangent_norm(p, v, c) for p, v, c in ((x, before, c_old), (y, after, c_new))]
    assert torch.allclose(lengths[0], lengths[1], rtol=1e-9, atol=1e-14)


def test_points_use_the_old_curvature_and_c_its_own_gradient():
    """Algorithm 1 with momentum written out by hand: two steps."""
    model = Model(radius=2.0, dtype=torch.float64)
    optimiser = sgd(model.parameters(), lr=0.05)
    momentum, pull = torch.zeros_like(model.points), torch.zeros(())
    for step in range(2):
        optimiser.zero_grad()
        model.loss(step).backward()
        x, c_old = model.points.detach().clone(), model.curvature().detach().double()
        momentum = 0.9 * momentum + lorentz.egrad2rgrad(x, model.points.grad, c_old)
        pull = 0.9 * pull + model.curvature.log_ratio.grad
        ratio = model.curvature.log_ratio.detach() - 0.05 * pull
        c_new = torch.exp(ratio).double()
        end = lorentz.expmap(x, -0.05 * momentum, c_old)
        momentum = lorentz.transport(x, end, momentum, c_old)
        momentum = lorentz.transport(end, lorentz.origin(8, c_old, x), momentum, c_old)
        expected = lorentz.change_curvature(end, c_old, c_new)
        momentum = lorentz.transport(lorentz.origin(8, c_new, x), expected, momentum, c_new)
        optimiser.step()
        assert torch.equal(model.curvature.log_ratio.detach(), ratio)
        assert torch.allclose(model.points.detach(), expected, rtol=1e-12, atol=1e-12)
        assert torch.allclose(optimiser.state[model.points]["momentum_buffer"], momentum, rtol=1e-10, atol=1e-14)
    assert float((expected - x).abs().max()) >= 1e-4


def test_a_runaway_curvature_stays_finite():
    """Whatever c does, points stop at REACH, where float64 still computes."""
    curvature = Curvature(1.0)
    points = LorentzParameter(lorentz.expmap0(shell(8, 4, 8.0), 1.0), curvature)
    optimiser = sgd([points, *curvature.parameters()])
    for _ in range(40):
        optimiser.zero_grad()
        points.grad = torch.randn(points.shape, generator=torch.Generator().manual_seed(1))
        curvature.log_ratio.grad = torch.tensor(-1.0)
        optimiser.step()
        x = points.detach().double()
        assert torch.isfinite(x).all()
        assert float((x[:, 1:].norm(dim=-1) * math.sqrt(float(curvature().detach()))).max()) <= REACH * (1 + 1e-6)
    assert float(curvature().detach()) > 10


def test_resume_is_bit_for_bit():
    for make in (adamw, sgd):
        model = Model(radius=4.0)
        optimiser = make(model.parameters(), weight_decay=1e-4)
        train(model, optimiser, 8)
        saved = copy.deepcopy((model.state_dict(), optimiser.state_dict()))
        losses = train(model, optimiser, 8, start=8)
        resumed = Model(radius=1.0)
        resumed.load_state_dict(saved[0])
        resumed.targets = model.targets
        again = make(resumed.parameters(), weight_decay=1e-4)
        again.load_state_dict(saved[1])
        assert train(resumed, again, 8, start=8) == losses
        assert all(math.isfinite(loss) for loss in losses)
        for p, q in zip(model.parameters(), resumed.parameters(), strict=True):
            assert torch.equal(p, q)
        for key, state in optimiser.state_dict()["state"].items():
            for name, value in state.items():
                assert torch.equal(torch.as_tensor(value), torch.as_tensor(again.state_dict()["state"][key][name]))


def test_copied_model_and_optimiser_groups():
    model = Model(radius=2.0)
    twin = copy.deepcopy(model)
    groups = [
        [
            {"params": [m.points, m.other_points], "lr": 3e-3, "weight_decay": 1e-6},
            {"params": m.linear.parameters()},
            {"params": [m.curvature.log_ratio, m.other_curvature.log_ratio], "lr": 0.0},
        ]
        for m in (model, twin)
    ]
    losses = [train(m, adamw(g, weight_decay=1e-2), 5) for m, g in zip((model, twin), groups, strict=True)]
    assert losses[0] == losses[1]
    assert float(model.curvature().detach()) == 1.0
    assert not torch.equal(model.points, Model(radius=2.0).points)


def test_wrong_use_is_refused():
    model = Model()
    optimiser = adamw([model.points])
    model.loss().backward()
    with pytest.raises(ValueError, match="pass the Curvature's parameters to the same"):
        optimiser.step()
    with pytest.raises(Exception, match="aware"):  # beartype speaks first here, the constructor in production
        adamw(model.parameters(), curvature_order="clever")
    with pytest.raises(ValueError, match="lr must be >= 0"):
        adamw(model.parameters(), lr=-1.0)
    with pytest.raises(ValueError, match="betas must lie"):
        adamw(model.parameters(), betas=(0.9, 1.0))
    with pytest.raises(ValueError, match="momentum must be >= 0"):
        sgd(model.parameters(), momentum=-0.1)
    table = nn.Embedding(4, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="takes dense gradients"):
        adamw(table.parameters()).step()


def test_closure_and_scheduler():
    model = Model(radius=2.0)
    optimiser = adamw(model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimiser, 1, gamma=0.5)

    def closure():
        optimiser.zero_grad()
        loss = model.loss()
        loss.backward()
        return loss

    first = float(optimiser.step(closure).detach())
    scheduler.step()
    assert optimiser.param_groups[0]["lr"] == pytest.approx(5e-3)
    assert float(optimiser.step(closure).detach()) < first


def test_exact_transport_of_momenta_matches_60_digits():
    """The move of a momentum near D_max, in float32, against algorithm 1's formulas at 60 digits."""
    curvature = Curvature(1.0)
    points = LorentzParameter(lorentz.expmap0(shell(1, 3, 8.0), 1.0), curvature)
    optimiser = sgd([points, *curvature.parameters()], lr=1e-6)
    points.grad = torch.tensor([[0.3, -0.7, 0.2, 0.5]])
    optimiser.step()
    x, v = points.detach().clone(), optimiser.state[points]["momentum_buffer"].clone()
    points.grad, curvature.log_ratio.grad = None, torch.tensor(3e4)
    optimiser.step()

    def mp(row):
        return [mpmath.mpf(e) for e in row.double().tolist()]

    def dot(a, b):
        return mpmath.fdot(a[1:], b[1:]) - a[0] * b[0]

    def move(a, b, w, k):
        scale = dot(b, w) / (k - dot(a, b))
        return [e + scale * (f + g) for e, f, g in zip(w, a, b, strict=True)]

    def full(space, other, k):
        time = mpmath.sqrt(k + mpmath.fdot(space, space))
        return [time, *space], ([mpmath.fdot(space, other) / time, *other] if other else None)

    k_new = 1 / mpmath.mpf(float(curvature().detach()))
    (p, m), zeros = full(mp(x[0, 1:]), mp(v[0, 1:]), mpmath.mpf(1)), [mpmath.mpf(0)] * 3
    at_origin = move(p, [mpmath.mpf(1), *zeros], m, mpmath.mpf(1))
    s = mpmath.sqrt(mpmath.fdot(p[1:], p[1:]))
    r = mpmath.asinh(s)
    q, _ = full([mpmath.sqrt(k_new) * mpmath.sinh(r / mpmath.sqrt(k_new)) * e / s for e in p[1:]], None, k_new)
    expected = move([mpmath.sqrt(k_new), *zeros], q, at_origin, k_new)
    got = optimiser.state[points]["momentum_buffer"][0].double()
    assert (
        float(
            (points.detach()[0].double() - torch.tensor([float(e) for e in q], dtype=torch.float64)).norm()
            / float(q[0])
        )
        <= 2e-7
    )
    truth = torch.tensor([float(e) for e in expected], dtype=torch.float64)
    assert float((got - truth).norm() / truth.norm()) <= 2e-7
