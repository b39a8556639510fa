"""Half precision: what computes in it and what does not, the GradScaler's path, and numbers that are not finite."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperbolic.checkpoint import load_checkpoint
from hyperbolic.models.lhier import Encoder
from hyperbolic.optim.adamw import RiemannianAdamW
from training.data.split import load_data
from training.distributed import make_fabric
from training.guard import MOST_SKIPPED
from training.loop import train
from training.losses.objective import Objective
from training.recipe import Recipe, parse_recipe
from training.run_folder import TrainingError
from training.schedule import Schedule
from training.step import BatchGradient, TrainingModel


def recipe_of(tiny: Recipe, precision: str, **sections: dict[str, Any]) -> Recipe:
    content = tiny.model_dump(mode="json", exclude_none=True)
    content["train"] |= {"precision": precision}
    for name, values in sections.items():
        content[name] |= values
    return parse_recipe(content, "test")


FINE_TUNING = {"frozen_backbone": False, "steps": 4, "save_every": 2}


def start(recipe: Recipe, tmp_path: Path, run: str = "run", resume: bool = False) -> list[dict[str, Any]]:
    train(recipe, load_data(recipe.data), tmp_path / run, cache=tmp_path / "cache", resume=resume)
    return [json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("geometry", ["lorentz", "poincare"])
def test_backbone_in_half_geometry_in_float32(tiny: Recipe, precision: str, geometry: str) -> None:
    recipe = recipe_of(tiny, precision, train={"frozen_backbone": False}, model={"geometry": geometry})
    encoder = Encoder(recipe.model)
    model = TrainingModel(encoder, Objective(recipe.loss, recipe.model, encoder.curvature, [("a", "b"), ("c", "d")]))
    seen: dict[str, torch.dtype] = {}

    def note(name: str) -> Callable[..., None]:
        return lambda module, args, output: seen.update({name: output.dtype})

    encoder.backbone.register_forward_hook(note("features"))
    encoder.neck.register_forward_hook(note("space"))
    encoder.neck.linear.register_forward_hook(note("linear"))
    fabric = make_fabric(precision)
    gradient = BatchGradient(fabric, fabric.setup(model), model, recipe)
    loss, terms = gradient(torch.randn(8, 3, 32, 32), torch.arange(8) // 4, 1, lambda *_: None)
    half = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}[precision]
    assert seen["features"] == half
    assert seen["space"] == torch.float32
    assert seen.get("linear", torch.float32) == torch.float32  # HIER's neck is a plain nn.Linear
    assert {value.dtype for value in (loss, *terms.values())} == {torch.float32}
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}


def test_half_precision_trains_as_float32_does(tiny: Recipe, tmp_path: Path) -> None:
    """On smooth terms: the hierarchy's discrete draws turn a rounding into another triplet."""
    smooth = tiny.model_copy(update={"loss": tiny.loss.model_copy(update={"hierarchy": None})})
    stories = {
        p: start(recipe_of(smooth, p, train=FINE_TUNING, model={"freeze_batchnorm": True}), tmp_path, p)
        for p in ("32-true", "bf16-mixed", "16-mixed")
    }
    exact = stories["32-true"]
    for row, other in zip(stories["bf16-mixed"], exact, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=0.05)
        assert row["loss"] != other["loss"]
    # An untrained backbone's gradients overflow fp16 at the first scales, so fp16 lags behind by the skipped steps.
    assert stories["16-mixed"][0]["loss"] == pytest.approx(exact[0]["loss"], rel=1e-3)
    longer = start(
        recipe_of(smooth, "16-mixed", train={**FINE_TUNING, "steps": 20}, model={"freeze_batchnorm": True}),
        tmp_path,
        "longer",
    )
    assert 0 < longer[-1]["skipped_steps"] == longer[10]["skipped_steps"] <= 8
    assert longer[-1]["loss"] < 0.7 * longer[0]["loss"]


