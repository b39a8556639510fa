"""Batches with several photos of each of several classes, the same at every start from the same seed."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor


class ClassBalancedBatches:
    """Batch ``step`` = ``classes_per_batch`` classes x ``images_per_class`` photos, drawn from (seed, step) alone.

    Nothing is remembered between steps, so a resumed run draws exactly what the interrupted one would have.
    Photos of a class repeat within a batch only where the class has fewer than ``images_per_class``.
    """

    def __init__(self, classes: Sequence[int], classes_per_batch: int, images_per_class: int, seed: int) -> None:
        """``classes``: the class index of each photo. Fewer classes than asked for: all of them are in each batch."""
        labels = np.asarray(classes)
        self.members = [np.flatnonzero(labels == value) for value in np.unique(labels)]
        self.classes_per_batch = min(classes_per_batch, len(self.members))
        self.images_per_class = images_per_class
        self.seed = seed

    def draw(self, step: int) -> Int[Tensor, " batch"]:
        """Photo indices of batch ``step``."""
        rng = np.random.default_rng((self.seed, step))
        chosen = rng.choice(len(self.members), self.classes_per_batch, replace=False)
        picks = []
        for index in chosen:
            members = self.members[index]
            picks.append(rng.choice(members, self.images_per_class, replace=len(members) < self.images_per_class))
        return torch.from_numpy(np.concatenate(picks))
