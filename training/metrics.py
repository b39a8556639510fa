"""Retrieval measures over label paths, computed in chunks: never a queries x gallery matrix.

A label path is a row of class indices, one per level, most general first; two photos agree on a level when their
paths agree down to it.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

Ranking = Callable[[Tensor], Callable[[Tensor], Tensor]]
"""gallery (g, d) -> (query (q, d) -> numbers (q, g) in the order of the distances)"""
RECALL_AT = (1, 2, 4, 8, 10)
PRECISION_AT = 10
CHUNK_ELEMENTS = 1 << 22  # above 32 MB malloc maps memory anew for each chunk


def label_indices(paths: Sequence[tuple[str, ...]], other: Sequence[tuple[str, ...]] = ()) -> Int[Tensor, "n levels"]:
    """Label paths -> prefix indices (n, levels): equal numbers at a level mean equal paths down to it.

    ``other``: further paths that must be numbered alike; their rows follow.
    """
    everything = [*paths, *other]
    columns = []
    for level in range(1, len(everything[0]) + 1):
        number = {prefix: i for i, prefix in enumerate(dict.fromkeys(path[:level] for path in everything))}
        columns.append([number[path[:level]] for path in everything])
    return torch.tensor(columns).T.contiguous()


def lorentz_ranking(c: float) -> Ranking:
    """Rank by geodesic distance between space parts, nearest first.

    By -<x, y> - 1/c, which rises with the distance: one float64 product, no transcendental function per pair.
    """

    def prepare(gallery: Tensor) -> Callable[[Tensor], Tensor]:
        points = _with_time_and_one(gallery, c).T.contiguous()
        signs = torch.full((len(points),), -1.0, dtype=torch.float64)
        signs[0], signs[-1] = 1.0, -1.0 / c
        product = torch.empty(0, len(gallery), dtype=torch.float64)

        def order_by(query: Tensor) -> Tensor:
            nonlocal product
            if len(product) < len(query):
                product = torch.empty(len(query), len(gallery), dtype=torch.float64)
            x = _with_time_and_one(query, c).mul_(signs)
            return torch.matmul(x, points, out=product[: len(query)]).float()

        return order_by

    return prepare


def _with_time_and_one(space: Tensor, c: float) -> Tensor:
    space = space.double()
    time = torch.sqrt(1.0 / c + space.square().sum(1, keepdim=True))
    return torch.cat([time, space, torch.ones_like(time)], dim=1)


def cosine_ranking(gallery: Tensor) -> Callable[[Tensor], Tensor]:
    """Rank by the cosine between directions, the angle at the origin: by -cosine."""
    directions = F.normalize(gallery, dim=-1).T.contiguous()
    return lambda query: -F.normalize(query, dim=-1) @ directions


def retrieval_metrics(
    query: Float[Tensor, "q d"],
    query_labels: Int[Tensor, "q levels"],
    gallery: Float[Tensor, "g d"],
    gallery_labels: Int[Tensor, "g levels"],
    ranking: Ranking,
    leave_one_out: bool = False,
    recall_at: Sequence[int] = RECALL_AT,
) -> dict[str, float]:
    """Fractions over the queries, each with its whole ranking of the gallery.

    ``recall_at_k`` for the k of ``recall_at`` and ``map_at_r`` of the finest level, ``coarse_*`` one level up: MAP@R
    is the mean over the first R places of precision where the place is right, R = gallery photos of the query's class
    (Musgrave et al., 2020); queries with R = 0 do not count. ``lca_height``: levels from the class up to the lowest
    common ancestor with the first neighbour, mean (0: same class). ``hierarchical_precision_at_10``: sum over the
    first ten of 1 - height / levels, over the largest sum possible (Deng et al., 2010). ``leave_one_out``: query i is
    gallery photo i and is not its own neighbour. At equal distance the photo that agrees less comes first. Memory: a
    few chunks of 2^22 elements; 60,000 x 128 against themselves: benchmarks/evaluation.py.
    """
    levels = query_labels.shape[1]
    depth = len(gallery) - leave_one_out
    if depth < 1 or len(query) == 0:
        raise ValueError(f"expected queries and a gallery, got {len(query)} queries and {depth} gallery photos")
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}

    def add(name: str, values: Tensor) -> None:
        sums[name] = sums.get(name, 0.0) + float(values.double().sum())
        counts[name] = counts.get(name, 0) + len(values)

    order_of = ranking(gallery)
    # Gallery photos of each class at each level; a query is not its own relative.
    most = int(max(query_labels.max(), gallery_labels.max())) + 1
    sizes = [torch.bincount(column, minlength=most) - int(leave_one_out) for column in gallery_labels.T]
    names = ("", "coarse_") if levels > 1 else ("",)
    columns = [gallery_labels[:, -offset].contiguous() for offset in range(1, len(names) + 1)]
    rows = max(1, CHUNK_ELEMENTS // len(gallery))
    first = min(depth, max(*recall_at, PRECISION_AT))
    with ThreadPoolExecutor(max_workers=torch.get_num_threads()) as pool:
        for start in range(0, len(query), rows):
            chunk = slice(start, start + rows)
            labels = query_labels[chunk]
            order_by = order_of(query[chunk])
            if leave_one_out:
                order_by[torch.arange(len(labels)), torch.arange(start, start + len(labels))] = torch.inf
            relevant = [size[column] for size, column in zip(sizes, labels.T, strict=True)]
            ranks = _rank(
                order_by, labels, columns, [relevant[-offset] for offset in range(1, len(names) + 1)], first, pool
            )
            for offset, prefix in enumerate(names):
                asked = relevant[-offset - 1] > 0
                for k in recall_at:
                    add(f"{prefix}recall_at_{k}", ranks.first_hit[offset, asked] <= k)
                add(f"{prefix}map_at_r", ranks.map_at_r[offset, asked])
            agree = gallery_labels[ranks.nearest] == labels[:, None]
            heights = levels - agree.sum(2)
            add("lca_height", heights[:, 0].double())
            gained = (1.0 - heights.double() / levels).sum(1)
            # The best possible first ten: as many as there are of the class, then of its parent, and so on.
            possible = torch.stack([r.clamp_max(PRECISION_AT) for r in relevant]).double().sum(0) / levels
            add(f"hierarchical_precision_at_{PRECISION_AT}", gained[possible > 0] / possible[possible > 0])
    result = {name: sums[name] / counts[name] if counts[name] else float("nan") for name in sums}
    result["queries"] = float(counts["map_at_r"])
    return result


@dataclass(frozen=True)
class _Ranks:
    nearest: Int[Tensor, "q ten"]
    """Gallery positions of the nearest ten, or of all where there are fewer."""
    first_hit: Float[Tensor, "levels q"]
    """Place of the first relevant photo, from 1; infinite where none is near enough to matter."""
    map_at_r: Float[Tensor, "levels q"]


def _rank(
    order_by: Float[Tensor, "q g"],
    labels: Int[Tensor, "q all_levels"],
    columns: Sequence[Int[Tensor, " g"]],
    relevant: Sequence[Int[Tensor, " q"]],
    first: int,
    pool: ThreadPoolExecutor,
) -> _Ranks:
    """Rank the gallery for each query, as deep as ``first`` and its R; the nearest first.

    ``columns``: the gallery's indices at the levels that are measured, most specific first; ``relevant``: R at each.
    Distance, number of levels that agree and position are packed into one integer, of which the smallest are selected,
    then sorted: several times faster than a top-k of thousands. Of equally near photos those that agree less are first.
    """
    bits = order_by.numpy().view(np.int32)
    count, size = bits.shape
    position = np.arange(size)
    levels = [column.numpy().astype(np.int32) for column in columns]
    own = labels.numpy()
    numbers = torch.stack(list(relevant)).numpy()
    depths = np.maximum(first, numbers.max(0))
    nearest = np.empty((count, min(first, PRECISION_AT)), np.int64)
    first_hit, map_at_r = np.full((len(levels), count), np.inf), np.zeros((len(levels), count))

    def rank(row: int) -> None:
        # Floats as integers in the same order, negative ones included.
        keys = (bits[row] ^ ((bits[row] >> 31) & np.int32(0x7FFFFFFF))).astype(np.int64)
        agreeing = np.zeros(size, np.int8)
        for offset, level in enumerate(levels, start=1):
            agreeing += level == own[row, -offset]
        keys <<= 2
        keys += agreeing
        keys <<= 30
        keys += position
        if depths[row] < size:
            keys.partition(depths[row] - 1)
        selected = keys[: depths[row]]
        selected.sort()
        nearest[row] = selected[: nearest.shape[1]] & ((1 << 30) - 1)
        agreeing = (selected >> 30).astype(np.int8) & 3
        for offset, r in enumerate(numbers[:, row]):
            # Paths that agree on a level agree on the more general ones, so their number tells which.
            places = np.flatnonzero(agreeing >= len(levels) - offset) + 1
            if len(places):
                first_hit[offset, row] = places[0]
            counted = places[: np.searchsorted(places, r, side="right")]
            if r > 0:
                map_at_r[offset, row] = (np.arange(1, len(counted) + 1) / counted).sum() / r

    for _ in pool.map(rank, range(count)):
        pass
    return _Ranks(*(torch.from_numpy(array) for array in (nearest, first_hit, map_at_r)))
