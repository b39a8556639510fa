"""Encoder: a backbone and a neck that puts its features into hyperbolic space.

Source: Bdeir & Landwehr, section 4.1 (the Lorentz neck); Kim et al., HIER, CVPR 2023 (the Poincare neck).
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from hyperbolic import lorentz, poincare
from hyperbolic.curvature import Curvature
from hyperbolic.models.backbone import WeightSource, build_backbone
from hyperbolic.models.config import ModelConfig
from hyperbolic.nn.linear import LorentzLinear
from hyperbolic.nn.rescale import MaxDistanceRescale
from hyperbolic.preprocessing import Preprocessing


class LorentzNeck(nn.Module):
    """Features -> LayerNorm without affine -> Lorentz linear -> maximum-distance rescaling -> space parts.

    Composed in the tangent space at the origin: LayerNorm gives vectors of norm sqrt(F), and expmap0 followed by
    logmap0 is NaN in float32 from norm 60. One exponential map at the end puts the points on the manifold.
    """

    def __init__(self, in_features: int, config: ModelConfig) -> None:
        super().__init__()
        self.linear = LorentzLinear(in_features, config.embedding_dim)
        self.rescale = MaxDistanceRescale(config.x_time_max, config.tightness) if config.rescale else None
        self.gain = config.gain

    def forward(self, features: Float[Tensor, "n f"], c: Tensor) -> Float[Tensor, "n d"]:
        """(n, f) features -> (n, d) float32 space parts on the hyperboloid of curvature -c."""
        z = F.layer_norm(features.float(), features.shape[-1:]) * self.gain
        z = self.linear.tangent(z, c)
        if self.rescale is not None:
            z = self.rescale.tangent(z, c)
        return lorentz.expmap0(z, c)[..., 1:]


class PoincareNeck(nn.Module):
    """HIER's neck: LayerNorm -> linear -> norm clipped -> exponential map of the ball; answers on the hyperboloid.

    Points of the ball at Euclidean tangent norm 2.3 lie 4.6 from the origin (the ball's conformal factor there
    is 2). The isometry keeps all distances, so one index serves both geometries.
    """

    def __init__(self, in_features: int, config: ModelConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, config.embedding_dim)
        nn.init.orthogonal_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.clip_radius = config.clip_radius

    def forward(self, features: Float[Tensor, "n f"], c: Tensor) -> Float[Tensor, "n d"]:
        """(n, f) features -> (n, d) float32 space parts."""
        z = self.linear(F.layer_norm(features.float(), features.shape[-1:]))
        ball = poincare.expmap0(poincare.clip_radius(z, self.clip_radius), c)
        return poincare.to_lorentz(ball, c)[..., 1:]


class EuclideanNeck(nn.Module):
    """The control: LayerNorm -> linear -> L2 norm, as points at distance 1 from the origin.

    On one shell the order by geodesic distance is the order by cosine.
    """

    def __init__(self, in_features: int, config: ModelConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, config.embedding_dim)
        nn.init.orthogonal_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Float[Tensor, "n f"], c: Tensor) -> Float[Tensor, "n d"]:
        """(n, f) features -> (n, d) float32 space parts."""
        z = self.linear(F.layer_norm(features.float(), features.shape[-1:]))
        return lorentz.expmap0(F.normalize(z, dim=-1), c)[..., 1:]


NECKS: dict[str, type[LorentzNeck | PoincareNeck | EuclideanNeck]] = {
    "lorentz": LorentzNeck,
    "poincare": PoincareNeck,
    "euclidean": EuclideanNeck,
}


class Encoder(nn.Module):
    """Images (n, 3, s, s) -> float32 space parts (n, d); ``encoder.curvature()`` is c.

    Whatever the neck's geometry, the answer lies on the hyperboloid, so evaluation, index and service know
    one kind of point.
    """

    def __init__(self, config: ModelConfig, weights: WeightSource = "none") -> None:
        """Build backbone and neck. Raises what :func:`build_backbone` raises."""
        super().__init__()
        self.config = config
        backbone, preprocessing = build_backbone(config, weights)
        self.backbone = backbone
        self.preprocessing: Preprocessing = preprocessing
        self.num_features = int(backbone.num_features)  # type: ignore[arg-type]
        self.neck = NECKS[config.geometry](self.num_features, config)
        self.curvature = Curvature(config.curvature, learnable=config.learn_curvature)

    def features(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n f"]:
        """Pooled backbone features (n, f), in the precision of the surrounding autocast."""
        output: Tensor = self.backbone(images)
        return output

    def embed_features(self, features: Float[Tensor, "n f"]) -> Float[Tensor, "n d"]:
        """Pooled features (n, f) -> space parts (n, d); float32 whatever the features are."""
        output: Tensor = self.neck(features, self.curvature())
        return output

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Normalised images (n, 3, h, w) -> space parts (n, d)."""
        return self.embed_features(self.features(images))

    def train(self, mode: bool = True) -> "Encoder":
        """As ``nn.Module.train``; frozen BatchNorm layers stay in evaluation mode."""
        super().train(mode)
        if self.config.freeze_batchnorm:
            for module in self.backbone.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self
