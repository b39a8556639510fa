"""The engine's work off the event loop: decoding in a few threads, the encoder in micro-batches, searches beside."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from torch import Tensor

from index.collection import Collection
from service.batching import MicroBatcher
from service.engine import Engine, Neighbours
from service.settings import InferenceSettings, LimitSettings

Result = TypeVar("Result")
Note = Callable[[str, float], None]


class OffLoopEngine:
    """Asynchronous face of an :class:`Engine`. ``note(step, seconds)`` is told how long each step took.

    Only as many photos are decoded at once as there are decoding threads, and each shrinks to the encoder's
    input before the next: memory does not grow with the number of requests.
    """

    def __init__(self, engine: Engine, limits: LimitSettings, inference: InferenceSettings) -> None:
        self.engine = engine
        self._limits = limits
        self._decoders = ThreadPoolExecutor(inference.decode_threads, thread_name_prefix="decode")
        self._searchers = ThreadPoolExecutor(inference.decode_threads, thread_name_prefix="search")
        self._embed: MicroBatcher[Tensor, np.ndarray] = MicroBatcher(
            lambda prepared: list(engine.embed(prepared)), inference.max_batch
        )

    async def embed_photo(self, read: Callable[[], bytes], note: Note) -> np.ndarray:
        """Bytes of a photo, as ``read`` hands them over -> its space part (d,).

        ``read`` runs in a decoding thread, so unpacking base64 does not hold up the loop either.
        Raises what ``read`` raises, and :class:`~hyperbolic.images.ImageError`.
        """

        def prepare() -> Tensor:
            return self.engine.prepare(read(), self._limits.image_pixels, self._limits.image_min_side)

        prepared = await _timed(self._decoders, prepare, "decode", note)
        started = time.perf_counter()
        point = await self._embed(prepared)
        note("embed", time.perf_counter() - started)
        return point

    async def neighbours(
        self,
        collection: Collection,
        space: np.ndarray,
        limit: int,
        note: Note,
        *,
        max_distance: float | None = None,
        leave_out: str | None = None,
    ) -> Neighbours:
        """:meth:`Engine.neighbours` in a thread."""

        def search() -> Neighbours:
            return self.engine.neighbours(collection, space, limit, max_distance=max_distance, leave_out=leave_out)

        return await _timed(self._searchers, search, "search", note)

    def close(self) -> None:
        """Let what runs end, start nothing more."""
        for pool in (self._decoders, self._searchers):
            pool.shutdown(wait=True, cancel_futures=True)
        self._embed.close()


async def _timed(pool: ThreadPoolExecutor, work: Callable[[], Result], step: str, note: Note) -> Result:
    started = time.perf_counter()
    result = await asyncio.get_running_loop().run_in_executor(pool, work)
    note(step, time.perf_counter() - started)
    return result
