"""Batching: batches of a kind form while it is being worked on, and a failure stays with its call."""

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.search.batching import Batching


def test_kinds_are_not_mixed_and_run_beside_each_other() -> None:
    batches: list[list[str]] = []
    both_running = threading.Barrier(2)

    def work(values: Sequence[str]) -> list[str]:
        batches.append([value[0] for value in values])
        if len(batches) <= 2:
            both_running.wait(10)  # breaks unless the other kind runs at the same time
        return [value.upper() for value in values]

    async def run() -> list[str]:
        with ThreadPoolExecutor(2) as pool:
            batching: Batching[str, str] = Batching(pool, max_batch=4)
            return list(await asyncio.gather(*[batching(v[0], v, work) for v in ("a1", "b1", "a2", "b2", "a3", "b3")]))

    assert asyncio.run(run()) == ["A1", "B1", "A2", "B2", "A3", "B3"]
    assert all(len(set(batch)) == 1 for batch in batches)


def test_those_who_wait_make_full_batches() -> None:
    sizes: list[int] = []
    first_running, go_on = threading.Event(), threading.Event()

    def double(values: Sequence[int]) -> list[int]:
        sizes.append(len(values))
        first_running.set()
        assert go_on.wait(10)
        return [2 * value for value in values]

    async def run() -> list[int]:
        with ThreadPoolExecutor(1) as pool:
            batching: Batching[int, int] = Batching(pool, max_batch=4)
            first = asyncio.create_task(batching("double", 0, double))
            await asyncio.to_thread(first_running.wait, 10)
            others = [asyncio.create_task(batching("double", value, double)) for value in range(1, 11)]
            await asyncio.sleep(0)
            go_on.set()
            return list(await asyncio.gather(first, *others))

    assert asyncio.run(run()) == [2 * value for value in range(11)]
    assert sizes == [1, 4, 4, 2]


def test_a_bad_member_fails_alone() -> None:
    started, go_on = threading.Event(), threading.Event()

    def invert(values: Sequence[float]) -> list[float]:
        started.set()
        assert go_on.wait(10)
        return [1 / value for value in values]

    async def run() -> list[float | BaseException]:
        with ThreadPoolExecutor(1) as pool:
            batching: Batching[float, float] = Batching(pool, max_batch=8)
            first = asyncio.create_task(batching("invert", 1.0, invert))
            await asyncio.to_thread(started.wait, 10)
            others = [asyncio.create_task(batching("invert", value, invert)) for value in (2.0, 0.0, 4.0)]
            await asyncio.sleep(0)
            go_on.set()
            return list(await asyncio.gather(first, *others, return_exceptions=True))

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
        with ThreadPoolExecutor(1) as pool:
            batching: Batching[int, int] = Batching(pool, max_batch=8)
            tasks = [asyncio.create_task(batching("note", 0, note))]
            await asyncio.to_thread(started.wait, 10)
            tasks += [asyncio.create_task(batching("note", value, note)) for value in (1, 2)]
            await asyncio.sleep(0)
            tasks[0].cancel()  # running already: only its answer is dropped
            tasks[1].cancel()
            go_on.set()
            assert await tasks[2] == 2
            for task in tasks[:2]:
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert await batching("note", 3, note) == 3  # and it goes on

    asyncio.run(run())
    assert seen == [0, 2, 3]
