"""Writes: each item that came is checked and gets its point by itself; those that are fine are committed at once."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.types import Scope

from hyperbolic.images import ImageError
from index.catalogue import Item
from index.collection import Collection
from index.errors import CatalogueError
from service.encoder.supervisor import EncoderUnavailableError, EncodingError
from service.fetching.fetch import fetch
from service.middleware.request_context import record_timing
from service.multipart import Part, image_bytes_problem
from service.offload import Note
from service.operation.quotas import Quotas
from service.problems import Problem, image_problem
from service.schemas.items import FormUpsert, ItemProblem, ItemResult, ItemWrite, PhotoItem, UpsertAnswer
from service.search.queries import decode_data_url, given_point
from service.state import ServiceState

Photo = bytes | bytearray | str  # a file's bytes, or base64


@dataclass(frozen=True, slots=True)
class Entry:
    """One item that came: its photo, or its point, or where its photo lies, or why there is none."""

    id: str
    labels: tuple[str, ...]
    metadata: dict[str, Any]
    photo: Photo | None = None
    url: str | None = None
    embedding: list[float] | None = None
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """An item that can be written; ``photo`` is to be kept."""

    item: Item
    photo: bytes | None


def longest_of(scope: Scope) -> Note:
    """Notes steps that a request takes several times at once: of each the longest counts."""
    longest: dict[str, float] = {}

    def note(step: str, seconds: float) -> None:
        longest[step] = max(seconds, longest.get(step, 0.0))
        record_timing(scope, step, longest[step])

    return note


def entries_of_json(items: Sequence[ItemWrite]) -> list[Entry]:
    """What came as JSON."""
    return [
        Entry(each.id, each.labels, each.metadata, photo=each.image, url=each.url, embedding=each.embedding)
        for each in items
    ]


def entries_of_form(form: FormUpsert, photos: Sequence[Part]) -> list[Entry]:
    """What came as a form: each item with the photo of its file name, or else the next one that nobody named.

    Raises :class:`~service.problems.Problem` 422 for a photo too many.
    """
    items = form.items
    if items is None:
        assert form.id is not None  # noqa: S101 - FormUpsert has one or the other
        items = [PhotoItem(id=form.id, labels=form.labels, metadata=form.metadata)]
    left = list(photos)
    claimed: dict[int, Part] = {}
    for number, item in enumerate(items):
        if item.file is not None and (part := next((each for each in left if each.filename == item.file), None)):
            claimed[number] = part
            left.remove(part)
    for number, item in enumerate(items):
        if item.file is None and left:
            claimed[number] = left.pop(0)
    if left:
        raise Problem(422, "invalid_request", f"{len(left)} of the photos belong to no item: name each item's 'file'")
    entries = []
    for number, item in enumerate(items):
        if number in claimed:
            entries.append(Entry(item.id, item.labels, item.metadata, photo=claimed[number].data))
        else:
            wanted = f"named {item.file!r:.80}" if item.file is not None else "left for this item"
            problem = Problem(422, "photo_missing", f"expected a photo in a field 'file', found none {wanted}")
            entries.append(Entry(item.id, item.labels, item.metadata, problem=problem))
    return entries


async def prepare(
    state: ServiceState, collection: Collection, entries: Sequence[Entry], note: Note
) -> list[Ready | Problem]:
    """Each entry as an item to write, or what is wrong with it. Raises :class:`~service.problems.Problem` 413."""
    photos = sum(entry.photo is not None or entry.url is not None for entry in entries)
    if photos > state.settings.limits.images:
        limit = state.settings.limits.images
        raise Problem(413, "too_many_images", f"at most {limit} photos fit into one request, got {photos}")
    # A thousand points take a while to check; photos are decoded and embedded elsewhere.
    prepared = await run_in_threadpool(_checked, collection, entries)
    waiting = [number for number, each in enumerate(prepared) if each is None]
    embedded = await asyncio.gather(*[_embedded(state, entries[number], note) for number in waiting])
    found = dict(zip(waiting, embedded, strict=True))
    return [found[number] if each is None else each for number, each in enumerate(prepared)]


async def embed(state: ServiceState, photo: Photo, note: Note) -> tuple[bytes, np.ndarray] | Problem:
    """A photo's bytes and its point (d,), or what is wrong with it: one bad photo fails none beside it."""
    limit = state.settings.limits.image_bytes

    def unpack() -> bytes:
        data = decode_data_url(photo, "image") if isinstance(photo, str) else bytes(photo)
        if len(data) > limit:
            raise image_bytes_problem(limit)
        return data

    try:
        data = await run_in_threadpool(unpack)
        return data, await state.off_loop.embed_photo(data, note)
    except Problem as problem:
        return problem
    except ImageError as error:
        return image_problem(error)
    except EncodingError as error:
        return Problem(500, "encoding_failed", str(error))
    except EncoderUnavailableError as error:
        return Problem(503, "encoder_unavailable", str(error), headers={"Retry-After": "10"})


