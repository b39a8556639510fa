"""Whole runs on a tiny backbone: what they leave behind, how they stop, and that they continue exactly."""

import json
import math
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from hyperbolic.checkpoint import load_checkpoint, load_proxies
from hyperbolic.embedder import Embedder
from hyperbolic.models.lhier import Encoder
from training.data.split import DataError, load_data
from training.evaluate import evaluate
from training.features import FeatureCache
from training.groups import parameter_groups
from training.loop import TrainingInterrupted, train
from training.losses.objective import Objective
from training.recipe import Recipe, dump_recipe, load_recipe
from training.run_folder import TrainingError
from training.schedule import Schedule
from training.step import TrainingModel


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def start(recipe: Recipe, tmp_path: Path, run: str = "run", resume: bool = False) -> Path:
    data = load_data(recipe.data, recipe.seed)
    train(recipe, data, tmp_path / run, cache=tmp_path / "cache", resume=resume)
    return tmp_path / run


def changed(recipe: Recipe, **sections: dict[str, Any]) -> Recipe:
    return recipe.model_copy(
        update={name: getattr(recipe, name).model_copy(update=values) for name, values in sections.items()}
    )


def test_a_run_leaves_a_usable_checkpoint_and_its_story(tiny: Recipe, tmp_path: Path) -> None:
    run = start(tiny, tmp_path)
    assert sorted(p.name for p in run.iterdir()) == [
        "checkpoint", "classes.json", "metrics.jsonl", "photos.sha256", "recipe.toml", "training_state.pt",
    ]  # fmt: skip
    assert load_recipe(run / "recipe.toml") == tiny
    story = rows(run)
    assert [row["step"] for row in story] == list(range(1, 21))
    assert story[-1]["loss"] < 0.8 * story[0]["loss"]
    assert {"proxy_anchor", "pairwise", "hierarchy", "path", "c", "lr", "gradient_norm"} <= set(story[0])
    assert set(load_proxies(run)) == {
        "proxy_anchor.proxies", "hierarchy.proxies", "path.directions.0", "path.directions.1",
    }  # fmt: skip
    assert len(json.loads((run / "classes.json").read_text())) == 6
    data = load_data(tiny.data, tiny.seed)
    figures = evaluate(data, Embedder.load(run))
    assert figures["recall_at_1"] >= 0.5  # 1/6 by chance
    assert figures["queries"] == len(data.query)


def test_cached_features_and_photos_give_the_same_evaluation(tiny: Recipe, tmp_path: Path) -> None:
    run = start(tiny, tmp_path)
    data = load_data(tiny.data, tiny.seed)
    embedder = Embedder.load(run)
    direct = evaluate(data, embedder)
    cached = evaluate(data, embedder, FeatureCache(embedder, tmp_path / "cache"))
    assert cached == pytest.approx(direct, abs=1e-6)


def same_end(a: Path, b: Path) -> None:
    """Bit for bit: metrics, weights, optimiser."""
    assert (a / "metrics.jsonl").read_text() == (b / "metrics.jsonl").read_text()
    states = [torch.load(run / "training_state.pt", weights_only=True) for run in (a, b)]
    flat = [torch.utils._pytree.tree_leaves(state) for state in states]
    assert len(flat[0]) == len(flat[1])
    for left, right in zip(*flat, strict=True):
        assert torch.equal(left, right) if isinstance(left, Tensor) else left == right


