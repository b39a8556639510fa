"""Curvature-aware optimisation: the order of a step, and the move of points and momenta to the new curvature.

Source: Bdeir & Landwehr, section 3.2, algorithm 1, with K = 1/c. Algorithm 1 transports gradients; what lives
on to the next step is the momentum, so that is what is transported here.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from hyperbolic.curvature import Curvature, LorentzParameter
from hyperbolic.optim.walk import REACH, TextbookWalk, Walk, decay_to_origin, move_to_curvature

__all__ = ["REACH", "CurvatureAwareOptimizer", "CurvatureOrder", "Group", "decay_to_origin"]

CurvatureOrder = Literal["aware", "naive"]
"""`aware` is algorithm 1; `naive` (for ablation only) updates c first and moves nothing."""

Group = dict[str, Any]


class CurvatureAwareOptimizer(Optimizer):
    """Base of the Riemannian optimisers: sorts parameters by kind and keeps the order of algorithm 1.

    One step with `curvature_order="aware"`: (1) Euclidean and Lorentz parameters are updated with the old c;
    (2) every c of this optimiser is updated; (3) every Lorentz parameter on a hyperboloid whose c was
    updated, with or without a gradient, goes to the new one by change of curvature, and its momentum by
    transport to the origin (old c) and out again (new c). Any number of `Curvature` modules may take part.
    As c grows points get farther out in units of 1/sqrt(c), and are stopped at `REACH`: rescale points by
    `MaxDistanceRescale` where they are used, as the paper does.

    A `LorentzParameter` must be in the same optimiser as its learnable curvature; sparse gradients are
    refused. The naive order updates c first and then lets points and momenta be updated, as they are stored,
    by the textbook formulas with the new c: what a library does that does not know that its c is learned.
    """

    tangent_state: str
    """The name of the optimiser state that is a tangent vector."""

    def __init__(self, params: ParamsT, defaults: Group, curvature_order: CurvatureOrder) -> None:
        if curvature_order not in ("aware", "naive"):
            raise ValueError(f"curvature_order must be 'aware' or 'naive', got {curvature_order!r}")
        # In `defaults`, because that is what torch's Optimizer keeps of itself when it is copied or pickled.
        super().__init__(params, {**defaults, "curvature_order": curvature_order})

    def update_euclidean(self, group: Group, parameters: list[Tensor]) -> None:
        """Update Euclidean parameters with gradients as torch's own optimiser would."""
        raise NotImplementedError

    def update_lorentz(self, group: Group, parameter: LorentzParameter, walk: Walk) -> None:
        """Update one Lorentz parameter with a gradient by its walk."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one optimisation step and return the closure's loss, if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        points = self._lorentz_parameters()
        curvatures = {id(p.curvature.log_ratio): p.curvature for p in points}
        if self.defaults["curvature_order"] == "naive":
            self._update(curvatures, only_curvatures=True)
            self._update(curvatures, only_curvatures=False, walk=TextbookWalk)
            return loss
        moving = {k: v().double() for k, v in curvatures.items() if v.log_ratio.grad is not None}
        self._update(curvatures, only_curvatures=False)
        self._update(curvatures, only_curvatures=True)
        for point in points:
            c_old = moving.get(id(point.curvature.log_ratio))
            if c_old is not None:
                momentum = self.state[point].get(self.tangent_state) if point in self.state else None
                move_to_curvature(point, momentum, c_old, point.curvature().double())
        return loss

    def _lorentz_parameters(self) -> list[LorentzParameter]:
        everything = [p for group in self.param_groups for p in group["params"]]
        points = [p for p in everything if isinstance(p, LorentzParameter)]
        here = {id(p) for p in everything}
        for point in points:
            c = point.curvature.log_ratio
            if c.requires_grad and id(c) not in here:
                raise ValueError(
                    f"a Lorentz parameter of shape {tuple(point.shape)} lives on a learnable curvature "
                    "that is not in this optimiser, which could not move it when c changes: pass the "
                    "Curvature's parameters to the same optimiser or make it Curvature(..., learnable=False)"
                )
        return points

    def _update(self, curvatures: dict[int, Curvature], *, only_curvatures: bool, walk: type[Walk] = Walk) -> None:
        for group in self.param_groups:
            chosen = [p for p in group["params"] if p.grad is not None]
            chosen = [p for p in chosen if (id(p) in curvatures) == only_curvatures]
            if any(p.grad.is_sparse for p in chosen):
                raise ValueError(f"{type(self).__name__} takes dense gradients, got a sparse one: use sparse=False")
            euclidean = [p for p in chosen if not isinstance(p, LorentzParameter)]
            if euclidean:
                self.update_euclidean(group, euclidean)
            for point in chosen:
                if isinstance(point, LorentzParameter):
                    self.update_lorentz(group, point, walk(point, point.curvature().double()))
