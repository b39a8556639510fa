"""The rows and queries that an engine sees, and what its answers prove: generators A and B outside FAISS.

The mathematics is that of :mod:`index.ball_rows` and :mod:`index.generators`, called and not repeated: bounds that
hold for any order in which float32 sums are added up hold for any engine that computes in float32.
"""

from typing import NamedTuple, Protocol

import numpy as np

from index.backends.interface import Bool, Frame
from index.ball_rows import BallRows
from index.distances import Float64, norms
from index.errors import PointError
from index.exact_points import Float32
from index.generators import LARGEST_INNER_PRODUCT_RADIUS, ROUNDING, Candidates, InnerProductRows

# Engines round a score once or twice more than FAISS: when they take its root, square it again, or send it.
EXTRA_ROUNDING = 4 * ROUNDING
_NOWHERE = np.zeros((0, 0), dtype=np.int64)


class Asked(NamedTuple):
    """Queries as the engine gets them."""

    rows: Float32  # (q, width)
    centre: Float64 | None  # (q,): where the ball scan is centred, as a fraction of the query's ball coordinates


class Coordinates(Protocol):
    """How points and queries become vectors of an engine."""

    width: int  # numbers in a row

    def rows(self, points: Float32) -> Float32:
        """Points (n, d) -> what the engine stores, (n, width)."""

    def ask(self, queries: Float64, reach: Float64 | None) -> Asked:
        """Queries (q, d), whose k-th neighbour is expected at distance `reach` (q,), if anything is known of it."""

    def explains(self, row: Float32, points: Float32, scores: Float64) -> bool:
        """Whether the engine's scores (m,) of one query's row are those of float32 arithmetic on these points (m, d).

        They are not where an engine stores fewer bits, expands |a - b|^2 into norms, or ranks by another metric.
        """

    def certified(self, queries: Float64, kth_distance: Float64, last: Float64, asked: Asked) -> Bool:
        """Where no row that scores worse than `last` (q,) can lie within `kth_distance` (q,) of its query."""


class BallCoordinates:
    """Generator B: Poincare-ball coordinates under the Euclidean distance; at any radius.

    Row b = sqrt(c) x_s / (1 + sqrt(c) x_time). Score: |b - centre|. The hyperbolic ball of radius d about q *is* a
    Euclidean ball, so a scan about *its* centre needs hardly more rows than there are neighbours.
    """

    def __init__(self, embedding_dim: int, c: float) -> None:
        self.width = embedding_dim
        self._generator = BallRows(embedding_dim, c)

    def rows(self, points: Float32) -> Float32:
        """Ball coordinates."""
        return self._generator._ball(points.astype(np.float64)).astype(np.float32)

    def ask(self, queries: Float64, reach: Float64 | None) -> Asked:
        """The centres of the balls of radius `reach`, by default of the running median of what was found before."""
        guess = np.full(len(queries), self._generator._guess) if reach is None else reach
        centre = self._generator._centre(queries, guess)
        return Asked((self._generator._ball(queries) * centre[:, None]).astype(np.float32), centre)

    def explains(self, row: Float32, points: Float32, scores: Float64) -> bool:
        """|score - D| <= ((d + 4)/2 + 4) u D."""
        expected = norms(self.rows(points).astype(np.float64) - row.astype(np.float64))
        bound = ((self.width + 4) / 2 * ROUNDING + EXTRA_ROUNDING) * expected
        # Squares of differences below 1e-19 are no normal float32 numbers.
        return bool((np.abs(scores - expected) <= bound + 1e-18 * np.sqrt(self.width)).all())

    def certified(self, queries: Float64, kth_distance: Float64, last: Float64, asked: Asked) -> Bool:
        """See :class:`index.ball_rows.BallRows`."""
        last = last * (1 - EXTRA_ROUNDING)
        return self._generator.certified(queries, kth_distance, Candidates(_NOWHERE, last, asked.centre))


class LorentzCoordinates:
    """Generator A: rows (x_time, x_s) under the inner product, for engines that have no other.

    Score: <q, x>_L = -cosh(sqrt(c) d)/c, by the query (-q_time, q_s). Proves most answers up to a radius of 3.4 to 3.8
    (at c = 1, d = 128 to 64), few beyond 5; takes points and queries up to 30.
    """

    def __init__(self, embedding_dim: int, c: float) -> None:
        self.width = embedding_dim + 1
        self._generator = InnerProductRows(embedding_dim, c)

    def rows(self, points: Float32) -> Float32:
        """(x_time, x_s); :class:`PointError` for points whose products could overflow."""
        space = self._served(points.astype(np.float64))
        return np.concatenate([self._generator._times(space), space], axis=1, dtype=np.float32)

    def ask(self, queries: Float64, reach: Float64 | None) -> Asked:
        """(-q_time, q_s)."""
        return Asked(self._generator._flipped(self._served(queries)), None)

    def explains(self, row: Float32, points: Float32, scores: Float64) -> bool:
        """|score - s| <= ((d + 4) + 4) u sum |terms|."""
        terms = self.rows(points).astype(np.float64) * row.astype(np.float64)
        bound = ((self.width + 3) * ROUNDING + EXTRA_ROUNDING) * np.abs(terms).sum(axis=1)
        return bool((np.abs(scores - terms.sum(axis=1)) <= bound).all())

    def certified(self, queries: Float64, kth_distance: Float64, last: Float64, asked: Asked) -> Bool:
        """See :class:`index.generators.InnerProductRows`."""
        last = last * np.where(last < 0, 1 - EXTRA_ROUNDING, 1 + EXTRA_ROUNDING)
        return self._generator.certified(queries, kth_distance, Candidates(_NOWHERE, last))

    def _served(self, space: Float64) -> Float64:
        if not self._generator.serves(space).all():
            raise PointError(
                f"expected points within {LARGEST_INNER_PRODUCT_RADIUS:.0f}/sqrt(c) of the origin, which is what "
                "float32 inner products hold: use the coordinates 'ball'"
            )
        return space


def coordinates_of(frame: Frame, embedding_dim: int, c: float) -> Coordinates:
    """The coordinates of that name."""
    return BallCoordinates(embedding_dim, c) if frame == "ball" else LorentzCoordinates(embedding_dim, c)
