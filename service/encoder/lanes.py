"""Lanes: a queue in which some go first."""

from collections import deque
from collections.abc import Iterator
from enum import IntEnum
from typing import Generic, TypeVar

T = TypeVar("T")


class Lane(IntEnum):
    """Who goes first: the service's check of itself, then photos that somebody waits for, then those of jobs."""

    CHECK = 0
    URGENT = 1
    PATIENT = 2


class Lanes(Generic[T]):
    """Queues by :class:`Lane`, each in order of arrival. Not locked: its owner does that."""

    def __init__(self) -> None:
        self._lanes: dict[Lane, deque[T]] = {lane: deque() for lane in Lane}

    def put(self, item: T, lane: Lane) -> None:
        """Queue ``item``."""
        self._lanes[lane].append(item)

    def take(self, most: int = 1) -> list[T]:
        """The at most ``most`` next ones; patient ones only where no other waits, and never together with others."""
        hurried = self._lanes[Lane.CHECK], self._lanes[Lane.URGENT]
        queues = hurried if any(hurried) else (self._lanes[Lane.PATIENT],)
        taken: list[T] = []
        for queue in queues:
            while queue and len(taken) < most:
                taken.append(queue.popleft())
        return taken

    def remove(self, item: T, lane: Lane) -> bool:
        """Take ``item`` out of its lane; whether it was there."""
        try:
            self._lanes[lane].remove(item)
        except ValueError:
            return False
        return True

    def waiting(self, lane: Lane) -> int:
        """How many queue in ``lane``."""
        return len(self._lanes[lane])

    def __iter__(self) -> Iterator[T]:
        for queue in self._lanes.values():
            yield from queue

    def __len__(self) -> int:
        return sum(map(len, self._lanes.values()))
