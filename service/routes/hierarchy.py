"""The tree over a collection: its nodes, questions about photos, and where it lies on the Poincare disk."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import unquote

import numpy as np
from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BaseModel

from hyperbolic.images import ImageError
from service.access import access
from service.bodies import only_photo, read_body
from service.collections import Served
from service.hierarchy.answers import TreeTeller, label_steps
from service.hierarchy.view import TreeView
from service.middleware.request_context import record_timing
from service.multipart import Part
from service.problems import Problem, image_problem
from service.routes.collections import problems
from service.schemas import query as queries
from service.schemas.common import MAX_LIMIT, NodeId
from service.schemas.hierarchy import (
    FEWEST_QUERIES,
    MAX_DEPTH,
    MAX_NODES,
    MAX_PROJECTED_ITEMS,
    MAX_PROJECTED_NODES,
    MOST_QUERIES,
    AncestorsRequest,
    Centre,
    CommonAncestorAnswer,
    CommonAncestorRequest,
    FormAncestors,
    FormCommonAncestor,
    NodeAnswer,
    NodeChange,
    NodeItemsAnswer,
    NodesAnswer,
    PathAnswer,
    ProjectionAnswer,
    TraverseAnswer,
    TraverseOptions,
    TraverseRequest,
    ZoomAnswer,
    ZoomOptions,
    ZoomRequest,
)
from service.search.queries import loaded, point_of
from service.state import NamedServed, ServiceState, State

router = APIRouter(prefix="/v1/collections/{collection}/hierarchy", tags=["hierarchy"])

NODE_PROBLEMS = problems(
    s404="no such collection, no tree over it, or no such node",
    s422="a bad parameter or field",
    s503="the tree or the collection cannot be read at present",
)
QUESTION_PROBLEMS = problems(
    s400="a malformed body",
    s404="no such collection, item or node, or no tree",
    s409="the tree was built over too few items to answer",
    s413="a photo that is too large, or too many",
    s415="neither JSON nor a form, or a file that is no photo",
    s422="a bad field, point or photo",
    s503="the tree, the collection or the encoder cannot be used at present",
)
Result = TypeVar("Result")
Asked = queries.Query | Part


def _body(model: type[BaseModel], form: type[BaseModel], photos: int, example: dict[str, Any]) -> dict[str, Any]:
    """The body of a question, which is read by hand (two media types, one path) and so described by hand."""
    schema = form.model_json_schema()
    file: dict[str, Any] = {"type": "string", "format": "binary", "description": "The photo."}
    if photos > 1:
        fewest = FEWEST_QUERIES if photos == MOST_QUERIES else 1
        file = {"type": "array", "items": file, "minItems": fewest, "maxItems": photos}
    schema["properties"] = {"file": file, **schema.get("properties", {})}
    schema["required"] = ["file"]
    reference = {"$ref": f"#/components/schemas/{model.__name__}"}
    content = {"application/json": {"schema": reference, "example": example}, "multipart/form-data": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}


# Models that only these descriptions refer to; the application adds them to the OpenAPI document.
BODY_MODELS = (AncestorsRequest, CommonAncestorRequest, ZoomRequest, TraverseRequest)
APPLE, PEAR = ({"item_id": f"Fruit/{name}_01.jpg"} for name in ("Apple/apple", "Pear/pear"))

NodePath = Annotated[str, Path(min_length=1, max_length=64, description="Id of a node.")]


async def _teller(served: NamedServed) -> TreeTeller:
    return TreeTeller(await loaded(served.tree), served.collection)


Teller = Annotated[TreeTeller, Depends(_teller)]


@router.get("/nodes", responses=NODE_PROBLEMS)
async def nodes(
    request: Request,
    state: State,
    teller: Teller,
    parent: Annotated[NodeId | None, Query(description="Where to begin; the root without it.")] = None,
    depth: Annotated[int, Query(ge=0, le=MAX_DEPTH, description="Levels below it.")] = 1,
    limit: Annotated[int, Query(ge=1, le=MAX_NODES, description="How many nodes at most.")] = 200,
) -> NodesAnswer:
    """A node and what lies below it, level by level, the largest first; ``cut`` where children are left out."""
    return await _worked_out(request, state, lambda: teller.below(_number(teller.view, parent), depth, limit))


@router.get("/nodes/{node_id}", responses=NODE_PROBLEMS)
async def node_by_id(request: Request, state: State, teller: Teller, node_id: NodePath) -> NodeAnswer:
    """A node with its ancestors, its children, photos that show it, and how often each label occurs under it."""
    return await _worked_out(request, state, lambda: teller.node(_number(teller.view, unquote(node_id))))


@router.patch("/nodes/{node_id}", responses=NODE_PROBLEMS)
async def change_node(
    request: Request, state: State, served: NamedServed, teller: Teller, node_id: NodePath, change: NodeChange
) -> NodeAnswer:
    """Name a node, or take its name away with null. The name stays when the tree is built anew, while the node does."""

    def rename() -> NodeAnswer:
        wanted = unquote(node_id)
        _number(teller.view, wanted)
        try:
            view = served.tree.rename(wanted, change.name)
        except ValueError as error:
            raise Problem(422, "invalid_name", str(error)) from error
        except KeyError:
            raise _unknown(wanted) from None
        return TreeTeller(view, served.collection).node(_number(view, wanted))

    return await _worked_out(request, state, rename)


@router.get("/nodes/{node_id}/items", responses=NODE_PROBLEMS)
async def node_items(
    request: Request,
    state: State,
    teller: Teller,
    node_id: NodePath,
    order: Annotated[
        Literal["stored", "nearest"], Query(description="As they were stored, or nearest the node's centroid first.")
    ] = "stored",
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = 100,
    cursor: Annotated[str | None, Query(max_length=128, description="next_cursor of the page before.")] = None,
) -> NodeItemsAnswer:
    """The items under a node, page by page."""
    return await _worked_out(
        request, state, lambda: teller.members(_number(teller.view, unquote(node_id)), order, limit, cursor)
    )


@router.post(
    "/ancestors", responses=QUESTION_PROBLEMS, openapi_extra=_body(AncestorsRequest, FormAncestors, 1, {"query": APPLE})
)
@access("read")
async def ancestors(request: Request, state: State, served: NamedServed, teller: Teller) -> PathAnswer:
    """Where a photo belongs: nodes from the most specific to the root, each with the probability that it is right.

    The path stops where it becomes unsure. Something unlike anything in the collection has an ``in_distribution``
    near 0.
    """
    body = await read_body(request, AncestorsRequest, FormAncestors, state.settings.limits)
    query: Asked = only_photo(body.photos) if body.json is None else body.json.query
    answers = teller.view.answers
    (point,) = await _points(request, state, served, [query])
    return await _worked_out(request, state, lambda: teller.path(answers.path(point)))


@router.post(
    "/common-ancestor",
    responses=QUESTION_PROBLEMS,
    openapi_extra=_body(CommonAncestorRequest, FormCommonAncestor, MOST_QUERIES, {"queries": [APPLE, PEAR]}),
)
@access("read")
async def common_ancestor(request: Request, state: State, served: NamedServed, teller: Teller) -> CommonAncestorAnswer:
    """What 2 to 32 photos have in common: the deepest node that holds them all with some certainty, and their middle.

    As JSON, or as a form with a ``file`` for each photo.
    """
    limits = state.settings.limits
    most = min(MOST_QUERIES, limits.images)
    body = await read_body(request, CommonAncestorRequest, FormCommonAncestor, limits, max_photos=most)
    asked: Sequence[Asked] = body.photos if body.json is None else body.json.queries
    if len(asked) < FEWEST_QUERIES:
        raise Problem(
            422, "invalid_request", f"expected {FEWEST_QUERIES} to {most} photos in the field 'file', got {len(asked)}"
        )
    answers = teller.view.answers
    points = await _points(request, state, served, asked)

    def answer() -> CommonAncestorAnswer:
        found = answers.common_ancestor(points)
        (node,) = teller.summaries([found.node.index])
        return CommonAncestorAnswer(
            node=node,
            probability=found.probability,
            labels=label_steps(found.labels),
            centre=Centre(embedding=found.centre.tolist(), radius=found.radius),
        )

    return await _worked_out(request, state, answer)


@router.post(
    "/zoom",
    responses=QUESTION_PROBLEMS,
    openapi_extra=_body(ZoomRequest, ZoomOptions, 1, {"query": APPLE, "levels": 1}),
)
@access("read")
async def zoom(request: Request, state: State, served: NamedServed, teller: Teller) -> ZoomAnswer:
    """A photo seen from ``levels`` steps above where its path stops, or below 0 from below: that node, its items.

    Goes no higher than the root and no lower than the last node on the way to the most probable child.
    """
    body = await read_body(request, ZoomRequest, ZoomOptions, state.settings.limits)
    query: Asked = only_photo(body.photos) if body.json is None else body.json.query
    options = body.json or body.form
    assert options is not None  # noqa: S101 - a body is one or the other
    answers = teller.view.answers
    (point,) = await _points(request, state, served, [query])

    def answer() -> ZoomAnswer:
        found = answers.zoom(point, options.levels, options.limit)
        node, *branches = teller.probable([found.node, *found.branches])
        return ZoomAnswer(node=node, items=teller.near(found.items), branches=branches)

    return await _worked_out(request, state, answer)


@router.post(
    "/traverse",
    responses=QUESTION_PROBLEMS,
    openapi_extra=_body(TraverseRequest, TraverseOptions, 2, {"query": APPLE, "to": PEAR}),
)
@access("read")
async def traverse(request: Request, state: State, served: NamedServed, teller: Teller) -> TraverseAnswer:
    """The geodesic from a photo to the origin, or to another photo, in even steps, with what lies nearest at each.

    As JSON, or as a form with one ``file`` or two.
    """
    body = await read_body(request, TraverseRequest, TraverseOptions, state.settings.limits, max_photos=2)
    if body.json is None:
        asked: list[Asked] = list(body.photos) or [only_photo(body.photos)]
    else:
        asked = [body.json.query] if body.json.to is None else [body.json.query, body.json.to]
    options = body.json or body.form
    assert options is not None  # noqa: S101 - a body is one or the other
    answers = teller.view.answers
    start, *end = await _points(request, state, served, asked)

    def answer() -> TraverseAnswer:
        found = answers.traverse(start, end[0] if end else None, options.steps, options.limit)
        return TraverseAnswer(length=found[-1].distance, steps=teller.ways(found))

    return await _worked_out(request, state, answer)


@router.get("/projection", responses=NODE_PROBLEMS)
async def projection(
    request: Request,
    state: State,
    teller: Teller,
    node: Annotated[NodeId | None, Query(description="What lies at the centre; the root without it.")] = None,
    nodes: Annotated[int, Query(ge=1, le=MAX_PROJECTED_NODES, description="How many of the largest nodes.")] = 300,
    items: Annotated[int, Query(ge=0, le=MAX_PROJECTED_ITEMS, description="How many items, drawn evenly.")] = 300,
) -> ProjectionAnswer:
    """Where nodes and a sample of items lie on the Poincare disk: the general inside, the specific at the rim."""
    return await _worked_out(request, state, lambda: teller.projection(_number(teller.view, node), nodes, items))


async def _worked_out(request: Request, state: ServiceState, work: Callable[[], Result]) -> Result:
    return await state.off_loop.compute(work, "hierarchy", partial(record_timing, request.scope))


async def _points(request: Request, state: ServiceState, served: Served, asked: Sequence[Asked]) -> np.ndarray:
    """Space parts (n, d) of what was asked; photos are embedded together. A problem says which query has it."""
    note = partial(record_timing, request.scope)

    async def point(number: int, query: Asked) -> np.ndarray:
        try:
            return await point_of(state, served, query, note)
        except (Problem, ImageError) as error:
            problem = image_problem(error) if isinstance(error, ImageError) else error
            if len(asked) > 1:
                problem = Problem(
                    problem.status,
                    problem.code,
                    f"query {number} of {len(asked)}: {problem}",
                    errors=problem.errors,
                    headers=problem.headers,
                )
            raise problem from error

    tasks = [asyncio.ensure_future(point(number, query)) for number, query in enumerate(asked, 1)]
    try:
        return np.stack(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


def _number(view: TreeView, node_id: str | None) -> int:
    """The index of a node; the root's where none is named."""
    if node_id is None:
        return 0
    try:
        return view.hierarchy.index_of(node_id)
    except KeyError:
        raise _unknown(node_id) from None


def _unknown(node_id: str) -> Problem:
    return Problem(404, "node_not_found", f"the tree has no node {node_id!r:.80}: it may have been built anew since")
