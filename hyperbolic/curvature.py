"""Curvature: a learnable c > 0, and the parameters that live on its hyperboloid."""

import copy
import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Curvature(nn.Module):
    """A curvature c > 0 (the space has sectional curvature -c), the only owner of its parametrisation.

    c = initial exp(log_ratio), with `log_ratio` = 0 at the start: `Curvature(c0)()` is exactly c0 rounded to
    float32 (so 1.0 for 1.0), and c stays positive for every value that an optimiser can give it. A step of
    size s on `log_ratio` multiplies c by exp(s); weight decay pulls c towards `initial`, so give the
    curvature its own parameter group where that is not wanted.
    """

    initial: Tensor

    def __init__(self, initial: float, learnable: bool = True) -> None:
        super().__init__()
        if not (math.isfinite(initial) and initial > 0):
            raise ValueError(f"the curvature c must be > 0 (the space has curvature -c), got {initial}: pass c, not -c")
        self.register_buffer("initial", torch.tensor(float(initial), dtype=torch.float32))
        self.log_ratio = nn.Parameter(torch.zeros((), dtype=torch.float32), requires_grad=learnable)

    def forward(self) -> Float[Tensor, ""]:
        """Return c, 0-dim, with its gradient where it is learnable."""
        return self.initial * torch.exp(self.log_ratio)

    def extra_repr(self) -> str:
        """Show c and whether it is learned in the module's printed form."""
        return f"c={float(self().detach()):.6g}, learnable={self.log_ratio.requires_grad}"


class LorentzParameter(nn.Parameter):
    """Points (n, d+1) that are learned on the hyperboloid of `curvature`.

    Optimisers of `hyperbolic.optim` know it by its class and find its c through `.curvature`. It is saved and
    loaded as the plain tensor it holds (state_dict, safetensors); copying or pickling a module copies the
    curvature along, once, so that both still belong together. Like every float32 point it is read by its
    space part.
    """

    curvature: Curvature

    def __new__(cls, points: Tensor, curvature: Curvature, requires_grad: bool = True) -> "LorentzParameter":
        """Make `points` (..., d+1), which lie on the hyperboloid of `curvature`, a parameter."""
        if points.dim() == 0 or points.shape[-1] < 2:
            raise ValueError(
                f"expected points of shape (..., d+1), time first, got {tuple(points.shape)}: "
                "make them with hyperbolic.lorentz.lift or expmap0"
            )
        parameter: LorentzParameter = torch.Tensor._make_subclass(cls, points.detach(), requires_grad)
        parameter.curvature = curvature
        return parameter

    def __init__(self, points: Tensor, curvature: Curvature, requires_grad: bool = True) -> None:
        """Accept the arguments of `__new__`."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "LorentzParameter":
        if id(self) not in memo:
            points = self.data.clone(memory_format=torch.preserve_format)
            memo[id(self)] = LorentzParameter(points, copy.deepcopy(self.curvature, memo), self.requires_grad)
        found: LorentzParameter = memo[id(self)]
        return found

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return LorentzParameter, (self.data, self.curvature, self.requires_grad)
