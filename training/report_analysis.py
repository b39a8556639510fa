"""What a report says of retrieval: each query's ranking, the worst of them, and which classes are taken for which."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hyperbolic import lorentz
from training.evaluate import Points
from training.metrics import CHUNK_ELEMENTS, label_indices


@dataclass(frozen=True)
class Rankings:
    """For each query, in the order of ``Points.query_photos``: how well it was answered, and its first neighbours."""

    precision: Float[Tensor, " q"]
    """MAP@R's summand; NaN where the gallery holds no photo of the query's class."""
    first_right: Int[Tensor, " q"]
    """Place (from 1) of the first photo of its class; 0 where there is none."""
    nearest: Int[Tensor, "q k"]
    """Gallery rows, nearest first."""
    distances: Float[Tensor, "q k"]
    agreed: Int[Tensor, "q k"]
    """Levels of the label path that query and neighbour share: all of them means right."""
    levels: int

    def worst_first(self) -> list[int]:
        """Queries that have an answer, least average precision first; among equals, the latest first right place."""
        asked = [row for row in range(len(self.precision)) if int(self.first_right[row])]
        return sorted(asked, key=lambda row: (float(self.precision[row]), -int(self.first_right[row])))


def rank_queries(points: Points, c: float, neighbours: int = 8) -> Rankings:
    """Rank the gallery by geodesic distance for every query, in chunks. A query is never its own neighbour."""
    labels = label_indices([p.labels for p in points.query_photos], [p.labels for p in points.gallery_photos])
    query_labels, gallery_labels = labels[: len(points.query)], labels[len(points.query) :]
    levels = labels.shape[1]
    depth = len(points.gallery) - points.leave_one_out
    columns: list[tuple[Tensor, ...]] = []
    rows = max(1, CHUNK_ELEMENTS // len(points.gallery))
    for start in range(0, len(points.query), rows):
        own = query_labels[start : start + rows]
        distances = lorentz.pairwise_distance(points.query[start : start + rows], points.gallery, c)
        right = own[:, None, -1] == gallery_labels[None, :, -1]
        if points.leave_one_out:
            each = torch.arange(len(own))
            distances[each, start + each] = torch.inf
            right[each, start + each] = False
        relevant = right.sum(1)
        nearest = distances.topk(min(depth, max(neighbours, int(relevant.max()))), dim=1, largest=False).indices
        hits = right.gather(1, nearest)
        places = torch.arange(1, hits.shape[1] + 1)
        counted = hits & (places <= relevant[:, None])
        precision = (hits.cumsum(1).double() / places * counted).sum(1) / relevant
        closest_right = distances.masked_fill(~right, torch.inf).amin(1, keepdim=True)
        first_right = torch.where(relevant > 0, (distances < closest_right).sum(1) + 1, 0)
        nearest = nearest[:, :neighbours]
        agreed = (own[:, None, :] == gallery_labels[nearest]).sum(-1)
        columns.append((precision, first_right, nearest, distances.gather(1, nearest), agreed))
    precision, first_right, nearest, near_distances, agreed = (torch.cat(parts) for parts in zip(*columns, strict=True))
    return Rankings(precision, first_right, nearest, near_distances, agreed, levels)


@dataclass(frozen=True)
class Confusion:
    """Queries of one class whose first neighbour is of another."""

    wanted: tuple[str, ...]
    found: tuple[str, ...]
    count: int
    asked: int
    example: int
    """The first such query."""


def most_confused(points: Points, rankings: Rankings, most: int = 15) -> list[Confusion]:
    """Directed pairs of classes by how often the first neighbour takes the one for the other, most frequent first."""
    asked = Counter(photo.labels for photo in points.query_photos)
    pairs: dict[tuple[tuple[str, ...], tuple[str, ...]], list[int]] = {}
    for row, photo in enumerate(points.query_photos):
        found = points.gallery_photos[int(rankings.nearest[row, 0])].labels
        if found != photo.labels:
            pairs.setdefault((photo.labels, found), []).append(row)
    ordered = sorted(pairs.items(), key=lambda item: (-len(item[1]), item[0]))
    return [Confusion(wanted, found, len(rows), asked[wanted], rows[0]) for (wanted, found), rows in ordered[:most]]


@dataclass(frozen=True)
class Matrix:
    """Counts of (class of the query, class of its first neighbour) at one level; rows are queries."""

    names: list[tuple[str, ...]]
    counts: Int[Tensor, "n n"]
    left_out: int
    """Classes without a row and column: those confused least, where there are too many."""


def coarse_level(levels: int) -> int:
    """How many components of a label path make the coarse class: one less than all, where there are two or more."""
    return max(1, levels - 1)


def confusion_matrix(points: Points, rankings: Rankings, level: int, most: int = 48) -> Matrix:
    """Confusion at ``level`` components of the label path, in the order of the label tree."""
    wanted = [photo.labels[:level] for photo in points.query_photos]
    found = [points.gallery_photos[int(row)].labels[:level] for row in rankings.nearest[:, 0]]
    names = sorted({*wanted, *found})
    off = Counter[tuple[str, ...]]()
    for a, b in zip(wanted, found, strict=True):
        if a != b:
            off.update((a, b))
    kept = names if len(names) <= most else sorted(sorted(names, key=lambda name: -off[name])[:most])
    number = {name: i for i, name in enumerate(kept)}
    counts = torch.zeros(len(kept), len(kept), dtype=torch.int64)
    for a, b in zip(wanted, found, strict=True):
        if a in number and b in number:
            counts[number[a], number[b]] += 1
    return Matrix(kept, counts, len(names) - len(kept))


def spread_sample(labels: Sequence[tuple[str, ...]], most: int) -> list[int]:
    """At most ``most`` rows, evenly over the classes: one of each in turn, in the order they come."""
    by_class: dict[tuple[str, ...], list[int]] = {}
    for row, path in enumerate(labels):
        by_class.setdefault(path, []).append(row)
    turns = max((len(rows) for rows in by_class.values()), default=0)
    in_turn = [rows[turn] for turn in range(turns) for rows in by_class.values() if turn < len(rows)]
    return sorted(in_turn[:most])
