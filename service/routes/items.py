"""Stored items: what is known of them, their photos, and lists of them."""

import base64
import binascii
import mimetypes
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool

from index.catalogue import Item
from index.collection import Collection
from index.errors import ImageReferenceError
from index.uploads import is_upload
from service.access import access
from service.bodies import read_body
from service.collections import Served
from service.engine import UnknownItemError
from service.problems import Problem
from service.routes.collections import problems
from service.routes.downloads import is_known
from service.schemas.common import MAX_ID
from service.schemas.filters import Filter
from service.schemas.items import (
    CountAnswer,
    CountRequest,
    DeleteRequest,
    FormUpsert,
    ItemAnswer,
    ScrollAnswer,
    ScrollRequest,
    UpsertAnswer,
    UpsertRequest,
)
from service.search.pages import ids_let_through, rows_let_through
from service.search.queries import loaded
from service.state import ItemIdInPath, NamedCollection, NamedItem, NamedServed, ServiceState, State, item_url
from service.thumbnails import entity_tag
from service.upserts import (
    commit,
    entries_of_form,
    entries_of_json,
    longest_of,
    prepare,
    refuse_unless_all_are_fine,
    storing,
)

router = APIRouter(prefix="/v1/collections/{collection}/items", tags=["items"])

# Private: with a key set, no shared cache may keep photos. The tag makes asking again cheap.
CACHE_CONTROL = "private, max-age=3600"
IfNoneMatch = Annotated[str | None, Header(include_in_schema=False)]


_FORM_SCHEMA = {
    "type": "object",
    "properties": {
        "file": {"type": "array", "items": {"type": "string", "format": "binary"}, "description": "The photos."},
        "id": {"type": "string", "maxLength": MAX_ID, "description": "The item's id, where there is one photo."},
        "labels": {"type": "string", "description": "JSON list of its labels, most general first."},
        "metadata": {"type": "string", "description": "JSON object."},
        "items": {"type": "string", "description": "For several photos: JSON list of {id, file, labels, metadata}."},
    },
    "required": ["file"],
    "additionalProperties": False,
}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/UpsertRequest"}},
            "multipart/form-data": {"schema": _FORM_SCHEMA},
        },
    }
}
BODY_MODELS = (UpsertRequest,)
ALL = CountRequest()


@router.put(
    "",
    openapi_extra=BODY,
    response_model_exclude_none=True,
    responses={
        207: {"description": "Some items were not written: each result says.", "model": UpsertAnswer},
        **problems(
            s404="no such collection",
            s409="embeddings of another model",
            s413="too much at once",
            s415="neither JSON nor a form",
            s422="a field is not as described, or, of an atomic write, items that cannot be written",
            s507="no room left",
        ),
    },
)
async def upsert(
    request: Request, state: State, served: NamedServed, response: Response, atomic: bool = False
) -> UpsertAnswer:
    """Write items: ``curl -X PUT -F file=@photo.jpg -F id=sku-1 -F 'labels=["Fruit","Apple"]' HOST/v1/.../items``.

    Each item comes with a photo, which is kept, or with a ready point, or with a URL where this server fetches any. An
    id that exists is overwritten as a whole. Items that are fine are written even if others of the request are not
    (207: each has a result of its own), unless ``atomic``: then all are, or none. What is answered with 200 or 201 is
    on the disk and found by searches.
    """
    limits = state.settings.limits
    body = await read_body(request, UpsertRequest, FormUpsert, limits, max_photos=limits.images)
    collection = served.collection
    if body.json is not None:
        if body.json.model_hash not in (None, collection.model_hash):
            raise Problem(
                409,
                "model_mismatch",
                f"the collection holds points of model {collection.model_hash}, these are of "
                f"{body.json.model_hash!r:.80}: distances between the two mean nothing",
            )
        entries = entries_of_json(body.json.items)
    else:
        assert body.form is not None  # noqa: S101 - a body is one or the other
        entries = entries_of_form(body.form, body.photos)
    note = longest_of(request.scope)
    prepared = await prepare(state, collection, entries, note)
    ids = [entry.id for entry in entries]
    if atomic:
        refuse_unless_all_are_fine(prepared, ids)
    answer = await state.off_loop.write(lambda: commit(collection, prepared, ids, state.quotas), note)
    response.status_code = 207 if answer.failed else 200
    return answer


