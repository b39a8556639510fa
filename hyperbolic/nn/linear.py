"""The Lorentz linear layer: a rotation of the space part, then a Lorentz boost.

Every Lorentz transformation is such a product, and both keep the hyperboloid of every curvature. Composed in
the tangent space at the origin, where a rotation is the same rotation and a boost has a closed form that
cannot overflow.

Source: Dai et al., "A hyperbolic-to-hyperbolic graph convolutional network", CVPR 2021; Bdeir & Landwehr,
section 3.3.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hyperbolic.lorentz import lift
from hyperbolic.precision import Scalar, asinhc, full_precision, sqrt_of, tanhc

# Beyond this radius (in units of 1/sqrt(c)) sinh and cosh are handled by their logarithms.
_FAR = 15.0


def cayley(skew: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """Return (I + A)^-1 (I - A) with A = tril(S, -1) - tril(S, -1)^T.

    Orthogonal, of determinant +1, and the identity at S = 0. Only the part of S below the diagonal is read.
    |Q^T Q - I| <= 5e-6 entrywise in float32 for entries up to 1 and n = 128
    (test_linear.py::test_cayley_is_a_rotation). Time n^3. Paper, section 3.3, algorithm 2.
    """
    lower = torch.tril(skew, -1)
    antisymmetric = lower - lower.T
    identity = torch.eye(skew.shape[0], dtype=skew.dtype, device=skew.device)
    turned: Tensor = torch.linalg.solve(identity + antisymmetric, identity - antisymmetric)
    return turned


def rotation(z: Float[Tensor, "*batch n"], weight: Float[Tensor, "m n"]) -> Float[Tensor, "*batch m"]:
    """Return W z |z|/|W z|: the direction of W z at the length of z, (..., n) x (m, n) -> (..., m).

    The norm-preserving map for layers that reduce the dimension; for a W with orthonormal columns it is W z.
    `weight` is laid out as in torch.nn.Linear (the paper writes W^T x). 0 where W z is 0, with gradient 0.
    Relative error of the length <= 1e-6 (test_linear.py::test_rotation_keeps_norms). Paper, section 3.3.
    """
    turned = z @ weight.T
    length = torch.linalg.vector_norm(turned, dim=-1, keepdim=True)
    nowhere = length == 0
    wanted = torch.linalg.vector_norm(z, dim=-1, keepdim=True)
    return turned * torch.where(nowhere, 0.0, wanted / torch.where(nowhere, 1.0, length))


@full_precision
def boost(x: Float[Tensor, "*batch n"], p: Float[Tensor, "d"], c: Scalar) -> Float[Tensor, "*batch n"]:
    """Return the Lorentz boost of points by the proper velocity p = gamma v, (..., d+1) x (d,) -> (..., d+1).

    gamma = sqrt(1 + |p|^2); x_t' = gamma x_t - <p, x_s>, x_s' = x_s + p <p, x_s>/(gamma + 1) - p x_t; an
    isometry that moves the origin by asinh(|p|)/sqrt(c) against p. The result is lifted from its space part.
    Every p stands for a |v| < 1. Error <= 3e-7 gamma |x_s| (test_linear.py::test_boost_against_mpmath).
    Paper, section 3.3, eq. (5); Dai et al. 2021.
    """
    x_space = x[..., 1:]
    return lift(_boosted_space(lift(x_space, c)[..., :1], x_space, p), c)


@full_precision
def boost_tangent(z: Float[Tensor, "*batch d"], p: Float[Tensor, "d"], c: Scalar) -> Float[Tensor, "*batch d"]:
    """Return logmap0(boost(expmap0(z))) in the tangent space, (..., d) x (d,) -> (..., d).

    With r = sqrt(c)|z| and direction u, the boost (which is linear) of (1, tanh(r) u) has a space part s',
    and the new radius is asinh(|s'| cosh r), beyond r = 15 in logarithms. Finite up to |z| = 1e18. Error <=
    1e-6 (1 + |z|)(1 + |p|) for |p| <= 1 (test_linear.py::test_tangent_against_float64_points). Paper, section
    3.3; Dai et al. 2021.
    """
    root_c = sqrt_of(c)
    r = root_c * torch.linalg.vector_norm(z, dim=-1, keepdim=True)
    space = _boosted_space(torch.ones_like(r), root_c * tanhc(r) * z, p)
    length = torch.linalg.vector_norm(space, dim=-1, keepdim=True)
    far = r > _FAR
    near_cosh = torch.cosh(torch.where(far, 0.0, r))
    near = near_cosh * asinhc(near_cosh * length)
    # asinh(y) = log y + log(1 + sqrt(1 + y^-2)), log cosh r = r - log 2 + log(1 + e^(-2r))
    length = torch.where(far, length, 1.0).clamp_min(torch.finfo(z.dtype).tiny)
    far_r = torch.where(far, r, _FAR)
    log_y = torch.log(length) + far_r - math.log(2) + torch.log1p(torch.exp(-2 * far_r))
    radius = log_y + torch.log1p(torch.sqrt(1 + torch.exp(-2 * log_y)))
    return torch.where(far, radius / length, near) / root_c * space


def _boosted_space(x_time: Tensor, x_space: Tensor, p: Tensor) -> Tensor:
    gamma = torch.sqrt(1 + p.square().sum())
    along = (x_space * p).sum(-1, keepdim=True)
    return x_space + (along / (gamma + 1) - x_time) * p


class LorentzLinear(nn.Module):
    """Rotation of the space part, then a boost with learned velocity |v| < 1: (..., in+1) -> (..., out+1).

    `in_features <= out_features`: an isometry with orthonormal columns, Cayley(skew) applied to a fixed
    random orthogonal `base` (so training starts at `base`, where the Cayley map is best conditioned, and
    reaches every rotation of it but a set of measure 0). Otherwise the norm-preserving map of `rotation` with
    a free weight, orthogonal at the start. The velocity is held as `proper_velocity` p = v/sqrt(1 - |v|^2),
    unconstrained and 0 at the start, in units of the time coordinate: it moves the origin by
    asinh(|p|)/sqrt(c), so with p = sqrt(c) b and c -> 0 the layer tends to the Euclidean z -> R z - b
    (test_linear.py::test_small_curvature_tends_to_the_euclidean_layer).

    Source: Dai et al. 2021; Bdeir & Landwehr, section 3.3 and algorithm 2.
    """

    base: Tensor

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        if in_features < 1 or out_features < 1:
            raise ValueError(f"expected in_features >= 1 and out_features >= 1, got {in_features} and {out_features}")
        self.in_features = in_features
        self.out_features = out_features
        start = nn.init.orthogonal_(torch.empty(out_features, in_features))
        if in_features <= out_features:
            if in_features == out_features and torch.linalg.det(start) < 0:
                start[0].neg_()  # a rotation, not a reflection
            self.register_buffer("base", start)
            self.skew = nn.Parameter(torch.zeros(out_features, out_features))
        else:
            self.weight = nn.Parameter(start)
        self.proper_velocity = nn.Parameter(torch.zeros(out_features))

    @property
    def isometric(self) -> bool:
        """Whether the rotation keeps all distances (in <= out), not only those from the origin."""
        return self.in_features <= self.out_features

    def matrix(self) -> Float[Tensor, "m n"]:
        """Return the weight (out, in); its columns are orthonormal where the layer is isometric."""
        return cayley(self.skew) @ self.base if self.isometric else self.weight

    @full_precision
    def rotate(self, z: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m"]:
        """Rotate space parts or tangent vectors at the origin, (..., in) -> (..., out)."""
        weight = self.matrix().to(z.dtype)
        return z @ weight.T if self.isometric else rotation(z, weight)

    @full_precision
    def forward(self, x: Float[Tensor, "*batch n"], c: Scalar) -> Float[Tensor, "*batch m"]:
        """Map points, (..., in+1) -> (..., out+1)."""
        turned = self.rotate(x[..., 1:])
        return boost(lift(turned, c), self.proper_velocity.to(turned.dtype), c)

    @full_precision
    def tangent(self, z: Float[Tensor, "*batch n"], c: Scalar) -> Float[Tensor, "*batch m"]:
        """Map tangent vectors at the origin, (..., in) -> (..., out), as `forward` does points."""
        turned = self.rotate(z)
        return boost_tangent(turned, self.proper_velocity.to(turned.dtype), c)

    def extra_repr(self) -> str:
        """Show the sizes in the module's printed form."""
        kind = "isometry" if self.isometric else "norm-preserving"
        return f"in_features={self.in_features}, out_features={self.out_features}, {kind}"
