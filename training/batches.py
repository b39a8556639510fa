"""Where the loop's batches come from: cached features of a frozen backbone, or photos decoded as it goes."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hyperbolic.embedder import Embedder
from hyperbolic.images import ImageError, read_image
from hyperbolic.models.lhier import Encoder
from training.data.samplers import ClassBalancedBatches
from training.data.split import DataError, Photo, RetrievalData
from training.data.transforms import random_view
from training.distributed import Processes
from training.features import FeatureCache
from training.recipe import Recipe, TrainConfig

# This process's rows of a batch, and the place of the first of them in it: see Processes.share.
Share = Callable[[Tensor], tuple[Tensor, int]]


class FeatureBatches:
    """Batches of cached features: for each drawn photo one of its views."""

    def __init__(self, recipe: Recipe, features: Tensor, photos: list[Photo], share: Share) -> None:
        self.share = share
        self.features, self.seed = features, recipe.seed
        self.label_paths, self.classes = _classes(photos)
        self.sampler = _sampler(recipe, self.classes)

    def batches(self, start: int, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's features (n, f) and class indices of the steps ``start`` to ``stop``."""
        classes = torch.tensor(self.classes)
        for step in range(start, stop):
            rows = self.sampler.draw(step)
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
            views = torch.randint(self.features.shape[1], (len(rows),), generator=generator)
            own, first = self.share(rows)
            yield self.features[own, views[first : first + len(own)]], classes[own]


class PhotoBatches(Dataset[tuple[Tensor, Tensor, dict[Path, str]]]):
    """Batches of freshly drawn views of the photos; item ``step`` is this process's share of one, from a worker."""

    def __init__(
        self, recipe: Recipe, photos: list[Photo], encoder: Encoder, skipped: dict[Path, str], share: Share
    ) -> None:
        self.share = share
        self.photos, self.preprocessing = photos, encoder.preprocessing
        self.config: TrainConfig = recipe.train
        self.seed, self.skipped = recipe.seed, skipped
        self.label_paths, self.classes = _classes(photos)
        self.sampler = _sampler(recipe, self.classes)

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor, dict[Path, str]]:
        views, classes, failed = [], [], {}
        rows, first = self.share(self.sampler.draw(step))
        for place, row in enumerate(rows.tolist(), start=first):
            path = self.photos[row].path
            try:
                image = read_image(path)
            except ImageError as error:
                failed[path] = str(error)
                continue
            seed = (self.seed * 1_000_003 + step) * 10_007 + place
            views.append(random_view(image, self.preprocessing, self.config.crop_scale_min, seed))
            classes.append(self.classes[row])
        size = self.preprocessing.image_size
        images = torch.stack(views) if views else torch.zeros(0, 3, size, size)
        return images, torch.tensor(classes, dtype=torch.int64), failed

    def batches(self, start: int, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's images (n, 3, s, s) and class indices of the steps ``start`` to ``stop``."""
        loader: DataLoader[Any] = DataLoader(
            self, batch_size=None, sampler=range(start, stop), num_workers=self.config.workers
        )
        for views, classes, failed in loader:
            self.skipped.update(failed)
            yield views, classes


def batches_of(
    recipe: Recipe,
    data: RetrievalData,
    encoder: Encoder,
    *,
    cache: Path,
    processes: Processes,
    skipped: dict[Path, str],
    progress: bool,
) -> FeatureBatches | PhotoBatches:
    """The source that a recipe needs; unreadable photos are put into ``skipped``, now or while batches are drawn."""
    photos = list(data.train)
    if not recipe.train.frozen_backbone:
        return PhotoBatches(recipe, photos, encoder, skipped, processes.share)
    embedder = Embedder(encoder, model_hash="", device=str(processes.device))
    features = FeatureCache(embedder, cache, recipe.train.crop_scale_min)

    def extract() -> tuple[list[int], Tensor]:
        return features.extract(
            [photo.path for photo in photos],
            recipe.train.views,
            on_error=lambda path, why: skipped.update({path: why}),
            progress=progress and processes.first,
        )

    if processes.world > 1:  # process 0 fills the cache, then all read it

        def fill() -> None:
            extract()

        processes.on_first(fill)
    kept, values = extract()
    return FeatureBatches(recipe, values, [photos[row] for row in kept], processes.share)


def _classes(photos: list[Photo]) -> tuple[list[tuple[str, ...]], list[int]]:
    label_paths = sorted({photo.labels for photo in photos})
    if len(label_paths) < 2:
        raise DataError(f"expected readable photos of two or more classes, found {len(label_paths)}")
    number = {labels: index for index, labels in enumerate(label_paths)}
    return label_paths, [number[photo.labels] for photo in photos]


def _sampler(recipe: Recipe, classes: list[int]) -> ClassBalancedBatches:
    return ClassBalancedBatches(classes, recipe.train.classes_per_batch, recipe.train.images_per_class, recipe.seed)
