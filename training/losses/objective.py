"""Objective: the weighted sum of the terms a recipe names, with their proxies."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pytorch_metric_learning.losses import ProxyAnchorLoss
from torch import Tensor, nn

from hyperbolic import lorentz
from hyperbolic.curvature import Curvature
from hyperbolic.models.config import ModelConfig
from training.losses.hierarchy import HierarchicalProxyLoss
from training.losses.pairwise import pairwise_cross_entropy
from training.losses.path import LabelPathLoss
from training.recipe import LossConfig


class Objective(nn.Module):
    """Space parts and classes -> the loss, and each term's value for the log.

    Proxy Anchor sees the angle only (the direction of the space part); SC, LHIER and the label path see geodesic
    distance. Geometry is computed in float32 whatever the surrounding autocast.
    """

    def __init__(
        self, config: LossConfig, model: ModelConfig, curvature: Curvature, label_paths: Sequence[tuple[str, ...]]
    ) -> None:
        super().__init__()
        self.config = config
        dim = model.embedding_dim
        if config.proxy_anchor is not None:
            self.proxy_anchor = ProxyAnchorLoss(
                len(label_paths), dim, margin=config.proxy_anchor.margin, alpha=config.proxy_anchor.alpha
            )
        if config.hierarchy is not None:
            self.hierarchy = HierarchicalProxyLoss(model, curvature, config.hierarchy)
        # A label path of one level has no ancestors: nothing to pull together.
        self.has_path = config.path is not None and len(label_paths[0]) > 1
        if config.path is not None and self.has_path:
            self.path = LabelPathLoss(label_paths, dim, config.path)

    def forward(
        self, space: Float[Tensor, "n d"], classes: Int[Tensor, " n"], c: Float[Tensor, ""]
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Scalar loss with gradient, and the unweighted terms, detached."""
        config = self.config
        terms: dict[str, Tensor] = {}
        total = space.new_zeros(())
        with torch.autocast(space.device.type, enabled=False):
            space = space.float()
            if config.proxy_anchor is not None:
                terms["proxy_anchor"] = self.proxy_anchor(F.normalize(space, dim=-1), classes)
                total = total + config.proxy_anchor.weight * terms["proxy_anchor"]
            if config.pairwise is not None:
                distances = lorentz.pairwise_distance(space, space, c)
                terms["pairwise"] = pairwise_cross_entropy(distances, classes, config.pairwise.temperature)
                total = total + config.pairwise.weight * terms["pairwise"]
            if config.hierarchy is not None:
                terms["hierarchy"] = self.hierarchy(space, classes, c)
                total = total + config.hierarchy.weight * terms["hierarchy"]
            if config.path is not None and self.has_path:
                terms["path"] = self.path(space, classes, c)
                total = total + config.path.weight * terms["path"]
        return total, {name: value.detach() for name, value in terms.items()}
