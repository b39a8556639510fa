"""Filters: conditions on items, as SQL over the catalogue.

A condition on a metadata field holds for a field of that name with a value that fits; where the field is missing it
fails, and where the field holds a list, one element must fit. Text, numbers and booleans are never equal to each
other; numbers are compared as 64-bit integers or else as float64, text by its code points. Values reach SQLite as
parameters only. The one thing written into the SQL is the name of a plain field (letters, digits, - and _), so that
SQLite finds the expression index of a field that has one: an index on :func:`field_columns`. SQLite's JSON ends texts
at a NUL, and so do these comparisons.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from index.errors import PointError

Scalar = str | int | float | bool
Number = int | float

MAX_PARTS = 8
MAX_KEY = 256
_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,64}")
# What a quoted label of SQLite's JSON paths cannot hold; JSON itself writes these characters as escapes.
_UNQUOTABLE = re.compile(r'["\\\x00-\x1f]')


@dataclass(frozen=True, slots=True)
class Match:
    """The field `key` is one of `values`."""

    key: str
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """The field `key` lies between bounds, all of them numbers or all of them texts; None for no bound."""

    key: str
    gt: Number | str | None = None
    gte: Number | str | None = None
    lt: Number | str | None = None
    lte: Number | str | None = None


@dataclass(frozen=True, slots=True)
class Exists:
    """There is a field `key`, be it null, or there is none."""

    key: str
    there: bool = True


@dataclass(frozen=True, slots=True)
class HasId:
    """The item's id is one of `ids`."""

    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Under:
    """The item's label path begins with these labels, one at least."""

    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class InRows:
    """The item's row is one of these."""

    rows: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Filter:
    """All of `must` hold, one of `should` (if there are any), and none of `must_not`."""

    must: "tuple[Condition, ...]" = ()
    should: "tuple[Condition, ...]" = ()
    must_not: "tuple[Condition, ...]" = ()


Condition = Match | Range | Exists | HasId | Under | InRows | Filter


def parts(key: str) -> tuple[str, ...]:
    """The names that the dotted path `key` leads through. :class:`PointError` for what cannot be one."""
    found = tuple(key.split("."))
    if not all(found) or len(found) > MAX_PARTS or len(key) > MAX_KEY or _UNQUOTABLE.search(key):
        raise PointError(
            f"expected the name of a metadata field, or up to {MAX_PARTS} names with dots between them, in at most "
            f"{MAX_KEY} characters, none of them a quote, a backslash or a control character, got {key!r:.80}"
        )
    return found


def field_columns(key: str) -> str:
    """The two SQL expressions that conditions on a plain field are made of: what its expression index must hold.

    ``CREATE INDEX ... ON items (<field_columns(key)>)``. :class:`PointError` for a key that an index cannot serve.
    """
    if not is_plain(key):
        raise PointError(f"expected names of letters, digits, - and _ with dots between them, got {key!r:.80}")
    return ", ".join(_Writer().columns(key))


def is_plain(key: str) -> bool:
    """Whether an index can serve conditions on this field."""
    return all(_PLAIN.fullmatch(part) for part in parts(key))


def where(condition: Condition) -> tuple[str, dict[str, str | int]]:
    """The condition as an SQL expression over the table of items, and the values of its named parameters.

    What is not known counts as false wherever the expression is used, under `must_not` too.
    """
    writer = _Writer()
    return writer.sql(condition), writer.values


def field_sql(key: str) -> tuple[str, str, dict[str, str | int]]:
    """SQL expressions of a field's JSON type and value (NULL where it is missing), and their parameters."""
    writer = _Writer()
    return *writer.columns(key), writer.values


