"""The labels of a tree's items as a forest of their own, and where in the tree each label is at home."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from index.hierarchy.items import Labels

Int64 = npt.NDArray[np.int64]


class LabelForest:
    """Every prefix of every item's label path, numbered level by level, so that parents come before children.

    Arrays over the labels: `names`, the prefixes; `parents`, -1 on the first level; `levels`, 0 for the most general.
    `of_items` (m,): each item's own, most specific label, -1 where it has none.
    """

    def __init__(self, paths: Sequence[Labels], codes: npt.ArrayLike) -> None:
        """`paths`: distinct label paths, most general first, of any depth; `codes` (m,): which one each item has."""
        prefixes = {path[:depth] for path in paths for depth in range(1, len(path) + 1)}
        self.names: tuple[Labels, ...] = tuple(sorted(prefixes, key=lambda name: (len(name), name)))
        self._number = {name: number for number, name in enumerate(self.names)}
        self.parents = np.array([self._number.get(name[:-1], -1) for name in self.names], dtype=np.int64)
        self.levels = np.array([len(name) - 1 for name in self.names], dtype=np.int64)
        of_path = np.array([self._number.get(tuple(path), -1) for path in paths], dtype=np.int64)
        wanted = np.asarray(codes, dtype=np.int64)
        self.of_items = of_path[wanted] if len(of_path) else np.full(len(wanted), -1, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def depth(self) -> int:
        """Number of levels."""
        return int(self.levels.max()) + 1 if len(self) else 0

    def find(self, path: Labels) -> list[int]:
        """The numbers of a path's prefixes, as far down as there are such labels."""
        found: list[int] = []
        for depth in range(1, len(path) + 1):
            number = self._number.get(tuple(path[:depth]))
            if number is None:
                break
            found.append(number)
        return found


def incidence(groups: npt.ArrayLike, count: int) -> csr_matrix:
    """(count, m): 1 where item i is in group g, `groups` (m,), -1 for an item in none."""
    group = np.asarray(groups, dtype=np.int64)
    items = np.flatnonzero(group >= 0)
    return csr_matrix((np.ones(len(items)), (group[items], items)), shape=(count, len(group)))


def descent(parents: npt.ArrayLike) -> csr_matrix:
    """(n, n): 1 at (a, v) where a is v or one of its ancestors, for parents (n,) with -1 at the roots."""
    parent = np.asarray(parents, dtype=np.int64)
    node, above = np.arange(len(parent)), np.arange(len(parent))
    rows, columns = [above], [node]
    while len(node):
        above = parent[above]
        node, above = node[above >= 0], above[above >= 0]
        rows.append(above)
        columns.append(node)
    row, column = np.concatenate(rows), np.concatenate(columns)
    return csr_matrix((np.ones(len(row)), (row, column)), shape=(len(parent), len(parent)))


def homes(below: csr_matrix, own: csr_matrix, bears: csr_matrix) -> csr_matrix:
    """(n, labels): 1 where a label is at home in a node's subtree.

    A node is a home of a label if it holds at least half of the label's items, or if at least half of its items bear
    the label: the first holds for the nodes above a class, the second for the parts that a class falls into. So all
    that lies above a home is right for a photo with that label.

    `below` (n, n) as of :func:`descent`; `own` (n, m): which items a node holds itself; `bears` (labels, m): which
    items have the label on their path.
    """
    counts = (below @ (own @ bears.T)).tocoo()
    of_label = np.asarray(bears.sum(axis=1)).ravel()
    of_node = np.asarray(below @ own.sum(axis=1)).ravel()
    home = (2 * counts.data >= of_label[counts.col]) | (2 * counts.data >= of_node[counts.row])
    found = csr_matrix((np.ones(int(home.sum())), (counts.row[home], counts.col[home])), shape=counts.shape)
    found = below @ found
    found.data[:] = 1.0
    return found
