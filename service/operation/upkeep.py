"""Upkeep: what is measured from time to time, in a thread that leaves the processor to the others."""

import logging
import os
import sys
import threading
import time

import numpy as np

from service.engine import Engine
from service.operation.metrics import Metrics
from service.operation.quotas import Quotas
from service.operation.recall import probe

logger = logging.getLogger(__name__)

INTERVAL_S = 5.0
STORE_SHARE = 0.02
"""Of its time that this thread may look at the store's files: of a million of them less often than of a hundred."""
NICENESS = 10


class Upkeep:
    """Measures store, memory, items and recall, and tells the metrics; ``recall_s`` 0: no recall."""

    def __init__(self, engine: Engine, quotas: Quotas, metrics: Metrics, recall_s: float) -> None:
        self._engine, self._quotas, self._metrics, self._recall_s = engine, quotas, metrics, recall_s
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)
        self._store_due = self._recall_due = 0.0
        self._rng = np.random.default_rng()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End; what is being measured is finished first."""
        self._ending.set()
        self._thread.join()

    def measure(self) -> None:
        """Everything that is due."""
        now = time.monotonic()
        if now >= self._store_due:
            self._quotas.measure_store()
            self._store_due = now + max(INTERVAL_S, (time.monotonic() - now) / STORE_SHARE)
        self._metrics.store_bytes.set(self._quotas.store_bytes)
        self._metrics.store_quota_bytes.set(self._quotas.settings.store_bytes or 0)
        self._metrics.free_disk_bytes.set(self._quotas.free_disk_bytes())
        self._metrics.memory_bytes.set(self._quotas.memory_bytes())
        self._metrics.items(self._quotas.counts())
        if self._recall_s and now >= self._recall_due:
            self._recall_due = now + self._recall_s
            self._probe_recall()

    def _probe_recall(self) -> None:
        for state, found in self._engine.collections.survey(lambda served: probe(served.collection, self._rng)):
            if found is not None:
                self._metrics.recall.labels(state.name).set(found)
                level = logging.WARNING if found < 0.9 else logging.DEBUG
                logger.log(level, "event=recall_probed collection=%s recall=%.4f", state.name, found)
            if self._ending.is_set():
                return

    def _run(self) -> None:
        if sys.platform == "linux":  # there a thread has a niceness of its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        while True:
            try:
                self.measure()
            except Exception:  # a measurement must not end measuring
                logger.exception("event=upkeep_failed")
            if self._ending.wait(INTERVAL_S):
                return
