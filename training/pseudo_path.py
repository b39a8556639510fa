"""Pseudo-path: ancestors for classes whose labels have none, from how alike the backbone finds them.

Which ancestors a run has is decided once, at its start, and kept in its folder (``ancestors.json``): a resumed run
reads them there.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from hyperbolic.embedder import Embedder
from hyperbolic.models.lhier import Encoder
from training.batches import FeatureBatches, PhotoBatches
from training.distributed import Processes
from training.features import FeatureCache
from training.recipe import Recipe
from training.run_folder import read_ancestors, write_ancestors

logger = logging.getLogger(__name__)

GENERAL = 4
"""Clusters of the most general level."""


def pseudo_paths(features: Float[Tensor, "n f"], classes: Sequence[int], num_classes: int) -> list[tuple[str, ...]]:
    """The ancestors of each class, most general first: clusters of the classes' mean features.

    Ward's linkage on the L2-normalised class means, cut at 4 and at k/2 clusters (k classes), of which each is nested
    in one of the former; fewer levels where k has no room for two, none below k = 4. A class without features (none of
    its photos can be read) goes with the first. Time and memory grow with k^2: 12,000 classes take 1.2 GB. Source:
    measured design, no paper; Ward, "Hierarchical grouping to optimize an objective function", 1963.
    """
    from scipy.cluster.hierarchy import cut_tree, linkage

    sums = features.new_zeros(num_classes, features.shape[1]).double()
    index = features.new_tensor(classes).long()
    sums.index_add_(0, index, features.double())
    known = np.unique(np.asarray(classes))
    sizes = [size for size in dict.fromkeys((GENERAL, len(known) // 2)) if 2 <= size <= len(known) // 2]
    if not sizes:
        return [()] * num_classes
    # The mean's length does not matter to its direction: sums will do.
    merges = linkage(F.normalize(sums, dim=-1).numpy()[known], "ward")
    groups = np.zeros((num_classes, len(sizes)), np.int64)
    groups[known] = cut_tree(merges, sizes)
    return [
        tuple(f"cluster {group + 1} of {size}" for group, size in zip(row, sizes, strict=True))
        for row in groups.tolist()
    ]


def ancestors_of_run(
    recipe: Recipe,
    source: FeatureBatches | PhotoBatches,
    encoder: Encoder,
    run: Path,
    *,
    cache: Path,
    processes: Processes,
    resume: bool,
    skipped: dict[Path, str],
    progress: bool,
) -> list[tuple[str, ...]] | None:
    """The ancestors of each class where they are not those of its label path; None where they are.

    A resumed run's are read from its folder. Otherwise process 0 computes them with the backbone as it is, from the
    training photos' centre crops, and writes them there.
    """
    path = recipe.loss.path
    if path is None or path.ancestors == "labels" or (path.ancestors == "auto" and len(source.label_paths[0]) > 1):
        return None

    def find() -> list[tuple[str, ...]]:
        if resume and (stored := read_ancestors(run, len(source.label_paths))) is not None:
            return stored
        if isinstance(source, FeatureBatches):
            features, classes = source.features[:, 0], source.classes
        else:
            embedder = Embedder(encoder, model_hash="", device=str(processes.device))
            rows, views = FeatureCache(embedder, cache).extract(
                [photo.path for photo in source.photos],
                on_error=lambda photo, why: skipped.update({photo: why}),
                progress=progress,
            )
            features, classes = views[:, 0], [source.classes[row] for row in rows]
        ancestors = pseudo_paths(features, classes, len(source.label_paths))
        sizes = [len({names[: level + 1] for names in ancestors}) for level in range(len(ancestors[0]))]
        logger.info("pseudo_path classes=%d clusters=%s", len(ancestors), json.dumps(sizes))
        write_ancestors(run, ancestors)
        return ancestors

    return processes.on_first(find)
