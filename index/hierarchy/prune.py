"""From a binary merge matrix to a tree that a person can read: few children a node, no branch of two or three items."""

import heapq
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from index.distances import Float64
from index.hierarchy.shape import MAX_CHILDREN, MIN_SIZE

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Pruned:
    """A multiway tree over items 0 .. m - 1; nodes in depth-first order, so that parents come before children."""

    parents: Int32
    """(n,), -1 for the root, which is node 0."""
    heights: Float64
    """(n,) average-linkage distance at which the members merge."""
    owners: Int32
    """(m,) the deepest node that holds each item: a leaf, or the inner node in which the item is loose."""


def prune(merges: Float64, *, max_children: int = MAX_CHILDREN, min_size: int = MIN_SIZE) -> Pruned:
    """A multiway tree with 2 to `max_children` children at every inner node, from a merge matrix (m - 1, 4).

    A branch of fewer than `min_size` items is no node: its items are loose, held directly by the node they would
    have hung from (the condensed tree of Campello et al. 2013). What is left are the real splits, each into two
    branches that count. The children of a node are the branches at one height: of the cuts into k = 2 to
    `max_children` branches, the one with the largest gap / sqrt(k - 1) down to the next real split. Without the root
    the widest of many gaps would win by their number, and levels would be passed over: on photos of classes that the
    encoder never saw (Grocery P1, training shops) the best node of a fine class had an F1 of .57 instead of .63, a
    tree of pairs, 23 deep, .67.
    """
    if max_children < 2 or min_size < 1:
        raise ValueError(f"expected max_children >= 2 and min_size >= 1, got {max_children} and {min_size}")
    count = len(merges) + 1
    left, right = merges[:, 0].astype(np.int64), merges[:, 1].astype(np.int64)
    sizes = np.concatenate([np.ones(count, dtype=np.int64), merges[:, 3].astype(np.int64)])
    height = np.concatenate([np.zeros(count), merges[:, 2]])
    split = _real_splits(left, right, sizes, min_size)
    start, leaves = _leaf_order(left, right, sizes)
    parents: list[int] = []
    heights: list[float] = []
    owners = np.zeros(count, dtype=np.int32)
    pending = [(2 * count - 2, -1)]
    while pending:
        cluster, parent = pending.pop()
        node = len(parents)
        parents.append(parent)
        heights.append(float(height[cluster]))
        owners[leaves[start[cluster] : start[cluster] + sizes[cluster]]] = node
        children = _children(cluster, split, left, right, height, max_children)
        # The first child is taken up first, and with all that is below it.
        pending += [(child, node) for child in sorted(children, key=lambda child: -start[child])]
    return Pruned(np.array(parents, dtype=np.int32), np.array(heights), owners)


def _real_splits(left: Int64, right: Int64, sizes: Int64, min_size: int) -> Int64:
    """The topmost cluster within each whose both sides have `min_size` items; -1 where there is none."""
    count = len(left) + 1
    split = np.full(2 * count - 1, -1, dtype=np.int64)
    big_left, big_right = sizes[left] >= min_size, sizes[right] >= min_size
    for number, (a, b, both, one) in enumerate(
        zip(left.tolist(), right.tolist(), (big_left & big_right).tolist(), big_left.tolist(), strict=True)
    ):
        split[count + number] = count + number if both else split[a] if one else split[b]
    return split


def _leaf_order(left: Int64, right: Int64, sizes: Int64) -> tuple[Int64, Int64]:
    """Where each cluster's items start in the order of the dendrogram's leaves, and that order."""
    count = len(left) + 1
    start = np.zeros(2 * count - 1, dtype=np.int64)
    for number in range(count - 2, -1, -1):
        a, b, here = left[number], right[number], start[count + number]
        start[a], start[b] = here, here + sizes[a]
    leaves = np.empty(count, dtype=np.int64)
    leaves[start[:count]] = np.arange(count)
    return start, leaves


def _children(cluster: int, split: Int64, left: Int64, right: Int64, height: Float64, max_children: int) -> list[int]:
    """The branches of a cluster at the cut of the clearest gap; none where it has no real split."""

    def entry(branch: int) -> tuple[float, int]:
        below = split[branch]
        return (-height[below] if below >= 0 else 0.0, branch)

    frontier = [entry(cluster)]
    best: list[int] = []
    clearest = -np.inf
    while len(frontier) < max_children and frontier[0][0] < 0:
        above, branch = heapq.heappop(frontier)
        core = split[branch] - len(left) - 1
        heapq.heappush(frontier, entry(int(left[core])))
        heapq.heappush(frontier, entry(int(right[core])))
        # Where nothing is left to split, the gap ends where the branches themselves come together.
        below = -frontier[0][0] if frontier[0][0] < 0 else max(height[branch] for _, branch in frontier)
        gap = (-above - below) / np.sqrt(len(frontier) - 1)
        if gap > clearest:
            clearest, best = gap, [branch for _, branch in frontier]
    return best
