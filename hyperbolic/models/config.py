"""ModelConfig: everything needed to build an encoder, kept in recipes and in checkpoints alike."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Geometry = Literal["lorentz", "poincare", "euclidean"]


class ModelConfig(BaseModel):
    """Architecture of an encoder: backbone, pooling and neck (no weights, no training settings).

    ``geometry`` picks the neck: ``lorentz`` (LHIER, section 4.1), ``poincare`` (HIER: linear layer, clipped norm,
    exponential map on the ball) or ``euclidean`` (linear layer, L2 norm: the control). All three answer with
    points of the hyperboloid, see :class:`hyperbolic.models.lhier.Encoder`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    geometry: Geometry = "lorentz"
    backbone: str = Field(description="a timm model name, for example vit_small_patch16_224.dino")
    embedding_dim: int = Field(default=128, ge=2, le=8192)
    image_size: int = Field(default=224, ge=16, le=2048)
    pooling: Literal["default", "max_average"] = Field(
        default="default", description="max_average: max plus average pooling of the last map (HIER's ResNet-50)"
    )
    freeze_batchnorm: bool = Field(default=False, description="BatchNorm keeps its running statistics in training")
    curvature: float = Field(default=1.0, gt=0, description="c > 0 at the start: the space has curvature -c")
    learn_curvature: bool = False
    rescale: bool = Field(default=True, description="maximum-distance rescaling, eq. (2); lorentz only")
    x_time_max: float = Field(default=2e3, gt=0, description="largest time coordinate, eq. (1); lorentz only")
    tightness: float = Field(default=2.0, gt=0, description="s of eq. (3); lorentz only")
    gain: float = Field(default=1.0, gt=0, description="factor on the neck's tangent vectors before rescaling")
    clip_radius: float = Field(default=2.3, gt=0, description="largest norm before the ball's map; poincare only")
