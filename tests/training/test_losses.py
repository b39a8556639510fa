"""Each loss against its formula written out, and against the library's own where there is one."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hyperbolic import lorentz, poincare
from hyperbolic.curvature import Curvature, LorentzParameter
from hyperbolic.models.config import ModelConfig
from training.losses.ancestors import AncestorPoints
from training.losses.hierarchy import (
    HierarchicalProxyLoss,
    draw_triplets,
    hierarchical_triplet_loss,
    related_pairs,
)
from training.losses.library import GeodesicSimilarity
from training.losses.objective import Objective
from training.losses.pairwise import pairwise_cross_entropy
from training.losses.path import label_path_loss
from training.recipe import HierarchyConfig, LibraryConfig, LossConfig, PairwiseConfig, PathConfig, ProxyAnchorConfig

LORENTZ = ModelConfig(backbone="unused", embedding_dim=8, x_time_max=math.cosh(3.0))
POINCARE = ModelConfig(backbone="unused", embedding_dim=8, geometry="poincare", curvature=0.1)
PATHS = [("a", "b", "c"), ("a", "b", "d"), ("a", "e", "f"), ("g", "h", "i")]


def points(n: int, d: int = 8, radius: float = 2.0, seed: int = 0, c: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    z = F.normalize(torch.randn(n, d, generator=generator), dim=-1) * radius
    return lorentz.expmap0(z, c)[..., 1:]


def test_pairwise_cross_entropy_is_its_formula_in_plain_loops() -> None:
    distances = torch.rand(7, 7, generator=torch.Generator().manual_seed(3)) * 4
    classes = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    anchors = []
    for i in range(7):
        negatives = [math.exp(-distances[i, k] / 0.3) for k in range(7) if classes[k] != classes[i]]
        terms = []
        for j in range(7):
            if j != i and classes[j] == classes[i]:
                positive = math.exp(-distances[i, j] / 0.3)
                terms.append(-math.log(positive / (positive + sum(negatives))))
        anchors.append(sum(terms) / len(terms))
    assert float(pairwise_cross_entropy(distances, classes, 0.3)) == pytest.approx(sum(anchors) / 7, rel=1e-5)


def test_pairwise_cross_entropy_without_positives_or_negatives_is_zero_with_finite_gradient() -> None:
    for classes in (torch.arange(4), torch.zeros(4, dtype=torch.int64)):
        space = points(4).requires_grad_()
        loss = pairwise_cross_entropy(lorentz.pairwise_distance(space, space, 1.0), classes, 0.2)
        loss.backward()
        assert loss.item() == 0.0
        assert space.grad is not None
        assert torch.isfinite(space.grad).all()


def test_pairwise_cross_entropy_pulls_the_class_together() -> None:
    space = points(6).requires_grad_()
    classes = torch.tensor([0, 0, 1, 1, 2, 2])
    before = lorentz.pairwise_distance(space, space, 1.0).detach()
    pairwise_cross_entropy(lorentz.pairwise_distance(space, space, 1.0), classes, 0.2).backward()
    assert space.grad is not None
    moved = space.detach() - 0.05 * space.grad / space.grad.norm()
    after = lorentz.pairwise_distance(moved, moved, 1.0)
    loss_before, loss_after = (float(pairwise_cross_entropy(d, classes, 0.2)) for d in (before, after))
    assert loss_after < loss_before - 1e-3


def test_related_pairs_are_reciprocal_and_never_oneself() -> None:
    space = points(30, radius=1.5)
    distances = lorentz.pairwise_distance(space, space, 1.0)
    related = related_pairs(distances, 5)
    assert torch.equal(related, related.T)
    assert not related.diagonal().any()
    order = distances.clone().fill_diagonal_(torch.inf).argsort(1)[:, :5].tolist()
    for i in range(30):
        for j in range(30):
            assert bool(related[i, j]) == (i != j and j in order[i] and i in order[j])


def test_same_class_counts_as_nearest_in_related_pairs() -> None:
    distances = torch.full((6, 6), 9.0).fill_diagonal_(0.0)
    distances[:3, 3:] = distances[3:, :3] = 0.5
    classes = torch.tensor([0, 0, 0, 1, 1, 1])
    assert torch.equal(
        related_pairs(distances, 2, classes), (classes[:, None] == classes) & ~torch.eye(6, dtype=torch.bool)
    )


def test_triplets_hold_their_relations_and_cover_every_anchor() -> None:
    torch.manual_seed(0)
    space = points(40, radius=1.5)
    related = related_pairs(lorentz.pairwise_distance(space, space, 1.0), 6)
    i, j, k = draw_triplets(related, 50)
    assert related[i, j].all()
    assert not related[i, k].any()
    assert (i != k).all()
    usable = [a for a in range(40) if related[a].any()]
    assert sorted(set(i.tolist())) == usable
    assert len(i) == 50 * len(usable)


def reference_triplet_loss(
    distances: Tensor, triplets: tuple[Tensor, Tensor, Tensor], tau: float, margin: float
) -> Tensor:
    """Eq. (6) as one would write it from the paper, with torch's own Gumbel-softmax."""
    d_i, d_j, d_k = (distances[index] for index in triplets)
    pair = torch.maximum(d_i, d_j)
    rho_ij = F.gumbel_softmax(-pair / tau, dim=1, hard=True)
    rho_ijk = F.gumbel_softmax(-torch.maximum(pair, d_k) / tau, dim=1, hard=True)
    to = [((d * rho_ij).sum(1), (d * rho_ijk).sum(1)) for d in (d_i, d_j, d_k)]
    loss = (
        F.relu(to[0][0] - to[0][1] + margin)
        + F.relu(to[1][0] - to[1][1] + margin)
        + F.relu(to[2][1] - to[2][0] + margin)
    )
    return (loss * (rho_ij.argmax(1) != rho_ijk.argmax(1))).mean()


