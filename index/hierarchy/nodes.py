"""The nodes of a tree as arrays: which is under which, what each holds, and where its centroid lies."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from index.distances import Float64, radii
from index.hierarchy.items import Items, Labels
from index.kmeans import centroids_of_sums, lifted

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


class Nodes:
    """A multiway tree over items, numbered depth first: node 0 is the root, and the subtree of a node is a range.

    Kept up to date while items come and go; :class:`index.hierarchy.tree.Hierarchy` is what callers use.
    """

    def __init__(
        self,
        *,
        c: float,
        embedding_dim: int,
        ids: Sequence[str],
        parents: Int32,
        heights: Float64,
        items: Items,
        names: dict[str, str] | None = None,
    ) -> None:
        self.c = float(c)
        self.embedding_dim = embedding_dim
        self.ids = list(ids)
        self.parents = parents
        self.heights = heights
        self.items = items
        self.names = dict(names or {})
        self._derive()

    def children(self, index: int) -> tuple[int, ...]:
        """The numbers of a node's children, ascending."""
        return self._children[index]

    def ancestors(self, index: int) -> list[int]:
        """The way from a node up to the root, itself first."""
        way = [index]
        while (parent := int(self.parents[way[-1]])) >= 0:
            way.append(parent)
        return way

    def end(self, index: int) -> int:
        """One above the last number of a node's subtree, which begins with its own."""
        return int(self._ends[index])

    def _derive(self) -> None:
        """All that follows from parents, heights and items."""
        self._derive_structure()
        count = len(self.ids)
        points = lifted(self.items.space, self.c)
        ones = np.ones(len(self.items))
        shape = (count, len(self.items))
        self.sizes = np.bincount(self.items.owners, minlength=count).astype(np.int64)
        self._sums = np.asarray(
            csr_matrix((ones, (self.items.owners, np.arange(len(self.items)))), shape=shape) @ points
        )
        for index in range(count - 1, 0, -1):
            parent = self.parents[index]
            self.sizes[parent] += self.sizes[index]
            self._sums[parent] += self._sums[index]
        self.radii = np.zeros(count)
        self.space = np.zeros((count, self.embedding_dim), dtype=np.float32)
        self._place(np.arange(count))

    def _derive_structure(self) -> None:
        """Children, depths and ranges, from the parents."""
        count = len(self.ids)
        children: list[list[int]] = [[] for _ in range(count)]
        self.depths = np.zeros(count, dtype=np.int32)
        self._ends = np.arange(1, count + 1)
        for index in range(1, count):
            children[self.parents[index]].append(index)
            self.depths[index] = self.depths[self.parents[index]] + 1
        for index in range(count - 1, 0, -1):
            self._ends[self.parents[index]] = max(self._ends[self.parents[index]], self._ends[index])
        self._children = [tuple(found) for found in children]
        self._places = {id_: index for index, id_ in enumerate(self.ids)}
        self._exemplars: dict[int, tuple[int, ...]] = {}
        self._histograms: dict[int, tuple[dict[Labels, int], ...]] = {}

    def _place(self, nodes: Int64) -> None:
        """Centroids of some nodes from their sums; every ancestor of a node that is named must be named too."""
        centroids = centroids_of_sums(self._sums[nodes], self.sizes[nodes], self.c)
        own = radii(centroids, self.c)
        self.radii[nodes] = own
        for index in nodes[::-1].tolist():
            for child in self._children[index]:
                if self.sizes[child]:  # an empty one is about to go
                    self.radii[index] = min(self.radii[index], self.radii[child])
        root = np.sqrt(self.c)
        lengths = np.sinh(root * own)
        scale = np.sinh(root * self.radii[nodes]) / np.where(lengths > 0, lengths, 1.0)
        self.space[nodes] = np.where(self.radii[nodes] < own, scale, 1.0)[:, None] * centroids

    def _sum(self, owners: Int32, points: Float32, sign: int) -> None:
        """Add items to, or take them from, the sums and sizes of all their nodes."""
        for owner, point in zip(owners.tolist(), lifted(points, self.c), strict=True):
            way = self.ancestors(owner)
            self._sums[way] += sign * point
            self.sizes[way] += sign

    def _refresh(self, owners: Int32) -> None:
        """Recompute what depends on the items of some nodes, up to the root."""
        touched = {index for owner in set(owners.tolist()) for index in self.ancestors(owner)}
        for index in touched:
            self._exemplars.pop(index, None)
            self._histograms.pop(index, None)
        self._place(np.array(sorted(touched)))

    def _drop_nodes(self, owners: Int32 | Int64) -> None:
        """After items went: leave out nodes without items, and melt a node into its only child."""
        touched = sorted({index for owner in set(owners.tolist()) for index in self.ancestors(owner)}, reverse=True)
        own = np.bincount(self.items.owners, minlength=len(self.ids))
        target = np.arange(len(self.ids), dtype=np.int32)
        dropped = np.zeros(len(self.ids), dtype=bool)
        for index in touched:
            if self.sizes[index] <= 1:
                self.heights[index] = 0.0
            living = [child for child in self._children[index] if self.sizes[child]]
            if not self.sizes[index]:
                dropped[index] = index > 0
            elif len(living) == 1 and not own[index]:
                child = living[0]
                while dropped[child]:  # which has melted itself
                    child = next(other for other in self._children[child] if self.sizes[other])
                dropped[child], target[child] = True, index
                own[index] = own[child]
                self.heights[index] = self.heights[child]
                if self.ids[index] not in self.names or self.ids[child] in self.names:
                    self.ids[index] = self.ids[child]
        if not dropped.any():
            return
        kept = np.flatnonzero(~dropped)
        for index in range(len(target)):  # parents come first
            if dropped[index] and target[index] == index:
                target[index] = self.parents[index]
            target[index] = target[target[index]] if target[index] < index else index
        number = (np.cumsum(~dropped) - 1).astype(np.int32)
        self.items.renumber(number[target])
        parents = self.parents[kept]
        self.parents = np.where(parents >= 0, number[target[parents]], np.int32(-1)).astype(np.int32)
        self.ids = [self.ids[index] for index in kept.tolist()]
        self.heights, self.sizes, self.radii = self.heights[kept], self.sizes[kept], self.radii[kept]
        self.space, self._sums = self.space[kept], self._sums[kept]
        self._derive_structure()
