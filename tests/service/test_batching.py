"""MicroBatcher: batches form while it is busy, and a failure stays with its call."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from service.batching import MicroBatcher


def test_calls_that_come_meanwhile_go_together() -> None:
    sizes: list[int] = []
    first_running, go_on = threading.Event(), threading.Event()

    def double(values: Sequence[int]) -> list[int]:
        sizes.append(len(values))
        first_running.set()
        assert go_on.wait(10)
        return [2 * value for value in values]

    async def run() -> list[int]:
        batcher = MicroBatcher(double, max_batch=4)
        first = asyncio.create_task(batcher(0))
        await asyncio.to_thread(first_running.wait, 10)
        others = [asyncio.create_task(batcher(value)) for value in range(1, 11)]
        await asyncio.sleep(0)
        go_on.set()
        answers = list(await asyncio.gather(first, *others))
        batcher.close()
        return answers

    assert asyncio.run(run()) == [2 * value for value in range(11)]
    assert sizes == [1, 4, 4, 2]


def test_a_bad_member_fails_alone() -> None:
    started, go_on = threading.Event(), threading.Event()

    def invert(values: Sequence[float]) -> list[float]:
        started.set()
        assert go_on.wait(10)
        return [1 / value for value in values]

    async def run() -> list[float | BaseException]:
        batcher = MicroBatcher(invert, max_batch=8)
        first = asyncio.create_task(batcher(1.0))
        await asyncio.to_thread(started.wait, 10)
        others = [asyncio.create_task(batcher(value)) for value in (2.0, 0.0, 4.0)]
        await asyncio.sleep(0)
        go_on.set()
        answers = await asyncio.gather(first, *others, return_exceptions=True)
        batcher.close()
        return list(answers)

    good, half, bad, quarter = asyncio.run(run())
    assert (good, half, quarter) == (1.0, 0.5, 0.25)
    assert isinstance(bad, ZeroDivisionError)


def test_work_of_callers_that_left_is_dropped() -> None:
    seen: list[int] = []
    started, go_on = threading.Event(), threading.Event()

    def note(values: Sequence[int]) -> list[int]:
        seen.extend(values)
        started.set()
        assert go_on.wait(10)
        return list(values)

    async def run() -> None:
        batcher = MicroBatcher(note, max_batch=8)
        tasks = [asyncio.create_task(batcher(0))]
        await asyncio.to_thread(started.wait, 10)
        tasks += [asyncio.create_task(batcher(value)) for value in (1, 2)]
        await asyncio.sleep(0)
        tasks[0].cancel()  # running already: only its answer is dropped
        tasks[1].cancel()
        go_on.set()
        assert await tasks[2] == 2
        for task in tasks[:2]:
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await batcher(3) == 3  # and it goes on
        batcher.close()

    asyncio.run(run())
    assert seen == [0, 2, 3]
