"""Entailment cones as a loss: images inside the cones of their ancestors, and outside those of the others."""

from collections.abc import Iterable

from jaxtyping import Float, Int
from torch import Tensor

from hyperbolic import cones, lorentz
from training.recipe import ConeConfig


def entailment_cone_loss(
    space: Float[Tensor, "n d"],
    levels: Iterable[tuple[Float[Tensor, "nodes d"], Int[Tensor, " n"]]],
    c: Tensor,
    config: ConeConfig,
) -> Float[Tensor, ""]:
    """Mean over images and levels of E = max(0, exterior angle at the ancestor - its half aperture), in radians.

    Space parts (n, d) and :meth:`training.losses.ancestors.AncestorPoints.levels` -> scalar. With ``margin`` also the
    mean over the level's other nodes of max(0, margin - (exterior angle - half aperture)): an image keeps that far from
    the cones of others. Ganea et al. write max(0, margin - E), which has no gradient for an image inside a wrong cone.
    Sources: Desai et al. (MERU), 2023; the margin Ganea et al., 2018.
    """
    total, number = space.new_zeros(()), 0
    for points, own in levels:
        number += 1
        apexes = lorentz.lift(points, c)
        aperture = cones.half_aperture(apexes, c, config.boundary)
        angle = cones.exterior_angle(apexes[own], lorentz.lift(space, c), c)
        total = total + (angle - aperture[own]).relu().mean()
        if config.margin is not None and len(points) > 1:
            outside = cones.pairwise_exterior_angle(points, space, c) - aperture[:, None]
            # The own ancestor's cone is no other's.
            near = (config.margin - outside).relu().scatter(0, own[None, :], 0.0)
            total = total + near.sum() / ((len(points) - 1) * len(space))
    return total / max(1, number)
