"""Candidate generators: what FAISS scans in float32, and what its float32 answers can guarantee.

A generator holds the rows of one index in order. It proposes candidates, says from which proposals the exact
neighbours are certain to be among them, and lists everything that could lie within a given distance. Exact
distances are not its business: :mod:`index.lorentz_index` re-ranks in float64.

Notation: K = 1/c, r = radius of the query, d = distance of the k-th best candidate (float64), u = 2^-24.
"""

import math
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from index.distances import Float64, norms
from index.faiss_library import faiss, inner_products_by_blas, own_method

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

ROUNDING = 2.0**-24  # relative error of one float32 operation
LARGEST = float(np.finfo(np.float32).max)
LARGEST_INNER_PRODUCT_RADIUS = 30.0  # of a query, in units of sqrt K: beyond it float32 products may overflow


class Generator(Protocol):
    """The rows of one index, as FAISS scans them."""

    name: str

    def add(self, space: Float32) -> None:
        """Append rows (n, d)."""

    def remove(self, positions: Int64) -> None:
        """Remove rows by position; the others keep their order."""

    def gather(self, positions: Int64) -> Float32:
        """Space parts exactly as they were added: positions (...) -> (..., d)."""

    def serves(self, queries: Float64) -> Bool:
        """Queries (q, d) that float32 can answer at all -> (q,)."""

    def candidates(self, queries: Float64, count: int, allowed: Bool | None) -> tuple[Int64, Float64]:
        """The `count` best rows by the float32 scan -> positions (q, count) and the last one's score (q,)."""

    def certified(self, queries: Float64, kth_distance: Float64, last_score: Float64) -> Bool:
        """Where no row outside the candidates can lie within `kth_distance` (q,) of its query -> (q,)."""

    def within(self, query: Float64, distance: float, allowed: Bool | None) -> Int64:
        """Positions of every row that could lie within `distance` of one query (d,); a few others may be
        among them."""


def _selector(allowed: Bool | None) -> Any:
    """Search parameters that keep to the allowed rows; with any selector FAISS uses its exact kernels."""
    library = faiss()
    if allowed is None:
        return library.SearchParameters(sel=library.IDSelectorAll())
    return library.SearchParameters(sel=library.IDSelectorBitmap(np.packbits(allowed, bitorder="little")))


def _remove(flat: Any, positions: Int64) -> None:
    gone = np.zeros(flat.ntotal, dtype=bool)
    gone[positions] = True
    flat.remove_ids(faiss().IDSelectorBitmap(np.packbits(gone, bitorder="little")))


def _rows(flat: Any) -> Float32:
    """The storage of a flat index as an array that shares its memory: valid until the index changes."""
    if flat.ntotal == 0:
        return np.zeros((0, flat.d), dtype=np.float32)
    view: Float32 = faiss().rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d).reshape(flat.ntotal, flat.d)
    return view


def _inner_product_factor(embedding_dim: int) -> float:
    return 2.0 * (embedding_dim + 4)


def inner_product_radius(embedding_dim: int) -> float:
    """The radius, in units of sqrt K, up to which generator A certifies most answers: 3.8 at d = 64, 3.4 at
    d = 128.

    There its allowance eps is 0.004 K, as much as K cosh(d / sqrt K) grows over the last candidates of a
    dense cluster.
    """
    return 0.5 * math.log(4 * 0.004 / (_inner_product_factor(embedding_dim) * ROUNDING))


