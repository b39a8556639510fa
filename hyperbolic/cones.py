"""Entailment cones: what a point implies is the region behind it, as seen from the origin.

The cone of x is a set of geodesics that leave x, those within `half_aperture` of the direction straight away from the
origin; y lies in it where its `exterior_angle` at x is not greater. Cones are wide near the origin and narrow far out,
and a cone holds the cones of the points in it (for sqrt(c)|x_s| >= 2 boundary). Angles are in radians and do not depend
on the model of hyperbolic space.

Conventions and the reading of space parts only as in `lorentz`. Sources: Ganea, Becigneul & Hofmann, "Hyperbolic
entailment cones for learning hierarchical embeddings", 2018 (on the ball); Le et al., "Inferring concept hierarchies
from text corpora via hyperbolic embeddings", 2019, and Desai et al., "Hyperbolic image-text representations" (MERU),
2023 (on the hyperboloid).
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hyperbolic.precision import Scalar, double_inside, polar, safe_sqrt, sqrt_of

BOUNDARY = 0.1
"""K of Ganea et al. and of MERU."""


def _check_boundary(boundary: float) -> None:
    if not boundary > 0:
        raise ValueError(f"expected boundary > 0 (cones start at sqrt(c)|x_s| = 2 boundary), got {boundary}")


@double_inside
def half_aperture(x: Float[Tensor, "*batch n"], c: Scalar, boundary: float = BOUNDARY) -> Float[Tensor, "*batch"]:
    """Return arcsin(2 boundary / (sqrt(c)|x_s|)), (..., d+1) -> (...), in radians.

    On the ball arcsin(boundary (1 - c|p|^2) / (sqrt(c)|p|)). Nearer the origin than sqrt(c)|x_s| = 2 boundary, where
    the formula ends, pi/2 with gradient 0: a half-space; just outside, the true gradient grows like 1/sqrt(distance to
    that shell) and stays finite. Relative error <= 1e-7 in float32
    (test_cones.py::test_half_aperture_against_mpmath).
    Source: Ganea et al. 2018 (psi) on the ball; MERU (aper) on the hyperboloid.
    """
    _check_boundary(boundary)
    scaled = sqrt_of(c) * torch.linalg.vector_norm(x[..., 1:], dim=-1)
    # atan2 keeps its digits near pi/2, where arcsin has none left.
    return torch.atan2(torch.full_like(scaled, 2 * boundary), safe_sqrt(scaled.square() - (2 * boundary) ** 2))


@double_inside
def exterior_angle(x: Float[Tensor, "*#batch n"], y: Float[Tensor, "*#batch n"], c: Scalar) -> Float[Tensor, "..."]:
    """Return the angle at x between the ray away from the origin and the geodesic to y, in [0, pi], elementwise.

    (..., d+1) x (..., d+1) -> (...), radians: pi less the angle at x of the triangle origin, x, y. The textbook form
    arccos((y_t + x_t c<x,y>_L) / (|x_s| sqrt((c<x,y>_L)^2 - 1))) cancels far out and has no derivative on the ray.
    Here y as seen from x is split into a part along the ray and one across it: with radii a, b (times sqrt(c)), the
    direction u of x, y_u = sqrt(c)<y_s, u> and y_v = sqrt(c)|y_s - <y_s, u> u|, the angle is
    atan2(y_v, sinh(b - a) - cosh(a) (sinh(b) - y_u)).

    Where the points touch and where y lies on the ray: 0 with gradient 0, on the way back to the origin pi. From the
    origin, where no direction leads away, pi/2, the half aperture there. Absolute error <= 3e-7 rad in float32 for
    radii 0.05 to 8.3 at any angle (test_cones.py::test_exterior_angle_against_mpmath), which is pi's own rounding.
    Memory: a few float64 copies of the broadcast points; for all pairs `pairwise_exterior_angle`. Source: MERU
    (ext) and Ganea et al. 2018 (Xi on the ball); the split is the boost that brings x to the origin.
    """
    x_space, y_space = x[..., 1:], y[..., 1:]
    root_c = sqrt_of(c)
    direction, length = polar(x_space)
    step = y_space - x_space
    along = (step * direction).sum(-1, keepdim=True)
    across = root_c * safe_sqrt((step - along * direction).square().sum(-1))
    sinh_a = root_c * length.squeeze(-1)
    y_along = sinh_a + root_c * along.squeeze(-1)
    sinh_b = safe_sqrt(y_along.square() + across.square())
    # sinh(b)^2 - sinh(a)^2 without cancellation
    growth = c * (step * (x_space + y_space)).sum(-1)
    return _angle(sinh_a, sinh_b, growth, y_along, across)


def _angle(sinh_a: Tensor, sinh_b: Tensor, growth: Tensor, y_along: Tensor, across: Tensor) -> Tensor:
    """Return atan2(across, sinh(b - a) - cosh(a) (sinh(b) - y_along)), 0 where the points touch."""
    cosh_a, cosh_b = torch.sqrt(1 + sinh_a.square()), torch.sqrt(1 + sinh_b.square())
    both = sinh_b * cosh_a + cosh_b * sinh_a
    ahead = growth / torch.where(both > 0, both, 1.0)
    # sinh(b) - y_along = across^2/(sinh(b) + y_along) where y is ahead of the origin
    total = sinh_b + y_along
    front = y_along > 0
    aside = torch.where(front, across.square() / torch.where(front, total, 1.0), sinh_b - y_along)
    radial = ahead - cosh_a * aside
    touching = (across == 0) & (radial == 0)
    return torch.atan2(across, torch.where(touching, 1.0, radial))


@double_inside
def pairwise_exterior_angle(
    x_space: Float[Tensor, "n d"], y_space: Float[Tensor, "m d"], c: Scalar
) -> Float[Tensor, "n m"]:
    """Return the exterior angles of all m points at all n apexes, from space parts, (n, d) x (m, d) -> (n, m), radians.

    `exterior_angle` in polar form, with 1 - <u, v> from one float64 matrix product: directions nearer each other than
    4.5e-8 rad count as equal. Absolute error in float32, for radii 0.05 to 8.3 and points 0.1 apart: <= 5e-4 rad, and
    <= 1e-6 rad where the directions differ by 1e-4 rad or more
    (test_cones.py::test_pairwise_angles_are_the_elementwise_ones). Memory: about 12 float64 matrices (n, m).
    """
    root_c = sqrt_of(c)
    (u, x_length), (v, y_length) = polar(x_space), polar(y_space)
    versine = 1 - u @ v.T
    versine = torch.where(versine < 1e-15, 0.0, versine).clamp_max(2.0)
    sinh_a, sinh_b = (root_c * x_length).expand_as(versine), (root_c * y_length.T).expand_as(versine)
    across = sinh_b * safe_sqrt(versine * (2 - versine))
    growth = (sinh_b - sinh_a) * (sinh_b + sinh_a)
    return _angle(sinh_a, sinh_b, growth, sinh_b * (1 - versine), across)


@torch.no_grad()
def contains(
    x: Float[Tensor, "*#batch n"], y: Float[Tensor, "*#batch n"], c: Scalar, boundary: float = BOUNDARY
) -> Bool[Tensor, "..."]:
    """Return whether y lies in the cone of x, (..., d+1) x (..., d+1) -> (...), elementwise.

    `exterior_angle` <= `half_aperture`, both to float32's rounding: x lies in its own cone, and the origin's holds all.
    Source: Ganea et al. 2018.
    """
    return exterior_angle(x, y, c) <= half_aperture(x, c, boundary)
