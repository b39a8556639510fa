"""Running the application: in this process until a signal, or in a thread for tests and the demo."""

import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI

from service.app import create_app
from service.engine import Engine
from service.settings import Settings

START_TIMEOUT_S = 30.0


class PortInUseError(OSError):
    """The address cannot be listened on."""


def bind(host: str, port: int) -> socket.socket:
    """A listening socket (port 0: any free one). Raises :class:`PortInUseError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host.strip("[]"), port), family=family, backlog=1024)
    except OSError as error:
        raise PortInUseError(
            f"cannot listen on {host}:{port} ({error.strerror or error}): choose another with --port"
        ) from error


def url_of(listener: socket.socket) -> str:
    """Where a browser on this machine reaches ``listener``."""
    host, port = listener.getsockname()[:2]
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - compared, not listened on
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve_until_signal(app: FastAPI, settings: Settings, listener: socket.socket) -> None:
    """Serve until SIGTERM or Ctrl-C; requests under way are answered before it returns."""
    server = uvicorn.Server(_config(app, settings))

    def already_handled(_signal: int, _frame: FrameType | None) -> None:
        """Uvicorn stops on the signal, then raises it again: a graceful stop is a success, not a crash."""

    previous = {number: signal.signal(number, already_handled) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run(sockets=[listener])
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


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
        server = uvicorn.Server(_config(create_app(engine, settings), settings))
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
            server.should_exit = True
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


def _config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,  # the command configures logging
        access_log=False,  # ours carries request ids
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=max(1, round(settings.limits.deadline_s)),
    )
