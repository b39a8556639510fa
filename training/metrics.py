"""Retrieval measures over label paths, computed in chunks: never a queries x gallery matrix.

A label path is a row of class indices, one per level, most general first; two photos agree on a level when their
paths agree down to it.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from hyperbolic import lorentz

Ranking = Callable[[Tensor, Tensor], Tensor]
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
    """Rank by geodesic distance between space parts, nearest first."""
    return lambda query, gallery: lorentz.pairwise_distance(query, gallery, c)


def cosine_ranking(query: Tensor, gallery: Tensor) -> Tensor:
    """Rank by the cosine between directions: the angle at the origin."""
    return 1.0 - F.normalize(query, dim=-1) @ F.normalize(gallery, dim=-1).T


def retrieval_metrics(
    query: Float[Tensor, "q d"],
    query_labels: Int[Tensor, "q levels"],
    gallery: Float[Tensor, "g d"],
    gallery_labels: Int[Tensor, "g levels"],
    distances: Ranking,
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

    rows = max(1, CHUNK_ELEMENTS // len(gallery))
    for start in range(0, len(query), rows):
        chunk = slice(start, start + rows)
        labels = query_labels[chunk]
        # For each level: is the gallery photo of the query's class at that level?
        same = [labels[:, level, None] == gallery_labels[None, :, level] for level in range(levels)]
        order_by = distances(query[chunk], gallery)
        if leave_one_out:
            own = torch.arange(start, start + len(labels))
            order_by[torch.arange(len(labels)), own] = torch.inf
            for matches in same:
                matches[torch.arange(len(labels)), own] = False
        relevant = [matches.sum(1) for matches in same]
        needed = min(depth, max(*recall_at, PRECISION_AT, *(int(r.max()) for r in relevant[-2:])))
        nearest = order_by.topk(needed, dim=1, largest=False).indices
        hits = [matches.gather(1, nearest) for matches in same]
        names = ("", "coarse_") if levels > 1 else ("",)
        for offset, prefix in enumerate(names, start=1):
            hit, number = hits[-offset], relevant[-offset]
            asked = number > 0
            for k in recall_at:
                add(f"{prefix}recall_at_{k}", hit[asked, :k].any(1))
            add(f"{prefix}map_at_r", _map_at_r(hit[asked], number[asked]))
        heights = levels - torch.stack(hits).sum(0)
        add("lca_height", heights[:, 0].double())
        gained = (1.0 - heights[:, :PRECISION_AT].double() / levels).sum(1)
        # The best possible first ten: as many as there are of the class, then of its parent, and so on.
        possible = torch.stack([r.clamp_max(PRECISION_AT) for r in relevant]).double().sum(0) / levels
        add(f"hierarchical_precision_at_{PRECISION_AT}", gained[possible > 0] / possible[possible > 0])
    result = {name: sums[name] / counts[name] if counts[name] else float("nan") for name in sums}
    result["queries"] = float(counts["map_at_r"])
    return result


def _map_at_r(hits: Tensor, number: Tensor) -> Tensor:
    places = torch.arange(1, hits.shape[1] + 1)
    counted = hits & (places <= number[:, None])
    precision = hits.cumsum(1).double() / places
    return (precision * counted).sum(1) / number
