"""Stored items, lists of them, and items to be written."""

import json
import math
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, FiniteFloat, JsonValue, model_validator

from service.schemas.common import MAX_ID, MAX_LIMIT, Answer, ItemId, Request
from service.schemas.filters import Filter

MAX_ITEMS = 1000  # in one write
MAX_METADATA_BYTES = 16_384  # as JSON
MAX_METADATA_DEPTH = 8
SOURCES = ("image", "embedding", "url")


def _bounded(metadata: dict[str, Any]) -> dict[str, Any]:
    """Metadata that can be stored, asked for and given out again as it came."""

    def look(value: Any, depth: int) -> None:
        if depth > MAX_METADATA_DEPTH:
            raise ValueError(f"expected at most {MAX_METADATA_DEPTH} levels of objects and lists")
        if isinstance(value, dict | list):
            for each in value.values() if isinstance(value, dict) else value:
                look(each, depth + 1)
        elif isinstance(value, float) and not math.isfinite(value):
            raise ValueError("expected finite numbers")
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ValueError("expected integers of at most 64 bits")

    look(metadata, 0)
    size = len(json.dumps(metadata, ensure_ascii=False).encode())
    if size > MAX_METADATA_BYTES:
        raise ValueError(f"expected at most {MAX_METADATA_BYTES:,} bytes of JSON, got {size:,}")
    return metadata


WriteId = Annotated[
    str, Field(min_length=1, max_length=MAX_ID, pattern=r"^[^\x00]*$", description="New, or overwritten.")
]
Label = Annotated[str, Field(min_length=1, max_length=256)]
Labels = Annotated[tuple[Label, ...], Field(max_length=32, description="Label path, most general first.")]
Metadata = Annotated[
    dict[str, JsonValue],
    Field(description=f"JSON object of at most {MAX_METADATA_BYTES:,} bytes, {MAX_METADATA_DEPTH} levels deep."),
    AfterValidator(_bounded),
]
ModelHash = Annotated[
    str | None,
    Field(max_length=128, description="The model that made the embeddings; refused (409) unless the collection's."),
]


class ItemAnswer(Answer):
    """One stored item; ``image`` and ``thumbnail`` are absent where the collection keeps no photo of it."""

    id: str
    path: list[str]
    metadata: dict[str, Any]
    radius: Annotated[float, Field(description="Geodesic distance to the origin.")]
    image: str | None = None
    thumbnail: str | None = None


class ScrollRequest(Request):
    """Which items to list: in stored order from ``cursor`` on, or ``random`` ones, drawn anew each time."""

    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = 100
    cursor: Annotated[str | None, Field(max_length=64, description="next_cursor of the page before.")] = None
    order: Literal["stored", "random"] = "stored"
    filter: Annotated[Filter | None, Field(description="List only what it lets through.")] = None

    @model_validator(mode="after")
    def _random_has_no_next_page(self) -> Self:
        if self.order == "random" and self.cursor is not None:
            raise ValueError("a random draw has no cursor: leave it out, or use order 'stored'")
        return self


class ScrollAnswer(Answer):
    """A page of items; ``next_cursor`` is null on the last."""

    items: list[ItemAnswer]
    next_cursor: str | None


class ItemWrite(Request):
    """An item to be written, with its photo, its point, or the URL of its photo: exactly one of them.

    It replaces an item of that id as a whole: labels, metadata and a photo that are left out are gone.
    """

    id: WriteId
    image: Annotated[
        str | None, Field(description="A photo as data URL (data:image/jpeg;base64,...) or plain base64; it is kept.")
    ] = None
    embedding: Annotated[
        list[FiniteFloat] | None,
        Field(min_length=1, max_length=65536, description="Space part of a point of this collection's model."),
    ] = None
    url: Annotated[
        str | None,
        Field(min_length=1, max_length=2048, description="Where its photo lies, if this service fetches any."),
    ] = None
    labels: Labels = ()
    metadata: Metadata = Field(default_factory=dict)

    @model_validator(mode="after")
    def _exactly_one_source(self) -> Self:
        given = [name for name in SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"expected exactly one of {', '.join(SOURCES)}, got {' and '.join(given) or 'none'}")
        return self


class UpsertRequest(Request):
    """Items to be written, at most 1,000, among them at most as many photos as a request may bring."""

    items: Annotated[list[ItemWrite], Field(min_length=1, max_length=MAX_ITEMS)]
    model_hash: ModelHash = None


class PhotoItem(Request):
    """An item to be written with a photo that came as a part of the same form."""

    id: WriteId
    file: Annotated[
        str | None, Field(min_length=1, max_length=1024, description="File name of its part; without it: the next one.")
    ] = None
    labels: Labels = ()
    metadata: Metadata = Field(default_factory=dict)


PhotoItems = Annotated[list[PhotoItem], Field(min_length=1, max_length=MAX_ITEMS)]


def _json_field(text: Any) -> Any:
    if not isinstance(text, str):
        raise ValueError("expected this field once")  # noqa: TRY004 - pydantic turns ValueErrors into 422s
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("expected JSON") from None


class FormUpsert(Request):
    """An upload as a form: one photo with its ``id``, or several with ``items``."""

    id: WriteId | None = None
    labels: Annotated[Labels, BeforeValidator(_json_field)] = ()
    metadata: Annotated[Metadata, BeforeValidator(_json_field)] = Field(default_factory=dict)
    items: Annotated[PhotoItems | None, BeforeValidator(_json_field)] = None

    @model_validator(mode="after")
    def _one_or_several(self) -> Self:
        several = self.items is not None
        if several and self.model_fields_set - {"items"}:
            raise ValueError("expected id, labels and metadata inside of items")
        if not several and self.id is None:
            raise ValueError("expected id, the item's, or items for several photos")
        return self


class ItemProblem(Answer):
    """Why one item was not written, or one photo not embedded; ``code`` is stable."""

    code: str
    detail: str


class ItemResult(Answer):
    """What became of one item: 201 created, 200 overwritten, else not written and ``error`` says why."""

    id: str
    status: int
    error: ItemProblem | None = None


class UpsertAnswer(Answer):
    """What became of each item, in the order they were sent."""

    written: int
    failed: int
    results: list[ItemResult]


class DeleteRequest(Request):
    """Which items to delete: those of ``ids``, or all that a ``filter`` lets through. Exactly one of them.

    An empty filter would let everything through; to delete everything, delete the collection.
    """

    ids: Annotated[list[ItemId] | None, Field(min_length=1, max_length=MAX_ITEMS)] = None
    filter: Filter | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.ids is None) == (self.filter is None):
            raise ValueError("expected exactly one of ids and filter")
        if self.filter is not None and not (self.filter.must or self.filter.should or self.filter.must_not):
            raise ValueError("expected a filter with a condition: to delete everything, delete the collection")
        return self


class CountRequest(Request):
    """Which items to count: those that a ``filter`` lets through, or all."""

    filter: Filter | None = None


class CountAnswer(Answer):
    """How many items there are, or were."""

    count: int
