"""Searches: what is looked for, how, and what was found."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, FiniteFloat, ValidationError, WithJsonSchema, model_validator

from service.schemas.common import MAX_LIMIT, Answer, ProblemAnswer, Request
from service.schemas.filters import MAX_LABELS, FieldKey, Filter
from service.schemas.hierarchy import PathAnswer
from service.schemas.query import Query

# How far a search can be paged through: beyond it a filter finds more than patience does.
MAX_DEPTH = 10_000
MAX_BATCH = 32
MAX_CURSOR = 2**17

Include = Literal["metadata", "path", "thumbnail", "specificity"]
Cursor = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_CURSOR,
        pattern="^[A-Za-z0-9_-]+$",
        description="next_cursor of the page before; send the other options as they were, the query may be left out.",
    ),
]


def _filter_of(given: Any) -> Filter:
    if not isinstance(given, str):
        raise ValueError("expected one filter as JSON")  # noqa: TRY004 - pydantic turns this one into a problem
    try:
        return Filter.model_validate_json(given, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{where}: {first['msg']}" if where else first["msg"]) from None


def _names_of(given: Any) -> list[str]:
    texts = given if isinstance(given, list) else [given]
    return [part.strip() for text in texts for part in text.split(",")]


class SearchOptions(Request):
    """How to search, whatever the query is."""

    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT, description="How many hits at most.")] = 10
    cursor: Cursor | None = None
    filter: Annotated[Filter | None, Field(description="Which items may be found.")] = None
    max_distance: Annotated[
        FiniteFloat | None, Field(ge=0, description="Leave out whatever lies farther away (geodesic distance).")
    ] = None
    group_by: Annotated[
        FieldKey | None,
        Field(description="Only the nearest item of each value of this metadata field; items without it are left out."),
    ] = None
    group_level: Annotated[
        int | None,
        Field(ge=1, le=MAX_LABELS, description="The same by the first labels of the path, this many of them."),
    ] = None
    exact: Annotated[
        bool,
        Field(
            description="Go on until the hits are proven to be the true nearest. The answer's own `exact` says what "
            "was proven, asked for or not."
        ),
    ] = False
    include: Annotated[
        tuple[Include, ...],
        Field(
            max_length=16,
            description="What each hit carries beside id, distance and score. With specificity, the answer's query "
            "carries its own and its path through the tree, and the search takes longer.",
        ),
    ] = ("metadata", "path")

    @property
    def plain(self) -> bool:
        """Whether nothing but ``limit`` and ``include`` was asked for, and what costs a search no more than itself."""
        asked = (self.cursor, self.filter, self.max_distance, self.group_by, self.group_level)
        return all(each is None for each in asked) and not self.exact and "specificity" not in self.include

    @model_validator(mode="after")
    def _one_grouping(self) -> Self:
        if self.group_by is not None and self.group_level is not None:
            raise ValueError("expected group_by or group_level, not both")
        return self


class FormSearchOptions(SearchOptions):
    """The same from form fields, where ``include`` is repeated or a comma-separated list, and ``filter`` is JSON."""

    filter: Annotated[
        Filter | None,
        BeforeValidator(_filter_of),
        WithJsonSchema({"type": "string", "contentMediaType": "application/json", "description": "A filter as JSON."}),
    ] = None
    include: Annotated[
        tuple[Include, ...],
        BeforeValidator(_names_of),
        Field(max_length=16),
    ] = ("metadata", "path")


class SearchRequest(SearchOptions):
    """Body of a search as JSON: a query, or the cursor of one that goes on."""

    query: Query | None = None

    @model_validator(mode="after")
    def _has_a_query(self) -> Self:
        if self.query is None and self.cursor is None:
            raise ValueError("expected a query, or the cursor of one")
        return self


class BatchRequest(Request):
    """Body of several searches at once."""

    searches: Annotated[list[SearchRequest], Field(min_length=1, max_length=MAX_BATCH)]


class Hit(Answer):
    """One neighbour. ``score = 1 / (1 + distance)``: 1 at the query itself, falling towards 0."""

    id: str
    distance: Annotated[float, Field(description="Geodesic distance to the query.")]
    score: Annotated[float, Field(description="1 / (1 + distance), in 0..1.")]
    group: Annotated[
        str | bool | int | float | list[str] | None,
        Field(description="What was grouped by: the field's value, or the labels down to the level."),
    ] = None
    specificity: Annotated[
        float | None, Field(description="How specific the tree finds the item; null where no tree knows it.")
    ] = None
    path: Annotated[list[str], Field(description="Label path, most general first.")] = Field(default_factory=list)
    metadata: dict[str, Any] = Field(default_factory=dict)
    thumbnail: Annotated[str, Field(description="Where its thumbnail lives.")] = ""


class QueryInfo(Answer):
    """What became of the query. ``radius`` is its geodesic distance to the origin."""

    radius: float
    specificity: Annotated[
        float | None, Field(description="How specific the tree finds it; null where there is no tree.")
    ] = None
    path: Annotated[PathAnswer | None, Field(description="Where the tree puts it; null where there is no tree.")] = None


class SearchAnswer(Answer):
    """Hits by rising distance. ``exact`` says that they are certified to be the true nearest.

    ``next_cursor`` leads to the next page; it is null on the last, and at 10,000 hits.
    """

    hits: list[Hit]
    next_cursor: str | None
    query: QueryInfo
    generation: str
    exact: bool


class BatchResult(Answer):
    """What became of one search: ``answer`` where the status is 200, else ``problem``."""

    status: Annotated[int, Field(ge=200, le=599)]
    answer: SearchAnswer | None = None
    problem: ProblemAnswer | None = None


class BatchAnswer(Answer):
    """One result for each search, in their order."""

    results: list[BatchResult]
