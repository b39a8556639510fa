"""The Poincare ball of the same c: the names of `lorentz`, and the isometries between the two.

Conventions: points p in R^d with c|p|^2 < 1, sectional curvature -c, metric (lambda_p)^2 |.|^2 with lambda_p
= 2/(1 - c|p|^2). Tangent vectors are in the ball's coordinates, as in Ganea et al. and HIER: at the origin
lambda = 2, so `expmap0(z)` lies at distance 2|z| and equals lorentz.expmap0(2z). Everything is computed in
float64 and rounded once, but a float32 point near the rim says little: at distance r from the origin its own
rounding is worth 3e-8 sinh(sqrt(c) r)/sqrt(c). Work on the hyperboloid far out.

Source: Ganea et al., "Hyperbolic neural networks", NeurIPS 2018; Kim et al., HIER, CVPR 2023.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from hyperbolic import lorentz
from hyperbolic.precision import (
    Scalar,
    asinhc,
    atanhc,
    double_inside,
    full_precision,
    safe_sqrt,
    sqrt_of,
    tanhc,
)

RIM = 1e-4
"""Maps end at sqrt(c)|p| = 1 - RIM at the latest (distance 9.9/sqrt(c)), inside the ball in float32."""


@double_inside
def to_lorentz(p: Float[Tensor, "*batch d"], c: Scalar) -> Float[Tensor, "*batch d_plus_1"]:
    """Return the point of the hyperboloid, (..., d) -> (..., d+1): x_s = 2p/(1 - c|p|^2), then lift.

    An isometry. Relative error of x_s <= 2e-7 for the p given (test_poincare.py::test_isometry_round_trip).
    """
    return lorentz.lift(2 / (1 - c * p.square().sum(-1, keepdim=True)) * p, c)


@double_inside
def from_lorentz(x: Float[Tensor, "*batch n"], c: Scalar) -> Float[Tensor, "*batch d"]:
    """Return the point of the ball, (..., d+1) -> (..., d): p = x_s/(1 + sqrt(c) x_t).

    An isometry, inverse of `to_lorentz`. Relative error <= 2e-7 (test_poincare.py::test_isometry_round_trip).
    """
    lifted = lorentz.lift(x[..., 1:], c)
    return lifted[..., 1:] / (1 + sqrt_of(c) * lifted[..., :1])


@double_inside
def conformal_factor(p: Float[Tensor, "*batch d"], c: Scalar) -> Float[Tensor, "*batch"]:
    """Return lambda_p = 2/(1 - c|p|^2), (..., d) -> (...)."""
    return 2 / (1 - c * p.square().sum(-1))


@full_precision
def project(p: Float[Tensor, "*batch d"], c: Scalar) -> Float[Tensor, "*batch d"]:
    """Return p pulled back to sqrt(c)|p| = 1 - RIM where it lies beyond, (..., d) -> (..., d)."""
    return clip_radius(p, (1 - RIM) / sqrt_of(c))


@full_precision
def clip_radius(z: Float[Tensor, "*batch d"], radius: Scalar) -> Float[Tensor, "*batch d"]:
    """Return z min(1, radius/|z|), (..., d) -> (..., d): HIER's clipping of features before `expmap0`.

    The identity, with its gradient, at z = 0. Source: Guo et al., "Clipped hyperbolic classifiers", CVPR
    2022; HIER clips at 2.3.
    """
    length = torch.linalg.vector_norm(z, dim=-1, keepdim=True)
    return torch.where(length > radius, radius / torch.where(length > radius, length, 1.0), 1.0) * z


@double_inside
def mobius_add(p: Float[Tensor, "*#batch d"], q: Float[Tensor, "*#batch d"], c: Scalar) -> Float[Tensor, "..."]:
    """Return the Moebius sum of p and q, (..., d) x (..., d) -> (..., d).

    ((1 + 2c<p,q> + c|q|^2) p + (1 - c|p|^2) q) / (1 + 2c<p,q> + c^2|p|^2|q|^2). Relative error <= 1e-6 of the
    greater of |p|, |q| (test_poincare.py::test_mobius_add_against_geoopt). Ganea et al., eq. (4).
    """
    product = (p * q).sum(-1, keepdim=True)
    p2, q2 = p.square().sum(-1, keepdim=True), q.square().sum(-1, keepdim=True)
    total = (1 + 2 * c * product + c * q2) * p + (1 - c * p2) * q
    return total / (1 + 2 * c * product + c**2 * p2 * q2)


@double_inside
def distance(p: Float[Tensor, "*#batch d"], q: Float[Tensor, "*#batch d"], c: Scalar) -> Float[Tensor, "..."]:
    """Return 2/sqrt(c) asinh(sqrt(c)|p - q| / sqrt((1 - c|p|^2)(1 - c|q|^2))), (..., d) x (..., d) -> (...).

    Equals the arccosh and the artanh form without their loss of digits; 0 with gradient 0 where points touch.
    Relative error <= 2e-7 for the p, q given (test_poincare.py::test_distance_against_mpmath). Ganea et al.,
    eq. (6).
    """
    root_c = sqrt_of(c)
    rims = (1 - c * p.square().sum(-1)) * (1 - c * q.square().sum(-1))
    return 2 / root_c * torch.asinh(root_c * safe_sqrt((p - q).square().sum(-1) / rims))


@double_inside
def pairwise_distance(p: Float[Tensor, "n d"], q: Float[Tensor, "m d"], c: Scalar) -> Float[Tensor, "n m"]:
    """Return all distances between two sets of points, (n, d) x (m, d) -> (n, m).

    Through `lorentz.pairwise_distance`, with its errors, gradients and memory
    (test_poincare.py::test_pairwise_distance_equals_distance).
    """
    return lorentz.pairwise_distance(to_lorentz(p, c)[:, 1:], to_lorentz(q, c)[:, 1:], c)


@double_inside
def expmap0(z: Float[Tensor, "*batch d"], c: Scalar) -> Float[Tensor, "*batch d"]:
    """Return tanh(sqrt(c)|z|) z/(sqrt(c)|z|), (..., d) -> (..., d), at distance 2|z|, ending at the rim.

    Relative error <= 2e-7 (test_poincare.py::test_maps_agree_with_the_hyperboloid). Ganea et al., lemma 2.
    """
    return project(tanhc(sqrt_of(c) * torch.linalg.vector_norm(z, dim=-1, keepdim=True)) * z, c)


@double_inside
def logmap0(p: Float[Tensor, "*batch d"], c: Scalar) -> Float[Tensor, "*batch d"]:
    """Return artanh(sqrt(c)|p|) p/(sqrt(c)|p|), (..., d) -> (..., d): inverse of `expmap0`.

    Ganea et al., lemma 2.
    """
    return atanhc(sqrt_of(c) * torch.linalg.vector_norm(p, dim=-1, keepdim=True)) * p


@double_inside
def expmap(p: Float[Tensor, "*#batch d"], u: Float[Tensor, "*#batch d"], c: Scalar) -> Float[Tensor, "..."]:
    """Return p (+) tanh(sqrt(c) lambda_p |u|/2) u/(sqrt(c)|u|), two (..., d) -> (..., d), ending at the rim.

    Exactly p where u = 0, with gradient (test_poincare.py::test_expmap_and_logmap_against_geoopt). Ganea et
    al., lemma 2.
    """
    half = conformal_factor(p, c).unsqueeze(-1) / 2 * u
    step = tanhc(sqrt_of(c) * torch.linalg.vector_norm(half, dim=-1, keepdim=True)) * half
    return project(mobius_add(p, step, c), c)


@double_inside
def logmap(p: Float[Tensor, "*#batch d"], q: Float[Tensor, "*#batch d"], c: Scalar) -> Float[Tensor, "..."]:
    """Return the vector at p that `expmap` takes to q, two (..., d) -> (..., d).

    2/(sqrt(c) lambda_p) artanh(sqrt(c)|w|) w/|w| with w = (-p) (+) q, written with P = 1 - c|p|^2, Q = 1 -
    c|q|^2 and D = q - p so that nothing cancels: w = (P D - c|D|^2 p)/(P Q + c|D|^2) and artanh(sqrt(c)|w|) =
    asinh(sqrt(c)|D|/sqrt(P Q)). 0 where points touch, with gradient
    (test_poincare.py::test_expmap_and_logmap_against_geoopt). Ganea et al., lemma 2.
    """
    rim_p, rim_q = 1 - c * p.square().sum(-1, keepdim=True), 1 - c * q.square().sum(-1, keepdim=True)
    difference = q - p
    apart = difference.square().sum(-1, keepdim=True)
    sum_w = rim_p * difference - c * apart * p
    rims = rim_p * rim_q
    return rim_p * asinhc(sqrt_of(c) * safe_sqrt(apart / rims)) / torch.sqrt(rims * (rims + c * apart)) * sum_w


@double_inside
def centroid(p: Float[Tensor, "*#batch n d"], weights: Float[Tensor, "*#batch n"], c: Scalar) -> Float[Tensor, "..."]:
    """Return the weighted centroid of `lorentz.centroid` in the ball, (..., n, d) and (..., n) -> (..., d).

    Equals the Einstein midpoint taken in the Klein model (Kim et al. and Khrulkov et al. average so).
    """
    return from_lorentz(lorentz.centroid(to_lorentz(p, c), weights, c), c)


@full_precision
def egrad2rgrad(p: Float[Tensor, "*#batch d"], u: Float[Tensor, "*#batch d"], c: Scalar) -> Float[Tensor, "..."]:
    """Return the Riemannian gradient u/lambda_p^2 from the Euclidean one, two (..., d) -> (..., d)."""
    return u / conformal_factor(p, c).unsqueeze(-1).square()


@full_precision
def change_curvature(p: Float[Tensor, "*batch d"], c_old: Scalar, c_new: Scalar) -> Float[Tensor, "*batch d"]:
    """Return expmap0(logmap0(p, c_old), c_new), (..., d) -> (..., d); radii are kept up to the rim."""
    return expmap0(logmap0(p, c_old), c_new)
