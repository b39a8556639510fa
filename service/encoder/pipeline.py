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
    At most ``decode_threads`` threads decode at once, and ``encode_threads`` encode. There is no waiting time: an idle
    encoder starts at once, in the thread that decoded, and what was decoded meanwhile forms the next batch of at most
    ``max_batch``.
    The members of a batch that fails are tried one by one, so a bad one fails alone.
    """

    def __init__(
        self,
        decode: Callable[[Task], FloatArray],
        encode: Callable[[FloatArray], FloatArray],
        answer: Callable[[Outcome], None],
        *,
        decode_threads: int,
        max_batch: int,
        encode_threads: int = 1,
    ) -> None:
        self._decode, self._encode, self._answer, self._max_batch = decode, encode, answer, max_batch
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._photos, self._decoded = Lanes[Task](), Lanes[Task]()
        self._tasks: dict[int, Task] = {}
        self._idle_decoders, self._idle_encoders, self._closed = decode_threads, encode_threads, False
        self._threads = [
            threading.Thread(target=self._run, name=f"photos-{i}", daemon=True)
            for i in range(decode_threads + encode_threads)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, task: Task) -> None:
        """Take a photo in."""
        with self._lock:
            self._tasks[task.number] = task
            self._photos.put(task, task.lane)
            self._work.notify()

    def cancel(self, number: int) -> None:
        """Do no more for a photo; unless it has been answered, it is answered with None."""
        with self._lock:
            if (task := self._tasks.get(number)) is not None:
                task.cancelled = True

    def close(self) -> None:
        """Finish what is being worked on and start nothing more."""
        with self._lock:
            self._closed = True
            self._work.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._lock:
                while not (self._closed or self._can_encode() or self._can_decode()):
                    self._work.wait()
                if self._closed:
                    return
                if encode := self._can_encode():
                    taken = self._decoded.take(self._max_batch)
                    self._idle_encoders -= 1
                else:
                    taken = self._photos.take()
                    self._idle_decoders -= 1
                if self._can_encode() or self._can_decode():
                    self._work.notify()  # for another thread
            if encode:
                self._encode_batch(taken)
            else:
                self._decode_one(taken[0])

    def _can_encode(self) -> bool:
        return bool(self._decoded) and self._idle_encoders > 0

    def _can_decode(self) -> bool:
        return bool(self._photos) and self._idle_decoders > 0

    def _decode_one(self, task: Task) -> None:
        error: Exception | None = None
        if not task.cancelled:
            started = time.perf_counter()
            try:
                task.decoded = self._decode(task)
            except ImageError as found:
                error = found
            except Exception as found:
                logger.exception("event=decoding_failed")
                error = found
            task.decode_s = time.perf_counter() - started
        task.photo = b""
        with self._lock:
            self._idle_decoders += 1
            if task.decoded is not None:
                self._decoded.put(task, task.lane)
        if task.decoded is None:
            self._end(task, error)

    def _encode_batch(self, taken: list[Task]) -> None:
        for task in taken:
            if task.cancelled:
                self._end(task, None)
        try:
            if batch := [task for task in taken if not task.cancelled]:
                self._encode_together(batch)
        finally:
            with self._lock:
                self._idle_encoders += 1

    def _encode_together(self, batch: list[Task]) -> None:
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
                self._encode_together([task])
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
