"""The guard against numbers that are not finite: stops a run before they are saved, and names the tensor that broke."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.run_folder import TrainingError

# The scale halves with each skipped step: from 65,536 to 6e-5 in 30, where no gradient can overflow any more.
MOST_SKIPPED = 30


class Guard:
    """Checks of losses, gradients and states; every failure is a :class:`TrainingError` that names a tensor.

    A loss that is not finite stops the run. Gradients that are not stop it too, but for fp16, where the GradScaler
    skips such steps and lowers its scale: these are counted (``skipped``), and 30 in a row stop the run.
    """

    def __init__(self, model: nn.Module, run: Path, scaler: Any | None) -> None:
        self.model, self.run, self.scaler = model, run, scaler
        self.skipped = 0
        self.in_a_row = 0

    def check_loss(self, step: int, loss: Tensor, terms: dict[str, Tensor], space: Tensor) -> None:
        """Stop where the loss is not finite: the terms, and whether embeddings or parameters broke before them."""
        value = float(loss.detach())
        if math.isfinite(value):
            return
        broken = [name for name, term in terms.items() if not math.isfinite(float(term))]
        where = [f"the loss is {value} ({', '.join(broken) or 'the sum of terms'})"]
        parameter = first_not_finite(self.model.state_dict())
        rows = int((~torch.isfinite(space)).any(1).sum())
        if parameter:
            where.append(f"the first tensor that is not finite is {parameter}")
        elif rows:
            where.append(f"{rows} of {len(space)} embeddings are not finite while all parameters are")
        raise self._error(step, "; ".join(where))

    def check_gradients(self, step: int, norm: Tensor) -> None:
        """Stop, or count a skipped fp16 step, where the norm of all gradients is not finite."""
        if math.isfinite(float(norm)):
            self.in_a_row = 0
            return
        gradients = {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}
        name = first_not_finite(gradients)
        if name is not None:
            what = f"the gradient of {name} is not finite"
        else:
            largest = max(gradients, key=lambda key: float(gradients[key].abs().max()))
            what = f"the norm of the gradients overflows; the largest is that of {largest}"
        if self.scaler is None:
            raise self._error(step, what)
        self.skipped += 1
        self.in_a_row += 1
        if self.in_a_row >= MOST_SKIPPED:
            raise self._error(step, f"{what}, and fp16 has skipped {self.in_a_row} steps in a row")

    def check_state(self, step: int, optimiser: torch.optim.Optimizer) -> None:
        """Stop where a parameter or a state of the optimiser is not finite: before it is saved over a good one."""
        state: dict[str, Any] = dict(self.model.state_dict())
        for name, parameter in self.model.named_parameters():
            state |= {f"{name} ({key})": value for key, value in optimiser.state.get(parameter, {}).items()}
        broken = first_not_finite(state)
        if broken is not None:
            raise self._error(step, f"{broken} is not finite")

    def _error(self, step: int, what: str) -> TrainingError:
        return TrainingError(
            f"step {step}: {what}; the last good state is kept in {self.run}: lower optimiser.lr or set "
            "train.precision = '32-true'"
        )


def first_not_finite(tensors: dict[str, Any]) -> str | None:
    """Name of the first tensor with an entry that is not finite; what is no floating-point tensor is passed over."""
    for name, value in tensors.items():
        if isinstance(value, Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all()):
            return name
    return None
