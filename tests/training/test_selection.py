"""Which weights are kept, early stopping, schedules in steps, loggers and the switches of table 5."""

import builtins
import importlib.util
import json
import sys
import types
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperbolic.checkpoint import load_checkpoint
from hyperbolic.curvature import Curvature
from hyperbolic.embedder import Embedder
from hyperbolic.models.config import ModelConfig
from hyperbolic.models.lhier import LorentzNeck
from training.data.split import load_data
from training.loop import TrainingInterrupted, train
from training.losses.objective import Objective
from training.recipe import LossConfig, Recipe, RecipeError, SelectionConfig, load_recipe, parse_recipe
from training.run_folder import TrainingError
from training.schedule import Schedule
from training.selection import Selection


def recipe_of(tiny: Recipe, **sections: dict[str, Any]) -> Recipe:
    content = tiny.model_dump(mode="json", exclude_none=True)
    for name, values in sections.items():
        content[name] |= values
    return parse_recipe(content, "test")


def rows(run: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


class Scores:
    """Answers evaluations with given scores and remembers the weights it was shown."""

    def __init__(self, *scores: float) -> None:
        self.scores: Iterator[float] = iter(scores)
        self.seen: list[Tensor] = []

    def __call__(self, embedder: Embedder) -> dict[str, float]:
        torch.rand(3)  # an evaluation that draws must not move the run
        self.seen.append(next(iter(embedder.encoder.neck.parameters())).detach().clone())
        return {"recall_at_1": next(self.scores), "map_at_r": 0.5}


def go(recipe: Recipe, run: Path, scores: Scores | None = None, resume: bool = False) -> Path:
    data = load_data(recipe.data)
    if recipe.selection.rule == "best_on_validation":
        data = type(data)(**{**data.__dict__, "validation": data.query})
    train(recipe, data, run, cache=run.parent / "cache", resume=resume, evaluate=scores)
    return run


@pytest.mark.parametrize("rule", ["best_on_validation", "best_on_test"])
def test_patience_ends_a_run_and_keeps_its_best(tiny: Recipe, tmp_path: Path, rule: str) -> None:
    recipe = recipe_of(tiny, selection={"rule": rule, "every": 2, "patience": 3}, train={"steps": 40})
    scores = Scores(0.1, 0.6, 0.6, 0.5, 0.7, 0.6, 0.6, 0.7, 0.9)
    run = go(recipe, tmp_path / "run", scores)
    assert len(scores.seen) == 8  # 0.7 and three that are not better
    assert len(rows(run)) == 16
    story = rows(run, "evaluations.jsonl")
    assert [(row["step"], row["recall_at_1"], row["best"]) for row in story] == [
        (2, 0.1, True), (4, 0.6, True), (6, 0.6, False), (8, 0.5, False),
        (10, 0.7, True), (12, 0.6, False), (14, 0.6, False), (16, 0.7, False),
    ]  # fmt: skip
    kept = next(iter(load_checkpoint(run)[0].neck.parameters())).detach()
    assert torch.equal(kept, scores.seen[4])
    # a run that has ended does not go on
    go(recipe, run, scores, resume=True)
    assert len(rows(run)) == 16


def test_selection_goes_on_where_it_was_stopped(tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import signal

    recipe = recipe_of(tiny, selection={"rule": "best_on_test", "every": 2, "patience": 3}, train={"steps": 40})
    whole = go(recipe, tmp_path / "whole", Scores(0.1, 0.6, 0.5, 0.4, 0.3, 0.9))
    apply = Schedule.apply

    def interrupt(self: Schedule, optimiser: torch.optim.Optimizer, step: int) -> None:
        if step == 6:
            signal.raise_signal(signal.SIGTERM)
        apply(self, optimiser, step)

    with monkeypatch.context() as patch:
        patch.setattr(Schedule, "apply", interrupt)
        with pytest.raises(TrainingInterrupted):
            go(recipe, tmp_path / "cut", Scores(0.1, 0.6, 0.5))
    cut = go(recipe, tmp_path / "cut", Scores(0.4, 0.3, 0.9), resume=True)
    for name in ("metrics.jsonl", "evaluations.jsonl", "checkpoint/model.safetensors"):
        assert (whole / name).read_bytes() == (cut / name).read_bytes(), name
    assert len(rows(cut)) == 10


def test_an_evaluation_does_not_change_what_follows(tiny: Recipe, tmp_path: Path) -> None:
    """Fine-tuning with BatchNorm in training mode: evaluated or not, the same bits."""
    training = {"frozen_backbone": False, "steps": 5}
    silent = go(recipe_of(tiny, train=training), tmp_path / "silent")
    asked = recipe_of(tiny, train=training, selection={"rule": "best_on_test", "every": 1})
    assert rows(silent) == rows(go(asked, tmp_path / "asked", Scores(0.1, 0.2, 0.3, 0.4, 0.5)))


def test_validation_must_be_there(tiny: Recipe, tmp_path: Path) -> None:
    recipe = recipe_of(tiny, selection={"rule": "best_on_validation"})
    with pytest.raises(TrainingError, match="has no validation photos; choose 'last', or 'best_on_test'"):
        train(recipe, load_data(recipe.data), tmp_path / "run", cache=tmp_path / "cache", evaluate=Scores(0.1))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"selection": {"patience": 3}}, "patience counts evaluations"),
        ({"optimiser": {"schedule": "step"}}, "step_every belongs to schedule = 'step'"),
        ({"optimiser": {"step_every": 5}}, "step_every belongs to schedule = 'step'"),
        ({"train": {"checkpoint_activations": True}}, "a frozen backbone keeps no activations"),
        ({"train": {"save_every": 0}}, "train.save_every"),
        ({"train": {"log_every": "0 epochs"}}, "train.log_every"),
    ],
)
def test_recipes_that_contradict_themselves(tiny: Recipe, sections: dict[str, dict[str, Any]], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe_of(tiny, **sections)


def test_rates_fall_in_steps_counted_in_epochs(tiny: Recipe, tmp_path: Path) -> None:
    recipe = recipe_of(
        tiny,
        train={"steps": "6 epochs", "save_every": "2 epochs", "log_every": 1},
        optimiser={"schedule": "step", "step_every": "2 epochs", "step_factor": 0.3, "warmup_steps": 2},
    )
    story = rows(go(recipe, tmp_path / "run"))
    epoch = len(story) // 6
    expected = [0.01 * 0.3 ** (n // (2 * epoch)) * min(1.0, (n + 1) / 2) for n in range(6 * epoch)]
    assert [row["lr"] for row in story] == pytest.approx(expected)
    assert story[-1]["lr"] == pytest.approx(0.01 * 0.09)
    logged = rows(go(recipe_of(tiny, train={"steps": "6 epochs", "log_every": "1 epoch"}), tmp_path / "logged"))
    assert [row["step"] for row in logged] == [epoch * (n + 1) for n in range(6)]


def test_rates_of_the_published_resnet_recipes() -> None:
    """HIER's scripts on CUB: x 0.5 every 5 epochs of ceil(5,864 / 90) steps."""
    recipe = load_recipe("cub-lhier-r50-512")
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.AdamW([{"params": [parameter], "lr": 1e-4, "name": "neck"}])
    schedule = Schedule(recipe, 5864, optimiser)
    assert [schedule.factor(step) for step in (0, 329, 330, 660)] == pytest.approx([1.0, 1.0, 0.5, 0.25])
    assert (schedule.log_every, schedule.save_every, schedule.select_every) == (20, 66, 66)


def test_tensorboard_gets_the_rows_of_the_run(tiny: Recipe, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = recipe_of(
        tiny, train={"logger": "tensorboard", "steps": 6}, selection={"rule": "best_on_test", "every": 3}
    )
    run = go(recipe, tmp_path / "run", Scores(0.25, 0.5))
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert {"loss", "pairwise", "hierarchy", "c", "lr", "gradient_norm"} <= set(events.Tags()["scalars"])
    for name in ("loss", "c"):
        shown = [(event.step, event.value) for event in events.Scalars(name)]
        assert shown == [(row["step"], pytest.approx(row[name])) for row in rows(run)]
    assert [(e.step, e.value) for e in events.Scalars("evaluation/recall_at_1")] == [(3, 0.25), (6, 0.5)]


def test_wandb_gets_the_rows_of_the_run(tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a stand-in for the package: init once, every row, an end."""
    calls: list[Any] = []

    class Session:
        def log(self, numbers: dict[str, float], step: int) -> None:
            calls.append((step, numbers["loss"]))

        def finish(self, exit_code: int) -> None:
            calls.append(exit_code)

    def init(**options: Any) -> Session:
        assert options["config"]["optimiser"]["lr"] == tiny.optimiser.lr
        assert options["resume"] == "allow"
        return Session()

    module = types.ModuleType("wandb")
    module.init = init  # type: ignore[attr-defined]
    module.__spec__ = importlib.util.spec_from_loader("wandb", None)
    monkeypatch.setitem(sys.modules, "wandb", module)
    run = go(recipe_of(tiny, train={"logger": "wandb", "steps": 3}), tmp_path / "run")
    assert calls == [*((row["step"], row["loss"]) for row in rows(run)), 0]


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_logger_that_is_not_installed_is_an_error_before_anything_is_written(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda module, *rest: None if module == name else find(module))
    with pytest.raises(TrainingError, match=rf"pip install 'lhier\[{name}\]', or set train.logger = 'none'"):
        go(recipe_of(tiny, train={"logger": name}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_no_logger_imports_nothing(tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def guarded(name: str, *rest: Any, **options: Any) -> Any:
        assert name.split(".")[0] not in ("tensorboard", "tensorboardX", "wandb"), name
        return original(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", guarded)
    go(recipe_of(tiny, train={"steps": 2}), tmp_path / "run")


CURVATURES = {
    "fixed": ({"learn_curvature": False}, {}),
    "learned": ({"learn_curvature": True}, {"curvature_order": "aware"}),
    "naive": ({"learn_curvature": True}, {"curvature_order": "naive"}),
}


@pytest.mark.parametrize(
    ("curvature", "rescale", "distance"), list(product(CURVATURES, (True, False), ("angle", "geodesic")))
)
def test_the_switches_of_table_5_combine(
    tiny: Recipe, tmp_path: Path, curvature: str, rescale: bool, distance: str
) -> None:
    model, optimiser = CURVATURES[curvature]
    recipe = recipe_of(
        tiny,
        model={**model, "rescale": rescale},
        optimiser=optimiser,
        loss={"distance": distance},
        train={"steps": 4},
    )
    story = rows(go(recipe, tmp_path / "run"))
    assert len(story) == 4
    assert all(value is not None and abs(value) < 1e6 for row in story for value in row.values())
    assert (len({row["c"] for row in story}) == 1) == (curvature == "fixed")


@pytest.mark.parametrize(("num_features", "c"), list(product((384, 1280, 2048), (0.1, 1.0))))
@pytest.mark.parametrize("distance", ["angle", "geodesic"])
def test_without_rescaling_points_of_real_backbones_stay_finite(num_features: int, c: float, distance: str) -> None:
    """Norms of 20 to 45 in the tangent space: ViT-S, EfficientNet-Lite0, ResNet-50; float32 holds sinh up to 88."""
    torch.manual_seed(0)
    config = ModelConfig(backbone="x", embedding_dim=128, rescale=False, curvature=c, learn_curvature=True)
    loss_config = LossConfig.model_validate(
        {
            "distance": distance,
            "proxy_anchor": {"weight": 1.0},
            "pairwise": {"weight": 1.0},
            "hierarchy": {"weight": 0.5, "proxies": 32, "neighbours": 5},
            "path": {"weight": 0.15},
        }
    )
    curvature, neck = Curvature(c), LorentzNeck(num_features, config)
    objective = Objective(loss_config, config, curvature, [("ab"[n % 2], str(n)) for n in range(10)])
    space = neck(torch.randn(40, num_features).abs(), curvature())
    loss, terms = objective(space, torch.arange(40) // 4, curvature())
    loss.backward()
    assert bool(torch.isfinite(space).all())
    assert all(bool(torch.isfinite(value)) for value in (loss, *terms.values()))
    for module in (curvature, neck, objective):
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, name
            assert bool(torch.isfinite(parameter.grad).all()), name


def test_an_evaluation_without_an_answer_is_an_error() -> None:
    selection = Selection(SelectionConfig(rule="best_on_test"), 1, None)
    with pytest.raises(TrainingError, match="no query has a photo of its class"):
        selection.improved({"recall_at_1": float("nan")})
