"""A run folder: the recipe as run, the metrics, what was skipped, and the state that --resume continues from."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from training.recipe import Recipe, dump_recipe, load_recipe

STATE_FILE = "training_state.pt"
METRICS_FILE = "metrics.jsonl"
EVALUATIONS_FILE = "evaluations.jsonl"
RECIPE_FILE = "recipe.toml"
CLASSES_FILE = "classes.json"
PHOTOS_FILE = "photos.sha256"
ANCESTORS_FILE = "ancestors.json"
SKIPPED_FILE = "skipped.jsonl"


class TrainingError(RuntimeError):
    """A run that cannot start, continue or go on; the text says what to do."""


def prepare_run(recipe: Recipe, run: Path, resume: bool) -> None:
    """Make a new run folder, or check that ``run`` holds the same recipe. Raises :class:`TrainingError`.

    A run that was killed before it saved a state is resumed from its first step.
    """
    recipe_file = run / RECIPE_FILE
    text = dump_recipe(recipe)
    if resume:
        if not recipe_file.is_file():
            raise TrainingError(f"{run} holds no run to resume from: start without --resume")
        # Compared as recipes: a key that this version added has its default in an older run.
        if load_recipe(recipe_file) != recipe:
            raise TrainingError(f"{run} was started with another recipe than this (see its {RECIPE_FILE})")
        _recover_checkpoint(run)
        return
    # A start that failed before its first step leaves a recipe only, which holds nobody up.
    if any((run / name).exists() for name in (METRICS_FILE, STATE_FILE, "checkpoint")):
        raise TrainingError(f"{run} already holds a run: choose another --out, or continue it with --resume")
    run.mkdir(parents=True, exist_ok=True)
    _write_whole(recipe_file, text)


def _recover_checkpoint(run: Path) -> None:
    # A kill between the two renames of save_checkpoint leaves the old checkpoint under its other name.
    old = run / ".checkpoint.old"
    if old.is_dir() and not (run / "checkpoint").exists():
        old.rename(run / "checkpoint")


def save_state(
    run: Path, model: nn.Module, optimiser: torch.optim.Optimizer, step: int, extra: dict[str, Any] | None = None
) -> None:
    """Write the state that --resume needs, whole or not at all; ``extra`` holds numbers and texts beside it."""
    staging = run / f".{STATE_FILE}.writing"
    state = {"step": step, "model": model.state_dict(), "optimiser": optimiser.state_dict(), **(extra or {})}
    with staging.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    staging.replace(run / STATE_FILE)


def load_state(run: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Load the saved state into model and optimiser; returns what else was saved, ``step`` (the steps done) included.

    ``{"step": 0}`` where none was saved yet. Raises :class:`TrainingError`.
    """
    if not (run / STATE_FILE).is_file():
        return {"step": 0}
    try:
        state: dict[str, Any] = torch.load(run / STATE_FILE, map_location="cpu", weights_only=True)
        model.load_state_dict(state.pop("model"))
        optimiser.load_state_dict(state.pop("optimiser"))
        state["step"] = int(state["step"])
    except Exception as error:
        raise TrainingError(f"{run / STATE_FILE} cannot be resumed from: {error}") from error
    return state


def keep_rows(run: Path, steps: int) -> None:
    """Drop rows after the state that is resumed from: they will be written again."""
    for path in (run / METRICS_FILE, run / EVALUATIONS_FILE):
        if path.exists():
            rows = [line for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
            kept = [line for line in rows if json.loads(line)["step"] <= steps]
            _write_whole(path, "".join(f"{line}\n" for line in kept))


def read_photos(run: Path) -> str:
    """What :func:`write_photos` wrote; empty where it wrote nothing."""
    path = run / PHOTOS_FILE
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


def write_photos(run: Path, fingerprint: str) -> None:
    """Which photos the run is of, by :func:`training.data.split.fingerprint`. Raises :class:`TrainingError` where it
    was started with others."""
    if read_photos(run) not in ("", fingerprint):
        raise TrainingError(f"the photos are not those that {run} was started with: start a new run")
    _write_whole(run / PHOTOS_FILE, fingerprint + "\n")


def write_classes(run: Path, label_paths: list[tuple[str, ...]]) -> None:
    """The label path of each class index. Raises :class:`TrainingError` where the run knows others already."""
    path, text = run / CLASSES_FILE, json.dumps(label_paths, ensure_ascii=False, indent=0) + "\n"
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise TrainingError(f"the classes of the photos are not those that {run} was started with: start a new run")
    _write_whole(path, text)


def write_ancestors(run: Path, ancestors: list[tuple[str, ...]]) -> None:
    """The ancestors of each class, in the order of ``classes.json``, where they are not those of its label path."""
    _write_whole(run / ANCESTORS_FILE, json.dumps(ancestors, ensure_ascii=False, indent=0) + "\n")


def read_ancestors(run: Path, num_classes: int) -> list[tuple[str, ...]] | None:
    """What :func:`write_ancestors` wrote; None where it wrote nothing. Raises :class:`TrainingError`."""
    path = run / ANCESTORS_FILE
    if not path.is_file():
        return None
    try:
        ancestors = [tuple(str(name) for name in names) for names in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise TrainingError(f"{path} is damaged: expected a list of lists of names ({error})") from error
    if len(ancestors) != num_classes or len({len(names) for names in ancestors}) != 1:
        raise TrainingError(
            f"{path} is not of this run: expected equally many ancestors of each of {num_classes} classes, found "
            f"{len(ancestors)} rows: start a new run"
        )
    return ancestors


def _write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    staging = path.with_name(f".{path.name}.writing")
    with staging.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    staging.replace(path)


def write_skipped(run: Path, skipped: dict[Path, str]) -> None:
    """List unreadable photos by name and reason."""
    if not skipped:
        return
    # Escaped to ASCII: a name may hold U+2028, at which str.splitlines would cut the line.
    lines = (json.dumps({"path": str(path), "error": why}) for path, why in sorted(skipped.items()))
    _write_whole(run / SKIPPED_FILE, "\n".join(lines) + "\n")
