"""From a query to its point: a photo is decoded and embedded, an item or a node looked up, a point checked."""

import asyncio
import base64
import binascii
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from starlette.concurrency import run_in_threadpool

from index.collection import Collection
from service.collections import Served
from service.fetching.fetch import fetch
from service.hierarchy.tree import ServedTree
from service.hierarchy.view import TreeView
from service.multipart import Part, image_bytes_problem
from service.offload import Note
from service.problems import Problem
from service.schemas.common import FARTHEST
from service.schemas.query import Query
from service.search.cursors import fingerprint, photo_fingerprint
from service.state import ServiceState

COPIED_AT_ONCE = 2**18
"""Bytes of a photo that are copied and hashed on the event loop: .1 ms, less than going to another thread and back."""


@dataclass(frozen=True, slots=True, eq=False)
class Located:
    """Where a query is: its space part (d,) float32, the row of the item that it is (0: none), and its fingerprint."""

    space: np.ndarray
    row: int
    fingerprint: bytes


async def point_of(state: ServiceState, served: Served, query: Query | Part, note: Note) -> np.ndarray:
    """Space part (d,) float32 of what ``query`` is about; see :func:`locate`."""
    return (await locate(state, served, query, note)).space


async def locate(state: ServiceState, served: Served, query: Query | Part, note: Note) -> Located:
    """The point of what ``query`` is about; a ``Part`` is a photo that came as a file.

    ``note(step, seconds)`` is told how long each step took. Raises :class:`~service.problems.Problem`,
    :class:`~hyperbolic.images.ImageError`, :class:`~service.engine.UnknownItemError` and
    :class:`~service.hierarchy.tree.NoTreeError`.
    """
    photo = _photo_of(query, state.settings.limits.image_bytes)
    if isinstance(photo, bytes):
        return Located(await state.off_loop.embed_photo(photo, note), 0, photo_fingerprint(photo))
    if photo is not None:
        prints: list[bytes] = []

        def read() -> bytes:
            data = photo()
            prints.append(photo_fingerprint(data))
            return data

        return Located(await state.off_loop.embed_photo(read, note), 0, prints[0])
    assert isinstance(query, Query)  # noqa: S101 - a Part is a photo
    same = fingerprint(query.model_dump(exclude_none=True))
    if query.url is not None:
        started = time.perf_counter()
        fetched = await fetch(query.url, state.settings.urls)
        note("fetch", time.perf_counter() - started)
        return Located(await state.off_loop.embed_photo(fetched, note), 0, same)
    if query.item_id is not None:
        item = await run_in_threadpool(state.engine.item, served.collection, query.item_id)
        return Located(item.space, item.row, same)
    if query.node_id is not None:
        return Located(_centroid(await loaded(served.tree), query.node_id), 0, same)
    assert query.embedding is not None  # noqa: S101 - Query holds exactly one
    return Located(given_point(query.embedding, served.collection), 0, same)


async def loaded(tree: ServedTree) -> TreeView:
    """The tree as :meth:`ServedTree.view` has it, with no thread kept waiting while it is loaded."""
    if (running := await run_in_threadpool(tree.catch_up)) is not None:
        await asyncio.wait([asyncio.wrap_future(running)], timeout=tree.patience)
    return tree.latest()


async def fingerprint_of(query: Query | Part, max_bytes: int) -> bytes:
    """The fingerprint that :func:`locate` gives, without looking for the point."""
    photo = _photo_of(query, max_bytes)
    if isinstance(photo, bytes):
        return photo_fingerprint(photo)
    if photo is not None:
        return await run_in_threadpool(lambda: photo_fingerprint(photo()))
    assert isinstance(query, Query)  # noqa: S101 - as above
    return fingerprint(query.model_dump(exclude_none=True))


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
    if np.linalg.norm(space.astype(np.float64)) > FARTHEST:
        raise Problem(422, "invalid_point", f"{field}: the point is too far out: its norm must be at most {FARTHEST:g}")
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


def _photo_of(query: Query | Part, max_bytes: int) -> bytes | Callable[[], bytes] | None:
    """The photo that came with a query, or what gives its bytes, to be called off the event loop."""
    if isinstance(query, Part):
        return bytes(query.data) if len(query.data) <= COPIED_AT_ONCE else lambda: bytes(query.data)
    return None if query.image is None else _unpacking(query.image, max_bytes)


def _unpacking(text: str, max_bytes: int) -> Callable[[], bytes]:
    """What unpacks base64, to be called off the event loop."""

    def read() -> bytes:
        data = decode_data_url(text)
        if len(data) > max_bytes:
            raise image_bytes_problem(max_bytes)
        return data

    return read


def _centroid(view: TreeView, node_id: str) -> np.ndarray:
    hierarchy = view.hierarchy
    try:
        return np.asarray(hierarchy.space[hierarchy.index_of(node_id)], dtype=np.float32)
    except KeyError:
        raise Problem(404, "node_not_found", f"the tree has no node {node_id!r:.80}") from None
