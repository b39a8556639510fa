"""The journal of jobs and the threads that work it off: order, kills, one owner, forgetting."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.collections import Collections
from service.engine import Engine
from service.jobs.store import (
    Failure,
    Job,
    JobStateError,
    JobStore,
    JobsUnavailableError,
    Kind,
    StaleRunError,
    TooManyJobsError,
    UnknownJobError,
)
from service.server import running_server

from .job_requests import start, wait


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    store = JobStore(tmp_path / "jobs.sqlite")
    yield store
    store.close()


def add(store: JobStore, job_id: str, kind: Kind = "import") -> Job:
    return store.add("c", kind, {"n": 1}, waiting=5, job_id=job_id)


def claimed(store: JobStore) -> Job:
    job = store.claim()
    assert job is not None
    return job


def test_first_come_first_served_and_bounded(store: JobStore) -> None:
    for name in "abcde":
        add(store, name)
    with pytest.raises(TooManyJobsError):
        add(store, "f")
    assert [claimed(store).id for _ in range(5)] == list("abcde")
    assert store.claim() is None
    assert [job.id for job in store.page(2)] == ["e", "d"]


def test_what_is_committed_survives(tmp_path: Path) -> None:
    """A copy of the files as they are at any moment is what a kill would leave."""
    import shutil

    path = tmp_path / "a" / "jobs.sqlite"
    store = JobStore(path)
    add(store, "one")
    job = claimed(store)
    store.advance(job, done=3, failures=[Failure("x", "bad", "why")], total=9, position={"next": 4})
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    copy = JobStore(tmp_path / "b" / "jobs.sqlite")
    found = copy.get("one")
    assert (found.state, found.done, found.failed, found.total, found.position) == ("running", 3, 1, 9, {"next": 4})
    assert copy.failures(found) == [(1, Failure("x", "bad", "why"))]
    assert [each.id for each in copy.requeue_interrupted(3)] == ["one"]
    again = claimed(copy)
    assert (again.run, again.position) == (2, {"next": 4})
    copy.close()
    store.close()


def test_a_job_that_takes_the_service_down_is_given_up(store: JobStore) -> None:
    add(store, "poison")
    for _ in range(3):
        claimed(store)
        store.requeue_interrupted(3)
    found = store.get("poison")
    assert found.state == "failed"
    assert "3 times" in (found.reason or "")


def test_one_that_gets_on_is_not(store: JobStore) -> None:
    add(store, "long")
    for _ in range(10):
        store.advance(claimed(store), done=1)
        store.requeue_interrupted(3)
    assert (store.get("long").state, store.get("long").done) == ("queued", 10)


def test_a_former_run_cannot_write(store: JobStore) -> None:
    add(store, "one")
    former = claimed(store)
    store.requeue_interrupted(3)
    present = claimed(store)
    for write in (lambda: store.advance(former, done=1), lambda: store.finish(former, "done")):
        with pytest.raises(StaleRunError):
            write()
    assert not store.is_wanted(former)
    assert store.is_wanted(present)
    assert store.finish(present, "done").state == "done"


def test_cancelling(store: JobStore) -> None:
    at_once, never = frozenset[Kind]({"rebuild"}), frozenset[Kind]({"restore"})

    def cancel(job_id: str) -> Job:
        return store.cancel(job_id, at_once=at_once, never=never)

    for job_id, kind in (("asked", "import"), ("ended", "rebuild"), ("kept", "restore")):
        add(store, job_id, kind)  # type: ignore[arg-type]
    jobs = {job.id: job for job in (claimed(store) for _ in range(3))}
    add(store, "waits")
    assert cancel("asked").state == "running"
    assert not store.is_wanted(jobs["asked"])
    assert cancel("ended").state == cancel("waits").state == "cancelled"
    for job_id in ("kept", "ended"):
        with pytest.raises(JobStateError):
            cancel(job_id)
    with pytest.raises(UnknownJobError):
        cancel("none")
    store.requeue_interrupted(3)  # killed before it noticed
    assert store.get("asked").state == "cancelled"
    assert store.retry("asked", waiting=5).state == "queued"


def test_names_that_are_no_text_are_kept(store: JobStore) -> None:
    add(store, "one")
    store.advance(claimed(store), failures=[Failure("a\udcff.png", "file_name", "x")])
    assert store.failures(store.get("one"))[0][1].item == "a\\udcff.png"


def test_old_jobs_are_forgotten_with_their_failures(store: JobStore) -> None:
    for name in "ab":
        add(store, name)
    job = claimed(store)
    store.advance(job, failures=[Failure("x", "bad", "why")])
    store.finish(job, "done")
    assert [each.id for each in store.forget(time.time() + 1)] == ["a"]
    assert store.failures(job) == []
    assert store.ids() == {"b"}


def test_one_process_at_a_time_works_off_a_store(
    fresh: httpx.Client, engine: Engine, with_settings: Callable[..., Any], tmp_path: Path
) -> None:
    """The second server says so and serves everything else; a journal that is let go of is taken up."""
    with pytest.raises(JobsUnavailableError):
        JobStore(tmp_path / "store" / "jobs.sqlite")
    fresh.put("/v1/collections/c").raise_for_status()
    wait(fresh, start(fresh, "rebuild"))
    registry = Collections(tmp_path / "store", engine.model.model_hash)
    settings = with_settings(store=tmp_path / "store")
    with (
        running_server(settings, Engine(engine.encoder, registry)) as url,
        httpx.Client(base_url=url, timeout=30) as second,
    ):
        refused = second.get("/v1/jobs")
        assert (refused.status_code, refused.json()["code"]) == (503, "jobs_unavailable")
        assert str(tmp_path) not in refused.text
        assert second.get("/v1/collections/c").status_code == 200
    registry.close()
    assert fresh.get("/v1/jobs").status_code == 200


def test_files_of_forgotten_jobs_go_at_the_next_start(
    engine: Engine, with_settings: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.jobs.runner._FORGET_EVERY_S", 0.0)
    settings = with_settings(store=tmp_path / "store", jobs={"keep_days": 1e-9})
    left = tmp_path / "store" / "jobs" / "0123456789abcdef"
    left.mkdir(parents=True)
    (left / "upload").write_bytes(b"x")
    registry = Collections(tmp_path / "store", engine.model.model_hash)
    with (
        running_server(settings, Engine(engine.encoder, registry)) as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        assert not left.exists()  # an upload that never became a job
        client.put("/v1/collections/c").raise_for_status()
        start(client, "rebuild")
        deadline = time.monotonic() + 20
        while client.get("/v1/jobs").json()["jobs"]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    registry.close()
