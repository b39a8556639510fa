"""What engines beyond the process share: their candidates, re-ranked and certified on our side."""

import logging
from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from index.backends.coordinates import Asked, coordinates_of
from index.backends.interface import About, Answer, Bool, checked
from index.distances import Float64, distances
from index.errors import PointError
from index.exact_points import Float32, Int64
from index.points import valid_ids, valid_points

logger = logging.getLogger(__name__)

SPARE = 20  # candidates beyond k in the first round
GROWTH = 4  # times more in each further one
ELEMENTS = 1_000_000  # numbers that one call may bring back: 4 MB of points


class Proposals(NamedTuple):
    """What an engine answers to one query, best first."""

    ids: Int64  # (m,)
    scores: Float64  # (m,): Euclidean distances of ball coordinates, or inner products of Lorentz ones
    points: Float32  # (m, d): the space parts as they were given


class Engine(ABC):
    """A :class:`~index.backends.interface.Backend` over an engine that finds nearest vectors by L2 or inner product.

    Each query asks the engine for k + 20 candidates with their exact points. They are re-ranked in float64, and a
    bound on the engine's float32 error (:mod:`index.backends.coordinates`) certifies that no row it kept back belongs
    to the answer. A query that is not certified asks again for 4 times as many, about the centre of the ball that its
    neighbours so far lie in, until it is proven, the engine has no more rows, or `max_candidates` are reached; it is
    then answered with the best of them and `exact` False.

    The proof holds while the engine compares every row ("exact" scans), in float32, by differences. The first is ours
    to ask for; the rest is checked on every score that comes back.
    """

    name: ClassVar[str]
    max_candidates: ClassVar[int]  # for one query
    max_numbers: ClassVar[int]  # in the queries of one call

    def __init__(self, about: About) -> None:
        self.about = about
        self.coordinates = coordinates_of(about.coordinates, about.embedding_dim, about.c)

    @abstractmethod
    def _write(self, ids: Int64, rows: Float32, points: Float32) -> None:
        """Add or overwrite rows (n, width) and their points (n, d)."""

    @abstractmethod
    def _delete(self, ids: Int64) -> int:
        """Delete what there is of these ids; how many that was."""

    @abstractmethod
    def _nearest(self, rows: Float32, count: int) -> list[Proposals]:
        """The `count` best rows for each query row (q, width): all rows where there are fewer."""

    @property
    @abstractmethod
    def count(self) -> int:
        """How many points there are."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the engine."""

    def upsert(self, ids: npt.ArrayLike, space: npt.ArrayLike) -> None:
        """See :class:`~index.backends.interface.Backend`."""
        new_ids, points = checked(ids, space, self.about.embedding_dim)
        if len(new_ids):
            self._write(new_ids, self.coordinates.rows(points), points)

    def delete(self, ids: npt.ArrayLike) -> int:
        """See :class:`~index.backends.interface.Backend`."""
        gone = np.unique(valid_ids(ids))
        return self._delete(gone) if len(gone) else 0

    def search(self, space_queries: npt.ArrayLike, k: int) -> Answer:
        """See :class:`~index.backends.interface.Backend`."""
        queries = valid_points(space_queries, self.about.embedding_dim)
        if not 1 <= k <= self.max_candidates:
            raise PointError(f"expected k in 1 .. {self.max_candidates}, which is what {self.name} returns, got {k}")
        answer = Answer(
            np.full((len(queries), k), np.inf),
            np.full((len(queries), k), -1, dtype=np.int64),
            np.zeros(len(queries), dtype=np.bool_),
        )
        pending, count, reach = np.arange(len(queries)), min(k + SPARE, self.max_candidates), None
        while len(pending):
            step = max(1, min(self.max_numbers // self.coordinates.width, ELEMENTS // (count * queries.shape[1])))
            again = np.zeros(len(pending), dtype=np.bool_)
            for start in range(0, len(pending), step):
                part = slice(start, start + step)
                again[part] = self._round(queries, pending[part], None if reach is None else reach[part], count, answer)
            if count == self.max_candidates:
                break
            # The k-th candidate bounds the k-th neighbour from above: all of them lie in the ball of that radius.
            pending = pending[again]
            count, reach = min(count * GROWTH, self.max_candidates), answer.distances[pending, k - 1]
        return answer

    def _round(self, queries: Float64, rows: Int64, reach: Float64 | None, count: int, answer: Answer) -> Bool:
        """Answer some rows of `queries` from `count` candidates each; for which of them more could prove more."""
        asked = self.coordinates.ask(queries[rows], reach)
        again = np.zeros(len(rows), dtype=np.bool_)
        for place, (row, found) in enumerate(zip(rows, self._nearest(asked.rows, count), strict=True)):
            _keep(queries[row], found, self.about.c, answer, row)
            if self.about.scan != "exact":
                again[place] = reach is None  # nothing will be proven, but the right centre finds much more
                continue
            if not self.coordinates.explains(asked.rows[place], found.points, found.scores):
                logger.warning("event=nothing_proven backend=%s reason=%r", self.name, "scores are not plain float32")
                continue
            one = Asked(asked.rows[place, None], None if asked.centre is None else asked.centre[place, None])
            kth, last = answer.distances[row, -1:], found.scores[-1:]
            # Fewer than asked for: the engine has no more rows, and all were compared.
            everything = len(found.ids) < count
            answer.exact[row] = everything or self.coordinates.certified(queries[row, None], kth, last, one)[0]
            again[place] = not answer.exact[row]
        return again


def _keep(query: Float64, found: Proposals, c: float, answer: Answer, row: np.int64) -> None:
    """Put the nearest of one query's candidates, and of those it had before, into its row of `answer`."""
    exact = distances(query[None], found.points[None], c)[0]
    before = answer.ids[row] >= 0
    ids, first = np.unique(np.concatenate([found.ids, answer.ids[row, before]]), return_index=True)
    exact = np.concatenate([exact, answer.distances[row, before]])[first]
    order = np.lexsort((ids, exact))[: answer.ids.shape[1]]
    answer.distances[row, : len(order)] = exact[order]
    answer.ids[row, : len(order)] = ids[order]
