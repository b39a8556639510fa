"""Micro-batching: single calls that arrive while the encoder is busy go through it together."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

Input = TypeVar("Input")
Output = TypeVar("Output")


class MicroBatcher(Generic[Input, Output]):
    """Runs ``function`` on batches in one thread of its own, off the event loop.

    There is no waiting time: an idle encoder starts at once, and whatever came meanwhile forms the next
    batch of at most ``max_batch``. When a batch fails, its members are tried one by one, so a bad input
    fails only the call that brought it. Use it from one event loop.
    """

    def __init__(self, function: Callable[[Sequence[Input]], Sequence[Output]], max_batch: int) -> None:
        self._function = function
        self._max_batch = max_batch
        self._waiting: deque[tuple[Input, asyncio.Future[Output]]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embed")
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, value: Input) -> Output:
        """The result for one input; what ``function`` raises for it alone comes out here."""
        future: asyncio.Future[Output] = asyncio.get_running_loop().create_future()
        self._waiting.append((value, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
        return await future

    def close(self) -> None:
        """Let the running batch end and start no other."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def _work(self) -> None:
        while self._waiting:
            batch: list[tuple[Input, asyncio.Future[Output]]] = []
            while self._waiting and len(batch) < self._max_batch:
                value, future = self._waiting.popleft()
                if not future.done():  # a caller past its deadline has gone: its work is not done
                    batch.append((value, future))
            await self._run(batch)

    async def _run(self, batch: list[tuple[Input, asyncio.Future[Output]]]) -> None:
        if not batch:
            return
        try:
            values = [value for value, _ in batch]
            results = await asyncio.get_running_loop().run_in_executor(self._thread, self._function, values)
        except Exception as error:
            if len(batch) == 1:
                _, future = batch[0]
                if not future.done():
                    future.set_exception(error)
                return
            logger.warning("event=batch_failed size=%d error=%r action=one_by_one", len(batch), error)
            for member in batch:
                await self._run([member])
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)
