"""What supervisor and worker say to each other: frames of a kind, a JSON head and raw bytes over a socket pair.

No pickle: a worker that a photo took over can answer wrongly, but not run anything in the service.
"""

import contextlib
import json
import socket
import struct
import threading
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

_LENGTHS = struct.Struct("!BII")  # kind, bytes of the head, bytes of the body
MAX_HEAD = 2**20


class Kind(IntEnum):
    """SETUP, PHOTO and CANCEL go to the worker; READY, REFUSED, POINTS, BAD_PHOTO, FAILED and DROPPED come from it."""

    SETUP = 1
    PHOTO = 2
    CANCEL = 3
    READY = 11
    REFUSED = 12
    POINTS = 13
    BAD_PHOTO = 14
    FAILED = 15
    DROPPED = 16


@dataclass(frozen=True, slots=True)
class Setup:
    """Head of SETUP: what the worker is told first."""

    checkpoint: str
    device: str
    runtime: str
    precision: str
    max_batch: int
    decode_threads: int
    threads: int | None
    log_level: int


@dataclass(frozen=True, slots=True)
class EncoderInfo:
    """In READY: what the encoder is, as the worker that loaded it says."""

    model_hash: str
    embedding_dim: int
    c: float
    backbone: str
    image_size: int
    runtime: str
    precision: str
    device: str


class FrameError(RuntimeError):
    """Bytes that are no frame, or one that is larger than its receiver takes."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message."""

    kind: Kind
    head: dict[str, Any]
    body: bytes = b""


class Link:
    """One end of the socket pair. Any thread may send; one receives. A body has at most ``max_body`` bytes."""

    def __init__(self, end: socket.socket, max_body: int) -> None:
        self._socket = end
        self._incoming = end.makefile("rb", buffering=2**16)
        self._max_body = max_body
        self._sending = threading.Lock()

    def send(self, kind: Kind, head: dict[str, Any], body: bytes | memoryview = b"") -> None:
        """Send one frame; waits while the other end reads too slowly. Raises ``OSError`` where it has gone."""
        text = json.dumps(head).encode()
        start = _LENGTHS.pack(kind, len(text), len(body)) + text
        with self._sending:
            sent = self._socket.sendmsg((start, body)) if body else self._socket.send(start)
            if sent < len(start):
                self._socket.sendall(start[sent:])
                sent = len(start)
            if sent < len(start) + len(body):
                self._socket.sendall(memoryview(body)[sent - len(start) :])

    def receive(self) -> Frame | None:
        """The next frame; None once the other end has gone. Raises :class:`FrameError`."""
        try:
            start = self._incoming.read(_LENGTHS.size)
            if len(start) < _LENGTHS.size:
                return None
            kind, head_length, body_length = _LENGTHS.unpack(start)
            if head_length > MAX_HEAD or body_length > self._max_body:
                raise FrameError(
                    f"a frame announces {head_length} + {body_length} bytes, at most {MAX_HEAD} + {self._max_body} fit"
                )
            head, body = self._incoming.read(head_length), self._incoming.read(body_length)
        except (OSError, ValueError):  # ValueError: closed here by another thread
            return None
        if len(head) < head_length or len(body) < body_length:
            return None
        try:
            content = json.loads(head)
            frame = Frame(Kind(kind), content, body)
        except ValueError as error:
            raise FrameError(f"a frame that cannot be read: {error}") from error
        if not isinstance(content, dict):
            raise FrameError(f"a frame with a head of type {type(content).__name__}: expected an object")
        return frame

    def close(self) -> None:
        """Tell the other end that nothing more comes; whoever receives here gets None."""
        with contextlib.suppress(OSError):  # it may have gone first
            self._socket.shutdown(socket.SHUT_RDWR)
        self._incoming.close()
        self._socket.close()