def commit(
    collection: Collection, prepared: Sequence[Ready | Problem], ids: Sequence[str], quotas: Quotas
) -> UpsertAnswer:
    """Write what is ready, on the disk when this returns; ``ids`` are those of ``prepared``.

    Raises :class:`~service.problems.Problem` 507 where there would be more items than are allowed, and ``StoreError``.
    """
    ready = [each for each in prepared if isinstance(each, Ready)]
    if quotas.settings.items is not None:
        quotas.require_items(sum(collection.item(each.item.id) is None for each in ready))
    photos = {each.item.id: each.photo for each in ready if each.photo is not None}
    with storing():
        put = iter(collection.put([each.item for each in ready], photos))
    results = []
    for item_id, each in zip(ids, prepared, strict=True):
        if isinstance(each, Problem):
            error = ItemProblem(code=each.code, detail=each.detail)
            results.append(ItemResult(id=item_id, status=each.status, error=error))
        else:
            results.append(ItemResult(id=item_id, status=201 if next(put).created else 200))
    return UpsertAnswer(written=len(ready), failed=len(prepared) - len(ready), results=results)


def refuse_unless_all_are_fine(prepared: Sequence[Ready | Problem], ids: Sequence[str]) -> None:
    """Of a write that is to be whole: :class:`~service.problems.Problem` 422 with what is wrong with each item."""
    failed = [(number, each) for number, each in enumerate(prepared) if isinstance(each, Problem)]
    if not failed:
        return
    busy = [each for _, each in failed if each.status >= 500]
    raise Problem(
        busy[0].status if busy else 422,
        "items_refused",
        f"{len(failed)} of {len(prepared)} items cannot be written, so none was",
        errors=[
            {"location": "body", "pointer": f"/items/{number}", "id": ids[number], "status": each.status,
             "code": each.code, "detail": each.detail}
            for number, each in failed
        ],
        headers=busy[0].headers if busy else None,
    )  # fmt: skip


@contextmanager
def storing() -> Iterator[None]:
    """What the system refuses a write, as trouble with the collection: 507 on a full disk, else 503."""
    try:
        yield
    except OSError as error:
        raise CatalogueError(f"a photo could not be kept or deleted ({error})") from error


def _checked(collection: Collection, entries: Sequence[Entry]) -> list[Ready | Problem | None]:
    """What can be said of each entry before any photo is looked at; None where nothing is wrong so far."""
    seen: set[str] = set()
    checked: list[Ready | Problem | None] = []
    for entry in entries:
        checked.append(_check(collection, entry, duplicate=entry.id in seen))
        seen.add(entry.id)
    return checked


def _check(collection: Collection, entry: Entry, *, duplicate: bool) -> Ready | Problem | None:
    if entry.problem is not None:
        return entry.problem
    if duplicate:
        return Problem(422, "duplicate_id", "an item of this id stands before in the same request")
    if faults := collection.schema.faults(entry.metadata):
        return Problem(422, "invalid_metadata", f"metadata: {'; '.join(faults)}")
    if entry.embedding is None:
        return None
    try:
        space = given_point(entry.embedding, collection, "embedding")
    except Problem as problem:
        return problem
    return Ready(Item(entry.id, space, entry.labels, entry.metadata), None)


async def _embedded(state: ServiceState, entry: Entry, note: Note) -> Ready | Problem:
    photo = entry.photo
    if entry.url is not None:
        started = time.perf_counter()
        try:
            photo = await fetch(entry.url, state.settings.urls)
        except Problem as problem:
            return problem
        note("fetch", time.perf_counter() - started)
    assert photo is not None  # noqa: S101 - an entry has exactly one source
    found = await embed(state, photo, note)
    if isinstance(found, Problem):
        return found
    data, space = found
    return Ready(Item(entry.id, space, entry.labels, entry.metadata), data)
