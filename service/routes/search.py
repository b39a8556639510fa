"""Search by photo, stored item or point."""

from functools import partial
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from index.collection import Collection
from service.engine import Neighbours
from service.middleware.request_context import record_timing
from service.problems import Problem
from service.schemas import FormSearchOptions, Hit, Include, QueryInfo, SearchAnswer, SearchRequest
from service.state import NamedCollection, ServiceState, State, item_url
from service.uploads import Asked, read_search

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
async def search(request: Request, state: State) -> SearchAnswer:
    """Nearest items of the default collection: ``curl -F file=@photo.jpg -F limit=5 HOST/v1/search``."""
    return await _search(request, state, state.engine.collection())


@router.post("/collections/{collection}/search", openapi_extra=BODY, response_model_exclude_unset=True)
async def search_collection(request: Request, state: State, collection: NamedCollection) -> SearchAnswer:
    """Nearest items of a collection, by geodesic distance."""
    return await _search(request, state, collection)


async def _search(request: Request, state: ServiceState, collection: Collection) -> SearchAnswer:
    asked = await read_search(request, state.settings.limits.image_bytes)
    note = partial(record_timing, request.scope)
    leave_out = asked.item_id
    if asked.photo is not None:
        space = await state.off_loop.embed_photo(asked.photo, note)
    elif leave_out is not None:
        space = (await run_in_threadpool(state.engine.item, collection, leave_out)).space
    else:
        space = _given_point(asked, collection)
    found = await state.off_loop.neighbours(
        collection, space, asked.options.limit, note, max_distance=asked.options.max_distance, leave_out=leave_out
    )
    return _answer(found, collection, asked.options.include)


def _given_point(asked: Asked, collection: Collection) -> np.ndarray:
    given = asked.embedding
    if len(given) != collection.embedding_dim:
        raise Problem(
            422,
            "wrong_dimension",
            f"query.embedding: expected {collection.embedding_dim} numbers (the space part), got {len(given)}",
        )
    with np.errstate(over="ignore"):
        space = np.asarray(given, dtype=np.float64).astype(np.float32)
    if not np.isfinite(space).all():
        raise Problem(422, "invalid_point", "query.embedding: a number is too large for 32-bit floating point")
    return space


def _answer(found: Neighbours, collection: Collection, include: list[Include]) -> SearchAnswer:
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
