"""The items of a tree: their rows, points, owners and labels by row, and the depth-first order that finds members."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

Labels = tuple[str, ...]


class Items:
    """Parallel arrays over the items, in the order of their rows.

    Rows above the last are added in amortised constant time (the arrays have room to spare), which is how a
    catalogue gives them out. The members of a range of nodes are one slice of `order`, the items sorted by owner.
    """

    def __init__(self, rows: Int64, space: Float32, owners: Int32, codes: Int32, paths: Sequence[Labels]) -> None:
        self._rows, self._space, self._owners, self._codes = rows, space, owners, codes
        self._count = len(rows)
        self.paths = list(paths)
        """Label paths; `codes` says which one an item has. The first is (), no label."""
        self._code_of = {path: code for code, path in enumerate(self.paths)}
        self._order: Int64 | None = None
        self._starts = np.zeros(1, dtype=np.int64)

    @classmethod
    def of(cls, rows: Int64, space: Float32, owners: Int32, labels: Sequence[Labels] | None) -> "Items":
        """Items with a label path each, or with none."""
        items = cls(rows, space, owners, np.zeros(len(rows), dtype=np.int32), [()])
        if labels is not None:
            items._codes = items._encode(labels)
        return items

    def __len__(self) -> int:
        return self._count

    @property
    def rows(self) -> Int64:
        """Catalogue rows (m,), ascending."""
        return self._rows[: self._count]

    @property
    def space(self) -> Float32:
        """Space parts (m, d)."""
        return self._space[: self._count]

    @property
    def owners(self) -> Int32:
        """The node that holds each item (m,)."""
        return self._owners[: self._count]

    @property
    def codes(self) -> Int32:
        """Which of `paths` each item has (m,)."""
        return self._codes[: self._count]

    @property
    def labelled(self) -> bool:
        """Whether any item has ever had a label."""
        return len(self.paths) > 1

    def copy(self) -> "Items":
        """The same items in arrays of their own."""
        other = Items(self.rows.copy(), self.space.copy(), self.owners.copy(), self.codes.copy(), self.paths)
        other._order = None if self._order is None else self._order.copy()
        other._starts = self._starts.copy()
        return other

    def positions(self, rows: npt.ArrayLike) -> Int64:
        """Where each row stands, -1 where there is no such item."""
        wanted = np.asarray(rows, dtype=np.int64)
        if not self._count:
            return np.full(len(wanted), -1, dtype=np.int64)
        places = np.minimum(np.searchsorted(self.rows, wanted), self._count - 1)
        return np.where(self.rows[places] == wanted, places, -1)

    def own(self, first: int, end: int) -> Int64:
        """Positions of the items that the nodes first .. end - 1 hold, in depth-first order."""
        order = self._sorted()
        starts = self._starts
        return order[starts[min(first, len(starts) - 1)] : starts[min(end, len(starts) - 1)]]

    def holders(self) -> Int64:
        """Nodes that hold items themselves, ascending."""
        self._sorted()
        return np.flatnonzero(np.diff(self._starts))

    def add(self, rows: Int64, space: Float32, owners: Int32, labels: Sequence[Labels] | None) -> None:
        """Add items with ascending rows, none of which is there yet."""
        codes = self._encode(labels) if labels is not None else np.zeros(len(rows), dtype=np.int32)
        if self._count and len(rows) and rows[0] < self.rows[-1]:
            places = np.searchsorted(self.rows, rows)
            self._rows = np.insert(self.rows, places, rows)
            self._space = np.insert(self.space, places, space, axis=0)
            self._owners = np.insert(self.owners, places, owners)
            self._codes = np.insert(self.codes, places, codes)
            self._order = None
        else:
            self._insert_in_order(owners)
            self._reserve(self._count + len(rows))
            new = slice(self._count, self._count + len(rows))
            self._rows[new], self._space[new], self._owners[new], self._codes[new] = rows, space, owners, codes
        self._count += len(rows)

    def remove(self, positions: Int64) -> None:
        """Take items out by position (at least one, each once)."""
        kept = np.ones(self._count, dtype=bool)
        kept[positions] = False
        if self._order is not None:
            gone = np.bincount(self.owners[positions], minlength=len(self._starts) - 1)
            self._starts[1:] -= np.cumsum(gone)
            self._order = (np.cumsum(kept) - 1)[self._order[kept[self._order]]]
        # numpy copies what overlaps, but only from the first item that goes.
        first, end = int(positions.min()), self._count - len(positions)
        for array in (self._rows, self._space, self._owners, self._codes):
            array[first:end] = array[first : self._count][kept[first:]]
        self._count = end

    def renumber(self, new_owners: Int32) -> None:
        """Nodes changed their numbers: item of node i now belongs to `new_owners[i]`."""
        self._owners[: self._count] = new_owners[self.owners]
        self._order = None

    def _encode(self, labels: Sequence[Labels]) -> Int32:
        codes = np.empty(len(labels), dtype=np.int32)
        for number, path in enumerate(labels):
            key = tuple(path)
            code = self._code_of.get(key)
            if code is None:
                code = self._code_of[key] = len(self.paths)
                self.paths.append(key)
            codes[number] = code
        return codes

    def _sorted(self) -> Int64:
        if self._order is None:
            self._order = np.argsort(self.owners, kind="stable")
            nodes = int(self.owners.max()) + 1 if self._count else 0
            self._starts = np.concatenate([[0], np.cumsum(np.bincount(self.owners, minlength=nodes))])
        return self._order

    def _insert_in_order(self, owners: Int32) -> None:
        """Keep the order of what is about to be appended, without sorting anew."""
        if self._order is None:
            return
        if len(owners) and (nodes := int(owners.max()) + 1) >= len(self._starts):
            self._starts = np.pad(self._starts, (0, nodes + 1 - len(self._starts)), mode="edge")
        by_owner = np.argsort(owners, kind="stable")
        places = self._starts[owners[by_owner].astype(np.int64) + 1]
        self._order = np.insert(self._order, places, self._count + by_owner)
        self._starts[1:] += np.cumsum(np.bincount(owners, minlength=len(self._starts) - 1))

    def _reserve(self, count: int) -> None:
        if count <= len(self._rows):
            return
        room = max(count, len(self._rows) + len(self._rows) // 8 + 64)
        grown = []
        for array in (self._rows, self._space, self._owners, self._codes):
            larger = np.empty((room, *array.shape[1:]), dtype=array.dtype)
            larger[: self._count] = array[: self._count]
            grown.append(larger)
        self._rows, self._space, self._owners, self._codes = grown
