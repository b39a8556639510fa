"""Spans and learning rates over a run: warm-up, then constant, cosine or in steps; 0 for a backbone that is frozen."""

import math

from torch.optim import Optimizer

from training.recipe import Recipe, in_steps


class Schedule:
    """The spans of a recipe in steps, and each parameter group's rate at each step."""

    def __init__(self, recipe: Recipe, num_photos: int, optimiser: Optimizer) -> None:
        """Reads the groups' full rates: make it before a saved optimiser state is loaded."""
        batch = recipe.train.classes_per_batch * recipe.train.images_per_class

        def steps(span: int | str) -> int:
            return in_steps(span, num_photos, batch)

        self.steps = steps(recipe.train.steps)
        self.frozen = steps(recipe.train.frozen_steps)
        self.warmup = steps(recipe.optimiser.warmup_steps)
        self.log_every, self.save_every = steps(recipe.train.log_every), steps(recipe.train.save_every)
        self.select_every = steps(recipe.selection.every)
        if self.frozen >= self.steps:
            raise ValueError(
                f"train.frozen_steps is {self.frozen} of {self.steps} steps: the backbone would never train; "
                "set train.frozen_backbone = true for that"
            )
        self.kind = recipe.optimiser.schedule
        self.step_every = steps(recipe.optimiser.step_every or self.steps)
        self.step_factor = recipe.optimiser.step_factor
        self.rates = [float(group["lr"]) for group in optimiser.param_groups]

    def factor(self, step: int) -> float:
        """Share of the full rate at ``step`` (counted from 0)."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        if self.kind == "cosine":
            return warm * 0.5 * (1.0 + math.cos(math.pi * step / self.steps))
        if self.kind == "step":
            return warm * self.step_factor ** (step // self.step_every)
        return warm

    def apply(self, optimiser: Optimizer, step: int) -> None:
        """Set every group's rate for ``step``."""
        for group, rate in zip(optimiser.param_groups, self.rates, strict=True):
            frozen = str(group["name"]).startswith("backbone") and step < self.frozen
            group["lr"] = 0.0 if frozen else rate * self.factor(step)
