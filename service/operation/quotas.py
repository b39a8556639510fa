"""Quotas: how much the store and this process may take; what is beyond it is refused before it is begun."""

import os
import shutil
import threading
from pathlib import Path

from service.engine import Engine
from service.problems import Problem
from service.settings import QuotaSettings


class Quotas:
    """What is there, measured from time to time, and counted as it is written in between. Any thread may ask."""

    def __init__(self, settings: QuotaSettings, engine: Engine) -> None:
        self.settings = settings
        self._engine = engine
        self._lock = threading.Lock()
        self._store_bytes: int | None = None
        self._written = 0  # since the last measurement

    @property
    def store_bytes(self) -> int:
        """Size of the store: as last measured, and what came since."""
        if self._store_bytes is None:
            self.measure_store()
        with self._lock:
            return (self._store_bytes or 0) + self._written

    def measure_store(self) -> None:
        """Measure the store anew; takes as long as looking at each of its files."""
        with self._lock:
            before = self._written
        size = folder_bytes(self._engine.collections.store)
        with self._lock:
            self._store_bytes, self._written = size, self._written - before

    def free_disk_bytes(self) -> int:
        """Space left for the store."""
        return shutil.disk_usage(self._engine.collections.store).free

    def memory_bytes(self) -> int:
        """Resident memory of this process and of the encoder's worker; 0 where there is no /proc."""
        worker = self._engine.encoder.state().pid
        return resident_bytes(os.getpid()) + (resident_bytes(worker) if worker is not None else 0)

    def counts(self) -> dict[str, int]:
        """Items of every collection that can be used at present."""
        surveyed = self._engine.collections.survey(lambda served: served.collection.count)
        return {state.name: count for state, count in surveyed if count is not None}

    def require(self, size: int = 0) -> None:
        """Raise a :class:`~service.problems.Problem` 507 unless the store may grow by about ``size`` bytes."""
        allowed = self.settings
        if (free := self.free_disk_bytes()) - size < allowed.free_disk_bytes:
            raise _exceeded(f"the disk has {free:,} bytes left, of which {allowed.free_disk_bytes:,} are to stay free")
        if allowed.store_bytes is not None and (held := self.store_bytes) + size > allowed.store_bytes:
            raise _exceeded(f"the store holds {held:,} of the {allowed.store_bytes:,} bytes that it may")
        if allowed.memory_bytes is not None and (memory := self.memory_bytes()) > allowed.memory_bytes:
            raise _exceeded(f"the service takes {memory:,} of the {allowed.memory_bytes:,} bytes of memory that it may")
        self.require_items(1)
        with self._lock:
            self._written += size

    def require_items(self, more: int) -> None:
        """Raise a :class:`~service.problems.Problem` 507 unless the collections may hold ``more`` items together."""
        allowed = self.settings.items
        if allowed is not None and (held := sum(self.counts().values())) + more > allowed:
            raise _exceeded(f"the collections hold {held:,} of the {allowed:,} items that they may")


def folder_bytes(folder: Path) -> int:
    """Bytes that the files below ``folder`` take on the disk; files that vanish meanwhile count nothing."""
    total = 0
    waiting = [str(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
        except OSError:
            continue
    return total


def resident_bytes(pid: int) -> int:
    """Resident memory of a process; 0 where it has ended, or there is no /proc."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _exceeded(why: str) -> Problem:
    return Problem(507, "quota_exceeded", f"nothing more can be stored: {why}; delete something, or have it raised")
