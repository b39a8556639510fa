"""Retrieval figures of an encoder on a data set's protocol, by geodesic distance and by cosine."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from hyperbolic.embedder import Embedder
from training.data.split import DataError, Photo, RetrievalData
from training.features import FeatureCache
from training.metrics import RECALL_AT, Ranking, cosine_ranking, label_indices, lorentz_ranking, retrieval_metrics

Embed = Callable[[tuple[Photo, ...]], tuple[tuple[Photo, ...], Tensor]]


@dataclass(frozen=True)
class Points:
    """Embedded queries and gallery of one protocol; unreadable photos are left out and named."""

    query: Float[Tensor, "q d"]
    query_photos: tuple[Photo, ...]
    gallery: Float[Tensor, "g d"]
    gallery_photos: tuple[Photo, ...]
    leave_one_out: bool
    skipped: tuple[Path, ...]
    recall_at: tuple[int, ...] = RECALL_AT


def embed_protocol(
    data: RetrievalData, embedder: Embedder, cache: FeatureCache | None, split: str = "test", progress: bool = False
) -> Points:
    """Points of a protocol's photos: through cached backbone features where given, else from the photos.

    ``split``: ``test`` (the protocol's queries) or ``validation``, against the same gallery.
    """

    def embed(photos: tuple[Photo, ...]) -> tuple[tuple[Photo, ...], Tensor]:
        by_path = {photo.path: photo for photo in photos}
        if cache is None:
            paths, space = embedder.embed_files([p.path for p in photos], lambda path, why: None, progress)
            return tuple(by_path[path] for path in paths), torch.from_numpy(space)
        rows, features = cache.extract([p.path for p in photos], progress=progress)
        with torch.inference_mode():
            points = embedder.encoder.embed_features(features[:, 0].to(embedder.device)).cpu()
        return tuple(photos[row] for row in rows), points

    return _assemble(data, split, embed)


def raw_points(data: RetrievalData, cache: FeatureCache, progress: bool = False) -> Points:
    """The frozen backbone's own features, as a baseline to rank by cosine."""

    def embed(photos: tuple[Photo, ...]) -> tuple[tuple[Photo, ...], Tensor]:
        rows, features = cache.extract([p.path for p in photos], progress=progress)
        return tuple(photos[row] for row in rows), features[:, 0]

    return _assemble(data, "test", embed)


def _assemble(data: RetrievalData, split: str, embed: Embed) -> Points:
    queries = data.validation if split == "validation" else data.query
    if not queries:
        raise DataError(f"{data.name} has no {split} photos")
    query_photos, query = embed(queries)
    same = data.leave_one_out and split == "test"
    gallery_photos, gallery = (query_photos, query) if same else embed(data.gallery)
    read = {*query_photos, *gallery_photos}
    asked = queries if same else (*queries, *data.gallery)
    skipped = tuple(dict.fromkeys(photo.path for photo in asked if photo not in read))
    return Points(query, query_photos, gallery, gallery_photos, same, skipped, data.recall_at)


def measure(points: Points, ranking: Ranking) -> dict[str, float]:
    """All measures of :func:`training.metrics.retrieval_metrics` under one ranking."""
    labels = label_indices([p.labels for p in points.query_photos], [p.labels for p in points.gallery_photos])
    split = len(points.query_photos)
    return retrieval_metrics(
        points.query, labels[:split], points.gallery, labels[split:], ranking, points.leave_one_out, points.recall_at
    )


def evaluate(
    data: RetrievalData,
    embedder: Embedder,
    cache: FeatureCache | None = None,
    split: str = "test",
    progress: bool = False,
) -> dict[str, float]:
    """Measures by geodesic distance, those by cosine with the suffix ``_cosine``, and counts of photos."""
    points = embed_protocol(data, embedder, cache, split, progress)
    result = measure(points, lorentz_ranking(embedder.c))
    by_angle = measure(points, cosine_ranking)
    result |= {
        f"{name}_cosine": value for name, value in by_angle.items() if name.endswith(("recall_at_1", "map_at_r"))
    }
    radius = torch.from_numpy(embedder.radius(points.gallery.numpy()))
    result |= {
        "gallery": float(len(points.gallery)),
        "unreadable": float(len(points.skipped)),
        "c": embedder.c,
        "radius_mean": float(radius.mean()),
        "radius_sd": float(radius.std()),
    }
    return result
