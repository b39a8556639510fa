"""Search by photo, stored item or point."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, Request

from index.collection import Collection
from service.bodies import only_photo, read_body
from service.collections import Served
from service.engine import Neighbours
from service.middleware.request_context import record_timing
from service.queries import point_of
from service.schemas.query import Query
from service.schemas.search import FormSearchOptions, Hit, Include, QueryInfo, SearchAnswer, SearchRequest
from service.state import DefaultServed, NamedServed, ServiceState, State, item_url

router = APIRouter(prefix="/v1", tags=["search"])

# The body is read by hand (two media types, one path), so it is described by hand too.
_FORM_SCHEMA = FormSearchOptions.model_json_schema()
_FORM_SCHEMA["properties"] = {
    "file": {"type": "string", "format": "binary", "description": "The photo."},
    **_FORM_SCHEMA["properties"],
}
_FORM_SCHEMA["required"] = ["file"]
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/SearchRequest"},
                "example": {"query": {"item_id": "Fruit/Apple/apple_01.jpg"}, "limit": 5},
            },
            "multipart/form-data": {"schema": _FORM_SCHEMA},
        },
    }
}
# Models that only ``BODY`` refers to; the application adds them to the OpenAPI document.
BODY_MODELS = (SearchRequest,)


@router.post("/search", openapi_extra=BODY, response_model_exclude_unset=True)
async def search(request: Request, state: State, served: DefaultServed) -> SearchAnswer:
    """Nearest items of the default collection: ``curl -F file=@photo.jpg -F limit=5 HOST/v1/search``."""
    return await _search(request, state, served)


@router.post("/collections/{collection}/search", openapi_extra=BODY, response_model_exclude_unset=True)
async def search_collection(request: Request, state: State, served: NamedServed) -> SearchAnswer:
    """Nearest items of a collection, by geodesic distance."""
    return await _search(request, state, served)


async def _search(request: Request, state: ServiceState, served: Served) -> SearchAnswer:
    body = await read_body(request, SearchRequest, FormSearchOptions, state.settings.limits)
    note = partial(record_timing, request.scope)
    query = only_photo(body.photos) if body.json is None else body.json.query
    options = body.json or body.form
    assert options is not None  # noqa: S101 - a body is one or the other
    leave_out = query.item_id if isinstance(query, Query) else None
    space = await point_of(state, served, query, note)
    found = await state.off_loop.neighbours(
        served.collection, space, options.limit, note, max_distance=options.max_distance, leave_out=leave_out
    )
    return _answer(found, served.collection, options.include)


def _answer(found: Neighbours, collection: Collection, include: Sequence[Include]) -> SearchAnswer:
    hits = []
    for hit in found.hits:
        fields: dict[str, Any] = {}
        if "path" in include:
            fields["path"] = list(hit.item.labels)
        if "metadata" in include:
            fields["metadata"] = hit.item.metadata
        if "thumbnail" in include and hit.item.image is not None:
            fields["thumbnail"] = item_url(collection, hit.item, "thumbnail")
        hits.append(Hit(id=hit.item.id, distance=hit.distance, score=1.0 / (1.0 + hit.distance), **fields))
    return SearchAnswer(hits=hits, query=QueryInfo(radius=found.radius), generation=found.generation, exact=found.exact)