def test_a_crashed_run_resumes_to_the_same_bits(tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = start(tiny, tmp_path, "whole")
    original = Schedule.apply

    def crash(self: Schedule, optimiser: torch.optim.Optimizer, step: int) -> None:
        if step == 15:
            raise OSError("power cut")
        original(self, optimiser, step)

    with monkeypatch.context() as patch:
        patch.setattr(Schedule, "apply", crash)
        with pytest.raises(OSError, match="power cut"):
            start(tiny, tmp_path, "cut")
    assert rows(tmp_path / "cut")[-1]["step"] == 15  # five more than the saved state knows
    same_end(whole, start(tiny, tmp_path, "cut", resume=True))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops_and_resume_continues(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    whole = start(tiny, tmp_path, "whole")
    original = Schedule.apply

    def interrupt(self: Schedule, optimiser: torch.optim.Optimizer, step: int) -> None:
        if step == 6:
            signal.raise_signal(number)
        original(self, optimiser, step)

    with monkeypatch.context() as patch:
        patch.setattr(Schedule, "apply", interrupt)
        with pytest.raises(TrainingInterrupted, match="stopped after step 7: continue with --resume"):
            start(tiny, tmp_path, "stopped")
    load_checkpoint(tmp_path / "stopped")
    same_end(whole, start(tiny, tmp_path, "stopped", resume=True))


def test_fine_tuning_trains_the_backbone_after_its_frozen_steps(tiny: Recipe, tmp_path: Path) -> None:
    recipe = changed(tiny, train={"frozen_backbone": False, "frozen_steps": 3, "steps": 4, "save_every": 1})
    torch.manual_seed(recipe.seed)
    initial = Encoder(recipe.model).backbone.state_dict()
    run = start(recipe, tmp_path)
    trained = load_checkpoint(run)[0].backbone.state_dict()
    weights = [name for name in initial if name.endswith(("conv_stem.weight", "conv_pw.weight"))]
    assert weights
    assert any(not torch.equal(initial[name], trained[name]) for name in weights)
    with pytest.raises(ValueError, match="the backbone would never train"):
        start(changed(recipe, train={"steps": 3}), tmp_path, "frozen")


def test_spans_in_epochs_are_counted_in_photos(tiny: Recipe, tmp_path: Path) -> None:
    recipe = changed(
        tiny,
        train={"steps": "4 epochs", "frozen_steps": "1 epoch", "frozen_backbone": False},
        optimiser={"warmup_steps": "2 epochs", "schedule": "constant"},
    )
    story = rows(start(recipe, tmp_path))
    per_epoch = math.ceil(len(load_data(recipe.data, recipe.seed).train) / 12)
    assert len(story) == 4 * per_epoch
    rates = [row["lr"] / recipe.optimiser.lr for row in story]
    assert rates[: 2 * per_epoch] == pytest.approx([(n + 1) / (2 * per_epoch) for n in range(2 * per_epoch)])
    assert rates[2 * per_epoch :] == pytest.approx([1.0] * (2 * per_epoch))
    state = torch.load(tmp_path / "run/training_state.pt", weights_only=True)
    assert {g["name"] for g in state["optimiser"]["param_groups"]} >= {"backbone", "neck", "curvature"}


def test_fine_tuning_with_a_worker_equals_without(tiny: Recipe, tmp_path: Path) -> None:
    base = changed(tiny, train={"frozen_backbone": False, "steps": 3})
    alone = rows(start(base, tmp_path, "alone"))
    helped = rows(start(changed(base, train={"workers": 1}), tmp_path, "helped"))
    assert alone == helped


@pytest.mark.parametrize("frozen", [True, False])
def test_unreadable_photos_are_skipped_and_named(
    tiny: Recipe, photo_folder: Path, tmp_path: Path, frozen: bool
) -> None:
    root = tmp_path / "photos"
    shutil.copytree(photo_folder, root)
    bad = (root / "warm/sun/0.jpg").rename(root / "warm/sun/0\u2028.jpg")  # at which str.splitlines would cut
    bad.write_bytes(bad.read_bytes()[:300])
    recipe = changed(tiny, data={"root": str(root), "hold_out": "none"}, train={"frozen_backbone": frozen})
    run = start(recipe, tmp_path)
    listed = [json.loads(line) for line in (run / "skipped.jsonl").read_text().splitlines()]
    assert [entry["path"] for entry in listed] == [str(bad)]
    assert "decoded" in listed[0]["error"]
    assert evaluate(load_data(recipe.data), Embedder.load(run))["unreadable"] == 1


def test_a_loss_that_breaks_stops_the_run_and_keeps_the_last_state(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Objective.forward
    calls = 0

    def breaking(self: Objective, space: Tensor, classes: Tensor, c: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        nonlocal calls
        calls += 1
        total, terms = original(self, space, classes, c)
        if calls == 13:
            terms["path"] = terms["path"] * torch.nan
            total = total * torch.nan
        return total, terms

    monkeypatch.setattr(Objective, "forward", breaking)
    with pytest.raises(TrainingError, match=r"step 12: the loss is nan \(path\)"):
        start(tiny, tmp_path)
    assert torch.load(tmp_path / "run/training_state.pt", weights_only=True)["step"] == 10
    load_checkpoint(tmp_path / "run")


def test_runs_are_not_mixed(tiny: Recipe, tmp_path: Path) -> None:
    run = start(tiny, tmp_path)
    before = (run / "metrics.jsonl").read_text()
    with pytest.raises(TrainingError, match="already holds a run"):
        start(tiny, tmp_path)
    with pytest.raises(TrainingError, match="another recipe"):
        start(tiny.model_copy(update={"seed": 9}), tmp_path, resume=True)
    with pytest.raises(TrainingError, match="to resume from"):
        start(tiny, tmp_path, "empty", resume=True)
    (run / "training_state.pt").write_bytes(b"\x80damaged")
    with pytest.raises(TrainingError, match="cannot be resumed from"):
        start(tiny, tmp_path, resume=True)
    assert (run / "metrics.jsonl").read_text() == before


def test_best_on_test_keeps_the_best_evaluation(tiny: Recipe, tmp_path: Path) -> None:
    recipe = changed(tiny, selection={"rule": "best_on_test", "every": 5})
    scores = iter([0.1, 0.9, 0.2, 0.3])
    hashes: list[Tensor] = []

    def score(embedder: Embedder) -> dict[str, float]:
        hashes.append(embedder.encoder.neck.state_dict()[WEIGHT].clone())
        return {"recall_at_1": next(scores)}

    WEIGHT = next(name for name, t in Encoder(recipe.model).neck.state_dict().items() if t.dim() == 2)
    train(recipe, load_data(recipe.data), tmp_path / "run", cache=tmp_path / "cache", evaluate=score)
    kept = load_checkpoint(tmp_path / "run")[0].neck.state_dict()[WEIGHT]
    assert len(hashes) == 4
    assert torch.equal(kept, hashes[1])


def test_every_trainable_parameter_is_in_exactly_one_group(tiny: Recipe) -> None:
    encoder = Encoder(tiny.model)
    model = TrainingModel(encoder, Objective(tiny.loss, tiny.model, encoder.curvature, [("a", "b"), ("a", "c")]))
    groups = parameter_groups(model, tiny.optimiser)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in model.parameters()}
    names = {group["name"]: group for group in groups}
    assert [tuple(p.shape) for p in names["curvature"]["params"]] == [()]
    assert names["hierarchy"]["params"][0] is model.objective.hierarchy.proxies
    assert all(isinstance(p, nn.Parameter) for p in names["proxies"]["params"])


def test_learned_curvature_moves_and_stays_positive(tiny: Recipe, tmp_path: Path) -> None:
    recipe = changed(tiny, optimiser={"curvature_lr": 0.5})
    values = [row["c"] for row in rows(start(recipe, tmp_path))]
    assert len(set(values)) > 5
    assert all(0 < c < 1e3 for c in values)


def test_a_folder_without_readable_photos_is_an_error(tiny: Recipe, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "photos" / name / f"{number}.jpg").write_bytes(b"no photo")
    recipe = changed(tiny, data={"root": str(tmp_path / "photos"), "hold_out": "none"})
    with pytest.raises((DataError, ValueError), match="none of 6 photos could be read"):
        start(recipe, tmp_path)


@pytest.mark.parametrize("backbone", ["test_vit", "test_efficientnet"])
def test_checkpointed_activations_change_no_loss(tiny: Recipe, tmp_path: Path, backbone: str) -> None:
    size = 160 if backbone == "test_vit" else 32
    base = changed(tiny, model={"backbone": backbone, "image_size": size, "freeze_batchnorm": True})
    base = changed(base, train={"frozen_backbone": False, "steps": 2})
    kept = rows(start(base, tmp_path, "kept"))
    again = rows(start(changed(base, train={"checkpoint_activations": True}), tmp_path, "again"))
    for left, right in zip(kept, again, strict=True):
        assert left == pytest.approx(right, rel=1e-5)


def test_a_batch_that_does_not_divide_stops_before_the_run_begins(tiny: Recipe, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="does not divide into 1 processes x 5 parts"):
        start(changed(tiny, train={"accumulate": 5}), tmp_path)
    run = start(changed(tiny, train={"accumulate": 3, "steps": 2}), tmp_path)  # the same folder, put right
    assert len(rows(run)) == 2


def test_parts_of_a_batch_give_the_story_of_the_batch(tiny: Recipe, tmp_path: Path) -> None:
    whole = rows(start(tiny, tmp_path, "whole"))
    parts = rows(start(changed(tiny, train={"accumulate": 4}), tmp_path, "parts"))
    for left, right in zip(whole, parts, strict=True):
        assert left == pytest.approx(right, rel=1e-4, abs=1e-5)


def test_a_run_is_not_resumed_with_other_classes(tiny: Recipe, photo_folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "photos"
    shutil.copytree(photo_folder, root)
    recipe = changed(tiny, data={"root": str(root)})
    run = start(recipe, tmp_path)
    classes = (run / "classes.json").read_text()
    shutil.copytree(root / "cold/sea", root / "cold/lake")
    with pytest.raises(TrainingError, match="are not those that"):
        start(recipe, tmp_path, resume=True)
    assert (run / "classes.json").read_text() == classes


def test_a_run_is_resumed_with_its_photos_moved_but_not_with_others(
    tiny: Recipe, photo_folder: Path, tmp_path: Path
) -> None:
    run = start(tiny, tmp_path)
    root = tmp_path / "photos"
    shutil.copytree(photo_folder, root)
    moved = changed(tiny, data={"root": str(root)})
    (run / "recipe.toml").write_text(dump_recipe(moved))
    assert start(moved, tmp_path, resume=True) == run
    photo = next(path for path in sorted(root.rglob("*")) if path.is_file())
    Image.open(photo).resize((9, 9)).save(photo)
    with pytest.raises(TrainingError, match="the photos are not those that"):
        start(moved, tmp_path, resume=True)
