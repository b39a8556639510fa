"""The training loop: recipe and photos in, a run folder with a checkpoint out.

Everything random in step n comes from (seed, n) alone, so a run that was stopped and resumed takes the steps it would
have taken.
"""

import json
import logging
import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from tqdm import tqdm

from hyperbolic.checkpoint import save_checkpoint
from hyperbolic.curvature import Curvature, LorentzParameter
from hyperbolic.embedder import Embedder
from hyperbolic.models.lhier import Encoder
from hyperbolic.optim.adamw import RiemannianAdamW
from training.batches import batches_of
from training.data.split import RetrievalData, label_levels
from training.losses.objective import Objective
from training.recipe import OptimiserConfig, Recipe
from training.run_folder import (
    CLASSES_FILE,
    METRICS_FILE,
    TrainingError,
    keep_metrics,
    load_state,
    prepare_run,
    save_state,
    write_skipped,
)
from training.schedule import Schedule

logger = logging.getLogger(__name__)


class TrainingInterrupted(Exception):  # noqa: N818 - it is not an error: the run was asked to stop
    """Ctrl-C or SIGTERM: the state was saved, ``--resume`` continues."""


class TrainingModel(nn.Module):
    """Encoder and objective in one module, so that one forward call is one loss (what Fabric and DDP wrap)."""

    def __init__(self, encoder: Encoder, objective: Objective) -> None:
        super().__init__()
        self.encoder = encoder
        self.objective = objective

    def forward(self, inputs: Tensor, classes: Tensor, frozen: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Images, or cached features where ``frozen``, and class indices -> loss and terms."""
        space = self.encoder.embed_features(inputs) if frozen else self.encoder(inputs)
        loss, terms = self.objective(space, classes, self.encoder.curvature())
        return loss, terms


Evaluate = Callable[[Embedder], dict[str, float]]


def train(
    recipe: Recipe,
    data: RetrievalData,
    run: Path,
    *,
    cache: Path,
    resume: bool = False,
    progress: bool = False,
    evaluate: Evaluate | None = None,
) -> Encoder:
    """Train as ``recipe`` says on ``data``'s training photos; leaves ``run`` with checkpoint, recipe and metrics.

    Unreadable photos are skipped and listed in ``skipped.jsonl``. ``evaluate`` is called for the rule
    ``best_on_test`` only and answers with ``recall_at_1``. Raises :class:`TrainingError`,
    :class:`TrainingInterrupted`.
    """
    prepare_run(recipe, run, resume)
    torch.manual_seed(recipe.seed)
    label_levels(data.train)
    fabric = Fabric(accelerator="auto", devices=1, precision=recipe.train.precision)
    encoder = Encoder(recipe.model, weights=recipe.weights)
    if recipe.train.frozen_backbone:
        encoder.backbone.requires_grad_(False)
    elif recipe.train.freeze_patch_embedding:
        encoder.backbone.get_submodule("patch_embed").requires_grad_(False)
    skipped: dict[Path, str] = {}
    source = batches_of(
        recipe, data, encoder, cache=cache, device=str(fabric.device), skipped=skipped, progress=progress
    )
    write_skipped(run, skipped)
    objective = Objective(recipe.loss, recipe.model, encoder.curvature, source.label_paths)
    (run / CLASSES_FILE).write_text(json.dumps(source.label_paths, ensure_ascii=False, indent=0) + "\n")

    model = TrainingModel(encoder, objective)
    optimiser = RiemannianAdamW(
        parameter_groups(model, recipe.optimiser),
        lr=recipe.optimiser.lr,
        curvature_order=recipe.optimiser.curvature_order,
    )
    schedule = Schedule(recipe, len(data.train), optimiser)
    start = load_state(run, model, optimiser) if resume else 0
    keep_metrics(run, start)
    wrapped, fabric_optimiser = fabric.setup(model, optimiser)
    best = -math.inf
    model.train()
    if recipe.train.frozen_backbone:
        encoder.backbone.eval()
    with (
        _stop_on_signal() as stopping,
        tqdm(total=schedule.steps, initial=start, unit="step", desc="train", disable=None if progress else True) as bar,
        (run / METRICS_FILE).open("a", encoding="utf-8") as log,
    ):
        for step, (inputs, classes) in enumerate(source.batches(start, schedule.steps), start=start):
            torch.manual_seed(recipe.seed * 1_000_003 + step)
            schedule.apply(optimiser, step)
            loss, terms = wrapped(fabric.to_device(inputs), fabric.to_device(classes), recipe.train.frozen_backbone)
            if not math.isfinite(float(loss.detach())):
                broken = [name for name, value in terms.items() if not math.isfinite(float(value))]
                raise TrainingError(
                    f"step {step}: the loss is {float(loss.detach())} ({', '.join(broken) or 'the sum of terms'}); "
                    f"the last good state is kept in {run}: lower optimiser.lr or set train.precision = '32-true'"
                )
            fabric_optimiser.zero_grad()
            fabric.backward(loss)
            norm = fabric.clip_gradients(
                wrapped, fabric_optimiser, max_norm=recipe.optimiser.clip_norm, error_if_nonfinite=False
            )
            fabric_optimiser.step()
            done = step + 1
            bar.update()
            if done % recipe.train.log_every == 0 or done == schedule.steps:
                row = {
                    "step": done,
                    "loss": float(loss.detach()),
                    **{k: float(v) for k, v in terms.items()},
                    "c": float(encoder.curvature().detach()),
                    "lr": optimiser.param_groups[0]["lr"],
                    "gradient_norm": float(norm) if norm is not None else None,
                }
                log.write(json.dumps(row) + "\n")
                log.flush()
                bar.set_postfix(loss=f"{row['loss']:.3f}")
                if not progress:
                    logger.info("step=%d of=%d loss=%.4f c=%.4f", done, schedule.steps, row["loss"], row["c"])
            select = recipe.selection.rule == "best_on_test" and (
                done % recipe.selection.every == 0 or done == schedule.steps
            )
            if select and evaluate is not None:
                score = _score(encoder, evaluate)
                if score > best:
                    best = score
                    save_checkpoint(run / "checkpoint", encoder, proxy_tensors(objective))
            if done % recipe.train.save_every == 0 or done == schedule.steps or stopping():
                save_state(run, model, optimiser, done)
                if recipe.selection.rule == "last":
                    save_checkpoint(run / "checkpoint", encoder, proxy_tensors(objective))
            if stopping() and done < schedule.steps:
                raise TrainingInterrupted(f"stopped after step {done}: continue with --resume")
    write_skipped(run, skipped)
    return encoder.eval()


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


def proxy_tensors(objective: Objective) -> dict[str, Tensor]:
    """What the losses learned beside the encoder, by name, for ``proxies.safetensors``."""
    return {name: value.detach() for name, value in objective.state_dict().items()}


def _score(encoder: Encoder, evaluate: Evaluate) -> float:
    training = encoder.training
    device = next(encoder.parameters()).device
    score = evaluate(Embedder(encoder, model_hash="", device=str(device)))["recall_at_1"]
    encoder.train(training)
    return score


@contextmanager
def _stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM ask the loop to stop after the step in hand, instead of tearing it apart."""
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True

    try:
        previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals are its caller's business
        previous = {}
    try:
        yield lambda: asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
