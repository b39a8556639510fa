"""The points as they were given: what the re-rank reads. In memory, or mapped from a generation's file."""

from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


class ExactPoints:
    """Space parts (n, d) in float32, by position.

    Loaded ones stay in their file, which is mapped: the system reads the few rows that a search re-ranks and may
    drop them again, so they take no memory that something else needs. Rows that are added later are held in memory
    until the next generation is written and opened. The file must not change while it is mapped (generations never
    do; deleting it is harmless).
    """

    def __init__(self, space: Float32) -> None:
        self._base = space
        self._tail = np.zeros((0, space.shape[1]), dtype=np.float32)  # grown by doubling
        self._tail_count = 0

    @classmethod
    def map(cls, path: Path) -> Self:
        """The points of a ``.npy`` file of float32 (n, d), where they lie."""
        space = np.load(path, mmap_mode="r", allow_pickle=False)
        if space.ndim != 2 or space.dtype != np.float32:
            raise ValueError(f"{path} holds {space.dtype} of shape {space.shape}, expected float32 (n, d)")
        return cls(np.asarray(space))

    def __len__(self) -> int:
        return len(self._base) + self._tail_count

    @property
    def resident_bytes(self) -> int:
        """Bytes held in memory; mapped ones do not count."""
        return self._tail.nbytes + (self._base.nbytes if self._base.flags.owndata else 0)

    def array(self) -> Float32:
        """All of them (n, d)."""
        if not self._tail_count:
            return self._base
        return np.concatenate([self._base, self._tail[: self._tail_count]])

    def gather(self, positions: Int64) -> Float32:
        """Rows by position: (...) -> (..., d)."""
        first = len(self._base)
        if not self._tail_count:
            return np.asarray(self._base[positions])
        if not first:
            return np.asarray(self._tail[positions])
        late = positions >= first
        found = self._base[np.where(late, 0, positions)]
        found[late] = self._tail[positions[late] - first]
        return found

    def append(self, space: Float32) -> None:
        """Add rows (m, d) at the end."""
        end = self._tail_count + len(space)
        if end > len(self._tail):
            grown = np.empty((max(end, 2 * len(self._tail)), space.shape[1]), dtype=np.float32)
            grown[: self._tail_count] = self._tail[: self._tail_count]
            self._tail = grown
        self._tail[self._tail_count : end] = space
        self._tail_count = end

    def delete(self, positions: Int64) -> None:
        """Take rows out; the others move up."""
        self.__init__(np.delete(self.array(), positions, axis=0))  # type: ignore[misc]
