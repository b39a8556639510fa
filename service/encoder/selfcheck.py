"""SelfCheck: whether the encoder still answers what it must: what ``/readyz`` tells.

A stored photo is embedded every few seconds, before all other work, and its point compared with the stored one; so
the probe itself only reads the last result, and load cannot make a service that works look as if it did not::

    check = engine.self_check.result()      # at once
    status = 200 if check.ok else 503       # check.detail says why, fit for strangers
"""

import io
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import TimeoutError as NoAnswerError
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from hyperbolic.images import ImageError
from index.catalogue import Item
from index.collection import Collection
from index.distances import distances
from index.errors import StoreError
from service.collections import Collections, CollectionUnavailableError, UnknownCollectionError
from service.encoder.supervisor import Encoder, EncoderUnavailableError, EncodingError

logger = logging.getLogger(__name__)

FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.float32]]

INTERVAL_S = 10.0
ANSWER_S = 20.0
STALE_S = 45.0
"""A result that is older says nothing any more: twice the time a check may take, and a little."""
COMPARED = 32
SHARE_OF_APART = 0.5
"""How far a stored photo's point may lie from the stored one, of the median distance between stored items.

Another runtime moves points by 3e-5, JPEG drafts by up to 0.35, bfloat16 by up to 0.7, where items lie 4 apart
(benchmarks/embed.py); another model by as much as items lie apart.
"""
SCENE_BOUND = 0.05
"""How far the drawn scene's point may move from what it was at the start, where no stored photo can be had."""


@dataclass(frozen=True, slots=True)
class Check:
    """A result: ``distance`` is geodesic, ``at`` a ``time.monotonic()``. ``detail`` names no item and no path."""

    ok: bool
    detail: str
    distance: float | None
    bound: float | None
    at: float


class SelfCheck:
    """Compares the encoder with what it is to answer, in a thread of its own once it is started."""

    def __init__(self, encoder: Encoder, collections: Collections, interval_s: float = INTERVAL_S) -> None:
        self._encoder, self._collections, self._interval_s = encoder, collections, interval_s
        self._scene_point: FloatArray | None = None
        self._last: Check | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="self-check", daemon=True)

    def start(self) -> None:
        """Check once, then every ``interval_s`` seconds."""
        self.run()
        self._thread.start()

    def result(self) -> Check:
        """The last result, or why there is none. Waits for nothing."""
        last, now = self._last, time.monotonic()
        if last is None:
            return Check(False, "the encoder has not been checked yet", None, None, now)
        if now - last.at > STALE_S:
            return Check(False, f"the encoder was last checked {now - last.at:.0f} s ago", None, None, last.at)
        return last

    def run(self) -> Check:
        """Check now, and keep the result."""
        try:
            check = self._compare()
        except (NoAnswerError, EncoderUnavailableError):
            check = _failed(f"the encoder does not answer within {ANSWER_S:.0f} s, or is restarting")
        except (EncodingError, ImageError) as error:
            check = _failed(f"the encoder failed at its check ({type(error).__name__})")
        if not check.ok and (self._last is None or self._last.ok):
            logger.error("event=self_check_failed detail=%r distance=%s", check.detail, check.distance)
        elif check.ok and self._last is not None and not self._last.ok:
            logger.info("event=self_check_passed distance=%s", check.distance)
        self._last = check
        return check

    def close(self) -> None:
        """Check no more."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()

    def _repeat(self) -> None:
        while not self._ending.wait(self._interval_s):
            try:
                self.run()
            except Exception:  # a check must not end checking
                logger.exception("event=self_check_broken")
                self._last = _failed("the check itself failed: the log says why")

    def _compare(self) -> Check:
        for name in self._collections.names():
            try:
                with self._collections.use(name) as served:
                    stored = _stored_photo(served.collection)
                    if stored is not None:
                        return self._compare_stored(served.collection, *stored)
            except (StoreError, UnknownCollectionError, CollectionUnavailableError) as error:
                logger.debug("event=self_check_passes_over collection=%s error=%r", name, error)
        return self._compare_scene()

    def _compare_stored(self, collection: Collection, item: Item, photo: bytes, others: FloatArray) -> Check:
        try:
            point = self._point(photo)
        except ImageError:  # damaged on the disk since: that is the item's, not the encoder's
            logger.warning("event=self_check_photo_damaged collection=%s item=%r", collection.name, item.id)
            return self._compare_scene()
        apart = _distances(item.space, others, collection.c)
        return _judged(
            float(_distances(point, item.space[None], collection.c)[0]),
            SHARE_OF_APART * float(np.median(apart)) if len(apart) else np.inf,
            "the point of a stored photo",
        )

    def _compare_scene(self) -> Check:
        point = self._point(scene())
        if self._scene_point is None:
            self._scene_point = point
        moved = _distances(point, self._scene_point[None], self._encoder.info.c)
        return _judged(float(moved[0]), SCENE_BOUND, "the point of a drawn scene")

    def _point(self, photo: bytes) -> FloatArray:
        future = self._encoder.check(photo)
        try:
            return future.result(ANSWER_S)
        finally:
            future.cancel()


def _failed(detail: str) -> Check:
    return Check(False, detail, None, None, time.monotonic())


def _judged(distance: float, bound: float, what: str) -> Check:
    # Points closer together than float32 tells apart: rounding is no failure.
    bound = max(bound, 1e-3)
    ok = distance <= bound
    word = "within" if ok else "beyond"
    return Check(ok, f"{what} lies {distance:.2g} off, {word} {bound:.2g}", distance, bound, time.monotonic())


def _distances(point: FloatArray, others: FloatArray, c: float) -> np.ndarray:
    return np.asarray(distances(np.asarray(point[None], dtype=np.float64), others[None], c)[0])


def _stored_photo(collection: Collection) -> tuple[Item, bytes, FloatArray] | None:
    """An item whose photo can be read, always the same while it is there, and points of others, (n, d)."""
    items = list(_spread(collection))
    for item in items:
        if (photo := _photo(collection, item)) is not None:
            others = [other.space for other in items if other.id != item.id]
            return item, photo, np.asarray(others, np.float32).reshape(len(others), collection.embedding_dim)
    return None


def _spread(collection: Collection) -> Iterator[Item]:
    """At most COMPARED items from all over the collection: neighbours in it are often of one kind."""
    seen: set[int] = set()
    for row in np.linspace(0, max(0, collection.count - 1), COMPARED).astype(int):
        for item in collection.items(after=int(row), limit=1):
            if item.row not in seen:
                seen.add(item.row)
                yield item


def _photo(collection: Collection, item: Item) -> bytes | None:
    try:
        path = collection.image_path(item)
        return None if path is None else path.read_bytes()
    except (StoreError, OSError):
        return None


@cache
def scene() -> bytes:
    """Light falling across two blobs, always the same, as PNG."""
    y, x = np.mgrid[0:192, 0:256] / 192.0
    scene = (60 + 90 * x)[..., None] * np.array([1.0, 0.8, 0.6])
    for centre_x, centre_y, colour in ((0.4, 0.5, (220, 40, 30)), (0.9, 0.6, (40, 160, 70))):
        cover = 1 / (1 + np.exp(20 * (np.hypot(x - centre_x, y - centre_y) / 0.3 - 1)))
        scene = scene * (1 - cover[..., None]) + cover[..., None] * np.array(colour)
    buffer = io.BytesIO()
    Image.fromarray(scene.clip(0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
