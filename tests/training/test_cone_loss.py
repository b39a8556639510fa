"""The entailment-cone term: its formula, what it does to points, and what it refuses."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hyperbolic import cones, lorentz
from hyperbolic.curvature import Curvature
from hyperbolic.models.config import ModelConfig
from training.losses.ancestors import AncestorPoints
from training.losses.cone import entailment_cone_loss
from training.losses.objective import Objective
from training.recipe import (
    ConeConfig,
    HierarchyConfig,
    LossConfig,
    PairwiseConfig,
    PathConfig,
    ProxyAnchorConfig,
    RecipeError,
    load_recipe,
)

MODEL = ModelConfig(backbone="unused", embedding_dim=6, x_time_max=math.cosh(3.0))
PATHS = [("a", "b", "c"), ("a", "b", "d"), ("a", "e", "f"), ("g", "h", "i")]
ANCESTORS = [path[:-1] for path in PATHS]
CLASSES = torch.tensor([0, 1, 2, 3, 3, 1])


def images(c: float = 1.0, seed: int = 0) -> Tensor:
    z = torch.randn(6, 6, generator=torch.Generator().manual_seed(seed))
    return lorentz.expmap0(F.normalize(z, dim=-1) * 3.0, c)[:, 1:]


def excess(apex: list[float], point: list[float], c: float, boundary: float) -> float:
    """Exterior angle - half aperture by MERU's formulas, in Python's floats."""
    x_time, y_time = (math.sqrt(1 / c + sum(v * v for v in p)) for p in (apex, point))
    product = c * (sum(a * b for a, b in zip(apex, point, strict=True)) - x_time * y_time)
    length = math.sqrt(sum(v * v for v in apex))
    angle = math.acos((y_time + x_time * product) / (length * math.sqrt(product**2 - 1)))
    return angle - math.asin(min(1.0, 2 * boundary / (math.sqrt(c) * length)))


@pytest.mark.parametrize("margin", [None, 0.9])
@pytest.mark.parametrize("c", [1.0, 0.3])
def test_cone_loss_is_its_formula_in_plain_loops(c: float, margin: float | None) -> None:
    torch.manual_seed(1)
    config = ConeConfig(weight=1.0, boundary=0.3, margin=margin)
    ancestors = AncestorPoints(ANCESTORS, 6, PathConfig(weight=0.0))
    curvature = torch.tensor(c)
    space = images(c)
    # Some images lie behind an ancestor, so that both sides of the hinge are seen.
    with torch.no_grad():
        space[:2] = 4.0 * ancestors.points(1, curvature)[ancestors.of_class[1][CLASSES[:2]]] + 0.1
    expected = 0.0
    for level, targets in ((0, [0, 0, 0, 1]), (1, [0, 0, 1, 2])):
        nodes = ancestors.points(level, curvature).detach().double().tolist()
        for image, label in zip(space.double().tolist(), CLASSES.tolist(), strict=True):
            values = [excess(node, image, c, config.boundary) for node in nodes]
            expected += max(0.0, values[targets[label]]) / 6
            if margin is not None:
                others = [max(0.0, margin - v) for number, v in enumerate(values) if number != targets[label]]
                expected += sum(others) / len(others) / 6
    found = entailment_cone_loss(space, ancestors.levels(CLASSES, curvature), curvature, config)
    assert float(found.detach()) == pytest.approx(expected / 2, rel=1e-5)
    assert expected > 0.1


def test_descent_brings_images_into_the_cones_of_all_their_ancestors() -> None:
    torch.manual_seed(0)
    config = ConeConfig(weight=1.0, boundary=0.3, margin=0.2)
    ancestors = AncestorPoints(ANCESTORS, 6, PathConfig(weight=0.0))
    curvature = Curvature(1.0)
    z = torch.nn.Parameter(lorentz.logmap0(lorentz.lift(images(seed=4), 1.0), 1.0))
    optimiser = torch.optim.Adam([z, *ancestors.parameters(), *curvature.parameters()], lr=0.05)
    for _ in range(150):
        space = lorentz.expmap0(3.0 * F.normalize(z, dim=-1), curvature())[:, 1:]
        loss = entailment_cone_loss(space, ancestors.levels(CLASSES, curvature()), curvature(), config)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.02
    c = curvature().detach()
    for points, own in ancestors.levels(CLASSES, c):
        held = cones.contains(lorentz.lift(points, c)[:, None], lorentz.lift(space.detach(), c)[None], c, 0.31)
        assert torch.equal(held, own[None, :] == torch.arange(len(points))[:, None])


def test_the_gradient_is_finite_where_an_image_lies_on_its_ancestor() -> None:
    ancestors = AncestorPoints(ANCESTORS, 6, PathConfig(weight=0.0))
    c = torch.tensor(1.0, requires_grad=True)
    space = images()
    with torch.no_grad():
        space[0] = ancestors.points(1, c)[0]
        space[1] = 0.0
    space.requires_grad_()
    entailment_cone_loss(space, ancestors.levels(CLASSES, c), c, ConeConfig(weight=1.0, margin=0.5)).backward()
    for tensor in (space.grad, c.grad, *(d.grad for d in ancestors.directions)):
        assert tensor is not None
        assert torch.isfinite(tensor).all()


@pytest.mark.parametrize("geometry", ["lorentz", "poincare"])
def test_cones_join_every_other_term_at_the_ancestors_of_the_path_term(geometry: str) -> None:
    torch.manual_seed(0)
    model = MODEL.model_copy(update={"geometry": geometry})
    config = LossConfig(
        proxy_anchor=ProxyAnchorConfig(weight=0.3),
        pairwise=PairwiseConfig(weight=1.0),
        hierarchy=HierarchyConfig(weight=0.5, proxies=16, neighbours=3),
        path=PathConfig(weight=0.15),
        cone=ConeConfig(weight=0.2, boundary=0.4),
    )
    objective = Objective(config, model, Curvature(1.0), PATHS)
    assert sum(name.startswith("path.directions") for name, _ in objective.named_parameters()) == 2
    total, terms = objective(images(), CLASSES, torch.tensor(1.0))
    weights = {"proxy_anchor": 0.3, "pairwise": 1.0, "hierarchy": 0.5, "path": 0.15, "cone": 0.2}
    assert list(terms) == list(weights)
    assert float(total.detach()) == pytest.approx(sum(weights[n] * float(v) for n, v in terms.items()), rel=1e-5)
    levels = objective.path.levels(CLASSES, torch.tensor(1.0))
    assert config.cone is not None
    alone = entailment_cone_loss(images(), levels, torch.tensor(1.0), config.cone)
    assert float(terms["cone"]) == pytest.approx(float(alone.detach()), rel=1e-6)
    assert float(terms["cone"]) > 0.1


def test_without_ancestors_there_are_no_cones() -> None:
    config = LossConfig(pairwise=PairwiseConfig(weight=1.0), path=PathConfig(weight=0.1), cone=ConeConfig(weight=0.1))
    objective = Objective(config, MODEL, Curvature(1.0), [("a",), ("b",)])
    assert list(objective(images()[:2], torch.tensor([0, 1]), torch.tensor(1.0))[1]) == ["pairwise"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("loss.cone.weight=0.1", "model.geometry=euclidean"), r"loss\.cone needs model\.geometry 'lorentz'"),
        (("loss.cone.weight=0.1", "loss.cone.boundary=0"), r"loss\.cone\.boundary: .*greater than 0"),
        (("loss.cone.weight=0.1", "loss.cone.margins=1"), r"loss\.cone\.margins: no such key, did you mean 'margin'"),
        (("loss.path.ancestors=folders",), r"loss\.path\.ancestors: .*'labels', 'pseudo' or 'auto'"),
    ],
)
def test_recipes_that_cannot_be(overrides: tuple[str, ...], message: str) -> None:
    base = "grocery-proxyanchor-128" if "model.geometry=euclidean" in overrides else "grocery-lhier-128"
    with pytest.raises(RecipeError, match=message):
        load_recipe(base, (*overrides, *(("loss.path.weight=0.1",) if "euclidean" in overrides[-1] else ())))


def test_cones_without_ancestors_to_stand_at_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"\[loss\.cone\] needs \[loss\.path\]"):
        load_recipe("grocery-hier-128", ("loss.cone.weight=0.1",))
