"""Context: what a job is given to work with, and how it tells that it gets on."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

from service.engine import Engine
from service.jobs.store import MOST_FAILURES, Failure, Job, JobStore
from service.operation.quotas import Quotas
from service.settings import Settings

logger = logging.getLogger(__name__)

_CHECK_S = 0.2
_TELL_S = 0.5


class CancelledError(Exception):
    """Somebody wants the job to end."""


class InterruptedJobError(Exception):
    """The service is stopping: the job goes on after the next start."""


class JobFailedError(Exception):
    """The job cannot be done: the text, without paths of this machine, says why."""


@dataclass(slots=True, eq=False)
class Context:
    """One run of one job. Belongs to the thread that works on it."""

    engine: Engine
    settings: Settings
    quotas: Quotas
    store: JobStore
    job: Job
    folder: Path
    """The job's own files; it may not be there for a job that came without one."""
    stopping: Event
    _checked: float = field(default=float("-inf"))
    _told: float = field(default=float("-inf"))

    def check(self) -> None:
        """Call it often. Raises :class:`CancelledError` or :class:`InterruptedJobError` when it is time to end."""
        if self.stopping.is_set():
            raise InterruptedJobError
        now = time.monotonic()
        if now - self._checked >= _CHECK_S:
            self._checked = now
            if not self.store.is_wanted(self.job):
                raise CancelledError

    def advance(
        self,
        *,
        done: int = 0,
        failures: Sequence[Failure] = (),
        total: int | None = None,
        position: Mapping[str, Any] | None = None,
    ) -> None:
        """:meth:`JobStore.advance`. Raises :class:`JobFailedError` where too much of it fails."""
        self.job = self.store.advance(self.job, done=done, failures=failures, total=total, position=position)
        if self.job.failed > MOST_FAILURES:
            raise JobFailedError(f"more than {MOST_FAILURES:,} items failed: see which, and why, in the job's errors")

    def count(self, done: int, failed: int) -> None:
        """So many done and failed so far; written down every half second, for those who watch."""
        now = time.monotonic()
        if now - self._told >= _TELL_S:
            self._told = now
            self.job = self.store.count(self.job, done, failed)
