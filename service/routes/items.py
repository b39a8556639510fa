"""Stored items: what is known of them, their photos, and lists of them."""

import base64
import binascii
import mimetypes
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Response
from fastapi.responses import FileResponse

from index.catalogue import Item
from index.collection import Collection
from service.problems import Problem
from service.schemas.items import ItemAnswer, ScrollAnswer, ScrollRequest
from service.state import NamedCollection, NamedItem, State, item_url
from service.thumbnails import entity_tag

router = APIRouter(prefix="/v1/collections/{collection}/items", tags=["items"])

# Private: with a key set, no shared cache may keep photos. The tag makes asking again cheap.
CACHE_CONTROL = "private, max-age=3600"
IfNoneMatch = Annotated[str | None, Header(include_in_schema=False)]


@router.post("/scroll")
def scroll(state: State, collection: NamedCollection, asked: ScrollRequest) -> ScrollAnswer:
    """List items page by page in stored order, or draw some at random."""
    after: int | None = None
    if asked.order == "random":
        items = state.engine.sample(collection, asked.limit)
    else:
        start = 0 if asked.cursor is None else _row_of(asked.cursor)
        items, after = state.engine.scroll(collection, asked.limit, start)
    return ScrollAnswer(
        items=[_answer(collection, item) for item in items], next_cursor=None if after is None else _cursor(after)
    )


# The two below stand before the bare item, whose id would swallow their last word.
@router.get("/{item_id:path}/thumbnail", response_class=Response, responses={200: {"content": {"image/jpeg": {}}}})
def thumbnail(
    state: State,
    collection: NamedCollection,
    item: NamedItem,
    if_none_match: IfNoneMatch = None,
    size: Literal["160", "320", "640"] = "320",
) -> Response:
    """The item's photo as a small JPEG, at most ``size`` pixels a side."""
    made = state.thumbnails.get(_photo(collection, item), int(size))
    headers = {"ETag": made.etag, "Cache-Control": CACHE_CONTROL}
    if _matches(if_none_match, made.etag):
        return Response(status_code=304, headers=headers)
    return Response(made.data, media_type="image/jpeg", headers=headers)


@router.get("/{item_id:path}/image", response_class=Response, responses={200: {"content": {"image/*": {}}}})
def image(collection: NamedCollection, item: NamedItem, if_none_match: IfNoneMatch = None) -> Response:
    """The item's photo as the file it came from."""
    path = _photo(collection, item)
    etag = entity_tag(path)
    headers = {"ETag": etag, "Cache-Control": CACHE_CONTROL}
    if _matches(if_none_match, etag):
        return Response(status_code=304, headers=headers)
    guessed = mimetypes.guess_type(path.name)[0] or ""
    # Only photos are shown inline: a file of another kind must not run as a page of this origin.
    media_type = guessed if guessed.startswith("image/") and guessed != "image/svg+xml" else "application/octet-stream"
    return FileResponse(path, media_type=media_type, headers=headers)


@router.get("/{item_id:path}", response_model_exclude_none=True)
def item_by_id(collection: NamedCollection, item: NamedItem) -> ItemAnswer:
    """An item by id."""
    return _answer(collection, item)


def _answer(collection: Collection, item: Item) -> ItemAnswer:
    has_photo = item.image is not None
    return ItemAnswer(
        id=item.id,
        path=list(item.labels),
        metadata=item.metadata,
        radius=float(collection.radius(item.space)),
        image=item_url(collection, item, "image") if has_photo else None,
        thumbnail=item_url(collection, item, "thumbnail") if has_photo else None,
    )


def _photo(collection: Collection, item: Item) -> Path:
    path = collection.image_path(item)
    if path is None:
        raise Problem(404, "image_not_found", f"item {item.id!r} was stored without a photo")
    return path


def _matches(if_none_match: str | None, etag: str) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")]
    return etag in tags or "*" in tags


def _cursor(row: int) -> str:
    return base64.urlsafe_b64encode(f"row:{row}".encode()).decode().rstrip("=")


def _row_of(cursor: str) -> int:
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
        kind, _, row = text.partition(":")
        if kind == "row" and row.isdigit() and int(row) < 2**63:
            return int(row)
    except (binascii.Error, ValueError):
        pass
    raise Problem(422, "invalid_cursor", "cursor: expected the next_cursor of an earlier page")
