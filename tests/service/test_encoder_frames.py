"""Frames: what is sent arrives, and what is no frame is refused."""

import os
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from service.encoder.frames import Frame, FrameError, Kind, Link


@pytest.fixture
def pair() -> Iterator[tuple[Link, Link]]:
    one, other = socket.socketpair()
    links = Link(one, 2**23), Link(other, 2**23)
    yield links
    for link in links:
        link.close()


def test_what_is_sent_arrives_in_order(pair: tuple[Link, Link]) -> None:
    """Bodies beyond what the socket buffers hold, from several threads at once."""
    bodies = {number: os.urandom(size) for number, size in enumerate((0, 1, 70_000, 2**22, 2**23))}

    def send(number: int) -> None:
        for _ in range(3):
            pair[0].send(Kind.PHOTO, {"number": number, "text": "ä\n\0"}, bodies[number])

    threads = [threading.Thread(target=send, args=(number,)) for number in bodies]
    for thread in threads:
        thread.start()
    arrived: list[int] = []
    for _ in range(3 * len(bodies)):
        frame = pair[1].receive()
        assert frame == Frame(Kind.PHOTO, frame.head, bodies[frame.head["number"]]) if frame else False
        arrived.append(frame.head["number"])
    for thread in threads:
        thread.join()
    assert sorted(arrived) == sorted([*bodies] * 3)


@pytest.mark.parametrize("sent", [b"", b"\x02\0\0", struct.pack("!BII", 2, 2, 5) + b"{}abc"])
def test_an_end_in_the_middle_is_an_end(sent: bytes) -> None:
    one, other = socket.socketpair()
    one.sendall(sent)
    one.close()
    link = Link(other, 100)
    assert link.receive() is None
    link.close()
    assert link.receive() is None


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (struct.pack("!BII", 2, 2, 101) + b"{}", "at most"),
        (struct.pack("!BII", 2, 2**20 + 1, 0), "at most"),
        (struct.pack("!BII", 2, 1, 0) + b"{", "cannot be read"),
        (struct.pack("!BII", 2, 2, 0) + b"[]", "expected an object"),
        (struct.pack("!BII", 99, 2, 0) + b"{}", "cannot be read"),
        (struct.pack("!BII", 2, 2, 0) + b"\xff\xff", "cannot be read"),
    ],
)
def test_what_is_no_frame_is_refused(sent: bytes, told: str) -> None:
    one, other = socket.socketpair()
    link = Link(other, 100)
    with one:
        one.sendall(sent)
        with pytest.raises(FrameError, match=told):
            link.receive()
    link.close()
