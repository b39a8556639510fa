"""Metric losses of pytorch-metric-learning, on the angle or on geodesic distance."""

from typing import Any

import torch
from jaxtyping import Float
from pytorch_metric_learning import losses
from pytorch_metric_learning.distances import BaseDistance
from torch import Tensor, nn

from hyperbolic import lorentz
from training.recipe import LibraryConfig, ProxyAnchorConfig


class GeodesicSimilarity(BaseDistance):  # type: ignore[misc]
    """1 - d/R for space parts: 1 where points touch, -1 at opposite ends of a shell of radius R, as a cosine is.

    Proxies are space parts too, so their radius is learned with their direction. ``c`` is set before each use.
    """

    def __init__(self, radius: float) -> None:
        super().__init__(is_inverted=True, normalize_embeddings=False)
        self.radius = radius
        self.c: Tensor = torch.ones(())

    def compute_mat(self, query_emb: Tensor, ref_emb: Tensor | None) -> Float[Tensor, "n m"]:
        """Similarity of each query to each reference."""
        other = query_emb if ref_emb is None else ref_emb
        return 1.0 - lorentz.pairwise_distance(query_emb, other, self.c) / self.radius

    def pairwise_distance(self, query_emb: Tensor, ref_emb: Tensor) -> Float[Tensor, " n"]:
        """Similarity of each query to the reference in the same row."""
        x, y = (lorentz.lift(points, self.c) for points in (query_emb, ref_emb))
        return 1.0 - lorentz.distance(x, y, self.c) / self.radius


def build_library_loss(
    config: LibraryConfig | ProxyAnchorConfig, num_classes: int, dim: int, similarity: GeodesicSimilarity | None
) -> nn.Module:
    """The loss that ``config`` names; on cosine where ``similarity`` is None.

    Constants are the papers': Multi-Similarity (Wang et al., 2019) alpha 2, beta 50; SoftTriple (Qian et al., 2019) 10
    centres; normalised softmax (Zhai & Wu, 2019) temperature 0.05; ProxyNCA++ (Teh et al., 2020) temperature 1/9;
    cross-batch memory (Wang et al., 2020) around Multi-Similarity.
    """
    options: dict[str, Any] = {} if similarity is None else {"distance": similarity}
    if isinstance(config, ProxyAnchorConfig):
        return losses.ProxyAnchorLoss(num_classes, dim, margin=config.margin, alpha=config.alpha, **options)  # type: ignore[no-any-return]
    if config.name == "cross_batch_memory":
        return losses.CrossBatchMemory(  # type: ignore[no-any-return]
            losses.MultiSimilarityLoss(**options), dim, memory_size=config.memory_size
        )
    built: dict[str, Any] = {
        "multi_similarity": lambda: losses.MultiSimilarityLoss(**options),
        "soft_triple": lambda: losses.SoftTripleLoss(num_classes, dim, **options),
        "normalised_softmax": lambda: losses.NormalizedSoftmaxLoss(num_classes, dim, **options),
        "proxy_nca": lambda: losses.ProxyNCALoss(num_classes, dim, softmax_scale=9.0, **options),
    }
    return built[config.name]()  # type: ignore[no-any-return]
