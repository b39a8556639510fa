"""Where a new item belongs in a tree: what average linkage would have done with it, without linking anew."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from index.distances import Float64, distances
from index.hierarchy.items import Items
from index.kmeans import time_parts

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

PROBES = 16  # nodes in whose items the nearest neighbour is looked for
FLOAT32_ERROR = 0.25
COMPARED = 64  # members of a node that its mean distance is taken over, and own items of a probed node


class Tree(Protocol):
    """What routing needs of a tree."""

    c: float
    heights: Float64
    space: Float32
    radii: Float64
    items: Items

    def ancestors(self, index: int) -> list[int]:
        """The way from a node up to the root, itself first."""

    def positions(self, index: int, *, own: bool = False) -> Int64:
        """Positions of a node's items, depth first."""


def route(tree: Tree, points: Float32) -> tuple[Int32, Float64]:
    """The owners of new points (n, d), and the mean distance of each to its owner's members: (n,), (n,).

    The nearest neighbour is looked for among the items of the 16 nearest nodes (by centroid) that hold any. From its
    owner the way leads up to the first node whose height is not below the mean distance of the point to its members
    (an even sample of 64): under average linkage the point would have joined after all members of the nodes below.
    The root takes whatever comes. A point goes through about 16 x 10 float64 distances, and 64 for each level.
    """
    owners, means = np.zeros(len(points), dtype=np.int32), np.zeros(len(points))
    holders = tree.items.holders()
    if not len(holders):
        return owners, means
    nearest = _nearest(tree.space, tree.radii, holders, points, tree.c)
    for number, (point, nodes) in enumerate(zip(points.astype(np.float64), nearest.tolist(), strict=True)):
        candidates = np.concatenate([_even(tree.positions(node, own=True)) for node in nodes])
        found = distances(point[None], tree.items.space[candidates][None], tree.c)[0]
        way = tree.ancestors(int(tree.items.owners[candidates[found.argmin()]]))
        for node in way:
            members = _even(tree.positions(node))
            means[number] = distances(point[None], tree.items.space[members][None], tree.c).mean()
            owners[number] = node
            if means[number] <= tree.heights[node]:
                break
    return owners, means


def _nearest(centroids: Float32, radii: Float64, holders: Int64, points: Float32, c: float) -> Int64:
    """Of the nodes that hold items, those with the nearest centroids to each point, in no order: (n, PROBES)."""
    root = np.sqrt(c)
    times = np.cosh(root * radii) / root
    point_times = time_parts(points, c)
    # Rounding in float32 may shift -c <x, mu> by this much, which is nothing to a choice of 16 unless far out.
    exact = c * point_times.max() * times.max() * 2.0**-24 > FLOAT32_ERROR
    dtype: type[np.floating] = np.float64 if exact else np.float32
    products = np.full((len(points), len(radii)), np.inf)
    found = np.outer(point_times, times) - points.astype(dtype) @ centroids.astype(dtype, copy=False).T
    products[:, holders] = found[:, holders]
    count = min(PROBES, len(holders))
    return np.argpartition(products, count - 1, axis=1)[:, :count]


def _even(positions: Int64) -> Int64:
    if len(positions) <= COMPARED:
        return positions
    return positions[(np.arange(COMPARED) * len(positions)) // COMPARED]
