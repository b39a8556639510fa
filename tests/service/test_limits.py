"""Sizes, places and time: what is too much is refused, and the service goes on."""

import asyncio
import base64
import contextlib
import http.client
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from service.app import create_app
from service.encoder.supervisor import PhotoFuture
from service.engine import Engine
from service.server import running_server
from service.settings import Settings

from .conftest import draw, encoded

PHOTO = encoded(draw(1))
Change = Callable[..., Settings]


def local(engine: Engine, settings: Settings) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(create_app(engine, settings))
    return httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=30)


def test_announced_and_unannounced_bodies(engine: Engine, with_settings: Change) -> None:
    """Over a socket: the answer arrives although the body was not read to its end."""
    settings = with_settings(limits={"body_bytes": 200_000})
    with running_server(settings, engine) as url:
        too_long = b"x" * 3_000_000

        def pieces() -> Iterator[bytes]:
            for start in range(0, len(too_long), 100_000):
                yield too_long[start : start + 100_000]

        for content_type in ("application/json", "multipart/form-data; boundary=b"):
            for body in (too_long, pieces()):
                response = httpx.post(f"{url}/v1/search", content=body, headers={"Content-Type": content_type})
                expected = "malformed_multipart" if isinstance(body, Iterator) and "form" in content_type else ""
                assert response.status_code in ({400, 413} if expected else {413}), response.text
                assert response.json()["code"] in {"body_too_large", expected}
        assert httpx.post(f"{url}/v1/search", files={"file": PHOTO}).status_code == 200


def test_a_form_that_streams_past_the_limit(engine: Engine, with_settings: Change) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield head
        while sent < 10_000_000:
            sent += 10_000
            yield b"x" * 10_000

    async def go() -> httpx.Response:
        async with local(engine, with_settings(limits={"body_bytes": 200_000})) as client:
            headers = {"Content-Type": "multipart/form-data; boundary=b"}
            return await client.post("/v1/search", content=endless(), headers=headers)

    response = asyncio.run(go())
    assert (response.status_code, response.json()["code"]) == (413, "body_too_large")
    assert sent < 300_000


def test_photo_bytes(engine: Engine, with_settings: Change) -> None:
    async def go() -> list[httpx.Response]:
        async with local(engine, with_settings(limits={"image_bytes": len(PHOTO)})) as client:
            return [
                await client.post("/v1/search", files={"file": PHOTO}),
                await client.post("/v1/search", files={"file": PHOTO + b"x"}),
                await client.post("/v1/search", json={"query": {"image": base64.b64encode(PHOTO + b"x").decode()}}),
            ]

    fits, form, as_json = asyncio.run(go())
    assert fits.status_code == 200
    for response in (form, as_json):
        assert (response.status_code, response.json()["code"]) == (413, "image_too_large")


