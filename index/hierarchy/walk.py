"""From the top of a tree, or of a forest, to the heaviest child each time: for many queries at once."""

import numpy as np
import numpy.typing as npt

from index.distances import Float64

Int64 = npt.NDArray[np.int64]


class Walk:
    """The way from the top of a tree, or of a forest, to the heaviest child each time."""

    def __init__(self, parents: npt.ArrayLike) -> None:
        """`parents` (n,): each before its children, -1 at the roots."""
        parent = np.asarray(parents, dtype=np.int64)
        order = np.argsort(parent, kind="stable")
        counts = np.bincount(parent + 1, minlength=len(parent) + 1)
        # Row v + 1 lists the children of v, row 0 the roots.
        self._children = np.full((len(parent) + 1, max(int(counts.max()), 1)), -1, dtype=np.int64)
        column = np.arange(len(parent)) - np.repeat(np.cumsum(counts) - counts, counts)
        self._children[parent[order] + 1, column] = order

    def __call__(self, masses: Float64) -> Int64:
        """Masses (q, n) -> nodes (q, steps) from the top down, -1 below the last. Of equals the first is taken."""
        current = np.full(len(masses), -1, dtype=np.int64)
        query = np.arange(len(masses))
        way: list[Int64] = []
        ended = np.full(len(masses), masses.shape[1] == 0)
        while not ended.all():
            children = self._children[current + 1]
            weight = np.where(children >= 0, masses[query[:, None], children], -np.inf)
            current = np.where(ended, -1, children[query, weight.argmax(axis=1)])
            ended |= current < 0
            way.append(current)
        # The last step found every way ended.
        return np.stack(way[:-1], axis=1) if len(way) > 1 else np.empty((len(masses), 0), dtype=np.int64)


def along(values: Float64, way: Int64) -> Float64:
    """What a way (q, steps) meets in values (q, n): (q, steps), 0 where it has ended."""
    if not values.shape[1]:
        return np.zeros(way.shape)
    return np.where(way >= 0, np.take_along_axis(values, np.maximum(way, 0), axis=1), 0.0)


def deepest(masses: Float64, depths: npt.ArrayLike, threshold: float) -> Int64:
    """The deepest node with at least a given mass, the heaviest of equally deep ones: (p, n), (n,) -> (p,); -1: none.

    For several points `masses` are their smallest at each node.
    """
    depth = np.asarray(depths, dtype=np.float64)
    if not masses.shape[1]:
        return np.full(len(masses), -1, dtype=np.int64)
    found = np.where(masses >= threshold, depth + masses / 2, -1.0)
    best = found.argmax(axis=1)
    return np.where(found[np.arange(len(found)), best] >= 0, best, -1)


def node_depths(parents: npt.ArrayLike) -> Int64:
    """Steps from its root to each node, 0 for a root: parents (n,), each before its children -> (n,)."""
    parent = np.asarray(parents, dtype=np.int64)
    found = np.zeros(len(parent), dtype=np.int64)
    for node, above in enumerate(parent.tolist()):
        if above >= 0:
            found[node] = found[above] + 1
    return found
