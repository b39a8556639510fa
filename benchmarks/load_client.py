"""Load on an HTTP server over plain sockets: clients that each ask again as soon as they have their answer.

Every request is bytes made beforehand, so that the client takes as little of the machine as it can.
"""

import io
import itertools
import socket
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from hyperbolic.images import read_image

PERCENTILES = (50, 95, 99)
SMALL = (224, 224)


@dataclass(slots=True)
class Answers:
    """Status and seconds of each request, in the order they ended."""

    statuses: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    errors: int = 0
    wall_s: float = 0.0

    def of(self, *statuses: int) -> np.ndarray:
        """Seconds of the answers with one of ``statuses``."""
        return np.array([s for status, s in zip(self.statuses, self.seconds, strict=True) if status in statuses])

    def summary(self) -> dict[str, float | int]:
        """Rate and percentiles (ms) of what was answered with 200; how many got another status or none."""
        fine = self.of(200)
        row: dict[str, float | int] = {
            "answered": len(fine),
            "other": len(self.statuses) - len(fine),
            "errors": self.errors,
            "rate_per_s": len(fine) / self.wall_s,
        }
        if len(fine):
            row |= {f"p{p}_ms": 1e3 * float(np.percentile(fine, p)) for p in PERCENTILES}
        return row


def jpegs(photos: Sequence[Path], size: tuple[int, int], count: int) -> list[bytes]:
    """Photos, cut to the shape and scaled to the size."""
    made = []
    for path in photos[:: max(1, len(photos) // count)][:count]:
        image = read_image(path)
        width, height = image.size
        scale = min(width / size[0], height / size[1])
        across, down = size[0] * scale / 2, size[1] * scale / 2
        box = (width / 2 - across, height / 2 - down, width / 2 + across, height / 2 + down)
        file = io.BytesIO()
        image.resize(size, Image.Resampling.BICUBIC, box=box).save(file, "JPEG", quality=90)
        made.append(file.getvalue())
    return made


def photo_request(url: str, path: str, photo: bytes, fields: dict[str, str] | None = None, name: str = "file") -> bytes:
    """A POST of one photo as multipart/form-data."""
    boundary = uuid.uuid4().hex
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
        for key, value in (fields or {}).items()
    ]
    parts.append(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="photo.jpg"\r\n'
        f"Content-Type: image/jpeg\r\n\r\n".encode()
        + photo
        + f"\r\n--{boundary}--\r\n".encode()
    )
    body = b"".join(parts)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n"
        f"Content-Type: multipart/form-data; boundary={boundary}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Connection:
    """One connection, kept alive; made anew when the server closed it."""

    def __init__(self, url: str, timeout_s: float = 60.0) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._timeout_s = timeout_s
        self._socket: socket.socket | None = None

    def ask(self, request: bytes) -> int:
        """Send one request, read the whole answer, return its status. ``OSError`` when none comes."""
        fresh = self._socket is None
        try:
            return self._ask(request)
        except OSError:
            self.close()
            if fresh:
                raise
        # The server may have closed it between two requests, which is no error.
        return self._ask(request)

    def close(self) -> None:
        """Close it."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _ask(self, request: bytes) -> int:
        if self._socket is None:
            self._socket = socket.create_connection(self._address, self._timeout_s)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(request)
        data = bytearray()
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._received()
        head = bytes(data[:end]).lower()
        status = int(head[9:12])
        start = head.find(b"content-length:")
        if start < 0:
            raise OSError("expected an answer with a Content-Length")
        length = int(head[start + 15 :].split(b"\r\n", 1)[0])
        missing = end + 4 + length - len(data)
        while missing > 0:
            missing -= len(self._received())
        if b"connection: close" in head:
            self.close()
        return status

    def _received(self) -> bytes:
        assert self._socket is not None
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionResetError("the server closed the connection")
        return data


def closed_loop(url: str, requests: Sequence[bytes], clients: int, seconds: float) -> Answers:
    """``clients`` that each send the next request as soon as they have the answer to the last."""
    answers, lock, turn = Answers(), threading.Lock(), itertools.count()
    until = time.perf_counter() + seconds

    def client() -> None:
        connection = Connection(url)
        while (start := time.perf_counter()) < until:
            _note(answers, lock, connection, requests[next(turn) % len(requests)], start)
        connection.close()

    _run(answers, [threading.Thread(target=client) for _ in range(clients)])
    return answers


def _note(answers: Answers, lock: threading.Lock, connection: Connection, request: bytes, since: float) -> None:
    try:
        status = connection.ask(request)
    except OSError:
        connection.close()
        with lock:
            answers.errors += 1
        return
    took = time.perf_counter() - since
    with lock:
        answers.statuses.append(status)
        answers.seconds.append(took)


def _run(answers: Answers, threads: Sequence[threading.Thread]) -> None:
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers.wall_s = time.perf_counter() - started
