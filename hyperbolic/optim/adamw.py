"""Riemannian AdamW for models whose parameters are partly Euclidean and partly points of a hyperboloid.

Source: Bdeir & Landwehr, section 3.2; Loshchilov & Hutter 2019 (AdamW); Becigneul & Ganea 2019 (Riemannian
Adam).
"""

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.optimizer import ParamsT

from hyperbolic.curvature import LorentzParameter
from hyperbolic.optim.curvature_step import CurvatureAwareOptimizer, CurvatureOrder, Group
from hyperbolic.optim.walk import Walk


class RiemannianAdamW(CurvatureAwareOptimizer):
    """AdamW; on Euclidean parameters bit for bit torch.optim.AdamW, on points its Riemannian form.

    For points theta with Riemannian gradient g: m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) |g|_L^2, one
    scalar per point (as geoopt's RiemannianAdam); theta' = centroid of theta and the origin with weights 1 -
    lr wd and lr wd; theta'' = exp at theta' of -lr m/(1 - b1^t) / (sqrt(v/(1 - b2^t)) + eps), with m
    transported theta -> theta' -> theta''. Computed in float64, stored in the parameter's format. Learned
    curvatures: see `CurvatureAwareOptimizer`.

    The decay of points is far stronger than that of numbers (`decay_to_origin`): give Lorentz parameters
    their own group. State and param groups as in torch; `state_dict` resumes bit for bit
    (test_optim.py::test_resume_is_bit_for_bit).
    """

    tangent_state = "exp_avg"

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        foreach: bool | None = None,
        curvature_order: CurvatureOrder = "aware",
    ) -> None:
        for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
            if not value >= 0:
                raise ValueError(f"{name} must be >= 0, got {value}")
        if not all(0 <= b < 1 for b in betas):
            raise ValueError(f"betas must lie in [0, 1), got {betas}")
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "foreach": foreach}
        super().__init__(params, defaults, curvature_order)

    def update_euclidean(self, group: Group, parameters: list[Tensor]) -> None:
        """Update Euclidean parameters by torch's own functional AdamW."""
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter] = {
                    "step": torch.tensor(0.0),
                    "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                    "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                }
        states = [self.state[p] for p in parameters]
        beta1, beta2 = group["betas"]
        adamw(
            parameters,
            [p.grad for p in parameters if p.grad is not None],
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [],
            [s["step"] for s in states],
            foreach=group["foreach"],
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def update_lorentz(self, group: Group, parameter: LorentzParameter, walk: Walk) -> None:
        """Update one Lorentz parameter as the class says."""
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(parameter[..., :1], memory_format=torch.contiguous_format)
        if parameter.grad is None:
            return
        state["step"] += 1
        step = float(state["step"])
        beta1, beta2 = group["betas"]
        norm = walk.gather(parameter.grad, state["exp_avg"], beta1, 1 - beta1)
        square = state["exp_avg_sq"].double() * beta2 + norm.square() * (1 - beta2)
        state["exp_avg_sq"].copy_(square)
        walk.decay(group["lr"] * group["weight_decay"])
        scale = (square / (1 - beta2**step)).sqrt() + group["eps"]
        walk.follow(-group["lr"] / (1 - beta1**step) / scale, state["exp_avg"])
