"""Retrieval measures over label paths, computed in chunks: never a queries x gallery matrix.

A label path is a row of class indices, one per level, most general first; two photos agree on a level when their
paths agree down to it.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

Ranking = Callable[[Tensor], Callable[[Tensor], Tensor]]
"""gallery (g, d) -> (query (q, d) -> numbers (q, g) in the order of the distances)"""
RECALL_AT = (1, 2, 4, 8, 10)
PRECISION_AT = 10
CHUNK_ELEMENTS = 1 << 23


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
        points = _with_time(gallery, c).T.contiguous()

        def order_by(query: Tensor) -> Tensor:
            x = _with_time(query, c)
            x[:, 1:].neg_()
            return (x @ points - 1.0 / c).float()

        return order_by

    return prepare


def _with_time(space: Tensor, c: float) -> Tensor:
    space = space.double()
    return torch.cat([torch.sqrt(1.0 / c + space.square().sum(1, keepdim=True)), space], dim=1)


def cosine_ranking(gallery: Tensor) -> Callable[[Tensor], Tensor]:
    """Rank by the cosine between directions: the angle at the origin."""
    directions = F.normalize(gallery, dim=-1).T.contiguous()
    return lambda query: 1.0 - F.normalize(query, dim=-1) @ directions


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
    gallery photo i and is not its own neighbour. Memory: a few chunks of 2^23 elements.
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
    rows = max(1, CHUNK_ELEMENTS // len(gallery))
    for start in range(0, len(query), rows):
        chunk = slice(start, start + rows)
        labels = query_labels[chunk]
        order_by = order_of(query[chunk])
        own = (torch.arange(len(labels)), torch.arange(start, start + len(labels)))
        if leave_one_out:
            order_by[own] = torch.inf
        nearest = order_by.topk(min(depth, max(*recall_at, PRECISION_AT)), dim=1, largest=False).indices
        agree = gallery_labels[nearest] == labels[:, None]
        relevant = [size[column] for size, column in zip(sizes, labels.T, strict=True)]
        names = ("", "coarse_") if levels > 1 else ("",)
        for offset, prefix in enumerate(names, start=1):
            asked = relevant[-offset] > 0
            for k in recall_at:
                add(f"{prefix}recall_at_{k}", agree[asked, :k, -offset].any(1))
            number = relevant[-offset][asked]
            if len(number) == 0 or int(number.max()) <= nearest.shape[1]:
                precision = _map_at_r_of_hits(agree[asked, :, -offset], number)
            else:
                same = labels[:, -offset, None] == gallery_labels[None, :, -offset]
                if leave_one_out:
                    same[own] = False
                precision = _map_at_r_by_selection(order_by[asked], same[asked], number)
            add(f"{prefix}map_at_r", precision)
        heights = levels - agree.sum(2)
        add("lca_height", heights[:, 0].double())
        gained = (1.0 - heights[:, :PRECISION_AT].double() / levels).sum(1)
        # The best possible first ten: as many as there are of the class, then of its parent, and so on.
        possible = torch.stack([r.clamp_max(PRECISION_AT) for r in relevant]).double().sum(0) / levels
        add(f"hierarchical_precision_at_{PRECISION_AT}", gained[possible > 0] / possible[possible > 0])
    result = {name: sums[name] / counts[name] if counts[name] else float("nan") for name in sums}
    result["queries"] = float(counts["map_at_r"])
    return result


def _map_at_r_of_hits(hits: Tensor, number: Tensor) -> Tensor:
    """MAP@R of each query (q,) from whether its nearest k are relevant (q, k); R = ``number`` <= k."""
    places = torch.arange(1, hits.shape[1] + 1)
    counted = hits & (places <= number[:, None])
    precision = hits.cumsum(1).double() / places
    return (precision * counted).sum(1) / number


def _map_at_r_by_selection(order_by: Tensor, relevant: Tensor, number: Tensor) -> Tensor:
    """MAP@R of each query (q,) from its distances and relevance to the gallery (q, g); R = ``number`` > 0.

    For R in the thousands (a super-class of 60,000 products): nothing is ranked beyond it; distance and relevance
    are packed into one sortable integer, and the R smallest are selected, then sorted. Equal distances count the
    irrelevant photo first.
    """
    bits = order_by.numpy().view(np.uint32)
    # Floats as unsigned integers in the same order, negative ones (a cosine's rounding) included.
    ordered = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    keys = (ordered.astype(np.uint64) << np.uint64(1)) | relevant.numpy()
    numbers = number.tolist()

    def average(row: int) -> float:
        first = numbers[row]
        nearest = np.sort(np.partition(keys[row], first - 1)[:first])
        hit = (nearest & np.uint64(1)).astype(np.float64)
        return float((hit.cumsum() / np.arange(1, first + 1) * hit).sum() / first)

    with ThreadPoolExecutor(max_workers=torch.get_num_threads()) as pool:
        return torch.tensor(list(pool.map(average, range(len(keys)))), dtype=torch.float64)
