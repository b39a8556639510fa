"""What the supervisor does when its worker dies, hangs, or never starts; with a worker that starts in a moment."""

import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pytest

from hyperbolic.images import ImageError
from service.encoder import process
from service.encoder.supervisor import (
    BatchSeen,
    Encoder,
    EncoderStartError,
    EncoderState,
    EncoderUnavailableError,
    EncodingError,
    PhotoFuture,
)
from service.settings import InferenceSettings

from .conftest import draw, encoded
from .crashing_worker import CRASH, HANG, NOT_A_NUMBER, POISON_BATCH, SLOW

SCRIPT = Path(__file__).with_name("crashing_worker.py")
COMMAND = (sys.executable, str(SCRIPT))
WAIT_S = 30.0
PHOTOS = [encoded(draw(seed)) for seed in range(24)]
Start = Callable[..., Encoder]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    monkeypatch.setattr(process, "COMMAND", COMMAND)
    model = tmp_path / "model"
    model.write_text("mean")
    encoders: list[Encoder] = []

    def make(**settings: object) -> Encoder:
        encoders.append(Encoder(model, InferenceSettings(**{"decode_threads": 2, **settings})))
        return encoders[-1]

    yield make
    for encoder in encoders:
        encoder.close()


def wait_for(encoder: Encoder, condition: Callable[[EncoderState], bool]) -> EncoderState:
    end = time.monotonic() + WAIT_S
    while not condition(state := encoder.state()):
        assert time.monotonic() < end, state
        time.sleep(0.01)
    return state


def pid_of(encoder: Encoder) -> int:
    pid = encoder.state().pid
    assert pid is not None
    return pid


def points(futures: list[PhotoFuture]) -> np.ndarray:
    return np.stack([future.result(WAIT_S) for future in futures])


