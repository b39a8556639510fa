"""The gradient of a divided batch is the batch's: against the loss of the undivided batch, by plain autograd."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hyperbolic.models.lhier import Encoder
from training.distributed import make_fabric
from training.losses.objective import Objective
from training.recipe import Recipe, parse_recipe
from training.run_folder import TrainingError
from training.step import BatchGradient, TrainingModel, check_division

LABELS = [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")]


def recipe_of(tiny: Recipe, **sections: dict[str, Any]) -> Recipe:
    content = tiny.model_dump(mode="json", exclude_none=True)
    content["train"] |= {"frozen_backbone": False, "views": 1}
    for name, values in sections.items():
        content[name] |= values
    return parse_recipe(content, "test")


def model_of(recipe: Recipe) -> TrainingModel:
    torch.manual_seed(5)
    encoder = Encoder(recipe.model)
    model = TrainingModel(encoder, Objective(recipe.loss, recipe.model, encoder.curvature, LABELS))
    model.train()
    return model


def batch(size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(12, 3, size, size, generator=generator), torch.arange(4).repeat_interleave(3)


def divided(recipe: Recipe) -> tuple[TrainingModel, Tensor, dict[str, Tensor]]:
    model = model_of(recipe)
    fabric = make_fabric(recipe.train.precision)
    wrapped = fabric.setup(model)
    seen: list[Tensor] = []
    gradient = BatchGradient(fabric, wrapped, model, recipe)
    inputs, classes = batch(recipe.model.image_size)
    loss, terms = gradient(inputs, classes, 77, lambda loss, terms, space: seen.append(space))
    assert len(seen[0]) == 12
    return model, loss, terms


def undivided(recipe: Recipe) -> tuple[TrainingModel, Tensor]:
    model = model_of(recipe)
    inputs, classes = batch(recipe.model.image_size)
    space = model.encoder(inputs)
    torch.manual_seed(77)
    loss, _ = model.objective(space, classes, model.encoder.curvature())
    loss.backward()
    return model, loss.detach()


def same_gradients(a: nn.Module, b: nn.Module, bound: float) -> None:
    for (name, left), (_, right) in zip(a.named_parameters(), b.named_parameters(), strict=True):
        assert (left.grad is None) == (right.grad is None), name
        if left.grad is not None and right.grad is not None:
            scale = float(right.grad.abs().max()) + 1e-6
            assert float((left.grad - right.grad).abs().max()) <= bound * scale, name


@pytest.mark.parametrize(
    ("parts", "backbone"), [(1, "test_efficientnet"), (2, "test_resnet"), (5, "test_vit"), (12, "test_vit")]
)
def test_parts_give_the_gradient_of_the_batch(tiny: Recipe, parts: int, backbone: str) -> None:
    size = 160 if backbone == "test_vit" else 32
    recipe = recipe_of(
        tiny,
        train={"accumulate": parts},
        model={"backbone": backbone, "image_size": size, "freeze_batchnorm": parts > 1},
    )
    model, loss, terms = divided(recipe)
    plain, expected = undivided(recipe)
    assert set(terms) == {"proxy_anchor", "pairwise", "path", "hierarchy"}
    assert float(loss) == pytest.approx(float(expected), rel=2e-6)
    assert model.encoder.curvature.log_ratio.grad is not None  # read by the neck and by the loss
    same_gradients(model, plain, 0 if parts == 1 else 1e-3)


def test_the_mean_of_part_losses_is_another_loss(tiny: Recipe) -> None:
    """What the division must not be: gradients added up over losses of parts."""
    recipe = recipe_of(tiny, train={"accumulate": 2}, model={"backbone": "test_resnet", "freeze_batchnorm": True})
    model = model_of(recipe)
    inputs, classes = batch(32)
    for rows in (slice(0, 6), slice(6, 12)):
        loss, _ = model.objective(model.encoder(inputs[rows]), classes[rows], model.encoder.curvature())
        (loss / 2).backward()
    with pytest.raises(AssertionError):
        same_gradients(model, undivided(recipe)[0], 1e-1)


def test_recomputed_activations_give_the_same_gradient(tiny: Recipe, tmp_path: Path) -> None:
    recipe = recipe_of(tiny, model={"backbone": "test_vit", "image_size": 160}, train={"accumulate": 2})
    model = model_of(recipe)
    model.encoder.backbone.set_grad_checkpointing(True)  # type: ignore[operator]
    fabric = make_fabric("32-true")
    inputs, classes = batch(160)
    BatchGradient(fabric, fabric.setup(model), model, recipe)(inputs, classes, 77, lambda *_: None)
    same_gradients(model, undivided(recipe)[0], 1e-3)


def test_dropout_draws_the_same_masks_when_a_part_is_embedded_again(tiny: Recipe) -> None:
    recipe = recipe_of(
        tiny, train={"accumulate": 3}, model={"backbone": "test_vit", "image_size": 160, "learn_curvature": False}
    )
    model = model_of(recipe)
    spaces: list[Tensor] = []
    model.encoder.neck.register_forward_hook(lambda module, args, output: spaces.append(output.detach()))
    handle = model.encoder.backbone.register_forward_hook(
        lambda module, args, output: nn.functional.dropout(output, 0.5, training=True)
    )
    fabric = make_fabric("32-true")
    inputs, classes = batch(160)
    BatchGradient(fabric, fabric.setup(model), model, recipe)(inputs, classes, 77, lambda *_: None)
    handle.remove()
    assert len(spaces) == 6
    for first, second in zip(spaces[:3], spaces[3:], strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(spaces[0], spaces[1])


def test_a_batch_that_cannot_be_divided_is_refused(tiny: Recipe) -> None:
    uneven = recipe_of(tiny, train={"accumulate": 5})
    with pytest.raises(TrainingError, match="12 photos does not divide into 1 processes x 5 parts"):
        check_division(uneven, Encoder(uneven.model), 1)
    normed = recipe_of(tiny, train={"accumulate": 2})
    with pytest.raises(TrainingError, match=r"statistics from 3 of the batch's 12 photos: set model.freeze_batchnorm"):
        check_division(normed, Encoder(normed.model), 2)
    for fine in (
        recipe_of(tiny, train={"accumulate": 2}, model={"freeze_batchnorm": True}),
        recipe_of(tiny, train={"accumulate": 2, "frozen_backbone": True}),
        recipe_of(tiny, train={"accumulate": 2}, model={"backbone": "test_vit", "image_size": 160}),
    ):
        check_division(fine, Encoder(fine.model), 2)
