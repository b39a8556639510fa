"""Jobs: threads that work off the journal, one job each, until the service stops."""

import logging
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from index.errors import StoreError
from index.files import sync
from service.collections import CollectionUnavailableError, UnknownCollectionError
from service.engine import Engine
from service.jobs.content import UNPACKED, UPLOAD, ContentError
from service.jobs.context import CancelledError, Context, InterruptedJobError, JobFailedError
from service.jobs.kinds import AT_ONCE, NEVER, WORK
from service.jobs.store import (
    Job,
    JobStore,
    JobsUnavailableError,
    Kind,
    StaleRunError,
    TooManyWatchersError,
    UnknownJobError,
)
from service.operation.disk_full import is_disk_full
from service.operation.quotas import Quotas
from service.problems import Problem
from service.settings import Settings
from service.snapshots import Snapshots
from service.uploading import Uploads

logger = logging.getLogger(__name__)

JOURNAL, FOLDER = "jobs.sqlite", "jobs"
MOST_ATTEMPTS = 3
"""How often the service may end while it is at a job that does not get on, before the job is taken for the cause."""
STOP_S = 5.0
CANCEL_S = 2.0
_OPEN_AGAIN_S = 2.0
_FORGET_EVERY_S = 3600.0
_DAY_S = 86_400.0
_EXPECTED = (
    ContentError, StoreError, JobFailedError, Problem, UnknownCollectionError, CollectionUnavailableError,
)  # fmt: skip


