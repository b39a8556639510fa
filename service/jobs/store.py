"""JobStore: the journal of all jobs in one SQLite file, so that nothing is forgotten by a kill."""

import fcntl
import json
import logging
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from index.files import make_folder

logger = logging.getLogger(__name__)

Kind = Literal["import", "embed", "rebuild", "hierarchy", "snapshot", "restore"]
State = Literal["queued", "running", "done", "failed", "cancelled"]
FINAL: frozenset[State] = frozenset({"done", "failed", "cancelled"})
STATES: tuple[State, ...] = get_args(State)
MOST_FAILURES = 100_000
"""Failed items that are kept of one job; one with more is stopped."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    collection TEXT NOT NULL,
    kind TEXT NOT NULL,
    parameters TEXT NOT NULL,               -- JSON object, as asked
    state TEXT NOT NULL,
    done INTEGER NOT NULL DEFAULT 0,
    total INTEGER,                          -- NULL while it is not known
    failed INTEGER NOT NULL DEFAULT 0,
    position TEXT NOT NULL DEFAULT '{}',    -- JSON object: where to go on
    reason TEXT,
    result TEXT,                            -- file in the job's folder, or a snapshot's name
    run INTEGER NOT NULL DEFAULT 0,         -- how often it was started; only the last start may write
    attempts INTEGER NOT NULL DEFAULT 0,    -- starts since it last got on
    cancelling INTEGER NOT NULL DEFAULT 0,
    revision INTEGER NOT NULL DEFAULT 0,    -- rises with every change
    created_at REAL NOT NULL,               -- seconds since 1970, as the other two
    started_at REAL,
    finished_at REAL
);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, number);
CREATE TABLE IF NOT EXISTS failures (
    job INTEGER NOT NULL REFERENCES jobs (number) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    item TEXT NOT NULL,
    code TEXT NOT NULL,
    detail TEXT NOT NULL,
    PRIMARY KEY (job, number)
) WITHOUT ROWID;
"""


class UnknownJobError(LookupError):
    """A job that never was, or was forgotten."""


class TooManyJobsError(RuntimeError):
    """As many jobs wait as may."""


class TooManyWatchersError(RuntimeError):
    """As many streams of events as there may be."""


class JobStateError(RuntimeError):
    """A job that is not in a state in which this can be done; ``state`` is the one it is in."""

    def __init__(self, state: State, message: str) -> None:
        super().__init__(message)
        self.state = state


class StaleRunError(RuntimeError):
    """A run of a job that was ended or started anew meanwhile: it must not write any more."""


