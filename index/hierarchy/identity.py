"""Node ids that stay: a rebuilt tree's nodes take over the ids of the old nodes with mostly the same members."""

import secrets
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

SAME_FROM = 0.5  # Jaccard index: above it, of the old nodes that do not overlap each other at most one can match


class Membership(Protocol):
    """What identity needs of a tree."""

    ids: list[str]
    parents: Int32

    @property
    def rows(self) -> Int64:
        """Rows of the items, ascending."""

    @property
    def owners(self) -> Int32:
        """The node that holds each item."""


class Predecessor(Membership, Protocol):
    """An older tree, or what is left of one: ids, members, and the names that people gave."""

    @property
    def names(self) -> dict[str, str]:
        """Names by node id."""

    @property
    def folder(self) -> Path | None:
        """Where it is saved."""


def fresh_ids(count: int) -> list[str]:
    """`count` different random ids of 12 hex digits."""
    found: dict[str, None] = {}
    while len(found) < count:
        found[secrets.token_hex(6)] = None
    return list(found)


def inherited_ids(tree: Membership, previous: Membership) -> list[str]:
    """Ids for the nodes of `tree`: those of the nodes of `previous` with the same members, fresh ones elsewhere.

    Members are compared over the items that both trees have. One to one, from the best match down, as long as the
    Jaccard index |A and B| / |A or B| is at least .5; of equal matches the nodes nearer the root come first.
    """
    pairs, jaccard = _matches(tree, previous)
    order = np.lexsort((pairs[:, 1], pairs[:, 0], -jaccard))
    ids: list[str | None] = [None] * len(tree.ids)
    taken: set[int] = set()
    for new, old in pairs[order].tolist():
        if ids[new] is None and old not in taken:
            ids[new] = previous.ids[old]
            taken.add(old)
    fresh = iter(fresh_ids(len(ids)))
    return [id_ if id_ is not None else next(fresh) for id_ in ids]


def _matches(tree: Membership, previous: Membership) -> tuple[Int64, npt.NDArray[np.float64]]:
    """Pairs (new node, old node) with a Jaccard index of at least SAME_FROM, and the index."""
    _, here, there = np.intersect1d(tree.rows, previous.rows, assume_unique=True, return_indices=True)
    new, old = _ancestors(tree.parents)[tree.owners[here]], _ancestors(previous.parents)[previous.owners[there]]
    new_sizes, old_sizes = _sizes(new, len(tree.ids)), _sizes(old, len(previous.ids))
    keys = []
    for i in range(new.shape[1]):
        for j in range(old.shape[1]):
            a, b = new[:, i], old[:, j]
            sizes = np.stack([new_sizes[a], old_sizes[b]])
            # Sets of very different sizes cannot match, which spares most pairs of ancestors.
            near = (a >= 0) & (b >= 0) & (sizes.min(axis=0) >= SAME_FROM * sizes.max(axis=0))
            keys.append(a[near].astype(np.int64) * len(previous.ids) + b[near])
    pair, shared = np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *keys]), return_counts=True)
    a, b = np.divmod(pair, len(previous.ids))
    jaccard = np.asarray(shared / (new_sizes[a] + old_sizes[b] - shared), dtype=np.float64)
    alike = jaccard >= SAME_FROM
    return np.column_stack([a, b]).astype(np.int64)[alike], jaccard[alike]


def _ancestors(parents: Int32) -> Int32:
    """Each node's way to the root, itself first, filled up with -1: (n, depth)."""
    columns = [np.arange(len(parents), dtype=np.int32)]
    while (columns[-1] >= 0).any():
        last = columns[-1]
        columns.append(np.where(last >= 0, parents[last], np.int32(-1)))
    return np.stack(columns[:-1], axis=1)


def _sizes(ancestors: Int32, nodes: int) -> Int64:
    return np.bincount(ancestors[ancestors >= 0], minlength=nodes)
