"""The hyperboloid: pure functions on plain tensors.

Conventions: c > 0 and the space has sectional curvature -c; a point is x = (x_time, x_space) in R^{d+1}, time
first, on -x_time^2 + |x_space|^2 = -1/c; lengths are in the metric's own unit (a radius is 1/sqrt(c) at "one
radian"). The paper's K and geoopt's k are 1/c. Batch dimensions broadcast; the last axis is the vector.

**Only space parts are read.** A float32 time entry is rounded by more than what it has to say (at x_time =
2000 half an ulp is 6e-5 and 1/(2 c x_time) is 2.5e-4), so every function computes the time entries of points
(and of tangent vectors: u_time = <x_space, u_space> / x_time) anew from the space part, in float64. Gradients
are therefore those along the manifold, held in the space entries; the gradient in a time entry is 0. What is
subtracted like from like is subtracted in float64 and rounded once (`precision.double_inside`). Errors quoted
are for float32 inputs taken as exact.

Source: Bdeir & Landwehr, "Hyperbolic learning with curvature awareness", section 3.1, with K = 1/c.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from hyperbolic.precision import Scalar, asinhc, double_inside, full_precision, polar, safe_sqrt, sinhc, sqrt_of


@full_precision
def inner(x: Float[Tensor, "*#batch n"], y: Float[Tensor, "*#batch n"]) -> Float[Tensor, "..."]:
    """Return the Lorentzian inner product <x, y>_L = -x_t y_t + <x_s, y_s>, (..., d+1) x (..., d+1) -> (...).

    Plain formula on the entries as given: cancels far from the origin (absolute error about 1e-7 x_t y_t in
    float32). Use `distance` or `squared_distance` to compare points. Paper, section 3.1.
    """
    product = x * y
    return product[..., 1:].sum(-1) - product[..., 0]


@full_precision
def lift(x_space: Float[Tensor, "*batch d"], c: Scalar) -> Float[Tensor, "*batch d_plus_1"]:
    """Return the point over a space part: x_t = sqrt(1/c + |x_s|^2), (..., d) -> (..., d+1).

    The one way points are put on the manifold. Relative error of x_t <= 2e-7 in float32
    (test_lorentz.py::test_lift_puts_points_on_the_manifold). Paper, section 3.2, "Maximum Distance
    Rescaling".
    """
    x_time = torch.sqrt(1 / c + x_space.square().sum(-1, keepdim=True))
    return torch.cat([x_time, x_space], dim=-1)


def origin(d: int, c: Scalar, like: Tensor | None = None) -> Float[Tensor, "d_plus_1"]:
    """Return o = (1/sqrt(c), 0, ..., 0), shape (d+1,), in the format and on the device of `like`."""
    device = like.device if like is not None else c.device if isinstance(c, Tensor) else None
    dtype = torch.float64 if like is not None and like.dtype == torch.float64 else torch.float32
    return lift(torch.zeros(d, dtype=dtype, device=device), c)


def _time(x_space: Tensor, c: Scalar) -> Tensor:
    return torch.sqrt(1 / c + x_space.square().sum(-1, keepdim=True))


def _tangent(x_space: Tensor, u_space: Tensor, c: Scalar) -> Tensor:
    """Complete the space part of a vector tangent at x by its time entry."""
    u_time = (x_space * u_space).sum(-1, keepdim=True) / _time(x_space, c)
    return torch.cat([u_time.expand_as(u_space[..., :1]), u_space], dim=-1)


def _difference(x_space: Tensor, y_space: Tensor, c: Scalar) -> tuple[Tensor, Tensor]:
    """Return (x_t - y_t, x_s - y_s), the former by <x_s - y_s, x_s + y_s> / (x_t + y_t): no cancellation."""
    difference = x_space - y_space
    times = _time(x_space, c) + _time(y_space, c)
    return (difference * (x_space + y_space)).sum(-1, keepdim=True) / times, difference


@double_inside
def squared_distance(x: Float[Tensor, "*#batch n"], y: Float[Tensor, "*#batch n"], c: Scalar) -> Float[Tensor, "..."]:
    """Return |x - y|_L^2 = -2/c - 2 <x, y>_L >= 0 (Law et al. 2019), (..., d+1) x (..., d+1) -> (...).

    Computed as |x_s - y_s|^2 - (x_t - y_t)^2 without cancellation in x_t - y_t. Relative error <= 2e-7 for
    sqrt(c)|x_s| <= 2000 (test_lorentz.py::test_distance_against_mpmath). Paper, section 3.1, "Distance".
    """
    time, space = _difference(x[..., 1:], y[..., 1:], c)
    return (space.square().sum(-1) - time.square().squeeze(-1)).clamp_min(0.0)


@double_inside
def distance(x: Float[Tensor, "*#batch n"], y: Float[Tensor, "*#batch n"], c: Scalar) -> Float[Tensor, "..."]:
    """Return d(x, y) = 2/sqrt(c) asinh(sqrt(c)/2 |x - y|_L), (..., d+1) x (..., d+1) -> (...), elementwise.

    Equals arccosh(-c <x, y>_L)/sqrt(c) without its loss of digits. Where points touch the distance is exactly
    0 and so is its gradient. Relative error <= 2e-7 for sqrt(c)|x_s| <= 2000 at any distance
    (test_lorentz.py::test_distance_against_mpmath). Memory: a few float64 copies of the broadcast points; for
    all pairs use `pairwise_distance`. Paper, section 3.1, "Distance".
    """
    root_c = sqrt_of(c)
    return 2 / root_c * torch.asinh(root_c / 2 * safe_sqrt(squared_distance(x, y, c)))


@full_precision
def pairwise_distance(x_space: Float[Tensor, "n d"], y_space: Float[Tensor, "m d"], c: Scalar) -> Float[Tensor, "n m"]:
    """Return all distances between two sets of space parts, (n, d) x (m, d) -> (n, m).

    Polar form: with radii a, b (times sqrt(c)) and directions u, v, cosh(sqrt(c) d) - 1 = 2 sinh^2((a-b)/2) +
    sinh a sinh b (1 - <u, v>), both terms >= 0, and d = 2/sqrt(c) asinh(sqrt(half of it)). One float64 matrix
    product makes 1 - <u, v>; angles below 4.5e-8 rad, where float32 directions coincide, count as 0, so that
    d(x, x) = 0.

    Error, with d in units of 1/sqrt(c) and s the greater sqrt(c)|x_s|: <= 3e-7 d (float32's rounding; 0 for
    float64) + min(7e-8 s, 4e-15 s^2/d). At D_max that is relative 2e-6 for d = 0.1, 2e-4 for d = 0.01,
    absolute 1.4e-4 below (test_lorentz.py::test_pairwise_distance_against_mpmath, ..._of_near_pairs);
    `distance` is exact for near pairs too. Gradients are written out, in x, y and c, right at the origin and
    0 where points touch (test_lorentz.py::test_pairwise_gradients_far_out,
    ..._agree_with_finite_differences); once differentiable. On one core 120 x 512 pairs of 128 dimensions
    take 2 ms forward and 4 ms backward. Memory: 8 n m bytes x 3. Source: the hyperbolic law of cosines;
    paper, section 3.1.
    """
    sqrt_of(c)
    c_tensor = c if isinstance(c, Tensor) else torch.tensor(float(c), dtype=torch.float64)
    distances: Tensor = _PairwiseDistance.apply(x_space, y_space, c_tensor)
    return distances


_ALIGNED = 1e-15


class _PairwiseDistance(torch.autograd.Function):
    """`pairwise_distance` with its gradient in polar coordinates.

    Autograd through the formula would be wrong at the origin, where |x| has no derivative but the distance
    has, and noisy far out, where the radial derivative is cosh(a) times smaller than the tangential one in
    space coordinates.
    """

    @staticmethod
    def forward(ctx: Any, x_space: Tensor, y_space: Tensor, c: Tensor) -> Tensor:
        root_c = torch.sqrt(c.double())
        (u, x_length), (v, y_length) = polar(x_space.double()), polar(y_space.double())
        alpha, beta = (root_c * x_length).squeeze(-1), (root_c * y_length).squeeze(-1)
        versine = torch.rsub(u @ v.T, 1)
        versine = versine.masked_fill_(versine < _ALIGNED, 0.0).to(x_space.dtype)
        delta = (torch.asinh(alpha)[:, None] - torch.asinh(beta)[None, :]).to(x_space.dtype)
        # sinh^2(delta/2) and asinh(root) by expm1 and log1p, which torch vectorises: a sixth of the time.
        growth = torch.expm1(delta.abs())
        half = (growth / (1 + growth)).mul_(growth).mul_(0.25)
        half.addcmul_(versine * (alpha / 2)[:, None].to(half.dtype), beta[None, :].to(half.dtype))
        root = torch.sqrt(half)
        distances = torch.log1p(root + half / (1 + torch.sqrt(1 + half))).mul_((2 / root_c).to(root.dtype))
        ctx.save_for_backward(u, v, alpha, beta, versine, delta, root, root_c)
        ctx.c_dtype = c.dtype
        return distances

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        u, v, alpha, beta, versine, delta, root, root_c = ctx.saved_tensors
        # sinh(sqrt(c) d) = 2 root sqrt(1 + root^2); coincident points pull nowhere.
        sinh_d = torch.sqrt(1 + root.square()).mul_(root).mul_(2 * root_c.to(root.dtype))
        weight = gradient / sinh_d.masked_fill_(root == 0, torch.inf)
        growth = torch.expm1(delta.abs())
        sinh_delta = growth.add_(growth / (1 + growth)).mul_(0.5).copysign_(delta)
        pull = sinh_delta.mul_(weight)
        lever = (weight * versine).double()
        weight = weight.double()
        cosh_a, cosh_b = torch.sqrt(1 + alpha.square()), torch.sqrt(1 + beta.square())
        along_a = pull.sum(1, dtype=torch.float64) + cosh_a * (lever @ beta)
        along_b = -pull.sum(0, dtype=torch.float64) + cosh_b * (alpha @ lever)
        grad_x = _cartesian(u, along_a / cosh_a, weight @ (beta[:, None] * v)) * root_c
        grad_y = _cartesian(v, along_b / cosh_b, weight.T @ (alpha[:, None] * u)) * root_c
        grad_c = None
        if ctx.needs_input_grad[2]:
            # d(x, y, c) = delta(sqrt(c) x, sqrt(c) y)/sqrt(c): Euler's rule gives
            # the derivative in c from those in x and y.
            distances = 2 * torch.asinh(root) / root_c
            reach = (alpha * along_a / cosh_a).sum() + (beta * along_b / cosh_b).sum()
            grad_c = ((reach - (gradient * distances).sum(dtype=torch.float64)) / (2 * root_c**2)).to(ctx.c_dtype)
        return grad_x.to(gradient.dtype), grad_y.to(gradient.dtype), grad_c


def _cartesian(u: Tensor, radial: Tensor, sideways: Tensor) -> Tensor:
    """Return radial u - (sideways without its part along u); at the origin u is 0."""
    return radial[:, None] * u - (sideways - (sideways * u).sum(-1, keepdim=True) * u)


@full_precision
def expmap0(z: Float[Tensor, "*batch d"], c: Scalar) -> Float[Tensor, "*batch d_plus_1"]:
    """Return the point at the end of a tangent vector at the origin, (..., d) -> (..., d+1).

    x_s = sinh(r)/r z with r = sqrt(c)|z|, then lift; z is the space part of the tangent vector (its time
    entry is 0) and |z| the distance from the origin. Relative error <= 2e-6 of |x_s| for r <= 8.3, (r + 3)
    1.2e-7 in general (test_lorentz.py::test_expmap0_against_mpmath); overflows float32 from r = 44 on:
    rescale in the tangent space first. Paper, section 3.1.
    """
    r = sqrt_of(c) * torch.linalg.vector_norm(z, dim=-1, keepdim=True)
    return lift(sinhc(r) * z, c)


@full_precision
def logmap0(x: Float[Tensor, "*batch n"], c: Scalar) -> Float[Tensor, "*batch d"]:
    """Return the tangent vector at the origin that points to x, (..., d+1) -> (..., d): inverse of `expmap0`.

    z = asinh(s)/s x_s with s = sqrt(c)|x_s| (asinh of the space norm, never arccosh of the time). Relative
    error <= 5e-7 for s <= 1e6 (test_lorentz.py::test_logmap0_against_mpmath). Paper, section 3.1.
    """
    x_space = x[..., 1:]
    return asinhc(sqrt_of(c) * torch.linalg.vector_norm(x_space, dim=-1, keepdim=True)) * x_space


@double_inside
def tangent_norm(x: Float[Tensor, "*#batch n"], u: Float[Tensor, "*#batch n"], c: Scalar) -> Float[Tensor, "..."]:
    """Return |u|_L of a vector tangent at x, (..., d+1) x (..., d+1) -> (...).

    The time entry of u is taken from its space part: |u|_L^2 = |u_s|^2 - <x_s, u_s>^2 / x_t^2, computed
    without cancellation as |sideways|^2 + radial^2/(c x_t^2). Relative error <= 2e-7 for sqrt(c)|x_s| <= 1e6
    (test_lorentz.py::test_tangent_operations_far_out). Paper, section 3.1.
    """
    x_space, u_space = x[..., 1:], u[..., 1:]
    direction, length = polar(x_space)
    radial = (direction * u_space).sum(-1, keepdim=True)
    sideways = u_space - radial * direction
    return safe_sqrt(sideways.square().sum(-1) + (radial.square() / (1 + c * length.square())).squeeze(-1))


@double_inside
def norm(u: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """Return |u|_L = sqrt(|<u, u>_L|) of the entries as given, (..., d+1) -> (...).

    For float32 vectors tangent far out use `tangent_norm`: the rounding of u_t alone is 1e-7 u_t^2 here.
    Paper, section 3.1.
    """
    return safe_sqrt((u[..., 1:].square().sum(-1) - u[..., 0].square()).abs())


@double_inside
def expmap(x: Float[Tensor, "*#batch n"], u: Float[Tensor, "*#batch n"], c: Scalar) -> Float[Tensor, "..."]:
    """Return exp_x(u) = cosh(a) x + sinh(a)/a u with a = sqrt(c)|u|_L, lifted, two (..., d+1) -> (..., d+1).

    Exactly x where u = 0, with gradient. Relative error of the space part <= 2e-7 for sqrt(c)|x_s| <= 2000
    and a <= 8 (test_lorentz.py::test_expmap_and_logmap_against_geoopt). Paper, section 3.1.
    """
    x_space, u_space = x[..., 1:], u[..., 1:]
    a = (sqrt_of(c) * tangent_norm(x, u, c)).unsqueeze(-1)
    return lift(torch.cosh(a) * x_space + sinhc(a) * u_space, c)


@double_inside
def logmap(x: Float[Tensor, "*#batch n"], y: Float[Tensor, "*#batch n"], c: Scalar) -> Float[Tensor, "..."]:
    """Return log_x(y), the vector tangent at x that `expmap` takes to y, two (..., d+1) -> (..., d+1).

    arccosh(b)/sqrt(b^2 - 1) (y - b x) with b = -c <x, y>_L = 1 + 2w^2, computed as asinh(w)/(w sqrt(1 + w^2))
    ((y - x) - 2w^2 x): 0 where points touch, with gradient. Error as `expmap`'s. Paper, section 3.1.
    """
    x_space = x[..., 1:]
    w = (sqrt_of(c) / 2 * safe_sqrt(squared_distance(x, y, c))).unsqueeze(-1)
    u_space = (y[..., 1:] - x_space) - 2 * w.square() * x_space
    return _tangent(x_space, asinhc(w) / torch.sqrt(1 + w.square()) * u_space, c)


@double_inside
def transport(
    x: Float[Tensor, "*#batch n"], y: Float[Tensor, "*#batch n"], v: Float[Tensor, "*#batch n"], c: Scalar
) -> Float[Tensor, "..."]:
    """Return v transported in parallel from x to y, three (..., d+1) -> (..., d+1).

    v + <y, v>_L / (1/c - <x, y>_L) (x + y); keeps lengths and angles. Relative error of the space part <=
    2e-7, in |.|_L <= 1e-5 at sqrt(c)|x_s| <= 2000, from rounding the result
    (test_lorentz.py::test_transport_keeps_lengths_and_angles). Paper, section 3.1.
    """
    x, y = lift(x[..., 1:], c), lift(y[..., 1:], c)
    v = _tangent(x[..., 1:], v[..., 1:], c)
    # <y, v> = <y - x, v> because v is tangent at x; 1/c - <x, y> = 2/c + |x - y|^2/2.
    time, space = _difference(y[..., 1:], x[..., 1:], c)
    along = (space * v[..., 1:]).sum(-1, keepdim=True) - time * v[..., :1]
    scale = along / (2 / c + squared_distance(x, y, c).unsqueeze(-1) / 2)
    return _tangent(y[..., 1:], v[..., 1:] + scale * (x + y)[..., 1:], c)


@double_inside
def project_tangent(x: Float[Tensor, "*#batch n"], u: Float[Tensor, "*#batch n"], c: Scalar) -> Float[Tensor, "..."]:
    """Return u + c <x, u>_L x, the tangent part of a vector at x, two (..., d+1) -> (..., d+1).

    Tangent to float32's rounding: |u_t - <x_s, u_s>/x_t| <= 1.2e-7 |u_s|
    (test_lorentz.py::test_tangent_operations_far_out). Paper, section 3.2.
    """
    x_space = x[..., 1:]
    product = (x_space * u[..., 1:]).sum(-1, keepdim=True) - _time(x_space, c) * u[..., :1]
    return _tangent(x_space, u[..., 1:] + c * product * x_space, c)


@double_inside
def egrad2rgrad(x: Float[Tensor, "*#batch n"], u: Float[Tensor, "*#batch n"], c: Scalar) -> Float[Tensor, "..."]:
    """Return the Riemannian gradient from the Euclidean one, two (..., d+1) -> (..., d+1).

    The sign of the time entry is flipped (the metric's inverse), then the result projected on the tangent
    space at x. Error as `project_tangent`'s. Paper, section 3.2.
    """
    return project_tangent(x, torch.cat([-u[..., :1], u[..., 1:]], dim=-1), c)


@double_inside
def centroid(
    x: Float[Tensor, "*#batch n d_plus_1"], weights: Float[Tensor, "*#batch n"], c: Scalar
) -> Float[Tensor, "..."]:
    """Return the weighted centroid for the squared distance, (..., n, d+1) and (..., n) -> (..., d+1).

    sum v_i x_i / (sqrt(c) |sum v_i x_i|_L), |u|_L = sqrt(|<u, u>_L|); weights >= 0, not all 0, need not sum
    to 1. Relative error of the space part <= 1e-6 for sqrt(c)|x_s| <= 2000
    (test_lorentz.py::test_centroid_against_mpmath). Source: Law et al. 2019; paper, 3.1.
    """
    total = (weights.unsqueeze(-1) * lift(x[..., 1:], c)).sum(-2)
    return lift(total[..., 1:] / (sqrt_of(c) * norm(total).unsqueeze(-1)), c)


@double_inside
def change_curvature(x: Float[Tensor, "*batch n"], c_old: Scalar, c_new: Scalar) -> Float[Tensor, "*batch n"]:
    """Return expmap0(logmap0(x, c_old), c_new), (..., d+1) -> (..., d+1).

    Distances and directions from the origin are kept: its tangent space does not move. Relative error <= 2e-7
    of the space part (test_lorentz.py::test_change_of_curvature). Paper, section 3.2, algorithm 1.
    """
    return expmap0(logmap0(x, c_old), c_new)


def max_distance(c: Scalar, x_time_max: float) -> Scalar:
    """Return D_max = arccosh(sqrt(c) x_time_max)/sqrt(c), a number for a number, a 0-dim tensor for a tensor.

    The radius beyond which a time entry passes `x_time_max` (2e3 in float32, 1e8 in float64). At c = 1 and
    2e3 it is 8.294 (the paper's text says 9.1). Needs sqrt(c) x_time_max > 1; a tensor c below that gives
    NaN. Paper, eq. (1).
    """
    scaled = sqrt_of(c) * x_time_max
    if isinstance(scaled, Tensor):
        return torch.acosh(scaled) / sqrt_of(c)
    if scaled <= 1:
        raise ValueError(
            f"no point has x_time <= {x_time_max} at c = {c}: expected c > {x_time_max**-2:g}, raise c or x_time_max"
        )
    return math.acosh(scaled) / math.sqrt(c)


def delta_rel(distances: Float[Tensor, "n n"], chunk_bytes: int = 1 << 24) -> float:
    """Return 2 delta / diameter of a distance matrix (n, n), between 0 (a tree) and 1.

    delta = max_ij [max_k min(G_ik, G_kj) - G_ij] with Gromov products G_ij = (d_i0 + d_j0 - d_ij)/2 at point
    0: the 4-point condition at one base point, which is within a factor 2 of its maximum over all. Exact in
    the matrix's own precision. Memory: `chunk_bytes` beside the matrix; time n^3. Source: Fournier et al.
    2015; Khrulkov et al. 2020.
    """
    n = distances.shape[0]
    diameter = float(distances.max()) if n else 0.0
    if diameter == 0.0:
        return 0.0
    gromov = (distances[:, :1] + distances[:1, :] - distances) / 2
    rows = max(1, chunk_bytes // (n * n * gromov.element_size()))
    excess = [
        (torch.minimum(chunk[:, None, :], gromov[None, :, :]).amax(-1) - chunk).amax()
        for chunk in torch.split(gromov, rows)
    ]
    return 2 * max(0.0, float(torch.stack(excess).amax())) / diameter
