"""1,000 steps with a learned curvature: do points and momenta stay on their manifold?

    python -m benchmarks.curvature_stability [--out FOLDER] [--steps 1000]

A small network (an MLP under autocast, then the Lorentz neck, maximum-distance rescaling with x_time_max = 2e3, Proxy
Anchor + SC + the hierarchical term) is trained by the project's own step (training/step.py) and RiemannianAdamW, with
the curvature-aware order and with the naive one, in float32 and under bf16 autocast. The hierarchical proxies are
Lorentz parameters and start near D_max (0.95 of it, 7.9) or near the origin (1.0).

After each step every Lorentz parameter x and its momentum m are held against c as it is then: ``point`` is
|x_time - sqrt(1/c + |x_space|^2)| / x_time, ``tangent`` is |m_time - <x_space, m_space>/x_time| / |m|, both in float64
from the float32 entries as stored; the worst of all points and steps is kept. Far out a float32 x_time carries no more
than 6e-8 of itself, so what a wrong c does to ``point`` is small there, and shows in ``tangent`` and near the origin.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from hyperbolic import lorentz
from hyperbolic.curvature import Curvature, LorentzParameter
from hyperbolic.models.config import ModelConfig
from hyperbolic.models.lhier import LorentzNeck
from hyperbolic.optim.adamw import RiemannianAdamW
from training.distributed import make_fabric
from training.losses.objective import Objective
from training.recipe import parse_recipe
from training.step import BatchGradient, TrainingModel

CLASSES, PER_CLASS, INPUTS, FEATURES = 8, 3, 24, 64
STARTS = {"near_d_max": 0.95, "near_origin": 1.0 / 8.294}


class SmallEncoder(nn.Module):
    """An encoder without photos: the interface of hyperbolic.models.lhier.Encoder, an MLP for a backbone."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = nn.Sequential(nn.Linear(INPUTS, FEATURES), nn.GELU(), nn.Linear(FEATURES, FEATURES))
        self.neck = LorentzNeck(FEATURES, config)
        self.curvature = Curvature(config.curvature, learnable=True)

    def features(self, inputs: Tensor) -> Tensor:
        """(n, inputs) -> (n, features)."""
        output: Tensor = self.backbone(inputs)
        return output

    def embed_features(self, features: Tensor) -> Tensor:
        """(n, features) -> space parts (n, d)."""
        space: Tensor = self.neck(features, self.curvature())
        return space


def recipe() -> Any:
    """What of a recipe the step reads; radii saturate near D_max as in the default recipes."""
    return parse_recipe(
        {
            "name": "curvature_stability", "weights": "none",
            "model": {"backbone": "test_vit", "embedding_dim": 16, "curvature": 1.0, "learn_curvature": True,
                      "x_time_max": 2e3, "tightness": 1.0},
            "data": {"kind": "folder"},
            "train": {"steps": 1, "classes_per_batch": CLASSES, "images_per_class": PER_CLASS,
                      "frozen_backbone": False},
            "optimiser": {"lr": 1e-3, "proxy_lr": 1e-2},
            "loss": {"proxy_anchor": {"weight": 0.3}, "pairwise": {"weight": 1.0},
                     "hierarchy": {"weight": 0.5, "proxies": 32, "neighbours": 5, "triplets_per_anchor": 6,
                                   "triplets_per_proxy": 3}},
        },
        "curvature_stability",
    )  # fmt: skip


def violations(optimiser: torch.optim.Optimizer, point: LorentzParameter) -> tuple[float, float]:
    """Relative errors of the time entries of points and of their momenta, see the text at the top."""
    c = point.curvature().detach().double()
    x, m = point.detach().double(), optimiser.state[point]["exp_avg"].double()
    x_time = torch.sqrt(1 / c + x[:, 1:].square().sum(-1))
    m_time = (x[:, 1:] * m[:, 1:]).sum(-1) / x_time
    off = (x[:, 0] - x_time).abs() / x_time
    tangent = (m[:, 0] - m_time).abs() / m.norm(dim=-1).clamp_min(1e-30)
    return float(off.max()), float(tangent.max())


