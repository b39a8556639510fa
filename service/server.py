"""Running the application: in this process until a signal, or in a thread for tests and the demo."""

import asyncio
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from types import FrameType
from typing import cast

import uvicorn
from fastapi import FastAPI

from service.app import create_app
from service.engine import Engine
from service.operation.connections import Guard, GuardedProtocol
from service.operation.lifecycle import Lifecycle
from service.settings import Settings

logger = logging.getLogger(__name__)

START_TIMEOUT_S = 30.0
BACKLOG = 1024
SEND_BUFFER = 128 * 2**10
"""What the kernel keeps of an answer for a client that reads slowly. Left alone it grows to megabytes a connection, and
the service reads so many more photos for whoever does not take them."""
SETTLE_S = 0.2
"""For how long a connection that was just made may stay silent before it counts as one without a request."""
ANSWERS_S = 2.0
"""What requests that are cut off at the end of ``drain_s`` have for saying so."""


class PortInUseError(OSError):
    """The address cannot be listened on."""


def bind(host: str, port: int) -> socket.socket:
    """A listening socket (port 0: any free one). Raises :class:`PortInUseError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host.strip("[]"), port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise PortInUseError(
            f"cannot listen on {host}:{port} ({error.strerror or error}): choose another with --port"
        ) from error
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)  # of the connections that it accepts
    return listener


def url_of(listener: socket.socket) -> str:
    """Where a browser on this machine reaches ``listener``."""
    host, port = listener.getsockname()[:2]
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - compared, not listened on
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """Uvicorn, with a stop that no client need notice.

    Told to stop, it says so on ``/readyz`` and takes requests on for ``notice_s``, each answer ending its connection;
    takes those that have connected, closes the listening socket, and finishes what is under way within ``drain_s``.
    A second signal stops at once.
    """

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        self._settings = settings
        self._guard = Guard(settings.limits)
        self._lifecycle: Lifecycle = app.state.service.lifecycle
        self._notice_s = settings.operation.notice_s
        protocol = cast(type[asyncio.Protocol], partial(GuardedProtocol, guard=self._guard))
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol,
                log_config=None,  # the command configures logging
                access_log=False,  # ours carries request ids
                server_header=False,
                ws="none",
                backlog=BACKLOG,
                timeout_keep_alive=cast(int, settings.operation.keep_alive_s),
            )
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM: stop without anybody noticing; Ctrl-C: without the notice; a second one: at once."""
        if self.should_exit:
            logger.warning("event=stopped_at_once signal=%d", sig)
            os._exit(128 + sig)  # what is acknowledged is on the disk; the encoder ends with this process
        if sig == signal.SIGINT:
            self._notice_s = 0.0  # somebody sits and waits, no load balancer
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        if counter % 10 == 0:
            self._guard.sweep()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain."""
        started = time.monotonic()
        deadline = started + self._settings.operation.drain_s
        self._lifecycle.drain()
        self._guard.drain()
        logger.info("event=draining requests=%d notice_s=%g", len(self.server_state.tasks), self._notice_s)
        await self._wait(min(deadline, started + self._notice_s), lambda: False)
        await self._close_listeners(sockets or [])
        await self._wait(min(deadline, time.monotonic() + SETTLE_S), lambda: False)
        await self._wait(deadline, self._has_ended)
        if left := len(self.server_state.tasks):
            logger.warning("event=drain_cut_off requests=%d drain_s=%g", left, self._settings.operation.drain_s)
        for task in self.server_state.tasks:
            task.cancel()
        await self._wait(time.monotonic() + ANSWERS_S, lambda: not self.server_state.tasks)
        for connection in list(self._guard.connections):
            connection.transport.abort()
        await self.lifespan.shutdown()
        logger.info("event=drained seconds=%.1f", time.monotonic() - started)

    def _has_ended(self) -> bool:
        self._guard.close_idle()
        return not (self._guard.connections or self.server_state.tasks)

    async def _wait(self, until: float, done: Callable[[], bool]) -> None:
        while not done() and (left := until - time.monotonic()) > 0:
            self._guard.sweep()
            await asyncio.sleep(min(0.05, left))

    async def _close_listeners(self, sockets: list[socket.socket]) -> None:
        """Stop listening, with everybody taken who has connected."""
        loop = asyncio.get_running_loop()
        for listener in sockets:
            # In this moment connections would be reset that the kernel has made and we have not taken.
            listener.setblocking(False)
            with suppress(BlockingIOError):
                while True:
                    connection, _ = listener.accept()
                    connection.setblocking(False)
                    await loop.connect_accepted_socket(self._protocol, connection)
        for server in self.servers:
            server.close()
        for listener in sockets:
            listener.close()

    def _protocol(self) -> asyncio.Protocol:
        return GuardedProtocol(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state, guard=self._guard
        )


def serve_until_signal(app: FastAPI, settings: Settings, listener: socket.socket) -> None:
    """Serve until SIGTERM or Ctrl-C; requests under way are answered before it returns."""
    Server(app, settings).run(sockets=[listener])


@contextmanager
def running_server(settings: Settings, engine: Engine | None = None) -> Iterator[str]:
    """The service, served from a thread for as long as the context lasts; yields its URL.

    Listens on ``settings.host`` and ``settings.port`` (0: any free port). An ``engine`` that is given stays
    the caller's; without one it is opened as ``settings`` say. Raises :class:`PortInUseError`, and what
    :meth:`Engine.open` raises.
    """
    with ExitStack() as stack:
        listener = stack.enter_context(bind(settings.host, settings.port))
        if engine is None:
            engine = stack.enter_context(closing(open_engine(settings)))
        server = Server(create_app(engine, settings), settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="server", daemon=True)
        url = url_of(listener)
        thread.start()
        try:
            deadline = time.monotonic() + START_TIMEOUT_S
            while not server.started:
                if not thread.is_alive() or time.monotonic() > deadline:
                    raise RuntimeError("the server did not start: its log says why")
                time.sleep(0.01)
            yield url
        finally:
            server.handle_exit(signal.SIGINT, None)
            thread.join()


def open_engine(settings: Settings) -> Engine:
    """The engine that ``settings`` describe. Raises what :meth:`Engine.open` raises."""
    return Engine.open(
        settings.checkpoint,
        settings.store,
        settings.collections,
        inference=settings.inference,
        image_root=settings.image_root,
        search_device=settings.search_device,
    )
