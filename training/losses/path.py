"""Label-path term: images near the direction of each of their ancestors in the label tree."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from hyperbolic import lorentz
from training.recipe import PathConfig


class LabelPathLoss(nn.Module):
    """Sum over the ancestor levels l of the cross-entropy of softmax(-d(z, P_l)/t) with the image's ancestor.

    P_l: one free direction per ancestor, at a fixed radius that shrinks towards the root, so that general nodes lie
    nearer the origin. The fine level is left to the metric term. Source: measured design, no paper; see README.
    """

    def __init__(self, label_paths: Sequence[tuple[str, ...]], embedding_dim: int, config: PathConfig) -> None:
        """``label_paths``: the path of each class, most general first, all of one length of 2 or more."""
        super().__init__()
        self.temperature = config.temperature
        levels = len(label_paths[0]) - 1
        shares = (
            torch.linspace(config.root_radius, config.coarse_radius, levels) if levels > 1 else [config.coarse_radius]
        )
        self.radii = [float(share) * config.radius for share in shares]
        self.directions = nn.ParameterList()
        ancestors = []
        for level in range(1, levels + 1):
            names = sorted({path[:level] for path in label_paths})
            self.directions.append(nn.Parameter(torch.randn(len(names), embedding_dim)))
            ancestors.append([names.index(path[:level]) for path in label_paths])
        self.ancestors: Tensor
        self.register_buffer("ancestors", torch.tensor(ancestors), persistent=False)

    def points(self, level: int, c: Tensor) -> Float[Tensor, "nodes d"]:
        """Space parts of the ancestors of ``level`` (0: most general)."""
        z = F.normalize(self.directions[level], dim=-1) * self.radii[level]
        return lorentz.expmap0(z, c)[..., 1:]

    def forward(self, space: Float[Tensor, "n d"], classes: Int[Tensor, " n"], c: Tensor) -> Float[Tensor, ""]:
        """Space parts (n, d) and class indices (n,) -> scalar."""
        total = space.new_zeros(())
        for level in range(len(self.directions)):
            distances = lorentz.pairwise_distance(space, self.points(level, c), c)
            total = total + F.cross_entropy(-distances / self.temperature, self.ancestors[level][classes])
        return total