class InnerProductRows:
    """Generator A: Lorentzian inner products over rows (x_time, x_space), for radii up to 3-4 sqrt K.

    Score s = <q, x>_L = -K cosh(d / sqrt K), from the plain inner product with the query (-q_time,
    q_space). The float32 error of s for a row within d of the query is at most

        eps = f u q_time sqrt K cosh((r + d) / sqrt K),    f = 2 (d + 4),

    since such a row has x_time <= sqrt K cosh((r + d) / sqrt K). f is the bound for any order of summation:
    d + 1 roundings of terms whose absolute values sum to at most 2 q_time x_time, and those of the inputs.
    A constant f of 10 is not enough: matrix products reach 21 at d = 128 and 39 at 1024
    (tests/index/test_generators.py), as they add the terms one after the other. Memory: 4 (d + 1) n bytes;
    the exact space parts are read from the same rows.
    """

    name = "inner_product"

    def __init__(self, embedding_dim: int, c: float, flat: Any = None) -> None:
        self.c = c
        self.flat = faiss().IndexFlatIP(embedding_dim + 1) if flat is None else flat
        self._factor = _inner_product_factor(embedding_dim)

    def add(self, space: Float32) -> None:
        """Append rows (n, d)."""
        self.flat.add(np.concatenate([self._times(space.astype(np.float64)), space], axis=1, dtype=np.float32))

    def remove(self, positions: Int64) -> None:
        """Remove rows by position."""
        _remove(self.flat, positions)

    def gather(self, positions: Int64) -> Float32:
        """Space parts exactly as they were added."""
        return np.asarray(_rows(self.flat)[positions, 1:])

    def serves(self, queries: Float64) -> Bool:
        """Queries whose products with any row stay far from float32's largest number."""
        return np.asarray(
            np.arcsinh(math.sqrt(self.c) * norms(queries)) <= LARGEST_INNER_PRODUCT_RADIUS, dtype=np.bool_
        )

    def candidates(self, queries: Float64, count: int, allowed: Bool | None) -> tuple[Int64, Float64]:
        """The `count` largest inner products."""
        rows = self._flipped(queries)
        if allowed is None and len(rows) > 1:
            with inner_products_by_blas():
                scores, positions = own_method(self.flat, "search")(rows, count)
        else:
            scores, positions = own_method(self.flat, "search")(rows, count, params=_selector(allowed))
        return positions, scores[:, -1].astype(np.float64)

    def certified(self, queries: Float64, kth_distance: Float64, last_score: Float64) -> Bool:
        """-s_m > K cosh(d / sqrt K) + eps."""
        return np.asarray(-last_score > self._threshold(queries, kth_distance), dtype=np.bool_)

    def within(self, query: Float64, distance: float, allowed: Bool | None) -> Int64:
        """Rows with s >= -(K cosh(d / sqrt K) + eps)."""
        threshold = float(self._threshold(query[None], np.array([distance]))[0])
        # Downwards by more than the rounding of float32(threshold) could be upwards; FAISS compares strictly.
        bound = np.float32(max(-threshold * (1 + 2 * ROUNDING), -LARGEST))
        _, _, positions = own_method(self.flat, "range_search")(
            self._flipped(query[None]), float(bound), params=_selector(allowed)
        )
        return np.asarray(positions, dtype=np.int64)

    def _times(self, space: Float64) -> Float64:
        return np.sqrt(1 / self.c + np.square(norms(space)))[..., None]

    def _flipped(self, queries: Float64) -> Float32:
        return np.concatenate([-self._times(queries), queries], axis=1).astype(np.float32)

    def _threshold(self, queries: Float64, distance: Float64) -> Float64:
        root = math.sqrt(self.c)
        query_norms = norms(queries)
        radius = np.arcsinh(root * query_norms) / root
        farthest_time = np.cosh(np.minimum(root * (radius + distance), 700.0)) / root
        eps = self._factor * ROUNDING * np.sqrt(1 / self.c + np.square(query_norms)) * farthest_time
        return np.asarray(np.cosh(np.minimum(root * distance, 700.0)) / self.c + eps)


