"""OffLoopEngine: photos from an event loop through the encoder's process and back."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from unittest import mock

import pytest

from hyperbolic.images import ImageError
from service.encoder import process
from service.encoder.supervisor import Encoder
from service.engine import Engine
from service.offload import OffLoopEngine
from service.settings import InferenceSettings, LimitSettings

from .conftest import draw, encoded
from .test_encoder_lives import COMMAND, pid_of, wait_for

PHOTO = encoded(draw(1))


@pytest.fixture
def encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Encoder]:
    monkeypatch.setattr(process, "COMMAND", COMMAND)
    (tmp_path / "model").write_text("mean")
    with closing(Encoder(tmp_path / "model", InferenceSettings())) as encoder:
        encoder.ready()
        yield encoder


def off_loop(encoder: Encoder, **limits: int) -> OffLoopEngine:
    """Collections and metrics play no part here."""
    engine = mock.create_autospec(Engine, instance=True, encoder=encoder)
    return OffLoopEngine(engine, LimitSettings(**limits), InferenceSettings(decode_threads=1), mock.Mock())


def never(step: str, seconds: float) -> None:
    raise AssertionError(f"{step} took {seconds} s of a photo that has no point")


def test_steps_are_told_with_the_point(encoder: Encoder) -> None:
    """From two loops, one after the other: an encoder belongs to none."""
    for _ in range(2):
        with closing(off_loop(encoder)) as face:
            told: dict[str, float] = {}
            point = asyncio.run(face.embed_photo(lambda: PHOTO, told.__setitem__))
        assert point.shape == (3,)
        assert set(told) == {"decode", "embed", "queue"}
        assert all(seconds >= 0 for seconds in told.values())
        assert told["decode"] > 0


@pytest.mark.parametrize(
    ("read", "limits", "code"),
    [(lambda: b"", {}, "empty_file"), (lambda: PHOTO, {"image_pixels": 4799}, "image_too_large")],
)
def test_bad_photos_raise(encoder: Encoder, read: Callable[[], bytes], limits: dict[str, int], code: str) -> None:
    with closing(off_loop(encoder, **limits)) as face, pytest.raises(ImageError) as told:
        asyncio.run(face.embed_photo(read, never))
    assert told.value.code == code


def test_what_read_raises_comes_out(encoder: Encoder) -> None:
    def read() -> bytes:
        raise LookupError("nothing to read")

    with closing(off_loop(encoder)) as face, pytest.raises(LookupError, match="nothing to read"):
        asyncio.run(face.embed_photo(read, never))


@pytest.mark.parametrize("when", ["being read", "queued"])
def test_a_caller_that_is_cancelled_takes_its_photo_along(encoder: Encoder, when: str) -> None:
    os.kill(pid_of(encoder), signal.SIGSTOP)
    ahead = encoder.submit(PHOTO)  # so that it is known when the worker goes on

    async def run(face: OffLoopEngine) -> None:
        loop, reading, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

        def read() -> bytes:
            loop.call_soon_threadsafe(reading.set)
            if when == "being read":
                assert go_on.wait(20)
            return PHOTO

        task = asyncio.create_task(face.embed_photo(read, never))
        await asyncio.wait_for(reading.wait(), 20)
        if when == "queued":
            await asyncio.to_thread(wait_for, encoder, lambda state: state.under_way + state.waiting_urgent == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()

    with closing(off_loop(encoder)) as face:
        asyncio.run(run(face))
    os.kill(pid_of(encoder), signal.SIGCONT)
    assert ahead.result(20).shape == (3,)
    wait_for(encoder, lambda state: state.under_way + state.waiting_urgent == 0)
    assert encoder.state().restarts == 0