@router.post("/delete", responses=problems(s404="no such collection"))
@access("write", grows=False)
async def delete(request: Request, state: State, served: NamedServed, asked: DeleteRequest) -> CountAnswer:
    """Delete several items; ids that do not exist are passed over. Answers how many were deleted."""
    ids = asked.ids
    if asked.filter is not None:
        ids = await run_in_threadpool(ids_let_through, served, await _ready(served, asked.filter))
    return CountAnswer(count=await _delete(request, state, served, ids or []))


@router.post("/count", responses=problems(s404="no such collection"))
@access("read")
async def count(served: NamedServed, asked: CountRequest = ALL) -> CountAnswer:
    """How many items there are, or how many of them a filter lets through."""
    if asked.filter is None:
        return CountAnswer(count=await run_in_threadpool(lambda: served.collection.count))
    return CountAnswer(count=len(await run_in_threadpool(rows_let_through, served, await _ready(served, asked.filter))))


@router.post("/scroll")
@access("read")
async def scroll(state: State, served: NamedServed, asked: ScrollRequest) -> ScrollAnswer:
    """List items page by page in stored order, or draw some at random; all of them or those a filter lets through."""
    start = 0 if asked.cursor is None else _row_of(asked.cursor)
    chosen = None if asked.filter is None else await _ready(served, asked.filter)

    def work() -> ScrollAnswer:
        collection, after = served.collection, None
        if chosen is not None:
            rows = rows_let_through(served, chosen)
            items, after = state.engine.among(collection, rows, asked.limit, start, shuffled=asked.order == "random")
        elif asked.order == "random":
            items = state.engine.sample(collection, asked.limit)
        else:
            items, after = state.engine.scroll(collection, asked.limit, start)
        return ScrollAnswer(
            items=[_answer(collection, item) for item in items], next_cursor=None if after is None else _cursor(after)
        )

    return await run_in_threadpool(work)


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
    if is_known(if_none_match, made.etag):
        return Response(status_code=304, headers=headers)
    return Response(made.data, media_type="image/jpeg", headers=headers)


@router.get("/{item_id:path}/image", response_class=Response, responses={200: {"content": {"image/*": {}}}})
def image(collection: NamedCollection, item: NamedItem, if_none_match: IfNoneMatch = None) -> Response:
    """The item's photo as the file it came from."""
    path = _photo(collection, item)
    etag = entity_tag(path)
    headers = {"ETag": etag, "Cache-Control": CACHE_CONTROL}
    if is_known(if_none_match, etag):
        return Response(status_code=304, headers=headers)
    guessed = mimetypes.guess_type(path.name)[0] or ""
    # Only photos are shown inline: a file of another kind must not run as a page of this origin.
    media_type = guessed if guessed.startswith("image/") and guessed != "image/svg+xml" else "application/octet-stream"
    if is_upload(item.image):
        # At once, in spite of its size: it may be deleted before a file is sent.
        try:
            return Response(path.read_bytes(), media_type=media_type, headers=headers)
        except FileNotFoundError as error:
            raise ImageReferenceError(f"the photo of item {item.id!r} was deleted meanwhile") from error
    return FileResponse(path, media_type=media_type, headers=headers)


@router.get("/{item_id:path}", response_model_exclude_none=True)
def item_by_id(collection: NamedCollection, item: NamedItem) -> ItemAnswer:
    """An item by id."""
    return _answer(collection, item)


@router.delete("/{item_id:path}", status_code=204, responses=problems(s404="no such collection or item"))
async def delete_item(request: Request, state: State, served: NamedServed, item_id: ItemIdInPath) -> None:
    """Delete an item, and its uploaded photo unless another item has the same."""
    if not await _delete(request, state, served, [unquote(item_id)]):
        raise UnknownItemError(f"collection {served.collection.name!r} holds no item {unquote(item_id)!r:.80}")


async def _ready(served: Served, asked: Filter) -> Filter:
    """The filter, with the tree loaded that it may ask for."""
    if asked.needs_tree:
        await loaded(served.tree)
    return asked


async def _delete(request: Request, state: ServiceState, served: Served, ids: Sequence[str]) -> int:
    def work() -> int:
        with storing():
            return served.collection.delete(ids)

    return await state.off_loop.write(work, longest_of(request.scope))


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