class BallRows:
    """Generator B: Euclidean distances between Poincare-ball coordinates of the unit ball, good at any
    radius.

    x -> b = sqrt c x_s / (1 + sqrt c x_time). With t = tanh(d / 2 sqrt K), w = 2 sqrt K / (q_time + sqrt K)
    and |b_q|^2 = 1 - w, the hyperbolic ball of radius d about q *is* the Euclidean ball about b_q (1 -
    t^2)/(1 - |b_q|^2 t^2) of radius w t / (1 - |b_q|^2 t^2), whose points lie within w t / (1 - |b_q| t) of
    b_q. All of 1 - |b_q|^2 t^2 is computed as (1 - t^2) + w t^2, which does not cancel.

    The float32 error of a Euclidean distance D is at most 4 u (rounding the two points, and the centre) +
    (d + 4)/2 u D (the sums of squares, worst case). Memory: 8 d n bytes: the ball rows, and the exact space
    parts for the re-rank.
    """

    name = "ball"

    def __init__(self, embedding_dim: int, c: float, flat: Any = None, space: Float32 | None = None) -> None:
        self.c = c
        self.flat = faiss().IndexFlatL2(embedding_dim) if flat is None else flat
        # Grown by doubling, so that adding one row at a time stays cheap.
        self._buffer = np.zeros((0, embedding_dim), dtype=np.float32) if space is None else space

    @property
    def space(self) -> Float32:
        """The exact space parts (n, d)."""
        return self._buffer[: self.flat.ntotal]

    def add(self, space: Float32) -> None:
        """Append rows (n, d)."""
        start, end = self.flat.ntotal, self.flat.ntotal + len(space)
        if end > len(self._buffer):
            grown = np.empty((max(end, 2 * len(self._buffer)) if start else end, space.shape[1]), dtype=np.float32)
            grown[:start] = self._buffer[:start]
            self._buffer = grown
        self._buffer[start:end] = space
        self.flat.add(self._ball(space.astype(np.float64)).astype(np.float32))

    def remove(self, positions: Int64) -> None:
        """Remove rows by position."""
        kept = np.delete(self.space, positions, axis=0)
        _remove(self.flat, positions)
        self._buffer = kept

    def gather(self, positions: Int64) -> Float32:
        """Space parts exactly as they were added."""
        return np.asarray(self.space[positions])

    def serves(self, queries: Float64) -> Bool:
        """All of them: ball coordinates never overflow."""
        return np.ones(len(queries), dtype=np.bool_)

    def candidates(self, queries: Float64, count: int, allowed: Bool | None) -> tuple[Int64, Float64]:
        """The `count` smallest Euclidean distances."""
        rows = self._ball(queries).astype(np.float32)
        squares, positions = own_method(self.flat, "search")(rows, count, params=_selector(allowed))
        return positions, np.sqrt(squares[:, -1].astype(np.float64))

    def certified(self, queries: Float64, kth_distance: Float64, last_score: Float64) -> Bool:
        """D_m > w t / (1 - |b_q| t) + error."""
        farthest = self._farthest(queries, kth_distance)
        return np.asarray(last_score > farthest + self._error(farthest), dtype=np.bool_)

    def within(self, query: Float64, distance: float, allowed: Bool | None) -> Int64:
        """Rows in the Euclidean ball that the hyperbolic ball is."""
        t, w, denominator = (float(value[0]) for value in self._ball_of(query[None], np.array([distance])))
        # 1 - t^2, without cancelling; cosh of anything beyond 300 would overflow when squared.
        centre = self._ball(query[None]) / math.cosh(min(300.0, math.sqrt(self.c) * distance / 2)) ** 2 / denominator
        radius = w * t / denominator
        bound = np.float32((radius + self._error(radius)) ** 2 * (1 + 2 * ROUNDING))
        _, _, positions = own_method(self.flat, "range_search")(
            centre.astype(np.float32), float(bound), params=_selector(allowed)
        )
        return np.asarray(positions, dtype=np.int64)

    def _ball(self, space: Float64) -> Float64:
        root = math.sqrt(self.c)
        return np.asarray(root * space / (1 + np.sqrt(1 + np.square(root * norms(space))))[..., None])

    def _farthest(self, queries: Float64, distance: Float64) -> Float64:
        t, w, denominator = self._ball_of(queries, distance)
        # (1 - |b_q|^2 t^2) / (1 + |b_q| t) is 1 - |b_q| t, without cancelling.
        return np.asarray(w * t * (1 + np.sqrt(1 - w) * t) / denominator)

    def _ball_of(self, queries: Float64, distance: Float64) -> tuple[Float64, Float64, Float64]:
        half = np.minimum(300.0, math.sqrt(self.c) * distance / 2)
        t = np.tanh(half)
        w = 2 / (1 + np.sqrt(1 + np.square(math.sqrt(self.c) * norms(queries))))
        return t, w, 1 / np.square(np.cosh(half)) + w * np.square(t)

    def _error(self, distance: Any) -> Any:
        return ROUNDING * (4 + (self.flat.d + 4) / 2 * distance)
