"""Searches: what is looked for, how, and what was found."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, FiniteFloat

from service.schemas.common import MAX_LIMIT, Answer, Request
from service.schemas.query import Query

Include = Literal["metadata", "path", "thumbnail"]


class SearchOptions(Request):
    """How to search, whatever the query is."""

    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT, description="How many neighbours at most.")] = 10
    max_distance: Annotated[
        FiniteFloat | None, Field(ge=0, description="Leave out whatever lies farther away (geodesic distance).")
    ] = None
    include: Annotated[
        tuple[Include, ...], Field(max_length=16, description="What each hit carries beside id, distance and score.")
    ] = ("metadata", "path")


class FormSearchOptions(SearchOptions):
    """The same from form fields, where ``include`` is repeated or a comma-separated list."""

    include: Annotated[
        tuple[Include, ...],
        BeforeValidator(lambda given: [part.strip() for text in given for part in text.split(",")]),
        Field(max_length=16),
    ] = ("metadata", "path")


class SearchRequest(SearchOptions):
    """Body of a search as JSON."""

    query: Query


class Hit(Answer):
    """One neighbour. ``score = 1 / (1 + distance)``: 1 at the query itself, falling towards 0."""

    id: str
    distance: Annotated[float, Field(description="Geodesic distance to the query.")]
    score: Annotated[float, Field(description="1 / (1 + distance), in 0..1.")]
    path: Annotated[list[str], Field(description="Label path, most general first.")] = Field(default_factory=list)
    metadata: dict[str, Any] = Field(default_factory=dict)
    thumbnail: Annotated[str, Field(description="Where its thumbnail lives.")] = ""


class QueryInfo(Answer):
    """What became of the query. ``radius`` is its geodesic distance to the origin."""

    radius: float


class SearchAnswer(Answer):
    """Hits by rising distance. ``exact`` says that they are certified to be the true nearest."""

    hits: list[Hit]
    query: QueryInfo
    generation: str
    exact: bool
