"""The queue of cross-batch memory as part of a saved state: pytorch-metric-learning keeps it outside its state_dict."""

from typing import Any

from pytorch_metric_learning.losses import CrossBatchMemory
from torch import nn

QUEUE = ("embedding_memory", "label_memory", "queue_idx", "has_been_filled")


def memory_state(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Queue and place in it, by the module's name; empty where no loss remembers past batches."""
    return {
        name: {key: getattr(module, key) for key in QUEUE}
        for name, module in model.named_modules()
        if isinstance(module, CrossBatchMemory)
    }


def load_memory(model: nn.Module, state: dict[str, dict[str, Any]]) -> None:
    """Put queues back; what is not in ``state`` stays as it is."""
    modules = dict(model.named_modules())
    for name, queue in state.items():
        for key, value in queue.items():
            setattr(modules[name], key, value)