def stability(order: str, precision: str, start: str, steps: int, seed: int = 0) -> dict[str, Any]:
    """One training; a step whose loss, parameters or momenta are not finite ends it and is named."""
    config = recipe()
    torch.manual_seed(seed)
    encoder = SmallEncoder(config.model)
    labels = [("all", str(number)) for number in range(CLASSES)]
    model = TrainingModel(encoder, Objective(config.loss, config.model, encoder.curvature, labels))  # type: ignore[arg-type]
    proxies = model.objective.hierarchy.proxies
    assert isinstance(proxies, LorentzParameter)
    radius = STARTS[start] * float(lorentz.max_distance(1.0, config.model.x_time_max))
    directions = nn.functional.normalize(torch.randn(len(proxies), config.model.embedding_dim), dim=-1)
    proxies.data.copy_(lorentz.expmap0(directions * radius, 1.0))
    optimiser = RiemannianAdamW(
        [
            {"params": [p for p in model.parameters() if p is not encoder.curvature.log_ratio], "lr": 3e-3},
            {"params": [encoder.curvature.log_ratio], "lr": 5e-3, "weight_decay": 0.0},
        ],
        weight_decay=0.0,
        curvature_order=order,  # type: ignore[arg-type]
    )
    fabric: Fabric = make_fabric(precision)
    gradient = BatchGradient(fabric, fabric.setup(model), model, config)
    centres, classes = torch.randn(CLASSES, INPUTS), torch.arange(CLASSES).repeat_interleave(PER_CLASS)
    worst, cs, losses, radii = [0.0, 0.0], [1.0], [], []
    broken: int | None = None
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        inputs = centres[classes] + torch.randn(len(classes), INPUTS, generator=generator)
        loss, _ = gradient(inputs, classes, step, lambda *_: None)
        # c is pulled about, as a temperature is in training: between 0.7 and 1.4
        log_ratio = encoder.curvature.log_ratio
        assert log_ratio.grad is not None
        log_ratio.grad += 20 * (log_ratio.detach() - 0.35 * math.sin(step / 40))
        optimiser.step()
        seen = violations(optimiser, proxies)
        tensors = (loss, *(p.detach() for p in model.parameters()), optimiser.state[proxies]["exp_avg"])
        if not all(bool(torch.isfinite(t).all()) for t in tensors):
            broken = step
            break
        worst = [max(pair) for pair in zip(worst, seen, strict=True)]
        cs.append(float(encoder.curvature().detach()))
        losses.append(float(loss))
        reach = lorentz.logmap0(proxies.detach(), cs[-1]).norm(dim=-1)
        radii.append((float(reach.min()), float(reach.max())))
    return {
        "order": order,
        "precision": precision,
        "start": start,
        "steps": steps,
        "first_step_not_finite": broken,
        "worst_point_violation": worst[0],
        "worst_tangent_violation": worst[1],
        "c_min": min(cs),
        "c_max": max(cs),
        "loss_first": losses[0] if losses else None,
        "loss_last": losses[-1] if losses else None,
        "radius_min": min((low for low, _ in radii), default=None),
        "radius_max": max((high for _, high in radii), default=None),
    }


def main() -> None:
    """Run every combination, print the table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=None, help="folder or .json file; default benchmarks/results")
    parser.add_argument("--steps", type=int, default=1000)
    arguments = parser.parse_args()
    from benchmarks.common import write_result

    torch.set_num_threads(1)
    rows = []
    print(f"{'order':6} {'precision':11} {'start':12} {'point':>9} {'tangent':>9} {'c':>13} not finite at")
    for start in STARTS:
        for precision in ("32-true", "bf16-mixed"):
            for order in ("aware", "naive"):
                row = stability(order, precision, start, arguments.steps)
                rows.append(row)
                ended = row["first_step_not_finite"]
                print(
                    f"{order:6} {precision:11} {start:12} {row['worst_point_violation']:9.1e} "
                    f"{row['worst_tangent_violation']:9.1e} {row['c_min']:6.3f}-{row['c_max']:.3f} "
                    f"{'never' if ended is None else f'step {ended}'}",
                    flush=True,
                )
    parameters = {"steps": arguments.steps, "seed": 0, "recipe": recipe().model_dump(mode="json", exclude_none=True)}
    print(write_result("curvature_stability", arguments.out, parameters, rows))


if __name__ == "__main__":
    main()
