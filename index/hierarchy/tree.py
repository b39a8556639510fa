"""Hierarchy: the tree over a collection's items, its nodes, and what each node holds."""

import logging
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from index.catalogue import Catalogue
from index.distances import Float64
from index.errors import ModelMismatchError, PointError
from index.hierarchy.exemplars import exemplars
from index.hierarchy.identity import Predecessor, fresh_ids, inherited_ids
from index.hierarchy.items import Items, Labels
from index.hierarchy.linkage import dendrogram
from index.hierarchy.nodes import Nodes
from index.hierarchy.prune import Pruned, prune
from index.hierarchy.routing import route
from index.hierarchy.shape import MAX_CHILDREN, MIN_SIZE
from index.hierarchy.store import Source, load, rename, save
from index.points import some, valid_ids, valid_points

if TYPE_CHECKING:
    from index.hierarchy.calibration import Fit

logger = logging.getLogger(__name__)

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

LABELS_KEPT = 12  # of a level's histogram
ATTACH_AT_ONCE = 256  # items that are routed by the same state of the tree


@dataclass(frozen=True, slots=True)
class Node:
    """One node as callers see it: `index` is its place in the arrays of this state of the tree, `id` stays."""

    id: str
    index: int
    parent: int | None
    children: tuple[int, ...]
    depth: int
    size: int
    """Items under it, those that it holds directly included."""
    radius: float
    """Geodesic distance of its centroid to the origin; never larger than any child's."""
    height: float
    """Average-linkage distance at which its members merge; 0 for a single item."""
    exemplars: tuple[int, ...]
    """Catalogue rows: the medoid first, then central items that look different; at most 5."""
    labels: tuple[dict[Labels, int], ...]
    """Per label level, most general first: how many items under it have a label path that starts so. The 12 most
    common, most common first; empty without labels."""
    name: str | None


