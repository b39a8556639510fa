"""How tree-like a collection is: delta_rel of its features, and the curvature to start with that follows from it.

Source: Khrulkov et al., "Hyperbolic image embeddings", CVPR 2020, section 3.2 and appendix; Fournier et al. 2015.
"""

import json
import logging
import random
import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hyperbolic import lorentz
from hyperbolic.embedder import Embedder
from hyperbolic.images import find_images
from hyperbolic.models.backbone import WeightSource
from hyperbolic.models.config import ModelConfig
from hyperbolic.models.lhier import Encoder
from training.data.split import DataError
from training.features import FeatureCache, OnError

logger = logging.getLogger(__name__)

DISK_DELTA = 0.144
"""delta of the Poincare disk of c = 1, as Khrulkov et al. give it: what delta_rel is measured against."""


@dataclass(frozen=True)
class Delta:
    """delta_rel over repeated samples of a collection's points."""

    values: tuple[float, ...]
    sample: int
    points: int

    @property
    def mean(self) -> float:
        """Mean over the repeats: between 0 (a tree) and 1."""
        return statistics.fmean(self.values)

    @property
    def sd(self) -> float:
        """Standard deviation over the repeats; 0 for a single one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0


def starting_curvature(delta_rel: float) -> float | None:
    """c = (0.144 / delta_rel)^2 (Khrulkov et al. 2020); None where delta_rel is 0: a tree fits every c."""
    return (DISK_DELTA / delta_rel) ** 2 if delta_rel > 0 else None


def measure_delta(
    points: Float[Tensor, "n d"], *, sample: int = 1000, repeats: int = 5, seed: int = 0, c: float | None = None
) -> Delta:
    """delta_rel of ``repeats`` samples of at most ``sample`` points, by the 4-point condition.

    Distances are Euclidean, or geodesic where ``c`` is given and points are space parts; float64. Each repeat draws its
    points, and with them its base point, anew, so repeats differ even where the sample is everything. Time: sample^3
    (about 1 s at 1000 on one core). Raises :class:`~training.data.split.DataError` below 4 points, or where all
    points are the same.
    """
    if len(points) < 4:
        raise DataError(f"delta_rel compares 4 points at a time: expected 4 or more, got {len(points)}")
    if sample < 4 or repeats < 1:
        raise DataError(f"expected a sample of 4 or more and 1 or more repeats, got {sample} and {repeats}")
    generator = torch.Generator().manual_seed(seed)
    values = []
    for repeat in range(repeats):
        drawn = points[torch.randperm(len(points), generator=generator)[:sample]].double()
        distances = (
            torch.cdist(drawn, drawn, compute_mode="donot_use_mm_for_euclid_dist")
            if c is None
            else lorentz.pairwise_distance(drawn, drawn, c)
        )
        if float(distances.max()) == 0.0:
            raise DataError("all points of a sample are the same: nothing can be said of their tree-likeness")
        # Chunks of 16 MB stay in cache: five times as fast as the default at 1000 points.
        values.append(lorentz.delta_rel(distances))
        logger.info("delta_rel=%.4f repeat=%d of=%d", values[-1], repeat + 1, repeats)
    return Delta(tuple(values), min(sample, len(points)), len(points))


def photo_features(
    root: Path,
    cache: Path,
    *,
    backbone: str,
    weights: WeightSource,
    image_size: int = 224,
    most: int,
    seed: int = 0,
    on_error: OnError | None = None,
    progress: bool = False,
) -> Float[Tensor, "n f"]:
    """Frozen backbone features of at most ``most`` photos below ``root``, drawn by ``seed``.

    Photos that cannot be read go to ``on_error``. Raises ``FileNotFoundError``, ``ValueError``, ``WeightsError`` and
    :class:`~training.data.split.DataError`.
    """
    paths = find_images(root)
    if not paths:
        raise DataError(f"{root}: expected photos below it, found none")
    if len(paths) > most:
        paths = sorted(random.Random(seed).sample(paths, most))
    torch.manual_seed(seed)  # weights 'none' are random ones
    encoder = Encoder(ModelConfig(backbone=backbone, image_size=image_size), weights=weights)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    store = FeatureCache(Embedder(encoder, model_hash="", device=device), cache)
    _, features = store.extract(paths, on_error=on_error, progress=progress)
    return features[:, 0]


def stored_points(folder: Path) -> tuple[Float[Tensor, "n d"], float] | None:
    """Space parts and c of an embedding folder (``lhier embed``); None where ``folder`` is not one.

    Raises :class:`~training.data.split.DataError` where it cannot be read.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        files, dim, c = [part["file"] for part in manifest["parts"]], int(manifest["embedding_dim"]), manifest["c"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    import pyarrow.parquet as pq

    def read(name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        column = pq.read_table(folder / name, columns=["space"])["space"]
        return np.asarray(column.combine_chunks().flatten(), dtype=np.float32).reshape(-1, dim)

    try:
        return torch.from_numpy(np.concatenate([read(name) for name in files])), float(c)
    except Exception as error:  # pyarrow raises a class of its own for each kind of damage
        raise DataError(f"{folder}: the embeddings cannot be read ({error}): run 'lhier embed' again") from error
