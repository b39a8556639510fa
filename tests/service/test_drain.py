"""Stopping: nobody who was let in is dropped, those who watch know at once, and it ends in time."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from starlette.responses import StreamingResponse
from starlette.types import Message, Scope

from service.app import create_app
from service.engine import Engine
from service.middleware.event_streams import EventStreams
from service.operation.lifecycle import Lifecycle
from service.server import Server, bind
from service.settings import Settings

from .conftest import Trip, draw, encoded

PHOTO = encoded(draw(1))


@dataclass
class Process:
    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def stop(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)


@pytest.fixture
def serve(trip: Trip, tmp_path: Path) -> Callable[..., "contextmanager[Process]"]:  # type: ignore[valid-type]
    @contextmanager
    def started(**settings: str) -> Iterator[Process]:
        log = tmp_path / "log"
        # The test's clients share two cores: a moment may lie between their connecting and their asking.
        program = "from service import cli, server; server.SETTLE_S = 3.0; cli.serve()"
        command = [sys.executable, "-c", program, "--runtime", "torch", "--port", "0"]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, "--checkpoint", str(trip.checkpoint), "--store", str(trip.store)],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", **settings},
            )
        try:
            deadline = time.monotonic() + 60
            while not (found := re.search(r"Page: (http://127\.0\.0\.1:\d+)/", log.read_text())):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert httpx.get(f"{found[1]}/livez", timeout=60).is_success  # from here on it handles signals itself
            yield Process(found[1], process, log)
        finally:
            process.kill()
            process.wait()

    return started


def ask(client: httpx.Client, seen: Counter[str]) -> bool:
    """One request; whether the service is still there."""
    try:
        answer = client.post("/v1/search", files={"file": PHOTO}, data={"limit": "1"})
    except httpx.ConnectError:
        return False  # it had stopped listening: nobody took this request
    except httpx.HTTPError as error:
        seen[repr(error)] += 1
        return False
    seen[str(answer.status_code)] += 1
    return True


@pytest.mark.slow
def test_nobody_is_dropped_under_load(serve: Callable[..., "contextmanager[Process]"]) -> None:  # type: ignore[valid-type]
    """The issue's line: SIGTERM under load, and no accepted request fails."""
    seen: Counter[str] = Counter()

    def kept(url: str) -> None:
        with httpx.Client(base_url=url, timeout=30) as client:
            while ask(client, seen):
                pass

    def fresh(url: str) -> None:
        while True:
            with httpx.Client(base_url=url, timeout=30) as client:
                if not ask(client, seen):
                    return

    with serve(LHIER_OPERATION__NOTICE_S="5") as running, httpx.Client(base_url=running.url) as probe:
        threads = [threading.Thread(target=target, args=(running.url,)) for target in (kept, fresh) * 4]
        for thread in threads:
            thread.start()
        time.sleep(1)
        running.stop()
        while (watched := probe.get("/readyz")).is_success:  # it looks ten times a second
            time.sleep(0.02)
        assert (watched.status_code, watched.json()["status"]) == (503, "draining")
        assert watched.headers["connection"] == "close"
        assert probe.get("/livez").status_code == 200
        before = seen["200"]
        assert running.process.wait(25) == 0, running.log.read_text()
        for thread in threads:
            thread.join()
    assert set(seen) == {"200"}, seen
    assert seen["200"] > before > 0  # it served on during the notice
    log = running.log.read_text()
    assert "event=drained" in log
    assert "Traceback" not in log
    assert "Stopped." in log


@contextmanager
def in_a_thread(engine: Engine, settings: Settings) -> Iterator[tuple[Server, tuple[str, int], threading.Thread]]:
    with bind("127.0.0.1", 0) as listener:
        address = listener.getsockname()
        server = Server(create_app(engine, settings), settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield server, address, thread
        thread.join(20)
        assert not thread.is_alive()


def listens(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address).close()
    except ConnectionRefusedError:
        return False
    return True


HEAD = b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


def test_slow_and_silent_connections(engine: Engine, with_settings: Callable[..., Settings]) -> None:
    """A request whose body is still coming is answered; connections without a request do not hold up the end."""
    settings = with_settings(operation={"notice_s": 0.2})
    body = b'{"query": {"item_id": "Fruit"}, "limit": 3}'
    with (
        in_a_thread(engine, settings) as (server, address, thread),
        socket.create_connection(address) as sending,
        socket.create_connection(address),
        socket.create_connection(address) as kept,
    ):
        kept.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert kept.recv(1000).startswith(b"HTTP/1.1 200 ")
        sending.sendall(HEAD % len(body) + body[:10])
        time.sleep(0.2)
        server.handle_exit(signal.SIGTERM, None)
        deadline = time.monotonic() + 5
        while listens(address):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert thread.is_alive()
        sending.sendall(body[10:])
        answer = sending.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" in answer.lower()
        thread.join(5)
        assert not thread.is_alive()


def test_what_does_not_end_is_cut_off(
    engine: Engine, with_settings: Callable[..., Settings], caplog: pytest.LogCaptureFixture
) -> None:
    settings = with_settings(operation={"notice_s": 0, "drain_s": 1})
    with in_a_thread(engine, settings) as (server, address, thread), socket.create_connection(address) as sending:
        sending.sendall(HEAD % 99 + b"{")
        time.sleep(0.2)
        started = time.monotonic()
        server.handle_exit(signal.SIGTERM, None)
        thread.join(10)
        assert 1 <= time.monotonic() - started < 6
    assert "event=drain_cut_off requests=1" in caplog.text


@pytest.mark.slow
def test_a_second_signal_stops_at_once(serve: Callable[..., "contextmanager[Process]"]) -> None:  # type: ignore[valid-type]
    with serve(LHIER_OPERATION__NOTICE_S="20") as running:
        running.stop()
        time.sleep(0.5)
        assert running.process.poll() is None
        running.stop()
        assert running.process.wait(2) == 128 + signal.SIGTERM
    # The encoder's worker does not outlive it.
    worker = re.search(r"event=encoder_ready pid=(\d+)", running.log.read_text())
    assert worker is not None
    deadline = time.monotonic() + 5
    while Path(f"/proc/{worker[1]}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{worker[1]}").exists()


@pytest.mark.parametrize("head", [False, True])
def test_event_streams_end_whole(*, head: bool) -> None:
    """A stream without an end of its own ends when the service drains, or after its head, as a complete answer."""

    async def go() -> list[Message]:
        lifecycle, sent = Lifecycle(), list[Message]()

        async def events() -> AsyncIterator[str]:
            while True:
                yield "data: tick\n\n"
                await asyncio.sleep(0.01)

        async def receive() -> Message:
            await asyncio.sleep(60)  # the client neither says anything nor goes
            raise AssertionError

        async def send(message: Message) -> None:
            sent.append(message)

        scope: Scope = {"type": "http", "method": "GET", "asgi": {"spec_version": "2.3"}, "state": {"head": head}}
        stream = EventStreams(StreamingResponse(events(), media_type="text/event-stream"), lifecycle)
        streaming = asyncio.ensure_future(stream(scope, receive, send))
        if not head:
            async with asyncio.timeout(20):
                while len(ticks(sent)) < 3:
                    await asyncio.sleep(0.01)
            assert not streaming.done()
            lifecycle.drain()
        await asyncio.wait_for(streaming, 1)
        return sent

    def ticks(sent: list[Message]) -> list[Message]:
        return [message for message in sent if message.get("body") == b"data: tick\n\n"]

    sent = asyncio.run(go())
    assert head or len(ticks(sent)) >= 3
    assert sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
