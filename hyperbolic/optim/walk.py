"""One parameter's way through a Riemannian step, in polar coordinates around the origin of the hyperboloid.

With e = x_s/|x_s| a point is its length l = |x_s|, and the space part of a tangent vector u is radial e + sideways,
sideways orthogonal to e. All that a step needs becomes a few numbers per point: |u|_L^2 = |sideways|^2 +
radial^2/(c x_t^2) without cancellation, moving along e leaves sideways alone and scales radial as x_t, and the
momentum moves along its own geodesic. A step on 512 x 129 points takes a fifth of what the same formulas take from
`lorentz` one by one (benchmarks/training_step.py). Everything is computed in float64.
"""

import math

import torch
from torch import Tensor

from hyperbolic import lorentz
from hyperbolic.precision import double_inside, sinhc

REACH = 1e6
"""Lorentz parameters are kept within sqrt(c)|x_s| <= REACH, radius 14.5/sqrt(c).

Up to there float64 keeps four digits of a transport. Default rescaling takes this radius to 0.98 D_max, so
nothing that can be expressed is lost.
"""
# No two points within REACH are farther apart than 29/sqrt(c), and cosh overflows at 710.
_FARTHEST_STEP = 40.0


class Walk:
    """Points (..., d+1) of a hyperboloid with the momentum they carry through one step.

    In this order: :meth:`gather`, :meth:`decay`, :meth:`follow`.
    """

    def __init__(self, points: Tensor, c: Tensor) -> None:
        self.points = points
        self.c = c
        self.space = points.detach()[..., 1:].double()
        self.length = torch.linalg.vector_norm(self.space, dim=-1, keepdim=True)
        self.direction = self.space / torch.where(self.length > 0, self.length, 1.0)
        self.time = _time(self.length, c)
        self.radial, self.sideways = self.length, self.space

    def gather(self, gradient: Tensor, momentum: Tensor | None, keep: float, weight: float) -> Tensor:
        """Momentum: ``keep`` of the one given and ``weight`` of the Riemannian gradient, made from a Euclidean one.

        Returns the gradient's length |g|_L, (..., 1).
        """
        radial, sideways = self._split(gradient)
        # The metric's inverse flips the time entry, the projection on the tangent space leaves sideways as it is.
        outwards = self.c.sqrt() * self.time
        radial = outwards.square() * radial + self.c * self.length * self.time * gradient[..., :1].double()
        norm = torch.hypot(torch.linalg.vector_norm(sideways, dim=-1, keepdim=True), radial / outwards)
        self.radial, self.sideways = radial * weight, sideways.mul_(weight)
        if momentum is not None and keep != 0:
            radial, sideways = self._split(momentum)
            self.radial = self.radial + keep * radial
            self.sideways.add_(sideways, alpha=keep)
        return norm

    def decay(self, weight: float) -> None:
        """Go to the centroid with the origin (`decay_to_origin`), taking the momentum along."""
        if weight == 0:
            return
        self.length = self.length * _shrink(self.time, weight, self.c)
        time, self.time = self.time, _time(self.length, self.c)
        self.radial = self.radial * (self.time / time)

    def follow(self, scale: Tensor | float, momentum: Tensor | None) -> None:
        """Go along ``scale`` times the momentum; write the points, and the transported momentum into ``momentum``."""
        root_c = self.c.sqrt()
        across = self.sideways.square().sum(-1, keepdim=True)
        norm = torch.sqrt(across + (self.radial / (root_c * self.time)).square())
        a = root_c * norm * scale
        a = a.clamp(-_FARTHEST_STEP, _FARTHEST_STEP)
        scale = torch.where(norm > 0, a / torch.where(norm > 0, root_c * norm, 1.0), 0.0)
        # The end is p e + q sideways and the momentum there r e + s sideways: the geodesic and its derivative.
        cosh = torch.cosh(a)
        q = scale * sinhc(a.abs())
        p = cosh * self.length + q * self.radial
        r = cosh * self.radial + root_c * norm * torch.sinh(a) * self.length
        square = p.square() + q.square() * across
        limit = REACH / root_c
        within = (limit / square.sqrt()).clamp_max(1.0)
        time, end_time = _time(square.sqrt(), self.c), _time(square.sqrt() * within, self.c)
        along = p * r + q * cosh * across
        # Where the point was stopped at REACH the momentum goes there radially.
        back = torch.where(within < 1, along / square * (end_time / time - 1), 0.0)
        if momentum is not None:
            _write(momentum, self.direction * (r + back * p), self.sideways, cosh + back * q)
            momentum[..., :1].copy_(within * (along + back * square) / end_time)
        _write(self.points, self.direction * (within * p), self.sideways, within * q)
        self.points[..., :1].copy_(end_time)

    def _split(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        space = vector[..., 1:].double()
        radial = (self.direction * space).sum(-1, keepdim=True)
        return radial, torch.addcmul(space, self.direction, radial, value=-1)


class TextbookWalk(Walk):
    """The formulas as printed, on time entries as stored: right only where the points fit this c."""

    def __init__(self, points: Tensor, c: Tensor) -> None:
        self.points = points
        self.c = c
        self.x = points.detach().double()
        self.moment = torch.zeros_like(self.x)

    def gather(self, gradient: Tensor, momentum: Tensor | None, keep: float, weight: float) -> Tensor:
        """As :meth:`Walk.gather`."""
        flipped = torch.cat([-gradient[..., :1], gradient[..., 1:]], dim=-1).double()
        riemannian = flipped + self.c * lorentz.inner(self.x, flipped).unsqueeze(-1) * self.x
        self.moment = riemannian * weight
        if momentum is not None:
            self.moment = self.moment + keep * momentum.double()
        return lorentz.norm(riemannian).unsqueeze(-1)

    def decay(self, weight: float) -> None:
        """As :meth:`Walk.decay`."""
        if weight != 0:
            nearer = decay_to_origin(self.x, weight, self.c)
            self.moment = self._transport(nearer)
            self.x = nearer

    def follow(self, scale: Tensor | float, momentum: Tensor | None) -> None:
        """As :meth:`Walk.follow`."""
        step = self.moment * scale
        a = torch.sqrt(self.c) * lorentz.norm(step).unsqueeze(-1)
        end = torch.cosh(a) * self.x + sinhc(a) * step
        if momentum is not None:
            momentum.copy_(self._transport(end))
        self.points.copy_(end)

    def _transport(self, y: Tensor) -> Tensor:
        scale = lorentz.inner(y, self.moment) / (1 / self.c - lorentz.inner(self.x, y))
        return self.moment + scale.unsqueeze(-1) * (self.x + y)


def move_to_curvature(points: Tensor, momentum: Tensor | None, c_old: Tensor, c_new: Tensor) -> None:
    """Change of curvature in place: points keep their tangent vector at the origin, momenta theirs after transport.

    Step (3) of algorithm 1: `lorentz.change_curvature` for points, and for momenta `lorentz.transport` to the origin
    with the old c and out again with the new one. Points are stopped at REACH.
    """
    space = points.detach()[..., 1:].double()
    length = torch.linalg.vector_norm(space, dim=-1, keepdim=True)
    radius = torch.asinh(c_old.sqrt() * length) * torch.sqrt(c_new / c_old)
    new = torch.sinh(radius.clamp_max(math.asinh(REACH))) / c_new.sqrt()
    ratio = torch.where(length > 0, new / torch.where(length > 0, length, 1.0), 1.0)
    moved, time = space * ratio, _time(new, c_new)
    if momentum is not None:
        vector = momentum[..., 1:].double()
        radial = (space * vector).sum(-1, keepdim=True)
        stretch = torch.sqrt(c_new / c_old) * time / _time(length, c_old)
        pull = radial * torch.where(length > 0, (stretch - 1) / torch.where(length > 0, length, 1.0).square(), 0.0)
        momentum[..., 1:].copy_(torch.addcmul(vector, space, pull))
        momentum[..., :1].copy_(ratio * stretch * radial / time)
    points[..., 1:].copy_(moved)
    points[..., :1].copy_(time)


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
    return lorentz.lift(_shrink(x_time, weight, c) * x[..., 1:], c)


def _shrink(x_time: Tensor, weight: float, c: Tensor | float) -> Tensor:
    keep = 1 - weight
    return keep / torch.sqrt(keep**2 + weight**2 + 2 * weight * keep * c**0.5 * x_time)


def _time(length: Tensor, c: Tensor) -> Tensor:
    return torch.sqrt(1 / c + length.square())


def _write(target: Tensor, radial: Tensor, sideways: Tensor, share: Tensor) -> None:
    target[..., 1:].copy_(radial.addcmul_(sideways, share))
