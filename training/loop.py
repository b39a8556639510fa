"""The training loop: recipe and photos in, a run folder with a checkpoint out.

Everything random in step n comes from (seed, n) alone, so a run that was stopped and resumed takes the steps it would
have taken, and so does a run whose batches are divided among processes.
"""

import logging
import math
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor
from tqdm import tqdm

from hyperbolic.checkpoint import save_checkpoint
from hyperbolic.models.lhier import Encoder
from hyperbolic.optim.adamw import RiemannianAdamW
from training.batch_memory import load_memory, memory_state
from training.batches import FeatureBatches, PhotoBatches, batches_of
from training.data.split import RetrievalData, fingerprint, label_levels
from training.distributed import Processes, make_fabric
from training.groups import parameter_groups
from training.guard import Guard
from training.losses.objective import Objective
from training.process_state import deterministic, stop_on_signal
from training.pseudo_path import ancestors_of_run
from training.recipe import Recipe
from training.run_folder import (
    TrainingError,
    keep_rows,
    load_state,
    prepare_run,
    save_state,
    write_classes,
    write_photos,
    write_skipped,
)
from training.run_log import RunLog, check_logger
from training.schedule import Schedule
from training.selection import Evaluate, Selection
from training.step import BatchGradient, TrainingModel, check_division

logger = logging.getLogger(__name__)


