"""Several processes that train one model: torchrun starts them, each embeds its share of the photos.

Every process computes the loss of the whole batch from all embeddings, so n processes with a share each take the
steps of one process with the whole batch, the random draws included (see training/step.py). Process 0 alone writes.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn

from training.run_folder import TrainingError

T = TypeVar("T")
# The others wait while process 0 extracts features or evaluates; a process that died is torchrun's to notice.
PATIENCE = timedelta(hours=12)


class ReplicatedStrategy(DDPStrategy):
    """Data-parallel processes whose gradients are summed by :meth:`Processes.sum_gradients`, not averaged by hooks.

    torch's DistributedDataParallel takes the mean of the gradients of n losses. Here there is one loss: the gradients
    of its own parameters (proxies, c) come out whole in every process, those of the encoder in parts to be added up.
    """

    def setup_module(self, module: nn.Module) -> nn.Module:  # type: ignore[override]
        """Leave the module as it is: no averaging hooks."""
        return module


def make_fabric(precision: str) -> Fabric:
    """Fabric on CUDA or else the CPU (the geometry needs float64): one device, or those of torchrun's processes.

    fp16 keeps its GradScaler on CPUs too, where Fabric would quietly take bf16.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    world, local = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    half = precision == "16-mixed"
    options: dict[str, Any] = {} if half else {"precision": precision}
    if half:
        options["plugins"] = [MixedPrecision("16-mixed", device=device)]
    if world > 1:
        options |= {"strategy": ReplicatedStrategy(timeout=PATIENCE), "num_nodes": world // local}
    fabric = Fabric(accelerator=device, devices=local, **options)
    fabric.launch()
    return fabric


class Processes:
    """The processes of a run, or the only one: what they tell each other."""

    def __init__(self, fabric: Fabric) -> None:
        self.world, self.rank, self.device = fabric.world_size, fabric.global_rank, fabric.device

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes files and logs."""
        return self.rank == 0

    def share(self, rows: Shaped[Tensor, " n"]) -> tuple[Shaped[Tensor, " m"], int]:
        """This process's part of a batch's rows, and the place of its first row in the batch."""
        parts = torch.tensor_split(rows, self.world)
        return parts[self.rank], sum(len(part) for part in parts[: self.rank])

    def gather(self, rows: Shaped[Tensor, "m ..."]) -> tuple[Shaped[Tensor, "n ..."], slice]:
        """All processes' rows in the order of the batch, and where this one's stand. Numbers of rows may differ."""
        if self.world == 1:
            return rows, slice(0, len(rows))
        counts = [torch.zeros(1, dtype=torch.int64, device=self.device) for _ in range(self.world)]
        dist.all_gather(counts, torch.tensor([len(rows)], device=self.device))
        sizes = [int(count) for count in counts]
        padded = rows.new_zeros((max(sizes), *rows.shape[1:]))
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        start = sum(sizes[: self.rank])
        everything = torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
        return everything, slice(start, start + len(rows))

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Add up every parameter's gradient over the processes; one that has none anywhere keeps none."""
        if self.world == 1:
            return
        present = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32, device=self.device)
        dist.all_reduce(present, op=dist.ReduceOp.MAX)
        chosen = [p for p, there in zip(parameters, present.tolist(), strict=True) if there]
        flat = torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).reshape(-1) for p in chosen])
        dist.all_reduce(flat)
        for parameter, values in zip(chosen, torch.split(flat, [p.numel() for p in chosen]), strict=True):
            # .data: a gradient is a plain tensor even where the parameter is a LorentzParameter
            gradient = torch.empty_like(parameter.data) if parameter.grad is None else parameter.grad
            parameter.grad = gradient.copy_(values.view(parameter.shape))

    def make_alike(self, tensors: Iterable[Tensor]) -> None:
        """Give every process the values of process 0."""
        if self.world > 1:
            for tensor in tensors:
                values = tensor.detach().contiguous()
                dist.broadcast(values, src=0)
                tensor.detach().copy_(values)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process: all of them get the same answer."""
        if self.world == 1:
            return flag
        asked = torch.tensor([int(flag)], device=self.device)
        dist.all_reduce(asked, op=dist.ReduceOp.MAX)
        return bool(asked.item())

    def merged(self, mapping: dict[Any, T]) -> dict[Any, T]:
        """The union of every process's mapping."""
        if self.world == 1:
            return mapping
        parts: list[dict[Any, T]] = [{}] * self.world
        dist.all_gather_object(parts, mapping)
        return {key: value for part in parts for key, value in part.items()}

    def leave(self) -> None:
        """Close the connections to the other processes."""
        if self.world > 1:
            dist.destroy_process_group()

    def on_first(self, work: Callable[[], T]) -> T:
        """Do ``work`` in process 0 while the others wait; all get its result, or its error as TrainingError."""
        if self.world == 1:
            return work()
        answer: list[Any] = [None, None]
        if self.first:
            try:
                answer[0] = work()
            except Exception as error:
                answer[1] = f"{error}"
                dist.broadcast_object_list(answer, src=0)
                raise
        dist.broadcast_object_list(answer, src=0)
        if answer[1] is not None:
            raise TrainingError(f"process 0: {answer[1]}")
        result: T = answer[0]
        return result