class _Writer:
    """Writes SQL and keeps the values that its parameters stand for."""

    def __init__(self) -> None:
        self.values: dict[str, str | int] = {}

    def bind(self, value: str | int) -> str:
        name = f"v{len(self.values)}"
        self.values[name] = value
        return f":{name}"

    def sql(self, condition: Condition) -> str:
        match condition:
            case Filter():
                return self._filter(condition)
            case Match():
                return self._field(condition.key, lambda kind, value: self._match(condition.values, kind, value))
            case Range():
                return self._field(condition.key, lambda kind, value: self._range(condition, kind, value))
            case Exists():
                return f"{self.columns(condition.key)[0]} IS {'NOT ' if condition.there else ''}NULL"
            case HasId():
                return self._among("id", condition.ids)
            case Under():
                # Labels are stored as compact JSON: what begins with these and goes on lies between "," and "-".
                prefix = json.dumps(condition.labels, ensure_ascii=False, separators=(",", ":"))[:-1]
                whole, low, high = (self.bind(prefix + end) for end in "],-")
                return f"(labels = {whole} OR (labels >= {low} AND labels < {high}))"
            case InRows():
                return self._among("row", condition.rows.tolist())

    def columns(self, key: str) -> tuple[str, str]:
        path = self._path(key)
        return f"json_type(metadata, {path})", f"json_extract(metadata, {path})"

    def _path(self, key: str) -> str:
        path = "$" + "".join(f'."{part}"' for part in parts(key))
        return f"'{path}'" if is_plain(key) else self.bind(path)

    def _filter(self, condition: Filter) -> str:
        terms = [self.sql(each) for each in condition.must]
        if condition.should:
            terms.append(f"({' OR '.join([self.sql(each) for each in condition.should])})")
        terms += [f"({self.sql(each)}) IS NOT TRUE" for each in condition.must_not]
        return f"({' AND '.join(terms)})" if terms else "TRUE"

    def _field(self, key: str, test: Callable[[str, str], str]) -> str:
        """A test of the field's type and value, or of those of one element where it holds a list."""
        kind, value = self.columns(key)
        fits = test("element.type", "element.value")
        element = f"SELECT 1 FROM json_each(metadata, {self._path(key)}) AS element WHERE {fits}"  # noqa: S608
        return f"({test(kind, value)} OR ({kind} = 'array' AND EXISTS ({element})))"

    def _match(self, wanted: Sequence[Scalar], kind: str, value: str) -> str:
        truths = sorted({"true" if each else "false" for each in wanted if isinstance(each, bool)})
        texts = [each for each in wanted if isinstance(each, str)]
        numbers = [each for each in wanted if isinstance(each, int | float) and not isinstance(each, bool)]
        terms = []
        if texts:
            terms.append(f"({kind} = 'text' AND {self._among(value, texts)})")
        if numbers:
            terms.append(f"({kind} IN {_NUMBER} AND {self._among(value, numbers)})")
        if truths:
            terms.append(f"{kind} IN ({', '.join(repr(truth) for truth in truths)})")
        return f"({' OR '.join(terms)})" if terms else "FALSE"

    def _range(self, condition: Range, kind: str, value: str) -> str:
        bounds = {"> ": condition.gt, ">=": condition.gte, "< ": condition.lt, "<=": condition.lte}
        given = {sign: bound for sign, bound in bounds.items() if bound is not None}
        kinds = "('text')" if any(isinstance(bound, str) for bound in given.values()) else _NUMBER
        terms = [f"{kind} IN {kinds}", *(f"{value} {sign} {self._one(bound)}" for sign, bound in given.items())]
        return f"({' AND '.join(terms)})"

    def _one(self, value: Scalar) -> str:
        # A number is read by SQLite from the same digits as the stored ones, so that equal ones come out equal.
        return self.bind(value) if isinstance(value, str) else f"json_extract({self.bind(_json(value))}, '$')"

    def _among(self, column: str, wanted: Sequence[Scalar]) -> str:
        if len(wanted) == 1:
            return f"{column} = {self._one(wanted[0])}"
        return f"{column} IN (SELECT value FROM json_each({self.bind(_json(list(wanted)))}))"  # noqa: S608


_NUMBER = "('integer', 'real')"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