def test_triplet_loss_equals_autograd_of_the_gumbel_softmax_form() -> None:
    space, proxies = points(20, radius=1.0), points(15, radius=0.5, seed=1)
    distances = lorentz.pairwise_distance(space, proxies, 1.0)
    triplets = draw_triplets(related_pairs(lorentz.pairwise_distance(space, space, 1.0), 5), 9)
    results = []
    for function in (hierarchical_triplet_loss, reference_triplet_loss):
        d = distances.clone().requires_grad_()
        torch.manual_seed(7)
        loss = function(d, triplets, 0.1, 0.1)
        (3.0 * loss).backward()
        results.append((loss.item(), d.grad))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    assert results[0][0] > 0.01
    scale = float(results[1][1].abs().max())
    assert float((results[0][1] - results[1][1]).abs().max()) <= 1e-4 * scale


def test_triplet_loss_in_blocks_has_the_same_expectation(monkeypatch: pytest.MonkeyPatch) -> None:
    space, proxies = points(20, radius=1.0), points(15, radius=0.5, seed=1)
    distances = lorentz.pairwise_distance(space, proxies, 1.0)
    triplets = draw_triplets(related_pairs(lorentz.pairwise_distance(space, space, 1.0), 5), 400)
    torch.manual_seed(0)
    whole = hierarchical_triplet_loss(distances, triplets, 0.1, 0.1)
    monkeypatch.setattr("training.losses.hierarchy.BLOCK_CPU", 37)
    blocks = hierarchical_triplet_loss(distances, triplets, 0.1, 0.1)
    assert float(blocks) == pytest.approx(float(whole), rel=0.05)


def test_no_triplet_is_a_zero_with_a_gradient() -> None:
    distances = torch.rand(3, 4, requires_grad=True)
    nothing = torch.zeros(0, dtype=torch.int64)
    loss = hierarchical_triplet_loss(distances, (nothing, nothing, nothing), 0.1, 0.1)
    loss.backward()
    assert loss.item() == 0.0


