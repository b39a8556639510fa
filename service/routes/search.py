"""Search by photo, URL, stored item, point or node: pages of hits, groups, and several searches at once."""

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.routing import Route

from service.access import access
from service.bodies import Body, only_photo, read_body
from service.collections import Served
from service.middleware.request_context import record_timing
from service.multipart import Part
from service.offload import Note
from service.schemas.query import Query
from service.schemas.search import (
    MAX_BATCH,
    BatchAnswer,
    BatchRequest,
    FormSearchOptions,
    SearchAnswer,
    SearchOptions,
    SearchRequest,
)
from service.search.answers import answer
from service.search.batches import Asked, answer_batch, read_batch
from service.search.pages import Start, find, find_many, resume, start_of
from service.search.queries import fingerprint_of, loaded, locate
from service.state import DefaultServed, NamedServed, ServiceState, State, lease, service_state

router = APIRouter(prefix="/v1", tags=["search"])


def _body(model: str, file: dict[str, Any], required: dict[str, Any], example: dict[str, Any]) -> dict[str, Any]:
    """The body is read by hand (two media types, one path), so it is described by hand too."""
    form = FormSearchOptions.model_json_schema()
    form["properties"] = {"file": file, **form["properties"]}
    content = {
        "application/json": {"schema": {"$ref": f"#/components/schemas/{model}"}, "example": example},
        "multipart/form-data": {"schema": form | required},
    }
    return {"requestBody": {"required": True, "content": content}}


_PHOTO = {"type": "string", "format": "binary", "description": "The photo."}
_PHOTOS = {"type": "array", "items": _PHOTO, "minItems": 1, "maxItems": MAX_BATCH}
_EXAMPLE = {"query": {"item_id": "Fruit/Apple/apple_01.jpg"}, "limit": 5}
BODY = _body("SearchRequest", _PHOTO, {"anyOf": [{"required": ["file"]}, {"required": ["cursor"]}]}, _EXAMPLE)
BATCH_BODY = _body("BatchRequest", _PHOTOS, {"required": ["file"]}, {"searches": [_EXAMPLE]})
# Models that only these descriptions refer to; the application adds them to the OpenAPI document.
BODY_MODELS = (SearchRequest, BatchRequest)


@router.post("/search", openapi_extra=BODY, response_model=SearchAnswer)
@access("read")
async def search(request: Request, state: State, served: DefaultServed) -> Response:
    """Nearest items of the default collection: ``curl -F file=@photo.jpg -F limit=5 HOST/v1/search``."""
    return await _search(request, state, served)


@router.post("/collections/{collection}/search", openapi_extra=BODY, response_model=SearchAnswer)
@access("read")
async def search_collection(request: Request, state: State, served: NamedServed) -> Response:
    """Nearest items of a collection, by geodesic distance.

    ``next_cursor`` leads to the next page. Pages put together are one long search: each item once, in order, as long
    as the collection does not change; then the cursor is refused with 410. Where the index is one of lists ("ivf"),
    the first page may lack a hit that is not proven to be none; it is not made up for on a later page: ask with
    ``exact`` where every page must be whole.
    """
    return await _search(request, state, served)


@router.post("/collections/{collection}/search/batch", openapi_extra=BATCH_BODY, response_model=BatchAnswer)
@access("read")
async def search_batch(request: Request, state: State, served: NamedServed) -> Response:
    """Up to 32 searches at once, each with a status of its own; as a form, several photos under the same options."""
    note = partial(record_timing, request.scope)
    asked = await read_batch(request, state.settings.limits)

    async def begin(options: SearchOptions, query: Query | Part | None) -> Start:
        return await _start(state, served, options, query, note)

    return _json({"results": await answer_batch(request, state, served, asked, begin, note)})


async def answer_directly(request: Request) -> Response:
    """The two operations above, without what FastAPI does for each request: as much work as ours, for nothing here."""
    state = await service_state(request)
    async with lease(state, request.path_params.get("collection")) as served:
        return await _search(request, state, served)


DIRECTLY = [
    Route(f"/v1{path}", answer_directly, methods=["POST"]) for path in ("/search", "/collections/{collection}/search")
]


async def _search(request: Request, state: ServiceState, served: Served) -> Response:
    body = await read_body(request, SearchRequest, FormSearchOptions, state.settings.limits)
    note = partial(record_timing, request.scope)
    options, query = _asked(body)
    start = await _start(state, served, options, query, note)

    if options.plain:
        # Searches that ask alike are one scan: most of a single one's time goes into starting it.
        def work_together(starts: Sequence[Start]) -> list[Response]:
            return [_json(answer(served, options, page)) for page in find_many(served, options, starts)]

        alike = (id(served), options.limit, options.include)
        return await state.off_loop.compute_together(alike, start, work_together, "search", note)

    def work() -> Response:
        return _json(answer(served, options, find(served, options, start)))

    return await state.off_loop.compute(work, "search", note)


def _asked(body: Body[SearchRequest, FormSearchOptions]) -> Asked:
    if body.json is not None:
        return body.json, body.json.query
    assert body.form is not None  # noqa: S101 - a body is one or the other
    goes_on = body.form.cursor is not None and not body.photos
    return body.form, None if goes_on else only_photo(body.photos)


async def _start(
    state: ServiceState, served: Served, options: SearchOptions, query: Query | Part | None, note: Note
) -> Start:
    """Where a search begins, with the tree loaded where its filter needs it."""
    if options.filter is not None and options.filter.needs_tree:
        await loaded(served.tree)
    if options.cursor is None:
        assert query is not None  # noqa: S101 - a search has a query or a cursor
        return start_of(await locate(state, served, query, note))
    same = None if query is None else await fingerprint_of(query, state.settings.limits.image_bytes)
    return resume(served.collection, options, same)


def _json(content: dict[str, Any]) -> Response:
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Response(text, media_type="application/json")
