"""A lock that many readers share and one writer holds alone."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class ReadWriteLock:
    """Searches share it, a write excludes them. First come, first served: neither side can starve the other.

    Not re-entrant: a thread that holds it must not ask for it again.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._queue: deque[object] = deque()
        self._readers = 0
        self._writing = False

    @contextmanager
    def read(self) -> Iterator[None]:
        """Hold the lock together with other readers."""
        with self._condition:
            self._wait(lambda: not self._writing)
            self._readers += 1
        try:
            yield
        finally:
            with self._condition:
                self._readers -= 1
                self._condition.notify_all()

    @contextmanager
    def write(self) -> Iterator[None]:
        """Hold the lock alone."""
        with self._condition:
            self._wait(lambda: not self._writing and not self._readers)
            self._writing = True
        try:
            yield
        finally:
            with self._condition:
                self._writing = False
                self._condition.notify_all()

    def _wait(self, free: Callable[[], bool]) -> None:
        turn = object()
        self._queue.append(turn)
        try:
            self._condition.wait_for(lambda: self._queue[0] is turn and free())
        finally:
            # Also when the wait was interrupted: the next in line must not wait for one who left.
            self._queue.remove(turn)
            self._condition.notify_all()
