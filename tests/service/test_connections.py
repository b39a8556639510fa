"""Clients that are slow, or send what nobody wants: they get their answer or lose their connection, others wait for
none of them."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import httpx
import pytest

from service.engine import Engine
from service.operation import connections
from service.server import Server, running_server
from service.settings import Settings

from .conftest import draw, encoded

Change = Callable[..., Settings]
PHOTO = encoded(draw(1))
HEAD = b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b\r\n"


@contextmanager
def connected(url: str, sent: bytes) -> Iterator[socket.socket]:
    address = urlsplit(url)
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=20) as connection:
        connection.sendall(sent)
        yield connection


def answered(connection: socket.socket) -> http.client.HTTPResponse:
    """The next answer that comes on it."""
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return answer


def closes_within(connection: socket.socket, seconds: float) -> bool:
    """Whether the server closes it, without a byte said."""
    connection.settimeout(seconds)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


def test_slow_clients_are_let_go(engine: Engine, with_settings: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "GRACE_S", 0.5)
    settings = with_settings(limits={"header_s": 1.5, "upload_rate": 1000, "read_s": 1.5})
    with running_server(settings, engine) as url:
        with (
            connected(url, b"") as silent,
            connected(url, b"GET /v1/info HTTP/1.1\r\nHost: loc") as slow_head,
            connected(url, HEAD % (1000, b"") + b"{") as slow_body,
        ):
            for connection in (silent, slow_head, slow_body):
                assert closes_within(connection, 5)
        # Between requests there is no hurry.
        with connected(url, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n") as kept:
            answer = answered(kept)
            assert answer.status == 200
            answer.read()
            assert not closes_within(kept, 3)
            kept.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert answered(kept).status == 200


def test_a_stall_of_the_server_is_no_clients_fault(
    engine: Engine, with_settings: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is read meanwhile (a suspended machine, a disk that hangs): what was sent in time waits in the kernel."""
    monkeypatch.setattr(connections, "GRACE_S", 1.5)
    monkeypatch.setattr(connections, "STALL_S", 0.2)
    tick, hold, held = Server.on_tick, threading.Event(), threading.Event()

    async def stalling(server: Server, counter: int) -> bool:
        if hold.is_set() and counter % 10 == 0:  # a sweep comes next, before anything is read
            held.set()
            hold.clear()
            time.sleep(3.5)
        return await tick(server, counter)

    monkeypatch.setattr(Server, "on_tick", stalling)
    settings = with_settings(limits={"header_s": 1.5, "upload_rate": 1000, "read_s": 1.5})
    head, body = HEAD % (13, b""), b'{"query": {}}'
    with running_server(settings, engine) as url:
        hold.set()
        with connected(url, b"") as silent, connected(url, head[:30]) as half, connected(url, head + body[:1]) as whole:
            assert held.wait(20)
            for connection, rest in ((silent, head + body), (half, head[30:] + body), (whole, body[1:])):
                connection.sendall(rest)
            for connection in (silent, half, whole):
                assert answered(connection).status == 422


def test_a_client_that_does_not_read(engine: Engine, with_settings: Change) -> None:
    """It asks on and on: what it is sent piles up, first in the kernel, then here, until it is let go."""
    asked = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20
    with running_server(with_settings(limits={"read_s": 1.0}), engine) as url, connected(url, b"") as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        deadline, gone = time.monotonic() + 20, False
        while not gone and time.monotonic() < deadline:
            try:
                connection.send(asked)
            except BlockingIOError:
                pass
            except (ConnectionResetError, BrokenPipeError):
                gone = True
            time.sleep(0.01)
        assert gone
        assert httpx.get(f"{url}/livez").status_code == 200


def test_two_hundred_slow_bodies_hold_no_place(engine: Engine, with_settings: Change) -> None:
    with (
        running_server(with_settings(limits={"in_flight": 2, "queued": 2}), engine) as url,
        ExitStack() as slow,
        httpx.Client(base_url=url, timeout=10) as client,
    ):
        for _ in range(200):
            slow.enter_context(connected(url, HEAD % (5000, b"") + b"{"))
        for _ in range(5):
            assert client.post("/v1/search", files={"file": PHOTO}).status_code == 200
        assert client.get("/readyz").status_code == 200


def test_connections_are_bounded(engine: Engine, with_settings: Change) -> None:
    """Beyond the bound those without a request give way, the longest idle first."""
    with (
        running_server(with_settings(limits={"connections": 5}), engine) as url,
        connected(url, HEAD % (100, b"") + b"{") as busy,
        connected(url, b"") as first,
        ExitStack() as others,
    ):
        first.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert answered(first).read()  # it has been idle for longer than those that come now
        for _ in range(3):
            time.sleep(0.05)
            others.enter_context(connected(url, b""))
        assert httpx.get(f"{url}/livez").status_code == 200
        assert closes_within(first, 2)
        busy.sendall(b"x" * 99)
        assert busy.recv(100).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("close", [b"", b"Connection: close\r\n"])
@pytest.mark.parametrize("why", ["unauthorized", "body_too_large"])
def test_refused_bodies_do_not_swallow_the_answer(
    engine: Engine, with_settings: Change, close: bytes, why: str
) -> None:
    """A client that sends all of its body before it reads gets the answer, and not a reset connection."""
    auth = {"read_key": "12345678"} if why == "unauthorized" else {}
    settings = with_settings(limits={"body_bytes": 10_000}, auth=auth)
    size = 5_000_000
    with running_server(settings, engine) as url, connected(url, HEAD % (size, close)) as connection:
        for _ in range(size // 100_000):
            connection.sendall(b"x" * 100_000)
            time.sleep(0.001)
        answer = answered(connection)
        assert json.loads(answer.read())["code"] == why
        assert (answer.headers.get("Connection") == "close") == bool(close)
        if not close:  # and the connection is as good as new
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert answered(connection).status == 200
        else:
            assert closes_within(connection, 5)


def test_a_body_may_come_behind_another_request(
    engine: Engine, with_settings: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its head is there when the request before is answered: that answer is not one to a body that still comes."""
    monkeypatch.setattr(connections, "LINGER_S", 0.2)
    body = b'{"query": {}}'
    request = HEAD % (len(body), b"") + body
    with running_server(with_settings(), engine) as url, connected(url, request + request[:-5]) as connection:
        assert answered(connection).read()
        time.sleep(2.5)  # it is swept once a second
        connection.sendall(request[-5:])
        assert answered(connection).status == 422


def test_a_refused_body_is_not_read_for_ever(
    engine: Engine, with_settings: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "LINGER_S", 0.5)
    with (
        running_server(with_settings(limits={"body_bytes": 1000}), engine) as url,
        connected(url, HEAD % (10**9, b"")) as connection,
    ):
        started, cut_off = time.monotonic(), False
        while not cut_off and time.monotonic() - started < 10:
            try:
                connection.sendall(b"x" * 1000)
            except (ConnectionResetError, BrokenPipeError):
                cut_off = True
            time.sleep(0.001)
        assert cut_off
        assert time.monotonic() - started < 5
