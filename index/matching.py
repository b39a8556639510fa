"""Which items a filter lets through and which group each belongs to, remembered while the catalogue stays as it is."""

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from index.catalogue import Catalogue
from index.filters import Filter, field_sql, where

Int64 = npt.NDArray[np.int64]

CACHED_BYTES = 64 * 2**20  # of rows, per collection


class _Kept(Protocol):
    @property
    def sequence(self) -> int: ...

    @property
    def nbytes(self) -> int: ...


Found = TypeVar("Found", bound=_Kept)


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Rows (n,), ascending, that a filter lets through at write `sequence`."""

    sequence: int
    rows: Int64

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.rows.nbytes


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """Rows (n,), ascending, of the items that belong to a group, and the number of each one's group (n,)."""

    sequence: int
    rows: Int64
    numbers: npt.NDArray[np.int32]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.rows.nbytes + self.numbers.nbytes

    def of(self, rows: Int64) -> npt.NDArray[np.int32]:
        """The groups of rows, -1 for those that belong to none: (n,) -> (n,)."""
        if not len(self.rows):
            return np.full(len(rows), -1, dtype=np.int32)
        places = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
        return np.where(self.rows[places] == rows, self.numbers[places], np.int32(-1))


class Matching:
    """Answers of one catalogue, the most recent kept until the next write. Any thread may ask."""

    def __init__(self, max_bytes: int = CACHED_BYTES) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._bytes = 0

    def rows(self, catalogue: Catalogue, condition: Filter) -> Rows:
        """The items that `condition` holds for. Raises ``PointError`` for a key that cannot be one."""
        sql, values = where(condition)

        def find() -> Rows:
            sequence, found = catalogue.select("row", sql, values)
            return Rows(sequence, np.sort(np.fromiter((row for (row,) in found), np.int64, len(found))))

        # A filter may bring a thousand values, or all rows of a node: its key is as short as any other.
        key = hashlib.blake2b(repr((sql, values)).encode(), digest_size=16).digest()
        return self._remembered(catalogue, key, find)

    def by_field(self, catalogue: Catalogue, key: str) -> Groups:
        """Items by the text, number or boolean in a metadata field; others belong to no group."""
        kind, value, values = field_sql(key)

        def find() -> Groups:
            within = f"{kind} IN ('text', 'integer', 'real', 'true', 'false')"
            sequence, found = catalogue.select(f"row, {kind}, {value}", within, values)
            return _groups(sequence, [(row, (type_ in _TRUTH, type_ == "text", value)) for row, type_, value in found])

        return self._remembered(catalogue, ("field", key), find)

    def by_level(self, catalogue: Catalogue, level: int) -> Groups:
        """Items by the first `level` labels of their path; those with fewer belong to no group."""

        def find() -> Groups:
            sequence, found = catalogue.select("row, labels", "json_array_length(labels) >= :level", {"level": level})
            paths = {text: tuple(json.loads(text)[:level]) for _, text in found}
            return _groups(sequence, [(row, paths[text]) for row, text in found])

        return self._remembered(catalogue, ("level", level), find)

    def _remembered(self, catalogue: Catalogue, key: Hashable, find: Callable[[], Found]) -> Found:
        sequence = catalogue.sequence
        with self._lock:
            kept: Found | None = self._kept.get(key)
            if kept is not None and kept.sequence == sequence:
                self._kept.move_to_end(key)
                return kept
        found = find()
        with self._lock:
            self._drop(key)
            self._kept[key] = found
            self._bytes += found.nbytes
            while self._bytes > self._max_bytes:
                self._drop(next(iter(self._kept)))
        return found

    def _drop(self, key: Hashable) -> None:
        if (kept := self._kept.pop(key, None)) is not None:
            self._bytes -= kept.nbytes


_TRUTH = ("true", "false")


def _groups(sequence: int, members: list[tuple[int, Hashable]]) -> Groups:
    numbers: dict[Hashable, int] = {}
    given = [numbers.setdefault(name, len(numbers)) for _, name in members]
    rows = np.fromiter((row for row, _ in members), np.int64, len(members))
    order = np.argsort(rows)
    return Groups(sequence, rows[order], np.array(given, dtype=np.int32)[order])
