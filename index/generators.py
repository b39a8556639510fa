"""Candidate generators: what FAISS scans in float32, and what its float32 answers can guarantee.

Here what all of them share, and generator A; B is in :mod:`index.ball_rows`, the lists in :mod:`index.list_rows`.

A generator holds the rows of one index in order. It proposes candidates, says from which proposals the exact
neighbours are certain to be among them, and lists everything that could lie within a given distance. Exact
distances are not its business: :mod:`index.lorentz_index` re-ranks in float64.

Notation: K = 1/c, r = radius of the query, d = distance of the k-th best candidate (float64), u = 2^-24.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt

from index.distances import Float64, norms
from index.exact_points import Float32, Int64
from index.faiss_library import faiss, inner_products_by_blas, own_method, stored_rows, write_faiss
from index.gpu import Device, GpuCopy

Bool = npt.NDArray[np.bool_]

ROUNDING = 2.0**-24  # relative error of one float32 operation
LARGEST = float(np.finfo(np.float32).max)
FAISS_FILE, SPACE_FILE = "index.faiss", "space.npy"
LARGEST_INNER_PRODUCT_RADIUS = 30.0  # of a query, in units of sqrt K: beyond it float32 products may overflow


class Candidates(NamedTuple):
    """What a scan proposes, and what :meth:`Generator.certified` needs to judge it."""

    positions: Int64  # (q, m); -1 where there were fewer
    last: Float64  # (q,): score that no row of the scan that was not proposed exceeds
    centre: Float64 | None = None  # (q,): where generator B scanned, as a fraction of the query's ball coordinates
    lists: Int64 | None = None  # (q, p): the lists that were scanned; None where everything was
    outside: Float64 | None = None  # (q,): no point that was not scanned lies nearer than this


class Generator(Protocol):
    """The rows of one index, as FAISS scans them."""

    name: str
    compact: bool  # whether rows move up when others are removed
    gpu: GpuCopy | None  # proposes instead of the CPU where it can; must be dropped before rows are added or removed

    def __len__(self) -> int:
        """Positions, those of removed rows included where rows stay in their places."""

    def use(self, device: Device) -> None:
        """Let the CPU propose, or a GPU."""

    def add(self, space: Float32) -> None:
        """Append rows (n, d)."""

    def remove(self, positions: Int64) -> None:
        """Remove rows by position; the others keep their order, or (not `compact`) their positions."""

    def gather(self, positions: Int64) -> Float32:
        """Space parts exactly as they were added: positions (...) -> (..., d)."""

    def serves(self, queries: Float64) -> Bool:
        """Queries (q, d) that float32 can answer at all -> (q,)."""

    def candidates(self, queries: Float64, count: int, allowed: Bool | None, nprobe: int | None = None) -> Candidates:
        """The `count` best rows by the float32 scan, of the `nprobe` nearest lists where there are lists."""

    def certified(self, queries: Float64, kth_distance: Float64, candidates: Candidates) -> Bool:
        """Where no row of the scan that was not proposed can lie within `kth_distance` (q,) of its query -> (q,)."""

    def within(self, query: Float64, distance: float, allowed: Bool | None, lists: Int64 | None = None) -> Int64:
        """Positions of every row (of `lists`, or of all) that could lie within `distance` of one query (d,); a few
        others may be among them."""

    def write(self, folder: Path) -> None:
        """Write everything into files of `folder`."""

    @property
    def resident_bytes(self) -> int:
        """Bytes held in memory."""


def selector(allowed: Bool | None) -> Any:
    """Search parameters that keep to the allowed rows; with any selector FAISS uses its exact kernels."""
    library = faiss()
    if allowed is None:
        return library.SearchParameters(sel=library.IDSelectorAll())
    return library.SearchParameters(sel=library.IDSelectorBitmap(np.packbits(allowed, bitorder="little")))


def remove_rows(index: Any, positions: Int64, count: int) -> None:
    """Take rows out of a FAISS index by position, of `count` that there are."""
    gone = np.zeros(count, dtype=bool)
    gone[positions] = True
    index.remove_ids(faiss().IDSelectorBitmap(np.packbits(gone, bitorder="little")))


def inner_product_factor(embedding_dim: int) -> float:
    """f of the bound f u sum |terms|/2 on a float32 inner product of d + 1 terms: see :class:`InnerProductRows`."""
    return 2.0 * (embedding_dim + 4)


def inner_product_radius(embedding_dim: int) -> float:
    """The radius, in units of sqrt K, up to which generator A certifies most answers: 3.8 at d = 64, 3.4 at
    d = 128.

    There its allowance eps is 0.004 K, as much as K cosh(d / sqrt K) grows over the last candidates of a
    dense cluster.
    """
    return 0.5 * math.log(4 * 0.004 / (inner_product_factor(embedding_dim) * ROUNDING))


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
    compact = True

    def __init__(self, embedding_dim: int, c: float, flat: Any = None) -> None:
        self.c = c
        self.flat = faiss().IndexFlatIP(embedding_dim + 1) if flat is None else flat
        self.gpu: GpuCopy | None = None
        self._factor = inner_product_factor(embedding_dim)

    @classmethod
    def read(cls, folder: Path, embedding_dim: int, c: float) -> Self:
        """What :meth:`write` wrote."""
        return cls(embedding_dim, c, faiss().read_index(str(folder / FAISS_FILE)))

    def write(self, folder: Path) -> None:
        """index.faiss"""
        write_faiss(self.flat, folder / FAISS_FILE)

    def __len__(self) -> int:
        return int(self.flat.ntotal)

    @property
    def resident_bytes(self) -> int:
        """4 (d + 1) n"""
        return 4 * int(self.flat.d) * len(self)

    def use(self, device: Device) -> None:
        """Let the CPU propose, or a GPU."""
        self.gpu = GpuCopy(self.flat) if device == "cuda" else None

    def add(self, space: Float32) -> None:
        """Append rows (n, d)."""
        self.flat.add(np.concatenate([self._times(space.astype(np.float64)), space], axis=1, dtype=np.float32))

    def remove(self, positions: Int64) -> None:
        """Remove rows by position."""
        remove_rows(self.flat, positions, len(self))

    def gather(self, positions: Int64) -> Float32:
        """Space parts exactly as they were added."""
        return np.asarray(stored_rows(self.flat)[positions, 1:])

    def serves(self, queries: Float64) -> Bool:
        """Queries whose products with any row stay far from float32's largest number."""
        return np.asarray(
            np.arcsinh(math.sqrt(self.c) * norms(queries)) <= LARGEST_INNER_PRODUCT_RADIUS, dtype=np.bool_
        )

    def candidates(self, queries: Float64, count: int, allowed: Bool | None, nprobe: int | None = None) -> Candidates:
        """The `count` largest inner products."""
        rows = self._flipped(queries)
        if allowed is None and self.gpu and (found := self.gpu.search(rows, count)):
            scores, positions = found
        elif allowed is None and len(rows) > 1:
            with inner_products_by_blas():
                scores, positions = own_method(self.flat, "search")(rows, count)
        else:
            scores, positions = own_method(self.flat, "search")(rows, count, params=selector(allowed))
        return Candidates(positions, scores[:, -1].astype(np.float64))

    def certified(self, queries: Float64, kth_distance: Float64, candidates: Candidates) -> Bool:
        """-s_m > K cosh(d / sqrt K) + eps."""
        return np.asarray(-candidates.last > self._threshold(queries, kth_distance), dtype=np.bool_)

    def within(self, query: Float64, distance: float, allowed: Bool | None, lists: Int64 | None = None) -> Int64:
        """Rows with s >= -(K cosh(d / sqrt K) + eps)."""
        threshold = float(self._threshold(query[None], np.array([distance]))[0])
        # Downwards by more than the rounding of float32(threshold) could be upwards; FAISS compares strictly.
        bound = np.float32(max(-threshold * (1 + 2 * ROUNDING), -LARGEST))
        _, _, positions = own_method(self.flat, "range_search")(
            self._flipped(query[None]), float(bound), params=selector(allowed)
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
