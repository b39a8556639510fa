"""What a run tells: metrics.jsonl and evaluations.jsonl, and by the recipe the same rows to TensorBoard or W&B."""

import hashlib
import importlib
import importlib.util
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from training.recipe import Recipe
from training.run_folder import EVALUATIONS_FILE, METRICS_FILE, TrainingError

Row = dict[str, Any]
PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb"}


def check_logger(recipe: Recipe) -> None:
    """Refuse a logger whose package is not installed, before anything is written."""
    package = PACKAGES.get(recipe.train.logger)
    if package is not None and importlib.util.find_spec(package) is None:
        raise TrainingError(
            f"train.logger = '{recipe.train.logger}' needs a package that is not installed: "
            f"pip install 'lhier[{package}]', or set train.logger = 'none'"
        )


class RunLog:
    """Rows of a run, appended from step ``start`` on; silent where ``writes`` is False (all processes but one)."""

    def __init__(self, recipe: Recipe, run: Path, start: int, writes: bool) -> None:
        self.files = {}
        self.tensorboard: Any = None
        self.wandb: Any = None
        if not writes:
            return
        self.files = {name: (run / name).open("a", encoding="utf-8") for name in (METRICS_FILE,)}
        if recipe.selection.rule != "last":
            self.files[EVALUATIONS_FILE] = (run / EVALUATIONS_FILE).open("a", encoding="utf-8")
        if recipe.train.logger == "tensorboard":
            from lightning_fabric.loggers.tensorboard import TensorBoardLogger

            # purge_step: what a killed run had written after its saved state is not shown twice.
            self.tensorboard = TensorBoardLogger(run, name="", version="tensorboard", purge_step=start + 1)
        elif recipe.train.logger == "wandb":
            name = hashlib.sha256(str(run.absolute()).encode()).hexdigest()[:16]
            self.wandb = importlib.import_module("wandb").init(
                project="lhier", name=recipe.name, id=name, dir=str(run), resume="allow", config=recipe.model_dump()
            )

    def metrics(self, row: Row) -> None:
        """One row of training."""
        self._write(METRICS_FILE, row, "")

    def evaluation(self, row: Row) -> None:
        """One row of figures on the photos that select."""
        self._write(EVALUATIONS_FILE, row, "evaluation/")

    def _write(self, name: str, row: Row, prefix: str) -> None:
        if name not in self.files:
            return
        self.files[name].write(json.dumps(row) + "\n")
        self.files[name].flush()
        numbers = {f"{prefix}{key}": value for key, value in row.items() if isinstance(value, int | float)}
        step = numbers.pop(f"{prefix}step")
        if self.tensorboard is not None:
            self.tensorboard.log_metrics(numbers, int(step))
        if self.wandb is not None:
            self.wandb.log(numbers, step=int(step))

    def sync(self) -> None:
        """Bring the rows to disk: before a state is saved that takes them as written."""
        for file in self.files.values():
            file.flush()
            os.fsync(file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self.files.values():
            file.close()
        if self.tensorboard is not None:
            self.tensorboard.finalize("success" if error is None else "failed")
        if self.wandb is not None:
            self.wandb.finish(exit_code=int(error is not None))
