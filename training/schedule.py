"""Learning rates over a run: warm-up, then constant or cosine; the backbone's rate is 0 while it is frozen."""

import math

from torch.optim import Optimizer

from training.recipe import Recipe, in_steps


class Schedule:
    """The spans of a recipe in steps, and each parameter group's rate at each step."""

    def __init__(self, recipe: Recipe, num_photos: int, optimiser: Optimizer) -> None:
        """Reads the groups' full rates: make it before a saved optimiser state is loaded."""
        batch = recipe.train.classes_per_batch * recipe.train.images_per_class
        self.steps = in_steps(recipe.train.steps, num_photos, batch)
        self.frozen = in_steps(recipe.train.frozen_steps, num_photos, batch)
        self.warmup = in_steps(recipe.optimiser.warmup_steps, num_photos, batch)
        if self.frozen >= self.steps:
            raise ValueError(
                f"train.frozen_steps is {self.frozen} of {self.steps} steps: the backbone would never train; "
                "set train.frozen_backbone = true for that"
            )
        self.kind = recipe.optimiser.schedule
        self.rates = [float(group["lr"]) for group in optimiser.param_groups]

    def factor(self, step: int) -> float:
        """Share of the full rate at ``step`` (counted from 0)."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return warm * (0.5 * (1.0 + math.cos(math.pi * step / self.steps)) if self.kind == "cosine" else 1.0)

    def apply(self, optimiser: Optimizer, step: int) -> None:
        """Set every group's rate for ``step``."""
        for group, rate in zip(optimiser.param_groups, self.rates, strict=True):
            frozen = str(group["name"]).startswith("backbone") and step < self.frozen
            group["lr"] = 0.0 if frozen else rate * self.factor(step)
