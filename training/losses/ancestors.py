"""The ancestors of the classes as points: what the label-path term and the entailment cones pull images towards."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from hyperbolic import lorentz
from training.recipe import PathConfig


class AncestorPoints(nn.Module):
    """P_l: one free direction per ancestor, at a radius that is fixed for its level and shrinks towards the root.

    So general nodes lie nearer the origin than what they cover. The classes themselves have no point here: the fine
    level is left to the metric term.
    """

    def __init__(self, ancestors: Sequence[tuple[str, ...]], embedding_dim: int, config: PathConfig) -> None:
        """``ancestors``: those of each class, most general first, all equally many and at least one."""
        super().__init__()
        levels = len(ancestors[0])
        shares = (
            torch.linspace(config.root_radius, config.coarse_radius, levels) if levels > 1 else [config.coarse_radius]
        )
        self.radii = [float(share) * config.radius for share in shares]
        self.names = [sorted({path[:level] for path in ancestors}) for level in range(1, levels + 1)]
        """Paths of the ancestors of each level, in the order of its points."""
        self.directions = nn.ParameterList(nn.Parameter(torch.randn(len(names), embedding_dim)) for names in self.names)
        number = [{name: index for index, name in enumerate(names)} for names in self.names]
        of_class = [[level[path[: depth + 1]] for path in ancestors] for depth, level in enumerate(number)]
        self.of_class: Int[Tensor, "levels classes"]
        self.register_buffer("of_class", torch.tensor(of_class), persistent=False)

    def points(self, level: int, c: Tensor) -> Float[Tensor, "nodes d"]:
        """Space parts of the ancestors of ``level`` (0: most general)."""
        z = F.normalize(self.directions[level], dim=-1) * self.radii[level]
        return lorentz.expmap0(z, c)[..., 1:]

    def levels(self, classes: Int[Tensor, " n"], c: Tensor) -> list[tuple[Float[Tensor, "nodes d"], Int[Tensor, " n"]]]:
        """For each level its points, and which of them is the ancestor of each of the ``classes``."""
        return [(self.points(level, c), own[classes]) for level, own in enumerate(self.of_class)]
