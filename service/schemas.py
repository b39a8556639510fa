"""What requests and answers hold. Unknown fields are refused, never ignored."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, model_validator

Include = Literal["metadata", "path", "thumbnail"]
MAX_LIMIT = 1000
MAX_ID = 1024


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class SearchOptions(_Request):
    """How to search, whatever the query is."""

    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT, description="How many neighbours at most.")] = 10
    max_distance: Annotated[
        FiniteFloat | None, Field(ge=0, description="Leave out whatever lies farther away (geodesic distance).")
    ] = None
    include: Annotated[
        list[Include], Field(max_length=16, description="What each hit carries beside id, distance and score.")
    ] = ["metadata", "path"]


class FormSearchOptions(SearchOptions):
    """The same from form fields, where ``include`` is repeated or a comma-separated list."""

    include: Annotated[
        list[Include],
        BeforeValidator(lambda given: [part.strip() for text in given for part in text.split(",")]),
        Field(max_length=16),
    ] = ["metadata", "path"]


class SearchQuery(_Request):
    """What to look for: exactly one of an image, a stored item, or a point."""

    image: Annotated[
        str | None, Field(description="A photo as data URL (data:image/jpeg;base64,...) or plain base64.")
    ] = None
    item_id: Annotated[
        str | None, Field(min_length=1, max_length=MAX_ID, description="A stored item; it is not among its own hits.")
    ] = None
    embedding: Annotated[
        list[FiniteFloat] | None,
        Field(min_length=1, max_length=65536, description="Space part of a point of this model."),
    ] = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [name for name in ("image", "item_id", "embedding") if getattr(self, name) is not None]
        if len(given) != 1:
            got = " and ".join(given) or "none"
            raise ValueError(f"expected exactly one of image, item_id and embedding, got {got}")
        return self


class SearchRequest(SearchOptions):
    """Body of a search as JSON."""

    query: SearchQuery


class Hit(_Answer):
    """One neighbour. ``score = 1 / (1 + distance)``: 1 at the query itself, falling towards 0."""

    id: str
    distance: Annotated[float, Field(description="Geodesic distance to the query.")]
    score: Annotated[float, Field(description="1 / (1 + distance), in 0..1.")]
    path: Annotated[list[str], Field(description="Label path, most general first.")] = []
    metadata: dict[str, Any] = {}
    thumbnail: Annotated[str, Field(description="Where its thumbnail lives.")] = ""


class QueryInfo(_Answer):
    """What became of the query. ``radius`` is its geodesic distance to the origin."""

    radius: float


class SearchAnswer(_Answer):
    """Hits by rising distance. ``exact`` says that they are certified to be the true nearest."""

    hits: list[Hit]
    query: QueryInfo
    generation: str
    exact: bool


class ItemAnswer(_Answer):
    """One stored item; ``image`` and ``thumbnail`` are absent where the collection keeps no photo of it."""

    id: str
    path: list[str]
    metadata: dict[str, Any]
    radius: Annotated[float, Field(description="Geodesic distance to the origin.")]
    image: str | None = None
    thumbnail: str | None = None


class ScrollRequest(_Request):
    """Which items to list: in stored order from ``cursor`` on, or ``random`` ones, drawn anew each time."""

    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = 100
    cursor: Annotated[str | None, Field(max_length=64, description="next_cursor of the page before.")] = None
    order: Literal["stored", "random"] = "stored"

    @model_validator(mode="after")
    def _random_has_no_next_page(self) -> Self:
        if self.order == "random" and self.cursor is not None:
            raise ValueError("a random draw has no cursor: leave it out, or use order 'stored'")
        return self


class ScrollAnswer(_Answer):
    """A page of items; ``next_cursor`` is null on the last."""

    items: list[ItemAnswer]
    next_cursor: str | None


class CollectionInfo(_Answer):
    """A collection that is served."""

    name: str
    count: int
    generation: str


class Limits(_Answer):
    """What a request may bring; bytes, pixels, seconds."""

    body_bytes: int
    image_bytes: int
    image_pixels: int
    image_min_side: int
    hits: int
    in_flight: int
    queued: int
    deadline_s: float


class Info(_Answer):
    """What runs here. ``c`` is the curvature's magnitude (curvature -c), ``embedding_dim`` the dimension d."""

    version: str
    model_hash: str
    backbone: str
    image_size: int
    embedding_dim: int
    c: float
    limits: Limits
    default_collection: str
    collections: list[CollectionInfo]


class ProblemAnswer(_Answer):
    """RFC 9457 problem; ``code`` is stable, ``errors`` names each bad field."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str | None
    errors: list[dict[str, Any]] = []
