"""Which id lies at which position of an index, and back."""

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]


class Ids:
    """Ids by position; -1 where a row was removed and its position is left empty.

    4 bytes each, 8 where one does not fit. Ids that ascend with the position (a collection as it is built) are their
    own table for looking up; others take as much again and 4 bytes more.
    """

    def __init__(self, ids: Int64) -> None:
        narrow = not len(ids) or int(ids.max()) < 2**31
        self.by_position: npt.NDArray[np.signedinteger] = ids.astype(np.int32 if narrow else np.int64)
        by_position = self.by_position
        self._order: npt.NDArray[np.signedinteger] | None = None
        self._sorted: npt.NDArray[np.signedinteger] = by_position
        if len(by_position) and not (by_position[0] >= 0 and (np.diff(by_position) > 0).all()):
            order = np.argsort(by_position, kind="stable")
            order = order[np.count_nonzero(by_position < 0) :]
            self._sorted = by_position[order]
            self._order = order.astype(np.int32) if len(by_position) < 2**31 else order

    def __len__(self) -> int:
        return len(self._sorted)

    @property
    def ascending(self) -> Int64:
        """A copy of all ids, ascending."""
        return self._sorted.astype(np.int64)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        extra = 0 if self._order is None else self._sorted.nbytes + self._order.nbytes
        return self.by_position.nbytes + extra

    def positions(self, ids: Int64) -> Int64:
        """Position of each id, -1 where it is not there."""
        if not len(self._sorted):
            return np.full(len(ids), -1, dtype=np.int64)
        places = np.minimum(np.searchsorted(self._sorted, ids), len(self._sorted) - 1)
        found = places if self._order is None else self._order[places].astype(np.int64)
        return np.where(self._sorted[places] == ids, found, -1)

    def live(self) -> Int64:
        """All positions that hold a row, ascending."""
        if len(self) == len(self.by_position):
            return np.arange(len(self.by_position))
        return np.flatnonzero(self.by_position >= 0)

    def with_added(self, ids: Int64) -> "Ids":
        """These ids, and new ones at the positions after them."""
        return Ids(np.concatenate([self.by_position.astype(np.int64), ids]))

    def without(self, positions: Int64, *, compact: bool) -> "Ids":
        """These ids but those at `positions`: the others move up (`compact`) or stay where they are."""
        if compact:
            return Ids(np.delete(self.by_position, positions).astype(np.int64))
        kept = self.by_position.astype(np.int64)
        kept[positions] = -1
        return Ids(kept)
