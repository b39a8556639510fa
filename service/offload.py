"""The engine's work off the event loop: photos through the encoder's process, searches in a few threads."""

import asyncio
import contextvars
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from hyperbolic.images import ImageError
from service.encoder.supervisor import PhotoFuture
from service.engine import Engine
from service.operation.metrics import Metrics
from service.search.batching import Batching
from service.settings import InferenceSettings, LimitSettings

Value = TypeVar("Value")
Result = TypeVar("Result")
Note = Callable[[str, float], None]

WRITERS = 4
TOGETHER = 32  # searches in one scan


class OffLoopEngine:
    """Asynchronous face of an :class:`Engine`. ``note(step, seconds)`` is told how long each step took.

    The engine may have several, on loops of their own.
    """

    def __init__(self, engine: Engine, limits: LimitSettings, inference: InferenceSettings, metrics: Metrics) -> None:
        self.engine = engine
        self.metrics = metrics
        self._limits = limits
        self._readers = ThreadPoolExecutor(inference.decode_threads, thread_name_prefix="read")
        self._searchers = ThreadPoolExecutor(inference.decode_threads, thread_name_prefix="search")
        self._together: Batching[Any, Any] = Batching(self._searchers, TOGETHER)
        # Commits go one by one, while others bring their photos to the disk. In threads of their own: they wait long.
        self._writers = ThreadPoolExecutor(WRITERS, thread_name_prefix="write")

    async def embed_photo(self, photo: bytes | Callable[[], bytes], note: Note) -> np.ndarray:
        """Bytes of a photo -> its space part (d,).

        Where a function hands them over it runs in a thread, so that unpacking base64 does not hold up the loop.
        Raises what that raises, and what :meth:`~service.encoder.supervisor.Encoder.submit` promises. A caller that is
        cancelled takes its photo out of the queue. Of the steps, "queue" is what is left of the time after decoding
        and the photo's batch.
        """
        started = time.perf_counter()
        submitted = self._submit(photo) if isinstance(photo, bytes) else await self._submit_in_thread(photo)
        try:
            point = await asyncio.wrap_future(submitted)
        except ImageError as error:
            self.metrics.image_error(error.code)
            raise
        self.metrics.step("decode", submitted.decode_s)
        note("decode", submitted.decode_s)
        note("embed", submitted.encode_s)
        note("queue", max(0.0, time.perf_counter() - started - submitted.decode_s - submitted.encode_s))
        return point

    def _submit(self, photo: bytes) -> PhotoFuture:
        """Waits for nothing."""
        limits = self._limits
        return self.engine.encoder.submit(photo, max_pixels=limits.image_pixels, min_side=limits.image_min_side)

    async def _submit_in_thread(self, read: Callable[[], bytes]) -> PhotoFuture:
        submitting = self._readers.submit(lambda: self._submit(read()))
        try:
            return await asyncio.wrap_future(submitting)
        except asyncio.CancelledError:
            submitting.add_done_callback(_cancel_result)  # where it was submitted in spite of that
            raise

    async def compute(self, work: Callable[[], Result], step: str, note: Note) -> Result:
        """``work`` in one of the threads that search, so that there are never more of them at work than those."""
        return await self._timed(self._searchers, work, step, note)

    async def compute_together(
        self, kind: Hashable, value: Value, work: Callable[[Sequence[Value]], Sequence[Result]], step: str, note: Note
    ) -> Result:
        """:meth:`compute` of ``work`` on ``value``, together with what waits for work of the same ``kind``."""
        started = time.perf_counter()
        result: Result = await self._together(kind, value, work)
        self._tell(step, time.perf_counter() - started, note)
        return result

    async def write(self, work: Callable[[], Result], note: Note) -> Result:
        """``work``, which changes what is stored, in a thread; it runs to its end even if the caller is cancelled."""
        return await self._timed(self._writers, work, "write", note)

    async def _timed(self, pool: ThreadPoolExecutor, work: Callable[[], Result], step: str, note: Note) -> Result:
        started = time.perf_counter()
        # With the caller's context: what is logged in the thread bears the id of its request.
        result = await asyncio.get_running_loop().run_in_executor(pool, contextvars.copy_context().run, work)
        self._tell(step, time.perf_counter() - started, note)
        return result

    def _tell(self, step: str, seconds: float, note: Note) -> None:
        self.metrics.step(step, seconds)
        note(step, seconds)

    def close(self) -> None:
        """Let what runs end, start nothing more."""
        for pool in (self._readers, self._searchers, self._writers):
            pool.shutdown(wait=True, cancel_futures=True)


def _cancel_result(submitting: Future[PhotoFuture]) -> None:
    if not submitting.cancelled() and submitting.exception() is None:
        submitting.result().cancel()