def test_the_scale_of_fp16_leaves_no_trace(tiny: Recipe) -> None:
    """Unscaled fp16 gradients of neck, proxies and c are those of the loss, whatever the scale."""
    gradients = []
    for scale in (2.0**4, 2.0**16):
        recipe = recipe_of(tiny, "16-mixed")
        torch.manual_seed(1)
        encoder = Encoder(recipe.model)
        model = TrainingModel(
            encoder, Objective(recipe.loss, recipe.model, encoder.curvature, [("a", "b"), ("c", "d")])
        )
        fabric = make_fabric("16-mixed")
        encoder.backbone.requires_grad_(False)
        gradient = BatchGradient(fabric, fabric.setup(model), model, recipe)
        gradient.scaler._init_scale = scale
        gradient(torch.randn(8, encoder.num_features), torch.arange(8) // 4, 1, lambda *_: None)
        assert gradient.scaler.get_scale() == scale
        gradients.append({n: p.grad / scale for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert {"encoder.curvature.log_ratio", "objective.hierarchy.proxies"} <= gradients[0].keys()
    for name, value in gradients[0].items():
        torch.testing.assert_close(value, gradients[1][name], rtol=1e-5, atol=1e-7)


def broken_gradients(monkeypatch: pytest.MonkeyPatch, steps: range) -> None:
    """Make one gradient of the proxies infinite at some steps; the loss itself stays as it is."""
    original = Objective.forward
    calls = iter(range(10_000))

    def forward(self: Objective, space: Tensor, classes: Tensor, c: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        total, terms = original(self, space, classes, c)
        if next(calls) in steps:
            proxies = self.proxy_anchor.proxies
            total = total + (proxies * 0.0).sqrt().sum()  # 0 with an infinite slope
        return total, terms

    monkeypatch.setattr(Objective, "forward", forward)


def test_fp16_skips_and_counts_steps_whose_gradients_overflow(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_gradients(monkeypatch, range(3, 6))
    recipe = recipe_of(tiny, "16-mixed", train={"save_every": 5})
    story = start(recipe, tmp_path)
    assert [row["skipped_steps"] for row in story[:8]] == [0, 0, 0, 1, 2, 3, 3, 3]
    assert [row["loss_scale"] for row in story[2:7]] == [65536.0, 32768.0, 16384.0, 8192.0, 8192.0]
    assert [row["gradient_norm"] is None for row in story[:7]] == [False] * 3 + [True] * 3 + [False]
    assert story[3]["c"] == story[2]["c"] == story[5]["c"] != story[6]["c"]  # a skipped step changes nothing
    assert story[-1]["loss"] < story[2]["loss"]
    # scale and counts are part of the state
    state = torch.load(tmp_path / "run/training_state.pt", weights_only=True)
    assert (state["skipped_steps"], state["precision"]["scale"]) == ([3, 0], 8192.0)


def test_fp16_that_skips_for_ever_stops(tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken_gradients(monkeypatch, range(10, 10_000))
    recipe = recipe_of(tiny, "16-mixed", train={"steps": 60})
    message = (
        rf"step {10 + MOST_SKIPPED - 1}: the gradient of objective.proxy_anchor.proxies is not finite, and fp16 has "
        rf"skipped {MOST_SKIPPED} steps in a row; the last good state is kept"
    )
    with pytest.raises(TrainingError, match=message):
        start(recipe, tmp_path)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_without_a_scaler_such_a_step_stops_the_run(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    broken_gradients(monkeypatch, range(12, 13))
    recipe = recipe_of(tiny, precision)
    with pytest.raises(TrainingError, match=r"step 12: the gradient of objective.proxy_anchor.proxies is not finite"):
        start(recipe, tmp_path)
    assert torch.load(tmp_path / "run/training_state.pt", weights_only=True)["step"] == 10


def test_a_broken_parameter_is_named_by_the_loss_it_breaks(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Schedule.apply

    def apply(self: Schedule, optimiser: torch.optim.Optimizer, step: int) -> None:
        original(self, optimiser, step)
        if step == 13:
            group = next(g for g in optimiser.param_groups if g["name"] == "hierarchy")
            group["params"][0].data[3, 1] = torch.nan

    monkeypatch.setattr(Schedule, "apply", apply)
    named = r"step 13: the loss is nan \(.*\); the first tensor that is not finite is objective.hierarchy.proxies"
    with pytest.raises(TrainingError, match=named):
        start(tiny, tmp_path)


@pytest.mark.parametrize("where", ["objective.hierarchy.proxies", r"encoder.neck.linear.*\(exp_avg_sq\)"])
def test_a_state_that_is_not_finite_is_never_saved(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Broken by the very step after which it would have been saved, which no loss has seen."""
    original = RiemannianAdamW.step
    calls = iter(range(100))

    def step(self: RiemannianAdamW, closure: Any = None) -> Any:
        answer = original(self, closure)
        if next(calls) == 19:
            groups = {group["name"]: group["params"] for group in self.param_groups}
            if where.startswith("objective"):
                groups["hierarchy"][0].data[3, 1] = torch.inf
            else:
                self.state[groups["neck"][0]]["exp_avg_sq"][0] = torch.inf
        return answer

    monkeypatch.setattr(RiemannianAdamW, "step", step)
    with pytest.raises(TrainingError, match=rf"step 19: {where} is not finite; the last good state is kept in"):
        start(tiny, tmp_path)
    state = torch.load(tmp_path / "run/training_state.pt", weights_only=True)
    assert state["step"] == 10
    assert bool(torch.isfinite(state["model"]["objective.hierarchy.proxies"]).all())
    load_checkpoint(tmp_path / "run")
