"""Curvature-aware optimisation: the order of a step, and the move of points and momenta to the new curvature.

Source: Bdeir & Landwehr, section 3.2, algorithm 1, with K = 1/c. Algorithm 1 transports gradients; what lives
on to the next step is the momentum, so that is what is transported here.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from hyperbolic import lorentz
from hyperbolic.curvature import Curvature, LorentzParameter
from hyperbolic.precision import double_inside, sinhc

CurvatureOrder = Literal["aware", "naive"]
"""`aware` is algorithm 1; `naive` (for ablation only) updates c first and moves nothing."""

Group = dict[str, Any]


REACH = 1e6
"""Lorentz parameters are kept within sqrt(c)|x_s| <= REACH, radius 14.5/sqrt(c).

Up to there float64 keeps four digits of a transport. Default rescaling takes this radius to 0.98 D_max, so
nothing that can be expressed is lost.
"""


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

    def update_lorentz(self, group: Group, parameter: LorentzParameter, geometry: "Geometry", c: Tensor) -> None:
        """Update one Lorentz parameter with a gradient."""
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
            self._update(curvatures, only_curvatures=False, geometry=_TEXTBOOK)
            return loss
        moving = {k: v().double() for k, v in curvatures.items() if v.log_ratio.grad is not None}
        self._update(curvatures, only_curvatures=False)
        self._update(curvatures, only_curvatures=True)
        for point in points:
            c_old = moving.get(id(point.curvature.log_ratio))
            if c_old is not None:
                self._move(point, c_old, point.curvature().double())
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

    def _update(
        self, curvatures: dict[int, Curvature], *, only_curvatures: bool, geometry: "Geometry | None" = None
    ) -> None:
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
                    self.update_lorentz(group, point, geometry or _EXACT, point.curvature().double())

    def _move(self, point: LorentzParameter, c_old: Tensor, c_new: Tensor) -> None:
        """Step (3) of algorithm 1 for one parameter and its momentum, in float64."""
        old = point.detach().double()
        new = within_reach(lorentz.change_curvature(old, c_old, c_new), c_new)
        momentum = self.state[point].get(self.tangent_state) if point in self.state else None
        if momentum is not None:
            d = point.shape[-1] - 1
            at_origin = lorentz.transport(old, lorentz.origin(d, c_old, old), momentum.double(), c_old)
            momentum.copy_(lorentz.transport(lorentz.origin(d, c_new, old), new, at_origin, c_new))
        point.copy_(new)


class Geometry:
    """The operations of a Riemannian step on full points, in float64: those of `lorentz`."""

    def gradient(self, x: Tensor, gradient: Tensor, c: Tensor) -> Tensor:
        """Return the Riemannian gradient at x of a Euclidean one."""
        return lorentz.egrad2rgrad(x, gradient, c)

    def norm(self, x: Tensor, u: Tensor, c: Tensor) -> Tensor:
        """Return the length of u at x, (..., 1)."""
        return lorentz.tangent_norm(x, u, c).unsqueeze(-1)

    def expmap(self, x: Tensor, u: Tensor, c: Tensor) -> Tensor:
        """Return the point where the step u from x ends."""
        # No two points within REACH are farther apart than 29/sqrt(c), and cosh overflows at 710.
        length = torch.sqrt(c) * self.norm(x, u, c)
        return within_reach(lorentz.expmap(x, u * (40 / length).clamp_max(1.0), c), c)

    def transport(self, x: Tensor, y: Tensor, v: Tensor, c: Tensor) -> Tensor:
        """Return v moved from x to y."""
        return lorentz.transport(x, y, v, c)


class _Textbook(Geometry):
    """The formulas as printed, on time entries as stored: right only where x fits this c."""

    def gradient(self, x: Tensor, gradient: Tensor, c: Tensor) -> Tensor:
        flipped = torch.cat([-gradient[..., :1], gradient[..., 1:]], dim=-1)
        return flipped + c * lorentz.inner(x, flipped).unsqueeze(-1) * x

    def norm(self, x: Tensor, u: Tensor, c: Tensor) -> Tensor:
        return lorentz.norm(u).unsqueeze(-1)

    def expmap(self, x: Tensor, u: Tensor, c: Tensor) -> Tensor:
        a = torch.sqrt(c) * lorentz.norm(u).unsqueeze(-1)
        return torch.cosh(a) * x + sinhc(a) * u

    def transport(self, x: Tensor, y: Tensor, v: Tensor, c: Tensor) -> Tensor:
        scale = lorentz.inner(y, v) / (1 / c - lorentz.inner(x, y))
        return v + scale.unsqueeze(-1) * (x + y)


def within_reach(x: Tensor, c: Tensor) -> Tensor:
    """Return points (..., d+1) with their space parts shortened to sqrt(c)|x_s| <= REACH."""
    length = torch.linalg.vector_norm(x[..., 1:], dim=-1, keepdim=True)
    limit = REACH / torch.sqrt(c)
    return torch.where(length > limit, lorentz.lift(x[..., 1:] * (limit / length), c), x)


_EXACT = Geometry()
_TEXTBOOK = _Textbook()


@double_inside
def decay_to_origin(x: Tensor, weight: float, c: Tensor | float) -> Tensor:
    """Return the centroid of x and the origin with weights 1 - w and w, (..., d+1) -> (..., d+1).

    Weight decay on the hyperboloid. Closed form of lorentz.centroid: x_s (1 - w)/sqrt((1 - w)^2 + w^2 + 2 w
    (1 - w) sqrt(c) x_t), in float64 (the sum's own norm cancels in float32: training was NaN at step 2 at
    radius 8.29). Far out it is about sqrt(c) x_t / r times stronger than multiplying the radius by 1 - w:
    about 2000/8.3 = 240 times at D_max. Relative error <= 2e-7
    (test_optim.py::test_decay_is_the_centroid_with_the_origin). Paper, section 3.2, "Riemannian AdamW
    Optimizer".
    """
    x_time = torch.sqrt(1 / c + x[..., 1:].square().sum(-1, keepdim=True))
    keep = 1 - weight
    shrink = keep / torch.sqrt(keep**2 + weight**2 + 2 * weight * keep * c**0.5 * x_time)
    return lorentz.lift(shrink * x[..., 1:], c)


def decayed(x: Tensor, momentum: Tensor, weight: float, geometry: Geometry, c: Tensor) -> tuple[Tensor, Tensor]:
    """Apply `decay_to_origin` to points and carry the momentum along to the new ones."""
    if weight == 0:
        return x, momentum
    nearer = decay_to_origin(x, weight, c)
    return nearer, geometry.transport(x, nearer, momentum, c)
