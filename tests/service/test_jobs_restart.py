"""Jobs over a kill and over a graceful stop: `lhier serve` as a process of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from service.server import bind

from .conftest import Trip
from .job_requests import ids, photo, start, tarred, wait

COUNT = 320


@contextmanager
def served(checkpoint: Path, store: Path, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    """`lhier serve`, ready; killed at the end if it still runs."""
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "lhier.cli", "serve", "--checkpoint", str(checkpoint), "--store", str(store)]
    environment = {**os.environ, "LHIER_INFERENCE__RUNTIME": "torch", "LHIER_PORT": str(port)}
    with log.open("ab") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            deadline = time.monotonic() + 120
            while True:
                assert process.poll() is None, log.read_text()
                try:
                    client.get("/v1/info").raise_for_status()
                    break
                except httpx.HTTPError:
                    assert time.monotonic() < deadline, log.read_text()
                    time.sleep(0.1)
            yield process, client
    finally:
        process.kill()
        process.wait()


def test_an_import_goes_on_after_the_service_ended(trip: Trip, tmp_path: Path) -> None:
    """Killed, then told to stop: no item is missing, none is there twice, and what was committed is not done again."""
    photos = {f"Kind-{number % 3}/{number:04}.png": photo(number) for number in range(COUNT)}
    store, log = tmp_path / "store", tmp_path / "log"
    done = 0
    for ending in (signal.SIGKILL, signal.SIGTERM):
        with served(trip.checkpoint, store, log) as (process, client):
            if ending == signal.SIGKILL:
                client.put("/v1/collections/c").raise_for_status()
                job = start(client, "import", tarred({**photos, "bad.png": b"x"}))
                queued = start(client, "rebuild")
            before = wait(client, job, lambda found: found["done"] > done)  # noqa: B023 - called at once
            assert before["state"] == "running", "the import was over too soon to be interrupted: raise COUNT"
            with client.stream("GET", f"/v1/jobs/{job['id']}/events") as stream:
                lines = stream.iter_lines()
                assert next(lines) == "event: progress"
                process.send_signal(ending)
                if ending == signal.SIGTERM:
                    assert "event: end" not in list(lines)  # the stream ends as a whole answer, the job goes on later
            assert process.wait(timeout=60) == (0 if ending == signal.SIGTERM else -ending), log.read_text()
            done = before["done"]
    with served(trip.checkpoint, store, log) as (_, client):
        ended = wait(client, job, seconds=120)
        assert (ended["state"], ended["done"], ended["failed"]) == ("done", COUNT, 1), log.read_text()
        assert sorted(ids(client)) == sorted(photos)  # a list: twice would show
        assert wait(client, queued)["state"] == "done"
    assert log.read_text().count(f"event=job_resumed job={job['id']}") == 2
