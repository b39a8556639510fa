"""Label-path term: images near the direction of each of their ancestors in the label tree."""

from collections.abc import Iterable

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from hyperbolic import lorentz


def label_path_loss(
    space: Float[Tensor, "n d"],
    levels: Iterable[tuple[Float[Tensor, "nodes d"], Int[Tensor, " n"]]],
    c: Tensor,
    temperature: float,
) -> Float[Tensor, ""]:
    """Sum over the ancestor levels l of the cross-entropy of softmax(-d(z, P_l)/t) with the image's ancestor.

    Space parts (n, d) and :meth:`training.losses.ancestors.AncestorPoints.levels` -> scalar; ``temperature`` t in
    geodesic units. Source: measured design, no paper; see README.
    """
    total = space.new_zeros(())
    for points, own in levels:
        total = total + F.cross_entropy(-lorentz.pairwise_distance(space, points, c) / temperature, own)
    return total
