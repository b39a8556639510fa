"""A run folder: the recipe as run, the metrics, what was skipped, and the state that --resume continues from."""

import json
import os
from pathlib import Path

import torch
from torch import nn

from training.recipe import Recipe, dump_recipe

STATE_FILE = "training_state.pt"
METRICS_FILE = "metrics.jsonl"
RECIPE_FILE = "recipe.toml"
CLASSES_FILE = "classes.json"
SKIPPED_FILE = "skipped.jsonl"


class TrainingError(RuntimeError):
    """A run that cannot start, continue or go on; the text says what to do."""


def prepare_run(recipe: Recipe, run: Path, resume: bool) -> None:
    """Make a new run folder, or check that ``run`` holds the same recipe and a state. Raises :class:`TrainingError`."""
    recipe_file = run / RECIPE_FILE
    text = dump_recipe(recipe)
    if resume:
        if not (run / STATE_FILE).is_file():
            raise TrainingError(f"{run} holds no {STATE_FILE} to resume from: start without --resume")
        if recipe_file.read_text(encoding="utf-8") != text:
            raise TrainingError(f"{run} was started with another recipe than this (see its {RECIPE_FILE})")
        return
    if (run / RECIPE_FILE).exists() or (run / "checkpoint").exists():
        raise TrainingError(f"{run} already holds a run: choose another --out, or continue it with --resume")
    run.mkdir(parents=True, exist_ok=True)
    recipe_file.write_text(text, encoding="utf-8")


def save_state(run: Path, model: nn.Module, optimiser: torch.optim.Optimizer, step: int) -> None:
    """Write the state that --resume needs, whole or not at all."""
    staging = run / f".{STATE_FILE}.writing"
    with staging.open("wb") as file:
        torch.save({"step": step, "model": model.state_dict(), "optimiser": optimiser.state_dict()}, file)
        file.flush()
        os.fsync(file.fileno())
    staging.replace(run / STATE_FILE)


def load_state(run: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    """Load the saved state into model and optimiser; returns the steps done. Raises :class:`TrainingError`."""
    try:
        state = torch.load(run / STATE_FILE, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        return int(state["step"])
    except Exception as error:
        raise TrainingError(f"{run / STATE_FILE} cannot be resumed from: {error}") from error


def keep_metrics(run: Path, steps: int) -> None:
    """Drop rows after the state that is resumed from: they will be written again."""
    path = run / METRICS_FILE
    if path.exists():
        rows = [line for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
        kept = [line for line in rows if json.loads(line)["step"] <= steps]
        path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def write_skipped(run: Path, skipped: dict[Path, str]) -> None:
    """List unreadable photos by name and reason."""
    if not skipped:
        return
    lines = (json.dumps({"path": str(path), "error": why}, ensure_ascii=False) for path, why in sorted(skipped.items()))
    (run / SKIPPED_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