class Gate:
    """Holds photos back from the encoder until it is opened."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        submit = engine.encoder.submit

        def held(*photo: Any, **options: Any) -> PhotoFuture:
            future = PhotoFuture()

            def later() -> None:
                assert self.open.wait(20)
                point = submit(*photo, **options).result(20)
                if future.set_running_or_notify_cancel():
                    future.set_result(point)

            threading.Thread(target=later, daemon=True).start()
            return future

        monkeypatch.setattr(engine.encoder, "submit", held)


def test_too_many_at_once(engine: Engine, with_settings: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(engine, monkeypatch)

    async def go() -> list[httpx.Response]:
        async with local(engine, with_settings(limits={"in_flight": 2, "queued": 3, "max_wait_s": 30})) as client:
            asked = [asyncio.create_task(client.post("/v1/search", files={"file": PHOTO})) for _ in range(9)]
            async with asyncio.timeout(20):
                while sum(each.done() for each in asked) < 4:
                    await asyncio.sleep(0.02)
            await asyncio.sleep(0.2)
            assert sum(each.done() for each in asked) == 4
            assert (await client.get("/livez")).status_code == 200  # a full service is still alive
            gate.open.set()
            answers = await asyncio.gather(*asked)
            # All places are free again.
            again = await asyncio.gather(*(client.post("/v1/search", files={"file": PHOTO}) for _ in range(5)))
            return [*answers, *again]

    answers = asyncio.run(go())
    assert sorted(response.status_code for response in answers) == [200] * 10 + [429] * 4
    for response in answers:
        if response.status_code == 429:
            assert response.json()["code"] == "too_many_requests"
            assert int(response.headers["retry-after"]) >= 1


def test_deadline(engine: Engine, with_settings: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(engine, monkeypatch)

    async def go() -> tuple[list[httpx.Response], float]:
        async with local(engine, with_settings(limits={"in_flight": 1, "queued": 5, "deadline_s": 2})) as client:
            started = time.monotonic()
            late = await asyncio.gather(*(client.post("/v1/search", files={"file": PHOTO}) for _ in range(3)))
            waited = time.monotonic() - started
            gate.open.set()
            await asyncio.sleep(0.1)
            return [*late, await client.post("/v1/search", json={"query": {"item_id": "Fruit"}})], waited

    answers, waited = asyncio.run(go())
    assert [response.status_code for response in answers] == [504, 504, 504, 200]
    assert {response.json()["code"] for response in answers[:3]} == {"deadline_exceeded"}
    assert waited < 4


def test_slow_upload_meets_the_deadline(engine: Engine, with_settings: Change) -> None:
    with running_server(with_settings(limits={"deadline_s": 0.5}), engine) as url:
        address = urlsplit(url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=10)
        connection.putrequest("POST", "/v1/search")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", "1000")
        connection.endheaders(b"{")
        assert connection.getresponse().status == 504
        connection.close()


def test_clients_that_hang_up(engine: Engine, with_settings: Change, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with running_server(with_settings(limits={"in_flight": 2}), engine) as url:
        address = urlsplit(url)
        for _ in range(6):
            with socket.create_connection((address.hostname, address.port)) as connection:
                connection.sendall(
                    b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                    b"Content-Length: 1000\r\n\r\n{"
                )
                time.sleep(0.05)
        assert httpx.post(f"{url}/v1/search", files={"file": PHOTO}).status_code == 200
    assert "unhandled_error" not in caplog.text
    assert caplog.text.count("status=499") == 6


def test_bad_photos_do_not_touch_their_neighbours(engine: Engine, settings: Settings) -> None:
    """Good and bad photos at once: each good one gets the answer that it gets alone."""
    good = [encoded(draw(seed)) for seed in range(20)]
    bad = [b"", b"text", PHOTO[:100], encoded(draw(1, (1, 1)))]

    async def go() -> None:
        async with local(engine, settings) as client:

            async def ask(photo: bytes) -> httpx.Response:
                return await client.post("/v1/search", files={"file": photo})

            alone = [(await ask(photo)).json() for photo in good]
            mixed = [photo for number, photo in enumerate(good) for photo in (photo, bad[number % 4])]
            together = await asyncio.gather(*(ask(photo) for photo in mixed))
            for number, expected in enumerate(alone):
                answer = together[2 * number].json()
                assert [hit["id"] for hit in answer["hits"]] == [hit["id"] for hit in expected["hits"]]
                for hit, lone in zip(answer["hits"], expected["hits"], strict=True):
                    # At radius 8 the rounding of another batch size (1e-7 of |x_s| = 1500) moves a point by 1e-4.
                    assert abs(hit["distance"] - lone["distance"]) <= 1e-3
                assert together[2 * number + 1].status_code in {415, 422}

    asyncio.run(go())


def test_many_clients_over_sockets(server: str) -> None:
    photos = [encoded(draw(seed)) for seed in range(8)]
    expected = [httpx.post(f"{server}/v1/search", files={"file": photo}).json()["hits"][0]["id"] for photo in photos]
    found: list[str] = []

    def ask(number: int) -> None:
        with contextlib.suppress(httpx.HTTPError), httpx.Client(timeout=30) as client:
            for _ in range(3):
                hits = client.post(f"{server}/v1/search", files={"file": photos[number]}).json()["hits"]
                found.append(f"{number} {hits[0]['id']}")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted([f"{number} {item_id}" for number, item_id in enumerate(expected)] * 3)
