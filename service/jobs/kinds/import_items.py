"""``import``: photos of an archive, or ready points, into a collection; after a kill it goes on at the last batch."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hyperbolic.images import ImageError
from index.catalogue import Item
from index.errors import PointError
from service.jobs.content import ready_content
from service.jobs.context import Context
from service.jobs.embedding import Embedded, embedded
from service.jobs.photos import uploaded_photos
from service.jobs.points import Point, count_lines, count_rows, read_lines, read_rows
from service.jobs.store import Failure

PHOTOS = 64  # in one write, at most
POINTS = 1000
BYTES = 64 * 2**20
LONGEST_S = 1.0  # between writes


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """What came of one element of the upload; ``next`` is where the one after it begins."""

    next: int
    item: Item | None = None
    photo: bytes = b""
    failure: Failure | None = None


def import_items(context: Context) -> None:
    """Read the upload, embed photos, write batches. What fails is noted and left out."""
    path, content = ready_content(context.folder, context.settings.limits.upload_bytes, context.check)
    start = int(context.job.position.get("next", 0))
    model = context.engine.model
    if content == "jsonl":
        if context.job.total is None:
            context.advance(total=count_lines(path))
        _write(context, _points(read_lines(path, model.embedding_dim, start)), POINTS)
    elif content == "parquet":
        context.advance(total=count_rows(path, model.model_hash))
        _write(context, _points(read_rows(path, model.embedding_dim, start)), POINTS)
    else:
        source = uploaded_photos(path, content, context.settings.limits.image_bytes)
        try:
            photos = source.photos()
            context.advance(total=len(photos))
            _write(context, _photos(embedded(context, source, photos[start:]), start), PHOTOS)
        finally:
            source.close()


def _points(points: Iterable[Point]) -> Iterator[_Read]:
    return (_Read(point.position, point.item, failure=point.failure) for point in points)


def _photos(photos: Iterable[Embedded], start: int) -> Iterator[_Read]:
    for number, each in enumerate(photos, start + 1):
        if each.space is None:
            yield _Read(number, failure=each.failure)
        else:
            yield _Read(number, Item(each.photo.id, each.space, each.photo.labels), each.data)


def _write(context: Context, elements: Iterable[_Read], most: int) -> None:
    batch: list[_Read] = []
    size, begun = 0, time.monotonic()
    for element in elements:
        batch.append(element)
        size += len(element.photo)
        if len(batch) >= most or size >= BYTES or time.monotonic() - begun >= LONGEST_S:
            _commit(context, batch)
            batch, size, begun = [], 0, time.monotonic()
    if batch:
        _commit(context, batch)


def _commit(context: Context, batch: Sequence[_Read]) -> None:
    """Items first, then where to go on: a kill between the two costs writing the same items once more."""
    context.check()
    failures = [element.failure for element in batch if element.failure is not None]
    # Of an id that comes twice the later holds, as if they had come in two writes.
    latest = {element.item.id: element for element in batch if element.item is not None}
    if latest:
        context.quotas.require(sum(len(element.photo) for element in latest.values()))
        context.quotas.require_items(len(latest))  # also where they are not new: near the bound it comes early
        with context.engine.collections.use(context.job.collection) as served:
            refused = _put(served.collection.put, latest)
        failures += refused
        done = sum(element.item is not None for element in batch) - len(refused)
    else:
        done = 0
    context.advance(done=done, failures=failures, position={"next": batch[-1].next})


def _put(put: Callable[..., object], elements: Mapping[str, _Read]) -> list[Failure]:
    """Write items at once, or one by one where one of them is refused. Those that were."""
    items = [element.item for element in elements.values() if element.item is not None]
    photos = {id_: element.photo for id_, element in elements.items() if element.photo}
    try:
        put(items, photos)
    except (PointError, ImageError) as error:
        if len(items) == 1:
            code = error.code if isinstance(error, ImageError) else "invalid_item"
            return [Failure(items[0].id, code, str(error))]
        return [refusal for id_, element in elements.items() for refusal in _put(put, {id_: element})]
    return []