def has_ended(pid: int) -> bool:
    """Gone, or a zombie whose parent does not ask."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_kill_under_load_loses_nothing(start: Start) -> None:
    encoder = start()
    encoder.ready()
    expected = points([encoder.submit(photo) for photo in PHOTOS])
    assert len(np.unique(expected, axis=0)) == len(PHOTOS)
    futures = [encoder.submit(photo) for photo in [SLOW, *PHOTOS] * 4]
    for kills in range(1, 3):
        wait_for(encoder, lambda state: state.status == "alive" and state.under_way > 0)
        os.kill(pid_of(encoder), signal.SIGKILL)
        wait_for(encoder, lambda state, kills=kills: state.restarts >= kills)
    found = points(futures).reshape(4, 1 + len(PHOTOS), -1)
    assert (found[:, 1:] == expected).all()
    assert encoder.state().restarts == 2
    assert encoder.state().live


def test_a_photo_that_kills_the_worker_fails_alone(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    encoder = start()
    encoder.ready()
    expected = points([encoder.submit(photo) for photo in PHOTOS])
    futures = [encoder.submit(photo) for photo in [*PHOTOS[:12], CRASH, *PHOTOS[12:]]]
    killer = futures.pop(12)
    assert (points(futures) == expected).all()
    with pytest.raises(ImageError, match="another program") as told:
        killer.result(WAIT_S)
    assert told.value.code == "crashed_decoder"
    # Among others, then twice alone; alone from the start when nothing else was on its way.
    assert encoder.state().restarts <= 3
    assert "Segmentation fault" in caplog.text
    assert (points([encoder.submit(PHOTOS[0])]) == expected[0]).all()


def test_bad_photos_and_failing_batches_stay_with_their_photo(start: Start) -> None:
    encoder = start()
    expected = points([encoder.submit(photo) for photo in PHOTOS[:4]])
    futures = [encoder.submit(photo) for photo in (SLOW, SLOW, POISON_BATCH, *PHOTOS[:4], b"", NOT_A_NUMBER)]
    assert (points(futures[3:7]) == expected).all()
    for future in (futures[2], futures[8]):
        with pytest.raises(EncodingError):
            future.result(WAIT_S)
    with pytest.raises(ImageError, match="empty") as told:
        futures[7].result(WAIT_S)
    assert told.value.code == "empty_file"
    assert encoder.state().restarts == 0


def test_a_stuck_worker_is_replaced(start: Start) -> None:
    encoder = start(stuck_s=3.0)
    encoder.ready()
    pid = pid_of(encoder)
    os.kill(pid, signal.SIGSTOP)
    future = encoder.submit(PHOTOS[0])
    stuck = wait_for(encoder, lambda state: state.status == "stuck")
    assert not stuck.live
    assert stuck.stalled_s > 3.0
    assert future.result(WAIT_S).shape == (3,)
    state = wait_for(encoder, lambda state: state.status == "alive")
    assert state.live
    assert state.pid != pid
    assert has_ended(pid)


def test_a_photo_that_hangs_the_decoder_fails_alone(start: Start) -> None:
    encoder = start(stuck_s=1.5)
    futures = [encoder.submit(photo) for photo in (PHOTOS[0], HANG, PHOTOS[1])]
    assert points([futures[0], futures[2]]).shape == (2, 3)
    with pytest.raises(ImageError) as told:
        futures[1].result(WAIT_S)
    assert told.value.code == "crashed_decoder"


def test_photos_of_callers_that_gave_up_are_not_worked_on(start: Start) -> None:
    encoder = start()
    encoder.ready()
    pid = pid_of(encoder)
    os.kill(pid, signal.SIGSTOP)
    sent = [encoder.submit(photo) for photo in PHOTOS]
    wait_for(encoder, lambda state: state.under_way > 0)
    for future in sent[1:]:
        assert future.cancel()
    assert encoder.state().waiting_urgent == 0
    os.kill(pid, signal.SIGCONT)
    assert sent[0].result(WAIT_S).shape == (3,)
    wait_for(encoder, lambda state: state.under_way == 0)
    for future in sent[1:]:
        with pytest.raises(CancelledError):
            future.result(WAIT_S)
    # Those that had been decoded before their cancellation was read went through; the rest did not.
    done = sum(size * count for size, count in encoder.state().batch_sizes.items())
    assert 1 <= done < len(PHOTOS)


def test_a_killer_whose_caller_gave_up_kills_no_more(start: Start) -> None:
    encoder = start()
    encoder.ready()
    killer = encoder.submit(CRASH)
    wait_for(encoder, lambda state: state.restarts >= 1)
    killer.cancel()
    restarts = wait_for(encoder, lambda state: state.status == "alive" and state.under_way == 0).restarts
    assert restarts <= 2
    assert encoder.submit(PHOTOS[0]).result(WAIT_S).shape == (3,)
    assert encoder.state().restarts == restarts


def test_patient_photos_wait_and_checks_pass_by(start: Start) -> None:
    encoder = start(max_batch=1, decode_threads=1)
    encoder.ready()
    order: list[str] = []
    futures = []
    for _ in range(6):
        for name, future in (
            ("patient", encoder.submit(SLOW, urgent=False)),
            ("urgent", encoder.submit(SLOW)),
        ):
            future.add_done_callback(lambda _, name=name: order.append(name))
            futures.append(future)
    check = encoder.check(PHOTOS[0])
    check.add_done_callback(lambda _: order.append("check"))
    points([*futures, check])
    # What was sent ahead before others came (a window of 3) is not called back.
    assert order.index("check") <= 4
    assert set(order[-4:]) == {"patient"}


def test_observers_and_state_see_the_batches(start: Start) -> None:
    encoder = start()
    seen: list[BatchSeen] = []
    stop = encoder.observe(seen.append)

    def broken(_: BatchSeen) -> None:
        raise ValueError("an observer's fault is no worker's")

    encoder.observe(broken)
    futures = [encoder.submit(photo) for photo in PHOTOS]
    points(futures)
    wait_for(encoder, lambda _: sum(batch.size for batch in seen) == len(PHOTOS))
    sizes = encoder.state().batch_sizes
    assert {size: sum(batch.size == size for batch in seen) for size in sizes} == sizes
    assert all(batch.seconds >= 0 for batch in seen)
    assert {future.batch_size for future in futures} == set(sizes)
    assert all(future.decode_s > 0 for future in futures)
    stop()
    points([encoder.submit(PHOTOS[0])])
    assert sum(batch.size for batch in seen) == len(PHOTOS)
    assert encoder.state().restarts == 0


def test_the_end_of_the_parent_is_the_end_of_the_worker(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("mean")
    program = textwrap.dedent(f"""
        import time
        from pathlib import Path
        from service.encoder import process
        from service.encoder.supervisor import Encoder
        from service.settings import InferenceSettings
        process.COMMAND = {COMMAND!r}
        encoder = Encoder(Path({str(tmp_path / "model")!r}), InferenceSettings())
        encoder.ready()
        print(encoder.state().pid, flush=True)
        time.sleep(600)
    """)
    root = Path(process.__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=root, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(pid, number)  # what a terminal or an engine sends to all: not for the worker to decide
        time.sleep(0.1)
        assert not has_ended(pid)
        os.kill(pid, signal.SIGSTOP)  # it cannot notice by itself
        parent.kill()
        parent.wait()
    end = time.monotonic() + WAIT_S
    while not has_ended(pid):
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("state", ["broken", "crashing", "missing"])
def test_a_first_start_that_fails_is_told(start: Start, tmp_path: Path, state: str) -> None:
    if state == "missing":
        (tmp_path / "model").unlink()
    else:
        (tmp_path / "model").write_text(state)
    expected = {"broken": "the checkpoint is broken", "crashing": "status -9", "missing": "No such file"}[state]
    encoder = start()
    for _ in range(2):
        with pytest.raises(EncoderStartError, match=expected):
            encoder.ready()
    future = encoder.submit(PHOTOS[0])
    with pytest.raises(EncoderUnavailableError):
        future.result(WAIT_S)


def test_restarts_that_fail_back_off_and_go_on(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Damaged, then another model's: the collections that are open belong to the first, so neither is taken."""
    monkeypatch.setattr("service.encoder.supervisor.GIVE_UP_S", 1.0)
    monkeypatch.setattr("service.encoder.supervisor.LONGEST_BACKOFF_S", 0.5)
    encoder = start(stuck_s=2.0)
    encoder.ready()
    (tmp_path / "model").write_text("broken")
    os.kill(pid_of(encoder), signal.SIGKILL)
    early = encoder.submit(PHOTOS[0])
    wait_for(encoder, lambda state: state.restarts >= 2)
    (tmp_path / "model").write_text("another")
    state = wait_for(encoder, lambda state: "encoder_changed" in caplog.text and state.down_s > 1.0)
    assert state.status in {"restarting", "stuck"}
    with pytest.raises(EncoderUnavailableError, match="restarting"):
        encoder.submit(PHOTOS[0]).result(WAIT_S)
    assert not wait_for(encoder, lambda state: state.down_s > 2.0).live
    (tmp_path / "model").write_text("mean")
    assert early.result(WAIT_S).shape == (3,)
    assert encoder.state().live
    deaths = [record.created for record in caplog.records if record.getMessage().startswith("event=encoder_died")]
    assert max(b - a for a, b in pairwise(deaths)) >= 0.5


def test_closing_fails_what_waits(start: Start) -> None:
    encoder = start()
    encoder.ready()
    pid = pid_of(encoder)
    futures = [encoder.submit(SLOW) for _ in range(40)]
    encoder.close()
    assert has_ended(pid)
    failed = [future for future in futures if isinstance(future.exception(WAIT_S), EncoderUnavailableError)]
    assert len(failed) >= 30
    assert encoder.state().status == "closed"
    assert not encoder.state().live


def test_log_lines_of_the_worker_reach_the_log(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        encoder = start()
        encoder.submit(POISON_BATCH).exception(WAIT_S)
        encoder.close()
    failures = [record for record in caplog.records if record.name == "service.encoder.pipeline"]
    assert [(record.levelname, record.getMessage()) for record in failures] == [("ERROR", "event=encoding_failed")]
    assert "a photo that no batch survives" in caplog.text  # the traceback's lines
