"""Riemannian SGD with momentum for models whose parameters are partly points of a hyperboloid.

Source: Bonnabel 2013; Bdeir & Landwehr, section 3.2 (decay and curvature-aware step).
"""

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from torch.optim.sgd import sgd

from hyperbolic.curvature import LorentzParameter
from hyperbolic.optim.curvature_step import CurvatureAwareOptimizer, CurvatureOrder, Group
from hyperbolic.optim.walk import Walk


class RiemannianSGD(CurvatureAwareOptimizer):
    """SGD; on Euclidean parameters bit for bit torch.optim.SGD, on Lorentz parameters its Riemannian form.

    For points theta with Riemannian gradient g: m = momentum m + g; theta' = centroid of theta and the origin
    with weights 1 - lr wd and lr wd (on points the decay stands apart from the gradient, as in
    `RiemannianAdamW`; on Euclidean parameters it is torch's L2 term); theta'' = exp at theta' of -lr m, with
    m transported along. Computed in float64, stored in the parameter's format. Learned curvatures: see
    `CurvatureAwareOptimizer`.
    """

    tangent_state = "momentum_buffer"

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        curvature_order: CurvatureOrder = "aware",
    ) -> None:
        for name, value in (("lr", lr), ("momentum", momentum), ("weight_decay", weight_decay)):
            if not value >= 0:
                raise ValueError(f"{name} must be >= 0, got {value}")
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "foreach": foreach}
        super().__init__(params, defaults, curvature_order)

    def update_euclidean(self, group: Group, parameters: list[Tensor]) -> None:
        """Update Euclidean parameters by torch's own functional SGD."""
        buffers = [self.state[p].get("momentum_buffer") for p in parameters]
        sgd(
            parameters,
            [p.grad for p in parameters if p.grad is not None],
            buffers,
            foreach=group["foreach"],
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        if group["momentum"] != 0:
            for parameter, buffer in zip(parameters, buffers, strict=True):
                self.state[parameter]["momentum_buffer"] = buffer

    def update_lorentz(self, group: Group, parameter: LorentzParameter, walk: Walk) -> None:
        """Update one Lorentz parameter as the class says."""
        if parameter.grad is None:
            return
        state = self.state[parameter]
        walk.gather(parameter.grad, state.get("momentum_buffer"), group["momentum"], 1.0)
        walk.decay(group["lr"] * group["weight_decay"])
        buffer = state.setdefault("momentum_buffer", torch.zeros_like(parameter)) if group["momentum"] != 0 else None
        walk.follow(-group["lr"], buffer)
