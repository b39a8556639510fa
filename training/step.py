"""The gradient of one batch, however it is divided: among processes, and in parts that fit into memory.

A metric loss is no sum over photos, so the mean of the losses of parts is another loss. What is divided is the
embedding: the loss is computed once, on all embeddings of the batch, and its gradient at each embedding is carried
back through the encoder where that embedding was made. Gao et al., "Scaling deep contrastive learning batch size under
memory limited setup" (GradCache), 2021.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hyperbolic.models.lhier import Encoder
from training.distributed import Processes
from training.losses.objective import Objective
from training.recipe import Recipe
from training.run_folder import TrainingError

Check = Callable[[Tensor, dict[str, Tensor], Tensor], None]


class TrainingModel(nn.Module):
    """Encoder and objective in one module; a forward call is the embedding of photos (what Fabric autocasts)."""

    def __init__(self, encoder: Encoder, objective: Objective) -> None:
        super().__init__()
        self.encoder = encoder
        self.objective = objective

    def forward(self, inputs: Tensor, frozen: bool) -> Float[Tensor, "n d"]:
        """Images, or cached features where ``frozen`` -> float32 space parts; the neck computes in float32."""
        features = inputs if frozen else self.encoder.features(inputs)
        with torch.autocast(features.device.type, enabled=False):
            return self.encoder.embed_features(features.float())


class BatchGradient:
    """Loss and gradients of a batch: equal to the undivided batch's up to the order of float32 sums.

    Every process gathers all embeddings and computes the whole loss with the same random draws. The gather's gradient
    is a slice: a process carries the gradient at its own embeddings back through the encoder. Encoder gradients are
    then summed over processes. Those of the loss's own parameters (proxies, c where the loss reads it) are whole in
    every process, so only process 0's enter the sum.

    With ``parts`` > 1 a process embeds its share in parts, first without a graph, then each part again with one:
    activations of one part at a time, for a second forward pass. Tested in test_step.py and test_distributed.py.
    """

    def __init__(self, fabric: Fabric, wrapped: nn.Module, model: TrainingModel, recipe: Recipe) -> None:
        self.fabric, self.wrapped, self.model = fabric, wrapped, model
        self.processes = Processes(fabric)
        self.frozen, self.parts = recipe.train.frozen_backbone, recipe.train.accumulate
        self.scaler = getattr(fabric.strategy.precision, "scaler", None)
        self.parameters = [p for p in model.parameters() if p.requires_grad]

    def __call__(
        self, inputs: Tensor, classes: Int[Tensor, " m"], seed: int, check: Check
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """This process's share of the batch -> loss and terms of the whole; gradients are left in the parameters.

        ``seed`` decides every random draw of the step. ``check`` sees loss, terms and embeddings before the backward
        pass. Gradients carry the scale of the GradScaler where there is one.
        """
        parts = torch.tensor_split(inputs, min(self.parts, max(1, len(inputs))))
        with torch.set_grad_enabled(len(parts) == 1):
            spaces = [self._embed(part, seed, number) for number, part in enumerate(parts)]
        everything, own = self.processes.gather(torch.cat(spaces).detach())
        all_classes, _ = self.processes.gather(classes)
        if len(everything) == 0:
            raise TrainingError("none of a batch's photos could be read: see skipped.jsonl, and lhier data verify")
        leaf = everything.detach().requires_grad_()
        torch.manual_seed(seed)
        loss, terms = self.model.objective(leaf, all_classes, self.model.encoder.curvature())
        check(loss, terms, everything)
        for parameter in self.parameters:
            parameter.grad = None
        self.fabric.backward(loss)
        assert leaf.grad is not None  # noqa: S101 - every metric term reads the embeddings
        # Fabric scales what it carries back, so the scale that the loss brought along comes off here: a power of two.
        gradient = leaf.grad[own] / (self.scaler.get_scale() if self.scaler is not None else 1.0)
        if not self.processes.first:
            for parameter in self.parameters:
                parameter.grad = None
        for number, (part, rows) in enumerate(zip(parts, torch.split(gradient, [len(s) for s in spaces]), strict=True)):
            if len(part):
                space = spaces[0] if len(parts) == 1 else self._embed(part, seed, number)
                self.fabric.backward(space, gradient=rows)
        self.processes.sum_gradients(self.parameters)
        return loss.detach(), terms

    def _embed(self, part: Tensor, seed: int, number: int) -> Float[Tensor, "n d"]:
        # Each part draws its own dropout masks, the same both times it is embedded.
        torch.manual_seed((seed * 1_009 + self.processes.rank) * 1_009 + number)
        if len(part) == 0:
            return torch.zeros(0, self.model.encoder.config.embedding_dim, device=part.device)
        space: Tensor = self.wrapped(part, self.frozen)
        return space


def check_division(recipe: Recipe, encoder: Encoder, world: int) -> None:
    """Refuse a batch that cannot be divided as asked, or not without changing what is computed."""
    batch, parts = recipe.train.classes_per_batch * recipe.train.images_per_class, recipe.train.accumulate
    if batch % (world * parts):
        raise TrainingError(
            f"a batch of {batch} photos does not divide into {world} processes x {parts} parts (train.accumulate): "
            "change train.classes_per_batch, train.images_per_class or train.accumulate"
        )
    normed = [name for name, m in encoder.backbone.named_modules() if isinstance(m, _BatchNorm)]
    if world * parts > 1 and normed and not (recipe.train.frozen_backbone or recipe.model.freeze_batchnorm):
        raise TrainingError(
            f"BatchNorm ({normed[0]} and others) would take its statistics from {batch // (world * parts)} of the "
            f"batch's {batch} photos: set model.freeze_batchnorm = true to divide a batch, or a backbone without it"
        )
