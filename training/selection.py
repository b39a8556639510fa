"""Which step's weights are kept, and when a run that no longer improves is ended."""

import math
from collections.abc import Callable
from typing import Any

import torch

from hyperbolic.embedder import Embedder
from hyperbolic.models.lhier import Encoder
from training.recipe import SelectionConfig
from training.run_folder import TrainingError

Evaluate = Callable[[Embedder], dict[str, float]]
SCORE = "recall_at_1"


class Selection:
    """Best score so far and evaluations since; part of the saved state, so that a resumed run selects the same."""

    def __init__(self, config: SelectionConfig, every: int, evaluate: Evaluate | None) -> None:
        self.config, self.every = config, every
        self.evaluate = None if config.rule == "last" else evaluate
        self.best, self.waited = -math.inf, 0

    @property
    def exhausted(self) -> bool:
        """Whether ``selection.patience`` evaluations in a row brought nothing better."""
        return 0 < self.config.patience <= self.waited

    def due(self, done: int, last: int) -> bool:
        """Whether the model is to be evaluated after ``done`` steps."""
        return self.evaluate is not None and (done % self.every == 0 or done == last)

    def score(self, encoder: Encoder) -> dict[str, float]:
        """Figures of the encoder as it is; its mode of training, module by module, is put back afterwards."""
        assert self.evaluate is not None  # noqa: S101 - asked only where due
        modes = [(module, module.training) for module in encoder.modules()]
        device = next(encoder.parameters()).device
        with torch.random.fork_rng(devices=[]):
            figures = self.evaluate(Embedder(encoder, model_hash="", device=str(device)))
        for module, training in modes:
            module.training = training
        return figures

    def improved(self, figures: dict[str, float]) -> bool:
        """Take an evaluation into account: is it the best so far?

        Raises :class:`TrainingError` where the evaluation has no answer (no query has a relative in the gallery).
        """
        if math.isnan(figures[SCORE]):
            raise TrainingError(f"{SCORE} cannot be measured: no query has a photo of its class in the gallery")
        if figures[SCORE] > self.best:
            self.best, self.waited = figures[SCORE], 0
            return True
        self.waited += 1
        return False

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what was saved; an empty state is that of a new run."""
        self.best, self.waited = float(state.get("best", -math.inf)), int(state.get("waited", 0))
