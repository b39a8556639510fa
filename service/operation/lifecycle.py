"""Lifecycle: whether the service is about to stop, for whoever must know."""

import asyncio


class Lifecycle:
    """Draining is one way: it ends with the process. Belongs to the event loop of the server."""

    def __init__(self) -> None:
        self.draining = False
        self._watchers: set[asyncio.Event] = set()

    def drain(self) -> None:
        """From now on the service is not ready, and answers without an end of their own end."""
        self.draining = True
        for watcher in self._watchers:
            watcher.set()

    async def until_draining(self) -> None:
        """Returns when the service is about to stop."""
        if self.draining:
            return
        watcher = asyncio.Event()
        self._watchers.add(watcher)
        try:
            await watcher.wait()
        finally:
            self._watchers.discard(watcher)
