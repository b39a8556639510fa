"""From a query to its point: a photo is decoded and embedded, an item or a node looked up, a point checked."""

import base64
import binascii
from collections.abc import Callable

import numpy as np
from starlette.concurrency import run_in_threadpool

from index.collection import Collection
from service.collections import Served
from service.multipart import Part, image_bytes_problem
from service.offload import Note
from service.problems import Problem
from service.schemas.query import Query
from service.state import ServiceState
from service.tree import ServedTree


async def point_of(state: ServiceState, served: Served, query: Query | Part, note: Note) -> np.ndarray:
    """Space part (d,) float32 of what ``query`` is about; a ``Part`` is a photo that came as a file.

    ``note(step, seconds)`` is told how long each step took. Raises :class:`~service.problems.Problem`,
    :class:`~hyperbolic.images.ImageError`, :class:`~service.engine.UnknownItemError` and
    :class:`~service.tree.NoTreeError`.
    """
    if isinstance(query, Part):
        return await state.off_loop.embed_photo(lambda: bytes(query.data), note)
    if query.image is not None:
        return await state.off_loop.embed_photo(_unpacking(query.image, state.settings.limits.image_bytes), note)
    if query.item_id is not None:
        return (await run_in_threadpool(state.engine.item, served.collection, query.item_id)).space
    if query.node_id is not None:
        return await run_in_threadpool(_centroid, served.tree, query.node_id)
    assert query.embedding is not None  # noqa: S101 - Query holds exactly one
    return given_point(query.embedding, served.collection)


def given_point(embedding: list[float], collection: Collection, field: str = "query.embedding") -> np.ndarray:
    """Checked float32 space part (d,) of numbers that a client sent. Raises :class:`~service.problems.Problem` 422."""
    if len(embedding) != collection.embedding_dim:
        raise Problem(
            422,
            "wrong_dimension",
            f"{field}: expected {collection.embedding_dim} numbers (the space part), got {len(embedding)}",
        )
    with np.errstate(over="ignore"):
        space = np.asarray(embedding, dtype=np.float64).astype(np.float32)
    if not np.isfinite(space).all():
        raise Problem(422, "invalid_point", f"{field}: a number is too large for 32-bit floating point")
    return space


def decode_data_url(text: str, field: str = "query.image") -> bytes:
    """Bytes of ``data:image/...;base64,...`` or of plain base64. Raises :class:`~service.problems.Problem` 422."""
    payload = text
    if text[:5].lower() == "data:":
        header, comma, payload = text.partition(",")
        if not comma or not header.lower().endswith(";base64"):
            raise Problem(422, "invalid_base64", f"{field}: expected a data URL like data:image/jpeg;base64,...")
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Problem(422, "invalid_base64", f"{field}: expected base64, {str(error).lower()}") from error


def _unpacking(text: str, max_bytes: int) -> Callable[[], bytes]:
    """What unpacks base64, to be called off the event loop."""

    def read() -> bytes:
        data = decode_data_url(text)
        if len(data) > max_bytes:
            raise image_bytes_problem(max_bytes)
        return data

    return read


def _centroid(tree: ServedTree, node_id: str) -> np.ndarray:
    hierarchy = tree.view().hierarchy
    try:
        return np.asarray(hierarchy.space[hierarchy.index_of(node_id)], dtype=np.float32)
    except KeyError:
        raise Problem(404, "node_not_found", f"the tree has no node {node_id!r:.80}") from None