class TrainingInterrupted(Exception):  # noqa: N818 - it is not an error: the run was asked to stop
    """Ctrl-C or SIGTERM: the state was saved, ``--resume`` continues."""


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

    Unreadable photos are skipped and listed in ``skipped.jsonl``. ``evaluate`` is called for the rules ``best_on_...``
    only and answers with ``recall_at_1`` on the photos that the rule names. In a process that torchrun started the
    batch is shared with the others. Raises :class:`TrainingError`, :class:`TrainingInterrupted`.
    """
    check_logger(recipe)
    if recipe.selection.rule == "best_on_validation" and not data.validation:
        raise TrainingError(
            f"selection.rule = 'best_on_validation': {data.name} has no validation photos; choose 'last', or "
            "'best_on_test' and say so"
        )
    with deterministic(recipe.train.deterministic):
        fabric = make_fabric(recipe.train.precision)
        processes = Processes(fabric)
        processes.on_first(lambda: prepare_run(recipe, run, resume))
        try:
            return _Run(
                recipe, data, run, fabric, cache=cache, resume=resume, progress=progress, evaluate=evaluate
            ).go()
        finally:
            processes.leave()


class _Run:
    """One run: what is built once, and the loop over its steps."""

    def __init__(
        self,
        recipe: Recipe,
        data: RetrievalData,
        run: Path,
        fabric: Fabric,
        *,
        cache: Path,
        resume: bool,
        progress: bool,
        evaluate: Evaluate | None,
    ) -> None:
        self.recipe, self.run, self.fabric, self.resume = recipe, run, fabric, resume
        self.processes = Processes(fabric)
        self.progress = progress and self.processes.first
        self.skipped: dict[Path, str] = {}
        torch.manual_seed(recipe.seed)
        label_levels(data.train)
        if self.processes.first:
            write_photos(run, fingerprint(data.train))
        self.encoder = _build_encoder(recipe)
        check_division(recipe, self.encoder, self.processes.world)
        self.source: FeatureBatches | PhotoBatches = batches_of(
            recipe, data, self.encoder, cache=cache, processes=self.processes, skipped=self.skipped, progress=progress
        )
        ancestors = ancestors_of_run(
            recipe, self.source, self.encoder, run, cache=cache, processes=self.processes, resume=resume,
            skipped=self.skipped, progress=progress,
        )  # fmt: skip
        self.model = TrainingModel(
            self.encoder,
            Objective(recipe.loss, recipe.model, self.encoder.curvature, self.source.label_paths, ancestors),
        )
        self.optimiser = RiemannianAdamW(
            parameter_groups(self.model, recipe.optimiser),
            lr=recipe.optimiser.lr,
            curvature_order=recipe.optimiser.curvature_order,
        )
        self.schedule = Schedule(recipe, len(data.train), self.optimiser)
        self.wrapped, self.stepper = fabric.setup(self.model, self.optimiser)
        self.gradient = BatchGradient(fabric, self.wrapped, self.model, recipe)
        self.guard = Guard(self.model, run, self.gradient.scaler)
        self.selection = Selection(recipe.selection, self.schedule.select_every, evaluate)
        if self.processes.first:
            write_classes(run, self.source.label_paths)
        self._write_skipped()

    def go(self) -> Encoder:
        """Run the steps that are left."""
        start = self._load() if self.resume else 0
        if self.processes.first:
            keep_rows(self.run, start)
        self.processes.make_alike((*self.model.parameters(), *self.model.buffers()))
        self.model.train()
        if self.recipe.train.frozen_backbone:
            self.encoder.backbone.eval()
        stop = self.schedule.steps if not self.selection.exhausted else start
        with (
            stop_on_signal() as asked,
            tqdm(total=stop, initial=start, unit="step", desc="train", disable=None if self.progress else True) as bar,
            RunLog(self.recipe, self.run, start, self.processes.first) as log,
        ):
            for step, (inputs, classes) in enumerate(self.source.batches(start, stop), start=start):
                loss, terms, norm = self._step(step, inputs, classes)
                done = step + 1
                bar.update()
                last = done == self.schedule.steps
                if done % self.schedule.log_every == 0 or last:
                    self._log(self._row(done, loss, terms, norm), log, bar)
                if self.selection.due(done, self.schedule.steps):
                    self._select(done, log)
                stopping = self.processes.any(asked())
                last = last or self.selection.exhausted
                if done % self.schedule.save_every == 0 or last or stopping:
                    self._save(done, log)
                if last:
                    break
                if stopping:
                    raise TrainingInterrupted(f"stopped after step {done}: continue with --resume")
        self._write_skipped()
        return self.encoder.eval()

    def _step(self, step: int, inputs: Tensor, classes: Tensor) -> tuple[Tensor, dict[str, Tensor], float]:
        """One step on this process's share of the batch: loss, terms, and the norm of the gradients."""
        self.schedule.apply(self.optimiser, step)
        loss, terms = self.gradient(
            self.fabric.to_device(inputs),
            self.fabric.to_device(classes),
            self.recipe.seed * 1_000_003 + step,
            lambda loss, terms, space: self.guard.check_loss(step, loss, terms, space),
        )
        norm = self._clip(step)
        self.stepper.step()
        return loss, terms, norm

    def _row(self, done: int, loss: Tensor, terms: dict[str, Tensor], norm: float) -> dict[str, Any]:
        """A row of metrics.jsonl; made only where it is logged, because each number waits for the device."""
        row = {
            "step": done,
            "loss": float(loss),
            **{name: float(value) for name, value in terms.items()},
            "c": float(self.encoder.curvature().detach()),
            "lr": self.optimiser.param_groups[0]["lr"],
            "gradient_norm": norm if math.isfinite(norm) else None,
        }
        if self.guard.scaler is not None:
            row |= {"loss_scale": float(self.guard.scaler.get_scale()), "skipped_steps": self.guard.skipped}
        return row

    def _clip(self, step: int) -> float:
        """Bound the norm of all gradients together; where it is not finite nothing may be scaled by it."""
        self.fabric.strategy.precision.unscale_gradients(self.optimiser)
        parameters = self.gradient.parameters
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        self.guard.check_gradients(step, norm)
        if bool(torch.isfinite(norm)):
            torch.nn.utils.clip_grads_with_norm_(parameters, self.recipe.optimiser.clip_norm, norm)
        return float(norm)

    def _log(self, row: dict[str, Any], log: RunLog, bar: "tqdm[None]") -> None:
        log.metrics(row)
        bar.set_postfix(loss=f"{row['loss']:.3f}")
        if not self.progress and self.processes.first:
            logger.info("step=%d of=%d loss=%.4f c=%.4f", row["step"], self.schedule.steps, row["loss"], row["c"])

    def _select(self, done: int, log: RunLog) -> None:
        """Evaluate, keep the weights if they are the best yet."""
        figures = self.processes.on_first(lambda: self.selection.score(self.encoder))
        better = self.selection.improved(figures)
        log.evaluation({"step": done, "best": better, **figures})
        if better and self.processes.first:
            self._save_checkpoint()

    def _save(self, done: int, log: RunLog) -> None:
        """State, and for the rule ``last`` the checkpoint; refused where something in them is not finite."""
        self.guard.check_state(done - 1, self.optimiser)
        if not self.processes.first:
            return
        log.sync()
        extra = {
            "precision": self.fabric.strategy.precision.state_dict(),
            "skipped_steps": [self.guard.skipped, self.guard.in_a_row],
            "selection": self.selection.state_dict(),
            "memory": memory_state(self.model),
            "threads": torch.get_num_threads(),
        }
        save_state(self.run, self.model, self.optimiser, done, extra)
        if self.recipe.selection.rule == "last":
            self._save_checkpoint()

    def _save_checkpoint(self) -> None:
        proxies = {name: value.detach() for name, value in self.model.objective.state_dict().items()}
        save_checkpoint(self.run / "checkpoint", self.encoder, proxies)

    def _load(self) -> int:
        state = load_state(self.run, self.model, self.optimiser)
        self.fabric.strategy.precision.load_state_dict(state.get("precision", {}))
        self.guard.skipped, self.guard.in_a_row = state.get("skipped_steps", (0, 0))
        self.selection.load_state_dict(state.get("selection", {}))
        load_memory(self.model, state.get("memory", {}))
        if self.recipe.train.deterministic and "threads" in state:
            # Sums over threads depend on their number.
            torch.set_num_threads(state["threads"])
        return int(state["step"])

    def _write_skipped(self) -> None:
        skipped = self.processes.merged(self.skipped)
        if self.processes.first:
            write_skipped(self.run, skipped)


def _build_encoder(recipe: Recipe) -> Encoder:
    encoder = Encoder(recipe.model, weights=recipe.weights)
    # As the embedder has it: an evaluation must not change the layout, and with it the rounding, of what follows.
    encoder = encoder.to(memory_format=torch.channels_last)
    if recipe.train.frozen_backbone:
        encoder.backbone.requires_grad_(False)
    elif recipe.train.freeze_patch_embedding:
        encoder.backbone.get_submodule("patch_embed").requires_grad_(False)
    if recipe.train.checkpoint_activations:
        switch = getattr(encoder.backbone, "set_grad_checkpointing", None)
        try:
            if switch is None:
                raise TypeError("it has no set_grad_checkpointing")
            switch(True)
        except (AssertionError, TypeError, NotImplementedError) as error:
            raise TrainingError(
                f"train.checkpoint_activations: {recipe.model.backbone} cannot do that ({error}): "
                "use train.accumulate to save memory"
            ) from error
    return encoder
