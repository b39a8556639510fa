"""Pipeline: inside the worker, photos are decoded in some threads and encoded together in another."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hyperbolic.images import ImageError
from service.encoder.lanes import Lane, Lanes

logger = logging.getLogger(__name__)

FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


@dataclass(slots=True, eq=False)
class Task:
    """One photo on its way: its bytes, then the encoder's input."""

    number: int
    lane: Lane
    photo: bytes
    max_pixels: int
    min_side: int
    decoded: FloatArray | None = None
    decode_s: float = 0.0
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class Encoded:
    """Photos that went through the encoder together, and their points (n, d)."""

    tasks: Sequence[Task]
    points: FloatArray
    seconds: float


Outcome = Encoded | tuple[Task, Exception | None]
"""Points; or one photo that failed, with an :class:`ImageError` or whatever went wrong; or, None, was cancelled."""


class Pipeline:
    """Photos in, each answered once through ``answer``, which several threads call.

    ``decode`` makes (3, s, s) of one task and raises :class:`ImageError`; ``encode`` makes (n, d) of (n, 3, s, s).
    There is no waiting time: an idle encoder starts at once, and what was decoded meanwhile forms the next batch of
    at most ``max_batch``. The members of a batch that fails are tried one by one, so a bad one fails alone.
    """

    def __init__(
        self,
        decode: Callable[[Task], FloatArray],
        encode: Callable[[FloatArray], FloatArray],
        answer: Callable[[Outcome], None],
        *,
        decode_threads: int,
        max_batch: int,
    ) -> None:
        self._decode, self._encode, self._answer, self._max_batch = decode, encode, answer, max_batch
        self._lock = threading.Lock()
        self._has_photos, self._has_decoded = threading.Condition(self._lock), threading.Condition(self._lock)
        self._photos, self._decoded = Lanes[Task](), Lanes[Task]()
        self._tasks: dict[int, Task] = {}
        self._closed = False
        self._threads = [
            *(
                threading.Thread(target=self._decode_all, name=f"decode-{i}", daemon=True)
                for i in range(decode_threads)
            ),
            threading.Thread(target=self._encode_all, name="encode", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def put(self, task: Task) -> None:
        """Take a photo in."""
        with self._lock:
            self._tasks[task.number] = task
            self._photos.put(task, task.lane)
            self._has_photos.notify()

    def cancel(self, number: int) -> None:
        """Do no more for a photo; unless it has been answered, it is answered with None."""
        with self._lock:
            if (task := self._tasks.get(number)) is not None:
                task.cancelled = True

    def close(self) -> None:
        """Finish what is being worked on and start nothing more."""
        with self._lock:
            self._closed = True
            self._has_photos.notify_all()
            self._has_decoded.notify_all()
        for thread in self._threads:
            thread.join()

    def _decode_all(self) -> None:
        while True:
            with self._lock:
                while not (self._photos or self._closed):
                    self._has_photos.wait()
                if self._closed:
                    return
                task = self._photos.take()[0]
            if task.cancelled:
                self._end(task, None)
                continue
            started = time.perf_counter()
            try:
                task.decoded = self._decode(task)
            except Exception as error:
                if not isinstance(error, ImageError):
                    logger.exception("event=decoding_failed")
                self._end(task, error)
                continue
            task.decode_s = time.perf_counter() - started
            task.photo = b""
            with self._lock:
                self._decoded.put(task, task.lane)
                self._has_decoded.notify()

    def _encode_all(self) -> None:
        while True:
            with self._lock:
                while not (self._decoded or self._closed):
                    self._has_decoded.wait()
                if self._closed:
                    return
                taken = self._decoded.take(self._max_batch)
            for task in taken:
                if task.cancelled:
                    self._end(task, None)
            if batch := [task for task in taken if not task.cancelled]:
                self._run(batch)

    def _run(self, batch: list[Task]) -> None:
        started = time.perf_counter()
        try:
            points = self._encode(np.stack([task.decoded for task in batch if task.decoded is not None]))
            if not np.isfinite(points).all():
                raise FloatingPointError("the encoder answered with numbers that are not finite")
        except Exception as error:
            if len(batch) == 1:
                logger.exception("event=encoding_failed")
                self._end(batch[0], error)
                return
            logger.warning("event=batch_failed size=%d error=%r action=one_by_one", len(batch), error)
            for task in batch:
                self._run([task])
            return
        self._forget(batch)
        self._answer(Encoded(batch, points, time.perf_counter() - started))

    def _end(self, task: Task, error: Exception | None) -> None:
        self._forget([task])
        self._answer((task, error))

    def _forget(self, tasks: Sequence[Task]) -> None:
        with self._lock:
            for task in tasks:
                del self._tasks[task.number]