class Jobs:
    """Everything about jobs that routes need. Any thread may use it.

    One process at a time works off the jobs of a store: another one's :attr:`store` raises
    :class:`JobsUnavailableError` until the first has ended.
    """

    def __init__(self, engine: Engine, settings: Settings, quotas: Quotas) -> None:
        self._engine, self._settings, self._quotas = engine, settings, quotas
        self.uploads = Uploads(quotas.require)
        self._watched = 0
        self._folder = settings.store / FOLDER
        self._store: JobStore | None = None
        self._fault = "the service is starting"
        self._stopping = threading.Event()
        self._work = threading.Condition()
        self._threads: list[threading.Thread] = []

    # -- life

    def start(self) -> None:
        """Open the journal, or try again until another process lets go of it, and take up the work."""
        self._try_to_open()
        names = ["keeper", *(f"worker-{number}" for number in range(self._settings.jobs.running))]
        for name in names:
            target = self._keep if name == "keeper" else self._work_off
            thread = threading.Thread(target=target, name=f"jobs-{name}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def drain(self) -> None:
        """Take up nothing more; what runs ends at its next batch and goes on after the next start."""
        self._stopping.set()
        with self._work:
            self._work.notify_all()

    def stop(self) -> None:
        """:meth:`drain`, wait a moment for what runs, and close the journal."""
        self.drain()
        deadline = time.monotonic() + STOP_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        left = [thread.name for thread in self._threads if thread.is_alive()]
        if left:  # in the middle of an index or a snapshot, which begins anew after the next start
            logger.info("event=jobs_left running=%s", ",".join(left))
        store, self._store, self._fault = self._store, None, "the service is stopping"
        if store is not None:
            store.close()

    # -- for routes

    @property
    def store(self) -> JobStore:
        """The journal. Raises :class:`JobsUnavailableError`."""
        if self._store is None:
            raise JobsUnavailableError(self._fault)
        return self._store

    def folder(self, job_id: str) -> Path:
        """Where the files of a job lie."""
        return self._folder / job_id

    def submit(self, collection: str, kind: Kind, parameters: Mapping[str, Any], *, job_id: str) -> Job:
        """Queue a job, whose files are in its folder already. Raises ``TooManyJobsError``."""
        job = self.store.add(collection, kind, parameters, waiting=self._settings.jobs.waiting, job_id=job_id)
        logger.info("event=job_queued job=%s kind=%s collection=%s", job.id, kind, collection)
        self._notify()
        return job

    def retry(self, job_id: str) -> Job:
        """:meth:`JobStore.retry`."""
        job = self.store.retry(job_id, waiting=self._settings.jobs.waiting)
        self._notify()
        return job

    def cancel(self, job_id: str) -> Job:
        """:meth:`JobStore.cancel`, and wait up to two seconds until the job has noticed."""
        job = self.store.cancel(job_id, at_once=AT_ONCE, never=NEVER)
        deadline = time.monotonic() + CANCEL_S
        while not job.is_final and time.monotonic() < deadline:
            time.sleep(0.02)
            job = self.store.get(job_id)
        return job

    @contextmanager
    def watching(self, most: int) -> Iterator[None]:
        """One more stream of events, of at most ``most``. Raises :class:`TooManyWatchersError`."""
        with self._work:
            if self._watched >= most:
                raise TooManyWatchersError(
                    f"{most} clients watch jobs already: ask for the job itself from time to time"
                )
            self._watched += 1
        try:
            yield
        finally:
            with self._work:
                self._watched -= 1

    # -- in threads

    def _notify(self) -> None:
        with self._work:
            self._work.notify()

    def _try_to_open(self) -> None:
        try:
            store = JobStore(self._settings.store / JOURNAL)
        except JobsUnavailableError as error:
            if self._fault != str(error):
                logger.warning("event=jobs_unavailable reason=%r", str(error))
            self._fault = str(error)
            return
        for job in store.requeue_interrupted(MOST_ATTEMPTS):
            logger.info("event=job_resumed job=%s kind=%s attempts=%d", job.id, job.kind, job.attempts)
        self._sweep(store)
        self._store = store
        with self._work:
            self._work.notify_all()

    def _sweep(self, store: JobStore) -> None:
        """Uploads that never became a job, and files of jobs that were forgotten."""
        known = store.ids()
        if self._folder.is_dir():
            for path in self._folder.iterdir():
                if path.name not in known:
                    shutil.rmtree(path, ignore_errors=True)
        Snapshots(self._settings.store).sweep()

    def _keep(self) -> None:
        forgotten = float("-inf")
        while not self._stopping.wait(_OPEN_AGAIN_S):
            if self._store is None:
                self._try_to_open()
            elif time.monotonic() - forgotten >= _FORGET_EVERY_S:
                forgotten = time.monotonic()
                for job in self._store.forget(time.time() - self._settings.jobs.keep_days * _DAY_S):
                    shutil.rmtree(self.folder(job.id), ignore_errors=True)

    def _work_off(self) -> None:
        while not self._stopping.is_set():
            store = self._store
            try:
                job = store.claim() if store is not None else None
            except Exception:
                logger.exception("event=journal_unreadable")
                job = None
                self._stopping.wait(_OPEN_AGAIN_S)
            if job is None or store is None:
                with self._work:
                    self._work.wait(1.0)  # also what another call of notify() missed
            else:
                self._run(store, job)

    def _run(self, store: JobStore, job: Job) -> None:
        logger.info("event=job_started job=%s kind=%s collection=%s run=%d", job.id, job.kind, job.collection, job.run)
        context = Context(self._engine, self._settings, self._quotas, store, job, self.folder(job.id), self._stopping)
        try:
            try:
                result = WORK[job.kind](context)
            except CancelledError:
                ended = store.finish(job, "cancelled")
            except (StaleRunError, UnknownJobError, InterruptedJobError):
                raise
            except Exception as error:
                if self._stopping.is_set():  # what it worked with is being closed
                    raise InterruptedJobError from error
                ended = store.finish(job, "failed", reason=self._reason(job, error))
            else:
                ended = store.finish(job, "done", result=result)
                self._clear(job)
        except (StaleRunError, UnknownJobError):
            logger.info("event=job_abandoned job=%s kind=%s", job.id, job.kind)
        except InterruptedJobError:
            logger.info("event=job_interrupted job=%s kind=%s", job.id, job.kind)
        except Exception:
            # The journal itself failed, a full disk for one: the job is taken up after the next start.
            if self._stopping.is_set():
                logger.info("event=job_interrupted job=%s kind=%s", job.id, job.kind)
            else:
                logger.exception("event=job_not_ended job=%s kind=%s", job.id, job.kind)
        else:
            logger.info(
                "event=job_ended job=%s kind=%s state=%s done=%d failed=%d reason=%r",
                *(ended.id, ended.kind, ended.state, ended.done, ended.failed, ended.reason),
            )

    def _clear(self, job: Job) -> None:
        """What a job that is done needs no more: all but its result."""
        folder = self.folder(job.id)
        if job.kind == "import":
            shutil.rmtree(folder, ignore_errors=True)
        elif folder.is_dir():
            for name in (UPLOAD, UNPACKED):
                (folder / name).unlink(missing_ok=True)
            with suppress(OSError):
                sync(folder)

    def _reason(self, job: Job, error: Exception) -> str:
        """Why a job failed, for its owner: without places on this machine."""
        if is_disk_full(error):
            logger.error("event=disk_full job=%s", job.id)
            return "the disk is full: make room, then try the job again"
        if not isinstance(error, _EXPECTED):
            logger.error("event=job_failed job=%s kind=%s", job.id, job.kind, exc_info=error)
            return "something went wrong here; the log has it under this job's id"
        text = str(error)
        for place, word in ((self.folder(job.id), "the upload"), (self._settings.store, "the store")):
            for path in (str(place.resolve()), str(place)):
                text = text.replace(path, word)
        return text[:1000]