class Hierarchy(Nodes):
    """A multiway tree over points of the hyperboloid.

    Nodes are numbered depth first: node 0 is the root (which is always there), parents come before children, and the
    subtree of a node is the range of numbers from its own to :meth:`end` of it. Every item belongs to one node, its
    owner: a leaf, or the inner node that holds it directly (a loose item).

    Arrays over the nodes: `ids`, `parents` (-1 for the root), `heights`, `depths`, `sizes`, `radii` and `space`, the
    space part of its Lorentz centroid, moved along its ray where its radius would exceed a child's. Arrays over the
    items, by ascending row: `rows`, `owners`, `item_space`. Not to be read while another thread changes the tree.
    """

    def __init__(
        self,
        *,
        c: float,
        embedding_dim: int,
        model_hash: str,
        sequence: int,
        ids: Sequence[str],
        parents: Int32,
        heights: Float64,
        items: Items,
        names: dict[str, str] | None = None,
        changed: int = 0,
        fit: "Fit | None" = None,
        folder: Path | None = None,
    ) -> None:
        super().__init__(
            c=c, embedding_dim=embedding_dim, ids=ids, parents=parents, heights=heights, items=items, names=names
        )
        self.model_hash = model_hash
        self.sequence = sequence
        self.changed = changed
        """Items attached or removed since the tree was built: where they are many, build it anew."""
        self.fit = fit
        self.folder = folder
        """Where it was saved or loaded, and where names are written to at once."""

    @classmethod
    def build(
        cls,
        space: npt.ArrayLike,
        rows: npt.ArrayLike,
        c: float,
        *,
        labels: Sequence[Labels] | None = None,
        model_hash: str = "",
        sequence: int = 0,
        previous: Predecessor | None = None,
        max_children: int = MAX_CHILDREN,
        min_size: int = MIN_SIZE,
        seed: int = 0,
    ) -> Self:
        """A tree over points with space parts `space` (m, d), known by their catalogue `rows` (m,), >= 0 and unique.

        Average linkage on geodesic distance (:func:`~index.hierarchy.linkage.dendrogram`), pruned to 2 to
        `max_children` children a node, none with less than `min_size` items (:func:`~index.hierarchy.prune.prune`).
        `labels`: a label path per item, most general first. `previous`: an older tree, or what is left of one
        (:func:`~index.hierarchy.former.read_former`), whose ids are taken over by the nodes with mostly the same
        members, and whose names. :class:`PointError` for bad points or rows.
        """
        points, numbers, paths = _valid_items(space, rows, labels)
        if len(points):
            pruned = prune(dendrogram(points, c, seed=seed), max_children=max_children, min_size=min_size)
        else:
            pruned = Pruned(np.array([-1], dtype=np.int32), np.zeros(1), np.zeros(0, dtype=np.int32))
        tree = cls(
            c=c,
            embedding_dim=points.shape[1],
            model_hash=model_hash,
            sequence=sequence,
            ids=fresh_ids(len(pruned.parents)),
            parents=pruned.parents,
            heights=pruned.heights,
            items=Items.of(numbers, points, pruned.owners, paths),
            names=previous.names if previous else None,
            folder=previous.folder if previous else None,
        )
        if previous is not None:
            tree.ids = inherited_ids(tree, previous)
            tree._places = {id_: index for index, id_ in enumerate(tree.ids)}
        logger.info("event=hierarchy_built items=%d nodes=%d depth=%d", len(tree), len(tree.ids), tree.depths.max())
        return tree

    def __len__(self) -> int:
        return len(self.items)

    @property
    def rows(self) -> Int64:
        """Catalogue rows of the items (m,), ascending."""
        return self.items.rows

    @property
    def owners(self) -> Int32:
        """The deepest node that holds each item (m,)."""
        return self.items.owners

    @property
    def item_space(self) -> Float32:
        """Space parts of the items (m, d)."""
        return self.items.space

    @property
    def root(self) -> Node:
        """The node of all items."""
        return self.at(0)

    def node(self, node_id: str) -> Node:
        """The node of that id; ``KeyError`` where there is none."""
        return self.at(self.index_of(node_id))

    def index_of(self, node_id: str) -> int:
        """The number of the node of that id; ``KeyError`` where there is none."""
        return self._places[node_id]

    def nodes(self) -> Iterator[Node]:
        """All nodes, depth first."""
        return (self.at(index) for index in range(len(self.ids)))

    def at(self, index: int) -> Node:
        """The node of that number."""
        parent = int(self.parents[index])
        return Node(
            id=self.ids[index],
            index=index,
            parent=parent if parent >= 0 else None,
            children=self.children(index),
            depth=int(self.depths[index]),
            size=int(self.sizes[index]),
            radius=float(self.radii[index]),
            height=float(self.heights[index]),
            exemplars=self.exemplars(index),
            labels=self.labels(index),
            name=self.names.get(self.ids[index]),
        )

    def positions(self, index: int, *, own: bool = False) -> Int64:
        """Places in `rows` and `item_space` of a node's members, or only of those it holds itself; depth first."""
        return self.items.own(index, index + 1 if own else self.end(index))

    def members(self, index: int, *, own: bool = False) -> Int64:
        """Rows of all items under a node, or only of those it holds itself; depth first, so that relatives are near."""
        return self.rows[self.positions(index, own=own)]

    def owner_of(self, row: int) -> int:
        """The number of the node that holds an item; ``KeyError`` for an unknown row."""
        position = int(self.items.positions([row])[0])
        if position < 0:
            raise KeyError(row)
        return int(self.owners[position])

    def exemplars(self, index: int) -> tuple[int, ...]:
        """Rows that show what a node holds: its medoid, then central items that differ most; at most 5."""
        if index not in self._exemplars:
            positions = self.positions(index)
            chosen = positions[exemplars(self.item_space, positions, self.c)]
            self._exemplars[index] = tuple(self.rows[chosen].tolist())
        return self._exemplars[index]

    def labels(self, index: int) -> tuple[dict[Labels, int], ...]:
        """How often each label prefix occurs under a node, one dict per level; see :class:`Node`. Not to be changed."""
        if index not in self._histograms:
            self._histograms[index] = self._histogram(index)
        return self._histograms[index]

    def _histogram(self, index: int) -> tuple[dict[Labels, int], ...]:
        paths = self.items.paths
        if len(paths) == 1:
            return ()
        codes, counts = np.unique(self.items.codes[self.positions(index)], return_counts=True)
        levels: list[dict[Labels, int]] = []
        for code, count in zip(codes.tolist(), counts.tolist(), strict=True):
            for level in range(len(paths[code])):
                if level == len(levels):
                    levels.append({})
                prefix = paths[code][: level + 1]
                levels[level][prefix] = levels[level].get(prefix, 0) + count
        return tuple(
            dict(sorted(level.items(), key=lambda entry: (-entry[1], entry[0]))[:LABELS_KEPT]) for level in levels
        )

    def copy(self) -> Self:
        """The same tree as an object of its own: one of them may be changed while others read the other."""
        other = copy(self)
        other.ids, other.names = self.ids.copy(), self.names.copy()
        other.heights, other.sizes = self.heights.copy(), self.sizes.copy()
        other.radii, other.space, other._sums = self.radii.copy(), self.space.copy(), self._sums.copy()
        other.items = self.items.copy()
        other._exemplars, other._histograms = self._exemplars.copy(), self._histograms.copy()
        return other

    def attach(self, space: npt.ArrayLike, rows: npt.ArrayLike, labels: Sequence[Labels] | None = None) -> Int32:
        """Add items without a rebuild: space parts (n, d), rows (n,), label paths. Returns their owners (n,).

        An item goes where average linkage would have put it: from the owner of its nearest neighbour upwards to the
        first node whose height is not below its mean distance to the members (:mod:`index.hierarchy.routing`).
        Centroids and radii are brought up to date; nodes are not made. :class:`PointError` for rows that are there
        already.
        """
        points, numbers, paths = _valid_items(space, rows, labels, self.embedding_dim)
        known = self.items.positions(numbers) >= 0
        if known.any():
            raise PointError(f"rows {some(numbers[known])} are in the tree already: remove them first")
        for start in range(0, len(numbers), ATTACH_AT_ONCE):
            part = slice(start, start + ATTACH_AT_ONCE)
            owners, mean_distances = route(self, points[part])
            top = owners == 0
            if top.any():
                self.heights[0] = max(self.heights[0], float(mean_distances[top].max()))
            self._sum(owners, points[part], 1)
            self.items.add(numbers[part], points[part], owners, paths[part] if paths is not None else None)
            self._refresh(owners)
        self.changed += len(numbers)
        order = np.argsort(valid_ids(rows))
        result = np.empty(len(numbers), dtype=np.int32)
        result[order] = self.owners[self.items.positions(numbers)]
        return result

    def remove(self, rows: npt.ArrayLike) -> int:
        """Take items out; rows that are not there are passed over. Returns how many were removed.

        A node without items disappears; one that is left with a single child and nothing of its own becomes that child.
        """
        positions = self.items.positions(np.unique(valid_ids(rows)))
        positions = positions[positions >= 0]
        if not len(positions):
            return 0
        owners = self.owners[positions].copy()
        self._sum(owners, self.item_space[positions], -1)
        self.items.remove(positions)
        self.changed += len(positions)
        self._refresh(owners)
        self._drop_nodes(owners)
        return len(positions)

    def set_name(self, node_id: str, name: str | None) -> None:
        """Name a node, or take its name away with None. On the disk when it returns, where the tree has a folder.

        ``KeyError`` for an unknown node, ``ValueError`` for a name that is empty, too long or not printable.
        """
        self.index_of(node_id)
        self.names = rename(self.folder, self.names, node_id, name)

    def save(self, folder: Path) -> None:
        """Write the tree into `folder` (:mod:`index.hierarchy.store`), where names are written to from now on."""
        save(self, folder)

    @classmethod
    def load(cls, folder: Path, source: Source) -> Self:
        """Read a tree that :meth:`save` wrote, with its points from a catalogue, or as a pair (rows, space parts).

        With a catalogue the tree is at its newest write afterwards. :class:`~index.hierarchy.store.HierarchyError`, a
        ``StoreError``, for a folder that is absent, damaged or not of this catalogue.
        """
        tree = cls(**load(folder, source))
        tree._drop_nodes(np.arange(len(tree.ids)))  # whose items the catalogue has deleted
        if isinstance(source, Catalogue):
            tree.sync(source)
        return tree

    @classmethod
    def from_catalogue(
        cls,
        catalogue: Catalogue,
        *,
        with_labels: bool = True,
        previous: Predecessor | None = None,
        max_children: int = MAX_CHILDREN,
        min_size: int = MIN_SIZE,
        seed: int = 0,
    ) -> Self:
        """:meth:`build` over everything in a catalogue; `with_labels` False leaves its labels unread."""
        sequence = catalogue.sequence  # read first: what is written meanwhile comes with the next sync
        changes = catalogue.changes()
        return cls.build(
            changes.space,
            changes.rows,
            catalogue.c,
            labels=_labels_of(catalogue, changes.rows) if with_labels else None,
            model_hash=catalogue.model_hash,
            sequence=sequence,
            previous=previous,
            max_children=max_children,
            min_size=min_size,
            seed=seed,
        )

    def sync(self, catalogue: Catalogue) -> int:
        """Take over what was written to the catalogue since `sequence`; returns how many items changed."""
        if catalogue.model_hash != self.model_hash:
            raise ModelMismatchError(str(catalogue.path.parent), expected=self.model_hash, found=catalogue.model_hash)
        if catalogue.sequence == self.sequence:
            return 0
        changes = catalogue.changes(self.sequence)
        self.remove(np.concatenate([changes.removed, changes.rows]))
        labels = _labels_of(catalogue, changes.rows) if self.items.labelled or not len(self) else None
        self.attach(changes.space, changes.rows, labels)
        self.sequence = changes.sequence
        return len(changes.removed) + len(changes.rows)


def _valid_items(
    space: npt.ArrayLike, rows: npt.ArrayLike, labels: Sequence[Labels] | None, embedding_dim: int | None = None
) -> tuple[Float32, Int64, list[Labels] | None]:
    """Items in the order of their rows, checked."""
    array = np.asarray(space)
    if array.ndim != 2:
        raise PointError(f"expected space parts of shape (n, d), got shape {array.shape}")
    points = valid_points(array, embedding_dim or array.shape[1]).astype(np.float32)
    numbers = valid_ids(rows)
    if len(numbers) != len(points) or (labels is not None and len(labels) != len(points)):
        told = "" if labels is None else f" and {len(labels)} label paths"
        raise PointError(f"expected one row per point, got {len(points)} points, {len(numbers)} rows{told}")
    order = np.argsort(numbers)
    numbers = numbers[order]
    if (twice := numbers[1:][numbers[1:] == numbers[:-1]]).size:
        raise PointError(f"expected unique rows, got {some(twice)} more than once")
    return points[order], numbers, [tuple(labels[i]) for i in order.tolist()] if labels is not None else None


def _labels_of(catalogue: Catalogue, rows: Int64) -> list[Labels]:
    return [item.labels if item is not None else () for item in catalogue.get_rows(rows)]