@pytest.mark.parametrize("model", [LORENTZ, POINCARE], ids=["LHIER", "HIER"])
def test_hierarchical_loss_is_finite_and_moves_its_proxies(model: ModelConfig) -> None:
    torch.manual_seed(0)
    curvature = Curvature(model.curvature)
    loss = HierarchicalProxyLoss(model, curvature, HierarchyConfig(weight=1.0, proxies=32, neighbours=4))
    space = points(16, radius=2.0, c=model.curvature).requires_grad_()
    value = loss(space, torch.arange(16) // 2, curvature())
    value.backward()
    assert torch.isfinite(value)
    for tensor in (space.grad, loss.proxies.grad, curvature.log_ratio.grad):
        assert tensor is not None
        assert torch.isfinite(tensor).all()
    assert float(loss.proxies.grad.abs().sum()) > 0


def test_lhier_proxies_are_points_of_the_manifold_inside_the_shell() -> None:
    curvature = Curvature(1.0)
    loss = HierarchicalProxyLoss(LORENTZ, curvature, HierarchyConfig(weight=1.0, proxies=64))
    assert isinstance(loss.proxies, LorentzParameter)
    x = loss.proxies.detach().double()
    assert float((-(x[:, 0] ** 2) + (x[:, 1:] ** 2).sum(1) + 1).abs().max()) < 1e-4
    used = torch.asinh(loss.points(curvature()).detach().norm(dim=-1))
    assert float(used.max()) <= 3.0


def test_hier_distances_are_the_balls_own() -> None:
    loss = HierarchicalProxyLoss(POINCARE, Curvature(0.1), HierarchyConfig(weight=1.0, proxies=4))
    a, b = points(5, c=0.1), points(6, seed=2, c=0.1)
    found = loss.distance(a, b, torch.tensor(0.1))
    ball_a, ball_b = (poincare.from_lorentz(lorentz.lift(x.double(), 0.1), 0.1) for x in (a, b))
    gap = ((ball_a[:, None] - ball_b[None]) ** 2).sum(-1)
    room = (1 - 0.1 * (ball_a**2).sum(-1))[:, None] * (1 - 0.1 * (ball_b**2).sum(-1))[None]
    expected = torch.acosh(1 + 2 * 0.1 * gap / room) / math.sqrt(0.1)
    assert torch.allclose(found.double(), expected, rtol=1e-5)


def test_label_path_loss_is_its_formula_and_radii_shrink_towards_the_root() -> None:
    config = PathConfig(weight=1.0, temperature=0.5, radius=3.0, coarse_radius=0.6, root_radius=0.35)
    ancestors = AncestorPoints([path[:-1] for path in PATHS], 8, config)
    c = torch.tensor(1.0)
    assert [len(d) for d in ancestors.directions] == [2, 3]
    assert ancestors.radii == pytest.approx([1.05, 1.8])
    for level, radius in enumerate(ancestors.radii):
        assert torch.allclose(torch.asinh(ancestors.points(level, c).norm(dim=-1)), torch.tensor(radius), atol=1e-5)
    space, classes = points(4, radius=3.0), torch.tensor([0, 1, 2, 3])
    expected = 0.0
    for level, target in ((0, [0, 0, 0, 1]), (1, [0, 0, 1, 2])):
        d = lorentz.distance(
            lorentz.lift(space, 1.0)[:, None], lorentz.lift(ancestors.points(level, c), 1.0)[None], 1.0
        )
        for row, t in zip(d.tolist(), target, strict=True):
            mass = [math.exp(-value / 0.5) for value in row]
            expected += -math.log(mass[t] / sum(mass)) / 4
    found = label_path_loss(space, ancestors.levels(classes, c), c, config.temperature)
    assert float(found.detach()) == pytest.approx(expected, rel=1e-4)


def test_a_path_of_one_level_has_no_path_term() -> None:
    config = LossConfig(pairwise=PairwiseConfig(weight=1.0), path=PathConfig(weight=1.0))
    objective = Objective(config, LORENTZ, Curvature(1.0), [("a",), ("b",)])
    _, terms = objective(points(4), torch.tensor([0, 0, 1, 1]), torch.tensor(1.0))
    assert list(terms) == ["pairwise"]


def test_objective_is_the_weighted_sum_in_float32_even_under_autocast() -> None:
    torch.manual_seed(0)
    config = LossConfig(
        proxy_anchor=ProxyAnchorConfig(weight=0.3),
        pairwise=PairwiseConfig(weight=1.0),
        hierarchy=HierarchyConfig(weight=0.5, proxies=16, neighbours=3),
        path=PathConfig(weight=0.15),
    )
    curvature = Curvature(1.0)
    objective = Objective(config, LORENTZ, curvature, PATHS)
    space, classes = points(8, radius=3.0), torch.arange(8) // 2
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, terms = objective(space, classes, curvature())
    assert total.dtype == torch.float32
    weights = {"proxy_anchor": 0.3, "pairwise": 1.0, "hierarchy": 0.5, "path": 0.15}
    assert set(terms) == set(weights)
    assert float(total.detach()) == pytest.approx(sum(weights[n] * float(v) for n, v in terms.items()), rel=1e-5)
    torch.manual_seed(0)
    plain = Objective(config, LORENTZ, Curvature(1.0), PATHS)
    for name in ("pairwise", "proxy_anchor", "path"):
        plain.load_state_dict(objective.state_dict())
        assert float(plain(space, classes, torch.tensor(1.0))[1][name]) == pytest.approx(float(terms[name]), rel=1e-5)


def test_proxy_anchor_sees_directions_only() -> None:
    objective = Objective(LossConfig(proxy_anchor=ProxyAnchorConfig(weight=1.0)), LORENTZ, Curvature(1.0), PATHS)
    classes = torch.arange(4)
    near, far = (objective(points(4, radius=r), classes, torch.tensor(1.0))[0].detach() for r in (0.5, 3.0))
    assert float(near) == pytest.approx(float(far), rel=1e-5)


LIBRARY = ["multi_similarity", "soft_triple", "normalised_softmax", "proxy_nca", "cross_batch_memory"]


@pytest.mark.parametrize("distance", ["angle", "geodesic"])
@pytest.mark.parametrize("name", LIBRARY)
def test_library_losses_train_on_both_distances(name: str, distance: str) -> None:
    torch.manual_seed(0)
    config = LossConfig(distance=distance, library=LibraryConfig(name=name))
    objective = Objective(config, LORENTZ, Curvature(1.0), PATHS)
    z = torch.nn.Parameter(torch.randn(16, 8) * 0.5)
    classes = torch.arange(16) % 4
    optimiser = torch.optim.Adam([z, *objective.parameters()], lr=0.05)
    values, spread = [], []
    same = (classes[:, None] == classes) & ~torch.eye(16, dtype=torch.bool)
    for _ in range(150):
        space = lorentz.expmap0(3.0 * F.normalize(z, dim=-1), 1.0)[:, 1:]
        loss, _ = objective(space, classes, torch.tensor(1.0))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        values.append(float(loss.detach()))
        distances = lorentz.pairwise_distance(space.detach(), space.detach(), 1.0)
        spread.append(float(distances[same].mean() / distances[classes[:, None] != classes].mean()))
    assert all(math.isfinite(value) for value in values)
    # Cross-batch memory fills while it trains, so its sum grows: judged by what it leaves.
    if name != "cross_batch_memory":
        assert values[-1] < values[0]
    # Within a class against between classes. SoftTriple lets a class have several centres.
    assert spread[-1] < (0.995 if name == "soft_triple" else 0.9) * spread[0]


def test_geodesic_similarity_runs_from_one_to_minus_one_on_its_shell() -> None:
    direction = F.normalize(torch.randn(1, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    ends = lorentz.expmap0(torch.cat([direction, direction, -direction]) * 3.0, 1.0)[:, 1:]
    similarity = GeodesicSimilarity(3.0)
    found = similarity(ends, ends)
    assert torch.allclose(found[0], torch.tensor([1.0, 1.0, -1.0]), atol=1e-5)
    assert torch.allclose(similarity.pairwise_distance(ends, ends), torch.ones(3), atol=1e-6)