class JobsUnavailableError(RuntimeError):
    """The journal belongs to another process, or cannot be written."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An item that failed: its id or path, a stable code, and why."""

    item: str
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it stands in the journal."""

    number: int
    id: str
    collection: str
    kind: Kind
    parameters: dict[str, Any]
    state: State
    done: int
    total: int | None
    failed: int
    position: dict[str, Any]
    reason: str | None
    result: str | None
    run: int
    attempts: int
    cancelling: bool
    revision: int
    created_at: float
    started_at: float | None
    finished_at: float | None

    @property
    def is_final(self) -> bool:
        """Whether nothing will change any more, unless somebody asks for it."""
        return self.state in FINAL


_COLUMNS = ", ".join(each.name for each in fields(Job))


class JobStore:
    """All jobs of a store. Any thread may use it; one process at a time has it open.

    A write is on the disk when it returns. Raises :class:`JobsUnavailableError` where another process has the journal,
    or it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        try:
            make_folder(path.parent)
            self._descriptor = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise _unavailable("nothing can be written into this store", path, error) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
                self._connection.execute(f"PRAGMA {pragma}")
            self._connection.executescript(_SCHEMA)
        except BlockingIOError as error:
            os.close(self._descriptor)
            raise _unavailable("another process works off the jobs of this store", path, error) from error
        except (OSError, sqlite3.Error) as error:
            os.close(self._descriptor)
            raise _unavailable("their journal cannot be read", path, error) from error
        self._lock = threading.RLock()
        self._watchers: dict[str, list[Callable[[], None]]] = {}

    def close(self) -> None:
        """Close the journal; another process may have it then."""
        with self._lock:
            self._connection.close()
            os.close(self._descriptor)

    # -- for clients

    def add(self, collection: str, kind: Kind, parameters: Mapping[str, Any], *, waiting: int, job_id: str) -> Job:
        """A new job in the queue. Raises :class:`TooManyJobsError` where ``waiting`` others wait already."""
        with self._writing() as connection:
            if self._queued(connection) >= waiting:
                raise TooManyJobsError(f"{waiting} jobs wait already: try again when some of them are done")
            connection.execute(
                "INSERT INTO jobs (id, collection, kind, parameters, state, created_at) "
                "VALUES (?, ?, ?, ?, 'queued', ?)",
                (job_id, collection, kind, json.dumps(dict(parameters)), time.time()),
            )
            return self._one(job_id)

    def get(self, job_id: str) -> Job:
        """A job by id. Raises :class:`UnknownJobError`."""
        with self._lock:
            return self._one(job_id)

    def num_queued(self) -> int:
        """How many wait."""
        with self._lock:
            return self._queued(self._connection)

    def counts(self) -> dict[State, int]:
        """How many jobs are in each state, those that were forgotten left out."""
        with self._lock:
            rows = self._connection.execute("SELECT state, COUNT(*) FROM jobs GROUP BY state").fetchall()
        return {**dict.fromkeys(STATES, 0), **dict(rows)}

    def page(
        self, limit: int, before: int | None = None, collection: str | None = None, state: State | None = None
    ) -> list[Job]:
        """The ``limit`` newest jobs, of those numbered below ``before``."""
        with self._lock:
            rows = self._connection.execute(
                f"SELECT {_COLUMNS} FROM jobs WHERE (?1 IS NULL OR number < ?1) "  # noqa: S608 - our own names
                "AND (?2 IS NULL OR collection = ?2) AND (?3 IS NULL OR state = ?3) ORDER BY number DESC LIMIT ?4",
                (before, collection, state, limit),
            ).fetchall()
        return [_job(row) for row in rows]

    def failures(self, job: Job, after: int = 0, limit: int = 1000) -> list[tuple[int, Failure]]:
        """Failed items of a job in order, from the first numbered above ``after``."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT number, item, code, detail FROM failures WHERE job = ? AND number > ? ORDER BY number LIMIT ?",
                (job.number, after, limit),
            ).fetchall()
        return [(number, Failure(*rest)) for number, *rest in rows]

    def cancel(self, job_id: str, *, at_once: frozenset[Kind], never: frozenset[Kind]) -> Job:
        """End a queued job, and a running one of a kind ``at_once``; ask another running one to end.

        Raises :class:`UnknownJobError`, and :class:`JobStateError` for one that has ended, and for a running one of a
        kind ``never``.
        """
        with self._writing():
            job = self._one(job_id)
            if job.is_final:
                raise JobStateError(job.state, f"this job is {job.state} already: there is nothing to cancel")
            if job.state == "running" and job.kind in never:
                raise JobStateError(job.state, f"a {job.kind} that is under way cannot be cancelled")
            if job.state == "queued" or job.kind in at_once:
                return self._set(job, state="cancelled", finished_at=time.time(), cancelling=0)
            return self._set(job, cancelling=1)

    def retry(self, job_id: str, *, waiting: int) -> Job:
        """Queue a failed or cancelled job again; it goes on where it was.

        Raises :class:`UnknownJobError`, :class:`JobStateError`, :class:`TooManyJobsError`.
        """
        with self._writing() as connection:
            job = self._one(job_id)
            if job.state not in {"failed", "cancelled"}:
                raise JobStateError(
                    job.state, f"this job is {job.state}: only one that failed or was cancelled can be tried again"
                )
            if self._queued(connection) >= waiting:
                raise TooManyJobsError(f"{waiting} jobs wait already: try again when some of them are done")
            return self._set(job, state="queued", reason=None, finished_at=None, cancelling=0, attempts=0)

    def watch(self, job_id: str, changed: Callable[[], None]) -> Callable[[], None]:
        """Have ``changed`` called, in any thread, when the job changes; call what is returned to end that."""
        with self._lock:
            self._watchers.setdefault(job_id, []).append(changed)

        def end() -> None:
            with self._lock:
                watching = self._watchers[job_id]
                watching.remove(changed)
                if not watching:
                    del self._watchers[job_id]

        return end

    # -- for the runner

    def requeue_interrupted(self, most_attempts: int) -> list[Job]:
        """After a start: jobs that were running wait again, before all others; those that keep failing do not."""
        with self._writing():
            interrupted = self._in_state("running")
            for job in interrupted:
                if job.cancelling:
                    self._set(job, state="cancelled", finished_at=time.time(), cancelling=0)
                elif job.attempts >= most_attempts:
                    reason = f"the service ended {job.attempts} times while it was at this job and did not get on"
                    self._set(job, state="failed", reason=reason, finished_at=time.time())
                else:
                    self._set(job, state="queued")
        return interrupted

    def claim(self) -> Job | None:
        """The job that has waited longest, running now; None where none waits."""
        with self._writing():
            waiting = self._in_state("queued", limit=1)
            if not waiting:
                return None
            job = waiting[0]
            return self._set(
                job,
                state="running",
                run=job.run + 1,
                attempts=job.attempts + 1,
                started_at=job.started_at or time.time(),
            )

    def advance(
        self,
        job: Job,
        *,
        done: int = 0,
        failures: Sequence[Failure] = (),
        total: int | None = None,
        position: Mapping[str, Any] | None = None,
    ) -> Job:
        """So many more items done and failed, and where to go on: all of it or nothing. The job as it is then.

        Raises :class:`StaleRunError` for a run that must not write any more.
        """
        with self._writing() as connection:
            current = self._current(job)
            _add_failures(connection, job.number, current.failed, failures)
            changes: dict[str, Any] = {"done": current.done + done, "failed": current.failed + len(failures)}
            if total is not None:
                changes["total"] = total
            if position is not None:
                changes["position"] = json.dumps(dict(position))
            if done or failures:
                changes["attempts"] = 1
            return self._set(current, **changes)

    def count(self, job: Job, done: int, failed: int) -> Job:
        """How far the job is, for one whose failures are listed at its end. Raises :class:`StaleRunError`."""
        with self._writing():
            return self._set(self._current(job), done=done, failed=failed, attempts=1)

    def settle(self, job: Job, done: int, failures: Sequence[Failure]) -> Job:
        """What came of a job whose failures were counted on the way. Raises :class:`StaleRunError`."""
        with self._writing() as connection:
            current = self._current(job)
            connection.execute("DELETE FROM failures WHERE job = ?", (job.number,))
            _add_failures(connection, job.number, 0, failures[:MOST_FAILURES])
            return self._set(current, done=done, failed=len(failures))

    def finish(self, job: Job, state: State, *, reason: str | None = None, result: str | None = None) -> Job:
        """The job is done, failed or cancelled. Raises :class:`StaleRunError`."""
        with self._writing():
            return self._set(
                self._current(job), state=state, reason=reason, result=result, finished_at=time.time(), cancelling=0
            )

    def is_wanted(self, job: Job) -> bool:
        """Whether this run of the job is to go on."""
        with self._lock:
            try:
                return not self._current(job).cancelling
            except (StaleRunError, UnknownJobError):
                return False

    def forget(self, finished_before: float) -> list[Job]:
        """Delete jobs that ended before that time (seconds since 1970); those that were."""
        with self._writing() as connection:
            old = [
                _job(row)
                for row in connection.execute(
                    f"SELECT {_COLUMNS} FROM jobs WHERE finished_at < ?",  # noqa: S608 - our own names
                    (finished_before,),
                )
            ]
            connection.executemany("DELETE FROM jobs WHERE number = ?", [(job.number,) for job in old])
        return old

    def ids(self) -> set[str]:
        """Of every job there is."""
        with self._lock:
            return {row[0] for row in self._connection.execute("SELECT id FROM jobs")}

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def _one(self, job_id: str) -> Job:
        row = self._connection.execute(
            f"SELECT {_COLUMNS} FROM jobs WHERE id = ?",  # noqa: S608 - our own names
            (job_id,),
        ).fetchone()
        if row is None:
            raise UnknownJobError(f"there is no job {job_id!r:.80}: it may be so old that it was forgotten")
        return _job(row)

    def _current(self, job: Job) -> Job:
        current = self._one(job.id)
        if current.state != "running" or current.run != job.run:
            raise StaleRunError(f"job {job.id} is {current.state}, run {current.run}; this was run {job.run}")
        return current

    def _in_state(self, state: State, limit: int = -1) -> list[Job]:
        return [
            _job(row)
            for row in self._connection.execute(
                f"SELECT {_COLUMNS} FROM jobs WHERE state = ? ORDER BY number LIMIT ?",  # noqa: S608 - our own names
                (state, limit),
            )
        ]

    def _set(self, job: Job, **changes: Any) -> Job:
        changes["revision"] = job.revision + 1
        self._connection.execute(
            f"UPDATE jobs SET {', '.join(f'{name} = ?' for name in changes)} WHERE number = ?",  # noqa: S608 - our own
            (*changes.values(), job.number),
        )
        for changed in self._watchers.get(job.id, ()):
            changed()
        return self._one(job.id)

    @staticmethod
    def _queued(connection: sqlite3.Connection) -> int:
        return int(connection.execute("SELECT count(*) FROM jobs WHERE state = 'queued'").fetchone()[0])


def _unavailable(why: str, path: Path, error: Exception) -> JobsUnavailableError:
    logger.debug("event=journal_not_opened path=%s error=%r", path, error)
    return JobsUnavailableError(f"there are no jobs here at present: {why}")


def new_job_id() -> str:
    """16 hex digits that nobody guesses or has used."""
    return secrets.token_hex(8)


def _job(row: Sequence[Any]) -> Job:
    values = dict(zip((each.name for each in fields(Job)), row, strict=True))
    for name in ("parameters", "position"):
        values[name] = json.loads(values[name])
    values["cancelling"] = bool(values["cancelling"])
    return Job(**values)


def _add_failures(connection: sqlite3.Connection, number: int, before: int, failures: Sequence[Failure]) -> None:
    rows = [
        (number, place, *map(_storable, (failure.item, failure.code, failure.detail)))
        for place, failure in enumerate(failures, before + 1)
    ]
    connection.executemany("INSERT INTO failures VALUES (?, ?, ?, ?, ?)", rows)


def _storable(text: str) -> str:
    """What SQLite takes: a file name may hold bytes that are no text."""
    return text.encode("utf-8", "backslashreplace").decode()
