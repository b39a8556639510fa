"""Parameter groups: each part of the model with its own rate and decay."""

from typing import Any

from torch import nn

from hyperbolic.curvature import Curvature, LorentzParameter
from training.recipe import OptimiserConfig
from training.step import TrainingModel


def parameter_groups(model: TrainingModel, config: OptimiserConfig) -> list[dict[str, Any]]:
    """Neck, backbone, proxies, hierarchical proxies and curvature, each with its own rate and decay.

    Biases, norms and proxies do not decay; a direction has no length to shrink.
    """
    groups: dict[str, dict[str, Any]] = {
        "neck": {"lr": config.lr, "weight_decay": config.weight_decay},
        "backbone": {"lr": config.backbone_lr, "weight_decay": config.weight_decay},
        "backbone_no_decay": {"lr": config.backbone_lr, "weight_decay": 0.0},
        "proxies": {"lr": config.proxy_lr, "weight_decay": 0.0},
        "hierarchy": {"lr": config.hierarchy_lr, "weight_decay": config.hierarchy_weight_decay},
        "curvature": {"lr": config.curvature_lr, "weight_decay": 0.0},
    }
    members: dict[str, list[nn.Parameter]] = {name: [] for name in groups}
    curvatures = {id(p) for m in model.modules() if isinstance(m, Curvature) for p in m.parameters()}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if id(parameter) in curvatures:
            members["curvature"].append(parameter)
        elif isinstance(parameter, LorentzParameter) or name.startswith("objective.hierarchy"):
            members["hierarchy"].append(parameter)
        elif name.startswith("objective."):
            members["proxies"].append(parameter)
        elif name.startswith("encoder.backbone."):
            members["backbone" if parameter.dim() > 1 else "backbone_no_decay"].append(parameter)
        else:
            members["neck"].append(parameter)
    return [{**options, "params": members[name], "name": name} for name, options in groups.items() if members[name]]
