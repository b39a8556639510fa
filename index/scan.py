"""One search over one state of an index: propose in float32, re-rank in float64, certify, and scan again what was
not certified."""

import numpy as np

from index.distances import Float64, distances
from index.exact_points import Int64
from index.generators import Bool, Generator
from index.ids import Ids
from index.list_rows import SPARE, ListRows

SCAN_ALL_BELOW = 2048  # so few allowed rows are compared in float64 at once
SCAN_ELEMENTS = 4_000_000  # numbers of candidates, or of queries in the frames of lists, held at a time
RERANK_ELEMENTS = 1 << 17  # numbers re-ranked at a time: their float64 copies stay in a cache of 4 MB
WIDENED = 4  # times more lists, where those probed held too few


class Scan:
    """Searches among the rows of `generator` that `mask` allows (all by default), `population` of them."""

    def __init__(
        self, generator: Generator, ids: Ids, c: float, mask: Bool | None, population: int, *, exact: bool,
        spare: int = 0,
    ) -> None:  # fmt: skip
        """`spare`: candidates beyond k, 0 for the generator's usual number."""
        self._generator = generator
        self._ids = ids
        self._c = c
        self._mask = mask
        self._population = population
        self._exact = exact
        self._spare = spare
        self._lists = generator if isinstance(generator, ListRows) else None

    def search(self, queries: Float64, k: int, probes: int, found: tuple[Float64, Int64]) -> tuple[Bool, int]:
        """Fill the first k <= population columns of `found` (q, ...); returns whose answers are proven exact (q,),
        and how many the scan did not certify.
        """
        proven = np.zeros(len(queries), dtype=bool)
        if self._mask is not None and self._population <= SCAN_ALL_BELOW:
            positions = np.flatnonzero(self._mask)
            for row, query in enumerate(queries):
                _keep(found, row, *self._ranked(query, positions), k)
            return ~proven, 0
        served = self._generator.serves(queries)
        for row in np.flatnonzero(~served).tolist():
            _keep(found, row, *self._ranked(queries[row], self._all()), k)
        proven[~served] = True
        rows = np.flatnonzero(served)
        spare = SPARE[self._lists.kind] if self._lists else k + 20
        count = min(self._population, k + (self._spare or spare))
        width = count * queries.shape[1]
        if self._lists:
            entered = min(probes, self._lists.nlist) * queries.shape[1]
            width = max(width, entered, self._lists.proposals(count, probes))
        step = max(1, SCAN_ELEMENTS // width)
        failures = int(np.count_nonzero(~served))
        for start in range(0, len(rows), step):
            failures += self._search(queries, rows[start : start + step], k, count, probes, found, proven)
        return proven, failures

    def within(self, query: Float64, radius: float, lists: Int64 | None = None) -> tuple[Float64, Int64]:
        """Exact distances and ids of every row (of `lists`, or of all) within `radius` of one query, nearest first."""
        if self._generator.serves(query[None])[0]:
            # The re-rank's own rounding must not lose a point at exactly the radius: scan a hair wider.
            positions = self._generator.within(query, radius * (1 + 1e-9), self._mask, lists)
        else:
            positions = self._all()
        exact, ids = self._ranked(query, positions)
        end = int(np.searchsorted(exact, radius, side="right"))
        return exact[:end], ids[:end]

    def _search(
        self, queries: Float64, rows: Int64, k: int, count: int, probes: int, found: tuple[Float64, Int64], proven: Bool
    ) -> int:
        """The answers of some rows of `queries`; returns how many the scan did not certify."""
        asked = queries[rows]
        candidates = self._generator.candidates(asked, count, self._mask, probes)
        self._rerank(asked, rows, candidates.positions, k, found)
        kth = found[0][rows, k - 1]
        short = np.isinf(kth)
        if short.any():  # fewer than k rows in the probed lists
            self._search(queries, rows[short], k, count, probes * WIDENED, found, proven)
            if short.all():
                return len(rows)
        everything = self._lists is None and count == self._population
        certified = np.ones(len(rows), dtype=bool)
        if not everything:
            certified = self._generator.certified(asked, kth, candidates)
        outside = np.full(len(rows), np.inf) if candidates.outside is None else candidates.outside
        for place in np.flatnonzero(~short).tolist():
            row, elsewhere = rows[place], bool(kth[place] >= outside[place])
            if certified[place] and not (elsewhere and self._exact):
                proven[row] = not elsewhere
                continue
            if self._lists is not None and self._lists.kind == "ivf_sq8" and not self._exact:
                continue
            # The k-th candidate bounds the k-th neighbour from above: the neighbours are all within its distance.
            lists = candidates.lists[place] if candidates.lists is not None and not self._exact else None
            _keep(found, row, *self.within(queries[row], float(kth[place]), lists), k)
            proven[row] = lists is None or not elsewhere
        return int(np.count_nonzero(~certified))

    def _rerank(self, asked: Float64, rows: Int64, positions: Int64, k: int, found: tuple[Float64, Int64]) -> None:
        step = max(1, RERANK_ELEMENTS // (positions.shape[1] * asked.shape[1]))
        for start in range(0, len(rows), step):
            part = positions[start : start + step]
            exact = distances(asked[start : start + step], self._generator.gather(part), self._c)
            ids = self._ids.by_position[part]
            if self._lists is not None and part.min() < 0:
                missing = part < 0
                exact[missing], ids[missing] = np.inf, -1
            order, each = np.lexsort((ids, exact), axis=-1)[:, :k], np.arange(len(part))[:, None]
            found[0][rows[start : start + step], :k] = exact[each, order]
            found[1][rows[start : start + step], :k] = ids[each, order]

    def _ranked(self, query: Float64, positions: Int64) -> tuple[Float64, Int64]:
        """Exact distances of one query to some rows, and their ids, nearest first."""
        step = max(1, RERANK_ELEMENTS // len(query))
        parts = [
            distances(query[None], self._generator.gather(positions[start : start + step])[None], self._c)[0]
            for start in range(0, len(positions), step)
        ]
        exact = np.concatenate(parts) if parts else np.zeros(0)
        ids = self._ids.by_position[positions]
        order = np.lexsort((ids, exact))
        return exact[order], ids[order]

    def _all(self) -> Int64:
        return self._ids.live() if self._mask is None else np.flatnonzero(self._mask)


def _keep(found: tuple[Float64, Int64], row: int, exact: Float64, ids: Int64, k: int) -> None:
    found[0][row, :k], found[1][row, :k] = exact[:k], ids[:k]
