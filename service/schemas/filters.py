"""Filters of searches and lists: which items may be found at all."""

from collections.abc import Callable, Iterator
from typing import Annotated, Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Discriminator, Field, FiniteFloat, StrictBool, Tag, model_validator, with_config
from typing_extensions import TypedDict  # pydantic asks for this one below Python 3.12

from index import filters
from service.schemas.common import ItemId, NodeId, Request

MAX_DEPTH = 5
MAX_CONDITIONS = 64
MAX_VALUES = 1000
MAX_LABELS = 32

# Names with dots between them; what JSON writes as an escape cannot stand in a path of SQLite's JSON.
_NAME = r'[^."\\\x00-\x1f]+'
FieldKey = Annotated[
    str,
    Field(
        min_length=1,
        max_length=filters.MAX_KEY,
        pattern=rf"^{_NAME}(\.{_NAME}){{0,{filters.MAX_PARTS - 1}}}$",
        description="A metadata field; dots lead into objects: size.width.",
    ),
]
Text = Annotated[str, Field(max_length=4096, pattern=r"^[^\x00]*$")]
Integer = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Scalar = Text | StrictBool | Integer | FiniteFloat
Values = Annotated[list[Scalar], Field(min_length=1, max_length=MAX_VALUES)]
Label = Annotated[str, Field(max_length=1024)]


@with_config(ConfigDict(extra="forbid"))
class NumberRange(TypedDict, total=False):
    """Bounds of a number, one at least."""

    gt: Integer | FiniteFloat
    gte: Integer | FiniteFloat
    lt: Integer | FiniteFloat
    lte: Integer | FiniteFloat


@with_config(ConfigDict(extra="forbid"))
class TextRange(TypedDict, total=False):
    """Bounds of a text, one at least, by code points: dates as 2026-01-31 are in order."""

    gt: Text
    gte: Text
    lt: Text
    lte: Text


Bounds = Annotated[NumberRange, Field(min_length=1)] | Annotated[TextRange, Field(min_length=1)]


class MatchCondition(Request):
    """The field has this value, or one of these."""

    key: FieldKey
    match: Scalar | Values


class InCondition(Request):
    """The field has one of these values."""

    key: FieldKey
    among: Annotated[Values, Field(alias="in")]


class RangeCondition(Request):
    """The field is a number, or a text, within bounds."""

    key: FieldKey
    range: Bounds


class ExistsCondition(Request):
    """The item has that field (null counts as having it), or with false, has not."""

    key: FieldKey
    exists: StrictBool


class IdCondition(Request):
    """The item is this one, or one of these."""

    id: ItemId | Annotated[list[ItemId], Field(min_length=1, max_length=MAX_VALUES)]


class PathCondition(Request):
    """The item's labels begin with these: "Fruit/Apple", or a list where a label has a slash in it."""

    path: (
        Annotated[str, Field(min_length=1, max_length=4096)]
        | Annotated[list[Label], Field(min_length=1, max_length=MAX_LABELS)]
    )


class NodeCondition(Request):
    """The item lies under this node of the collection's tree."""

    node: NodeId


CONDITIONS = ("match", "in", "range", "exists", "id", "path", "node")


def _kind(given: Any) -> str:
    if isinstance(given, dict):
        return next((f"({name})" for name in CONDITIONS if name in given), "(filter)")
    return next((tag for kind, tag in _TAGS.items() if isinstance(given, kind)), "(filter)")


Condition = Annotated[
    Annotated[MatchCondition, Tag("(match)")]
    | Annotated[InCondition, Tag("(in)")]
    | Annotated[RangeCondition, Tag("(range)")]
    | Annotated[ExistsCondition, Tag("(exists)")]
    | Annotated[IdCondition, Tag("(id)")]
    | Annotated[PathCondition, Tag("(path)")]
    | Annotated[NodeCondition, Tag("(node)")]
    | Annotated["Filter", Tag("(filter)")],
    Discriminator(_kind),
]
Conditions = Annotated[list[Condition], Field(max_length=MAX_CONDITIONS)]


class Filter(Request):
    """All of ``must`` hold, at least one of ``should`` (where there are any), and none of ``must_not``.

    A field that an item lacks fulfils nothing but ``exists: false``; of a field that holds a list, one element must
    fit; "1", 1 and true are three different values. At most 64 conditions in all, filters in filters 5 deep.
    """

    must: Conditions = Field(default_factory=list)
    should: Conditions = Field(default_factory=list)
    must_not: Conditions = Field(default_factory=list)

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if (count := sum(1 for _ in self.leaves())) > MAX_CONDITIONS:
            raise ValueError(f"expected at most {MAX_CONDITIONS} conditions in all, got {count}")
        if self._depth() > MAX_DEPTH:
            raise ValueError(f"expected filters within filters at most {MAX_DEPTH} deep")
        return self

    @property
    def needs_tree(self) -> bool:
        """Whether a condition is about a node of the tree."""
        return any(isinstance(each, NodeCondition) for each in self.leaves())

    def leaves(self) -> Iterator[Any]:
        """Every condition that is no filter; an empty filter counts as one."""
        for each in (*self.must, *self.should, *self.must_not):
            yield from (each.leaves() if isinstance(each, Filter) else (each,))
        if not (self.must or self.should or self.must_not):
            yield self

    def compiled(self, rows_under: Callable[[str], npt.NDArray[np.int64]]) -> filters.Filter:
        """As the index has it; ``rows_under`` gives the rows of the items under a node by its id."""

        def convert(given: list[Condition]) -> tuple[filters.Condition, ...]:
            return tuple(
                each.compiled(rows_under) if isinstance(each, Filter) else _converted(each, rows_under)
                for each in given
            )

        return filters.Filter(convert(self.must), convert(self.should), convert(self.must_not))

    def _depth(self) -> int:
        below = (each._depth() for each in (*self.must, *self.should, *self.must_not) if isinstance(each, Filter))
        return 1 + max(below, default=0)


_TAGS: dict[type[Request], str] = {
    MatchCondition: "(match)",
    InCondition: "(in)",
    RangeCondition: "(range)",
    ExistsCondition: "(exists)",
    IdCondition: "(id)",
    PathCondition: "(path)",
    NodeCondition: "(node)",
}


def _converted(given: Any, rows_under: Callable[[str], npt.NDArray[np.int64]]) -> filters.Condition:
    match given:
        case MatchCondition():
            return filters.Match(given.key, _many(given.match))
        case InCondition():
            return filters.Match(given.key, tuple(given.among))
        case RangeCondition():
            return filters.Range(given.key, **given.range)
        case ExistsCondition():
            return filters.Exists(given.key, given.exists)
        case IdCondition():
            return filters.HasId(_many(given.id))
        case PathCondition():
            return filters.Under(tuple(given.path.split("/")) if isinstance(given.path, str) else tuple(given.path))
        case NodeCondition():
            return filters.InRows(rows_under(given.node))
    raise TypeError(f"no condition: {given!r:.80}")


def _many(given: Any) -> tuple[Any, ...]:
    return tuple(given) if isinstance(given, list) else (given,)


Filter.model_rebuild()
