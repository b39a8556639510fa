"""Load: how much has been taken on, how fast it gets done, and when more would only make everybody wait."""

import math
import sys
import time
from collections.abc import Callable
from contextvars import ContextVar

claim: ContextVar[Callable[[int], None]] = ContextVar("claim", default=lambda _: None)
"""Counts bytes that the request being answered here keeps in memory; raises a problem 429 where too many are kept."""

RATE_WINDOW_S = 2.0
CALM_S = 2.0
SHEDDING_SHARE = 3
"""While load is shed, a third of the places is given: enough to keep encoder and searches busy (two batches), so
that who is taken waits little. Measured: benchmarks/serving_load.py."""


class Load:
    """Counts requests and decides which to take; belongs to one event loop. ``clock`` gives seconds.

    Up to ``in_flight`` requests are always taken, and ``queued`` more while they can expect, by Little's law (requests
    present divided by the rate at which they get done), to be answered within ``max_wait_s``. Where that is not so,
    or the queue has not been empty for that long, load is shed: the requests beyond a third of ``in_flight`` are
    refused, those that are waiting already included (:attr:`excess`), until nobody had to be refused for two seconds.
    A short burst is thus worked off; lasting overload finds a short queue instead of a full one that makes each
    request late and none more answered.
    """

    def __init__(
        self, in_flight: int, queued: int, max_wait_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.in_flight, self.queued, self.max_wait_s = in_flight, queued, max_wait_s
        self.present = 0
        self.shedding = False
        self._clock = clock
        self._last = self._refused = clock()
        # Both fade with RATE_WINDOW_S of busy time, the first to next to nothing where nothing gets done any more.
        self._done, self._busy_s = 0.0, 0.0
        self._queue_since: float | None = None

    @property
    def expected_s(self) -> float | None:
        """How long one more request would take by the rate of late; None before anything was done."""
        self._pass_time()
        return (self.present + 1) * self._busy_s / self._done if self._done else None

    @property
    def excess(self) -> int:
        """How many more are present than should be."""
        return max(0, self.present - self._share) if self.shedding else 0

    def refuses(self) -> bool:
        """Whether a request that comes now is to be refused."""
        now = self._clock()
        if self.shedding and now - self._refused > CALM_S:
            self.shedding = False
        if self._is_too_much(now):
            self._refused = now
            return True
        return False

    def enter(self) -> None:
        """A request was taken."""
        self._pass_time()
        self.present += 1
        if self.present > self.in_flight and self._queue_since is None:
            self._queue_since = self._clock()

    def leave(self, *, done: bool) -> None:
        """It is answered (``done``), or was given up."""
        self._pass_time()
        self.present -= 1
        self._done += done
        if self.present <= self.in_flight:
            self._queue_since = None

    def _is_too_much(self, now: float) -> bool:
        if self.present >= self.in_flight + self.queued:
            return True
        if not self.shedding and self.present >= self.in_flight:
            expected = self.expected_s
            lasting = self._queue_since is not None and now - self._queue_since > self.max_wait_s
            self.shedding = lasting or (expected is not None and expected > self.max_wait_s)
        return self.shedding and self.present >= self._share

    @property
    def _share(self) -> int:
        return max(1, self.in_flight // SHEDDING_SHARE)

    def _pass_time(self) -> None:
        now = self._clock()
        if self.present:
            kept = math.exp((self._last - now) / RATE_WINDOW_S)
            self._done = max(self._done * kept, sys.float_info.min if self._done else 0.0)
            self._busy_s = self._busy_s * kept + RATE_WINDOW_S * (1.0 - kept)
        self._last = now
