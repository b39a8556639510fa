"""Photos to points, without storing anything."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from index.coordinates import time, to_ball, to_tangent
from index.distances import radii
from service.access import access
from service.bodies import read_body
from service.hierarchy.view import TreeView
from service.problems import Problem
from service.routes.collections import problems
from service.schemas.embeddings import (
    EmbeddingOptions,
    EmbeddingResult,
    EmbeddingsAnswer,
    EmbeddingsRequest,
    FormEmbeddingOptions,
)
from service.schemas.items import ItemProblem
from service.search.queries import loaded
from service.state import ServiceState, State
from service.upserts import Photo, embed, longest_of

router = APIRouter(prefix="/v1", tags=["embeddings"])

_FORM_SCHEMA = FormEmbeddingOptions.model_json_schema()
_FORM_SCHEMA["properties"] = {
    "file": {"type": "array", "items": {"type": "string", "format": "binary"}, "description": "The photos."},
    **_FORM_SCHEMA["properties"],
}
_FORM_SCHEMA["required"] = ["file"]
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/EmbeddingsRequest"}},
            "multipart/form-data": {"schema": _FORM_SCHEMA},
        },
    }
}
BODY_MODELS = (EmbeddingsRequest,)


@router.post(
    "/embeddings",
    openapi_extra=BODY,
    response_model_exclude_none=True,
    responses={
        207: {"description": "Some photos could not be embedded: each result says.", "model": EmbeddingsAnswer},
        **problems(
            s404="no such collection",
            s413="too much at once",
            s415="neither JSON nor a form",
            s422="a field is not as described",
        ),
    },
)
@access("read")
async def embeddings(request: Request, state: State, response: Response) -> EmbeddingsAnswer:
    """Embed photos: ``curl -F file=@a.jpg -F file=@b.jpg HOST/v1/embeddings``. Nothing is stored.

    Each photo has a result of its own: one that cannot be read does not fail those beside it (207).
    """
    limits = state.settings.limits
    body = await read_body(request, EmbeddingsRequest, FormEmbeddingOptions, limits, max_photos=limits.images)
    photos: list[Photo] = [part.data for part in body.photos] if body.json is None else list(body.json.images)
    options = body.json or body.form
    assert options is not None  # noqa: S101 - a body is one or the other
    if not photos:
        raise Problem(422, "invalid_request", "expected photos in the field 'file', got none")
    if len(photos) > limits.images:
        raise Problem(413, "too_many_images", f"at most {limits.images} photos fit into one request, got {len(photos)}")
    async with _tree(state, options.collection) as tree:
        return await _answer(request, response, state, photos, options, tree)


async def _answer(
    request: Request,
    response: Response,
    state: ServiceState,
    photos: list[Photo],
    options: EmbeddingOptions,
    tree: TreeView | None,
) -> EmbeddingsAnswer:
    note = longest_of(request.scope)
    found = await asyncio.gather(*[embed(state, photo, note) for photo in photos])
    points = [each[1] for each in found if not isinstance(each, Problem)]
    told = iter(await run_in_threadpool(_told, state, points, options, tree) if points else [])
    results = [
        EmbeddingResult(status=each.status, error=ItemProblem(code=each.code, detail=each.detail))
        if isinstance(each, Problem)
        else next(told)
        for each in found
    ]
    response.status_code = 207 if len(points) < len(found) else 200
    model = state.engine.model
    return EmbeddingsAnswer(
        model_hash=model.model_hash,
        embedding_dim=model.embedding_dim,
        c=model.c,
        space=options.space,
        encoding=options.encoding,
        results=results,
    )


@asynccontextmanager
async def _tree(state: ServiceState, name: str | None) -> AsyncIterator[TreeView | None]:
    """The tree of a collection; None where none is named, or it has none that can answer."""
    if name is None:
        yield None
        return
    collections = state.engine.collections
    if collections.needs_opening(name):
        await run_in_threadpool(collections.reopen, name)
    with collections.use(name, opening=False) as served:
        view = await loaded(served.tree) if served.tree.exists else None
        yield view if view is not None and view.can_answer else None


def _told(
    state: ServiceState, points: list[np.ndarray], options: EmbeddingOptions, tree: TreeView | None
) -> list[EmbeddingResult]:
    space = np.stack(points)
    c = state.engine.model.c
    match options.space:
        case "lorentz":
            coordinates = space
        case "poincare":
            coordinates = to_ball(space, c).astype(np.float32)
        case "tangent":
            coordinates = to_tangent(space, c).astype(np.float32)
    far, times = radii(space.astype(np.float64), c), time(space, c)
    specificity = None if tree is None else tree.answers.specificity(space)[0]
    return [
        EmbeddingResult(
            status=200,
            embedding=(
                base64.b64encode(row.astype("<f4").tobytes()).decode()
                if options.encoding == "base64"
                else row.astype(float).tolist()
            ),
            time=float(times[number]) if options.time else None,
            radius=float(far[number]),
            specificity=None if specificity is None else float(specificity[number]),
        )
        for number, row in enumerate(coordinates)
    ]
