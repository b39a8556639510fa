"""Rebuilds that keep nobody waiting: one at a time, in a thread of their own or in the caller's."""

import logging
import threading
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)


class Rebuild:
    """Runs `build`, which returns the new generation's name, when a collection has outgrown its index."""

    def __init__(self, build: Callable[[], str], collection: str) -> None:
        self._build = build
        self._collection = collection
        self._running = threading.Lock()
        self._state = threading.Lock()
        self._thread: threading.Thread | None = None
        self._given_up = False

    def run(self) -> str:
        """Rebuild in this thread, after one that is running."""
        with self._running:
            return self._build()

    def start(self, reason: str) -> None:
        """Rebuild in another thread, unless one does or one has failed (it would fail again with every write)."""
        with self._state:
            if self._given_up or (self._thread is not None and self._thread.is_alive()):
                return
            logger.info("event=rebuild_started collection=%s reason=%r", self._collection, reason)
            self._thread = threading.Thread(target=self._run, name=f"rebuild-{self._collection}", daemon=True)
            self._thread.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the other thread; whether none is left."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout)
        return thread is None or not thread.is_alive()

    def stop(self) -> None:
        """Start no more, and wait for one that is running."""
        with self._state:
            self._given_up = True
        self.wait()

    def _run(self) -> None:
        start = time.monotonic()
        try:
            name = self.run()
        except Exception:
            self._given_up = True
            logger.exception("event=rebuild_failed collection=%s (the old index serves on)", self._collection)
        else:
            seconds = time.monotonic() - start
            logger.info("event=rebuild_done collection=%s generation=%s seconds=%.1f", self._collection, name, seconds)
