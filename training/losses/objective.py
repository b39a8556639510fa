"""Objective: the weighted sum of the terms a recipe names, with their proxies."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from hyperbolic import lorentz
from hyperbolic.curvature import Curvature
from hyperbolic.models.config import ModelConfig
from training.losses.ancestors import AncestorPoints
from training.losses.cone import entailment_cone_loss
from training.losses.hierarchy import HierarchicalProxyLoss
from training.losses.library import GeodesicSimilarity, build_library_loss
from training.losses.pairwise import pairwise_cross_entropy
from training.losses.path import label_path_loss
from training.recipe import LossConfig


class Objective(nn.Module):
    """Space parts and classes -> the loss, and each term's value for the log.

    Proxy Anchor and the library's losses see the angle (the direction of the space part) or, by the recipe, geodesic
    distance, which SC, LHIER and the label path always see. Geometry is
    computed in float32 whatever the surrounding autocast.
    """

    def __init__(
        self,
        config: LossConfig,
        model: ModelConfig,
        curvature: Curvature,
        label_paths: Sequence[tuple[str, ...]],
        ancestors: Sequence[tuple[str, ...]] | None = None,
    ) -> None:
        """``label_paths``: of each class; ``ancestors``: of each class, where they are not those of its label path."""
        super().__init__()
        self.config = config
        dim = model.embedding_dim
        self.similarity = GeodesicSimilarity(config.geodesic_scale) if config.distance == "geodesic" else None
        if config.proxy_anchor is not None:
            self.proxy_anchor = build_library_loss(config.proxy_anchor, len(label_paths), dim, self.similarity)
        if config.library is not None:
            self.library = build_library_loss(config.library, len(label_paths), dim, self.similarity)
        if config.hierarchy is not None:
            self.hierarchy = HierarchicalProxyLoss(model, curvature, config.hierarchy)
        if ancestors is None:
            ancestors = [path[:-1] for path in label_paths]
        # A label path of one level has no ancestors: nothing to pull together.
        self.has_path = config.path is not None and len(ancestors[0]) > 0
        if config.path is not None and self.has_path:
            self.path = AncestorPoints(ancestors, dim, config.path)

    def forward(
        self, space: Float[Tensor, "n d"], classes: Int[Tensor, " n"], c: Float[Tensor, ""]
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Scalar loss with gradient, and the unweighted terms, detached."""
        config = self.config
        terms: dict[str, Tensor] = {}
        total = space.new_zeros(())
        with torch.autocast(space.device.type, enabled=False):
            space = space.float()
            seen = F.normalize(space, dim=-1)
            if self.similarity is not None:
                seen, self.similarity.c = space, c
            if config.proxy_anchor is not None:
                terms["proxy_anchor"] = self.proxy_anchor(seen, classes)
                total = total + config.proxy_anchor.weight * terms["proxy_anchor"]
            if config.library is not None:
                terms["library"] = self.library(seen, classes)
                total = total + config.library.weight * terms["library"]
            if config.pairwise is not None:
                distances = lorentz.pairwise_distance(space, space, c)
                terms["pairwise"] = pairwise_cross_entropy(distances, classes, config.pairwise.temperature)
                total = total + config.pairwise.weight * terms["pairwise"]
            if config.hierarchy is not None:
                terms["hierarchy"] = self.hierarchy(space, classes, c)
                total = total + config.hierarchy.weight * terms["hierarchy"]
            if config.path is not None and self.has_path:
                levels = self.path.levels(classes, c)
                terms["path"] = label_path_loss(space, levels, c, config.path.temperature)
                total = total + config.path.weight * terms["path"]
                if config.cone is not None:
                    terms["cone"] = entailment_cone_loss(space, levels, c, config.cone)
                    total = total + config.cone.weight * terms["cone"]
        return total, {name: value.detach() for name, value in terms.items()}
