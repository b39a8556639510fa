"""Batching: calls of one kind that arrive while others of it are being worked on go together."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

Input = TypeVar("Input")
Output = TypeVar("Output")
Work = Callable[[Sequence[Input]], Sequence[Output]]
Waiting = deque[tuple[Input, "asyncio.Future[Output]"]]


class Batching(Generic[Input, Output]):
    """Runs work on batches in the threads of ``pool``; belongs to one event loop.

    There is no waiting time: the first call of a kind starts at once, and whatever came meanwhile forms the next batch
    of at most ``max_batch``. When a batch fails, its members are tried one by one, so that a bad one fails only the
    call that brought it.
    """

    def __init__(self, pool: Executor, max_batch: int) -> None:
        self._pool = pool
        self._max_batch = max_batch
        self._waiting: dict[Hashable, Waiting[Input, Output]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, kind: Hashable, value: Input, work: Work[Input, Output]) -> Output:
        """What ``work`` makes of ``value``, alone or together with other values of the same ``kind``.

        Of a kind all ``work`` does the same: that of the first call is taken. What it raises comes out here.
        """
        future: asyncio.Future[Output] = asyncio.get_running_loop().create_future()
        if kind in self._waiting:
            self._waiting[kind].append((value, future))
        else:
            self._waiting[kind] = deque([(value, future)])
            task = asyncio.create_task(self._work_off(kind, work))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await future

    async def _work_off(self, kind: Hashable, work: Work[Input, Output]) -> None:
        waiting = self._waiting[kind]
        try:
            while waiting:
                batch = [waiting.popleft() for _ in range(min(len(waiting), self._max_batch))]
                await self._run([pair for pair in batch if not pair[1].done()], work)  # others' callers have gone
        finally:
            del self._waiting[kind]

    async def _run(self, batch: Sequence[tuple[Input, "asyncio.Future[Output]"]], work: Work[Input, Output]) -> None:
        if not batch:
            return
        values = [value for value, _ in batch]
        try:
            results = await asyncio.get_running_loop().run_in_executor(self._pool, work, values)
        except Exception as error:
            if len(batch) == 1:
                if not batch[0][1].done():
                    batch[0][1].set_exception(error)
                return
            logger.warning("event=batch_failed size=%d error=%r action=one_by_one", len(batch), error)
            for pair in batch:
                await self._run([pair], work)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)
