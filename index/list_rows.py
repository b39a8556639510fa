"""Lists: an inverted file over Lorentz k-means cells, each scanned in the frame of its own centroid."""

import math
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from index.distances import Float64, norms
from index.exact_points import ExactPoints, Float32, Int64
from index.faiss_library import (
    faiss,
    inner_products_by_blas,
    own_method,
    range_search_lists,
    search_lists,
    write_faiss,
)
from index.frames import Frames
from index.generators import (
    FAISS_FILE,
    LARGEST_INNER_PRODUCT_RADIUS,
    ROUNDING,
    SPACE_FILE,
    Bool,
    Candidates,
    inner_product_factor,
    remove_rows,
)
from index.gpu import Device, GpuCopy
from index.kmeans import FLOAT32_RADIUS

LISTS_FILE = "lists.npz"
BLOCK = 1 << 22  # numbers of a block of frames
LARGEST_SPAN = 80.0  # radius of a query, a centroid and its reach together: float32 ends at exp(88.7)
SPARE = {"ivf": 8, "ivf_sq8": 50}  # proposals beyond k


class ListRows:
    """Generator A in the frame of each list: s = -cosh(sqrt(c) d), from inner products of points near the origin.

    A point lies in the list of its nearest centroid mu, as its coordinates in mu's frame (:mod:`index.frames`), and a
    query enters the frame of each list that it probes. There, the float32 error of s is at most

        eps = f u cosh(d(q, mu)) cosh(reach) + float64's share,    f = 2 (d + 4),

    with the list's `reach`, the distance of its farthest point: 1e-4 at any radius, where the global frame of
    generator A rounds at 2^-24 cosh(r)^2. Rows of 8 bits ("ivf_sq8") add |q'| times the largest |x' - decoded x'| of
    the list, which is measured.

    No point of a list lies nearer than d(q, mu) - reach: lists for which that exceeds the k-th distance need not be
    scanned, which is how answers are proven exact over all lists.

    Memory: 4 (d + 1) + 8 bytes a point (d + 1 + 8 with 8 bits), and the exact points where they are not mapped.
    """

    name = "lists"
    compact = False

    def __init__(
        self, kind: Literal["ivf", "ivf_sq8"], c: float, centroids: Float32, inverted: Any, points: ExactPoints,
        bounds: Float64 | None = None,
    ) -> None:  # fmt: skip
        self.kind = kind
        self.c = c
        self.inverted = inverted
        self.points = points
        self.gpu: GpuCopy | None = None
        # float32 rows are as good centres as any; products with far ones are taken in float64, of a copy.
        self.frames = Frames(centroids, c)
        self._wide = bool(self.frames.times.max() >= math.cosh(FLOAT32_RADIUS))
        if self._wide:
            self.frames = Frames(centroids.astype(np.float64), c)
        # Of each list: cosh(sqrt(c) reach), and the largest error of a stored row.
        self._bounds = np.stack([np.ones(len(centroids)), np.zeros(len(centroids))]) if bounds is None else bounds
        self._factor = inner_product_factor(centroids.shape[1])
        self._farthest_centroid = float(self.frames.times.max())
        self._span = self._largest_span()
        self._longest = self._length_of(range(len(centroids)))  # at least as long as any list

    @classmethod
    def create(cls, kind: Literal["ivf", "ivf_sq8"], centroids: Float64, c: float, space: Float32) -> "ListRows":
        """Lists about `centroids` (l, d), l >= 1, holding the points `space` (n, d), n >= 1."""
        library = faiss()
        count, dim = centroids.shape
        unit = (math.sqrt(c) * centroids).astype(np.float32)
        coarse = library.IndexFlatIP(dim + 1)
        coarse.add(np.concatenate([Frames(unit, c).times[:, None], unit], axis=1, dtype=np.float32))
        metric = library.METRIC_INNER_PRODUCT
        if kind == "ivf":
            inverted = library.IndexIVFFlat(coarse, dim + 1, count, metric)
        else:
            eight_bits = library.ScalarQuantizer.QT_8bit
            inverted = library.IndexIVFScalarQuantizer(coarse, dim + 1, count, eight_bits, metric, False)
        inverted.is_trained = True
        rows = cls(kind, c, unit, inverted, ExactPoints(np.zeros((0, dim), dtype=np.float32)))
        if kind == "ivf_sq8":
            rows._train_eight_bits(space)
        rows._add(space)
        rows.points = ExactPoints(space)
        return rows

    @classmethod
    def read(cls, folder: Path, embedding_dim: int, c: float) -> Self:
        """What :meth:`write` wrote; the exact points stay in their file."""
        with np.load(folder / LISTS_FILE, allow_pickle=False) as arrays:
            kind, centroids, bounds = str(arrays["kind"]), arrays["centroids"], arrays["bounds"]
        if kind not in SPARE or centroids.shape[1] != embedding_dim:
            raise ValueError(f"{folder} holds lists of kind {kind!r} with centroids of shape {centroids.shape}")
        inverted = faiss().read_index(str(folder / FAISS_FILE))
        points = ExactPoints.map(folder / SPACE_FILE)
        return cls(kind, c, centroids, inverted, points, bounds)  # type: ignore[arg-type]

    def write(self, folder: Path) -> None:
        """index.faiss, lists.npz, space.npy"""
        write_faiss(self.inverted, folder / FAISS_FILE)
        np.savez(
            folder / LISTS_FILE,
            kind=np.array(self.kind),
            centroids=self.frames.centres.astype(np.float32),
            bounds=self._bounds,
        )
        np.save(folder / SPACE_FILE, self.points.array())

    def __len__(self) -> int:
        """Positions, those of removed rows included."""
        return len(self.points)

    @property
    def nlist(self) -> int:
        """How many lists there are."""
        return len(self.frames)

    @property
    def imbalance(self) -> float:
        """How many times more rows a probe meets than with lists of one length: l sum n_i^2 / n^2."""
        return float(self.inverted.invlists.imbalance_factor()) if self.inverted.ntotal else 1.0

    @property
    def resident_bytes(self) -> int:
        """Codes, ids, centroids, and the exact points that are not mapped."""
        codes = int(self.inverted.ntotal) * (int(self.inverted.code_size) + 8)
        coarse = 4 * self.nlist * int(self.inverted.d)
        return codes + coarse + self.frames.nbytes + self._bounds.nbytes + self.points.resident_bytes

    def use(self, device: Device) -> None:
        """Let the CPU propose, or a GPU: of lists in float32, those of 8 bits stay on the CPU (:mod:`index.gpu`)."""
        self.gpu = GpuCopy(self.inverted) if device == "cuda" and self.kind == "ivf" else None

    def add(self, space: Float32) -> None:
        """Append rows (n, d)."""
        self._add(space)
        self.points.append(space)

    def remove(self, positions: Int64) -> None:
        """Remove rows; the others stay where they are."""
        remove_rows(self.inverted, positions, len(self))

    def gather(self, positions: Int64) -> Float32:
        """Space parts exactly as they were added."""
        return self.points.gather(positions)

    def serves(self, queries: Float64) -> Bool:
        """Queries whose products with centroids, and with rows in their frames, stay far from float32's largest."""
        radius = np.arcsinh(math.sqrt(self.c) * norms(queries))
        return np.asarray(radius <= min(LARGEST_INNER_PRODUCT_RADIUS, LARGEST_SPAN - self._span), dtype=np.bool_)

    def proposals(self, count: int, nprobe: int) -> int:
        """How many rows a scan for `count` candidates holds for each query before it chooses."""
        return min(nprobe, self.nlist) * min(count, self._longest)

    def candidates(self, queries: Float64, count: int, allowed: Bool | None, nprobe: int | None = None) -> Candidates:
        """The `count` largest s among the rows of the `nprobe` nearest lists."""
        scaled, times = self.frames.unit(queries)
        lists, beyond = self._route(scaled, times, nprobe or 1)
        number, probes = lists.shape
        inside, cosh = self.frames.enter(scaled, times, lists, flip_time=True)
        rows = inside.reshape(number * probes, -1)
        each_list = max(1, min(count, self._longest))
        if allowed is None and self.gpu and (found := self.gpu.search_lists(rows, lists.reshape(-1), each_list)):
            scores, positions = found
        else:
            scores, positions = search_lists(self.inverted, rows, lists, each_list, allowed)
        scores, positions = scores.reshape(number, probes, each_list), positions.reshape(number, probes, each_list)
        # A list gave all it has where it gave fewer than were asked for, or as many as the longest has.
        more = (positions[..., -1] >= 0) & (each_list < self._longest)
        unseen = np.where(more, scores[..., -1], -np.inf).astype(np.float64)
        scores, positions = scores.reshape(number, -1), positions.reshape(number, -1)
        if positions.shape[1] < count:
            positions = np.pad(positions, ((0, 0), (0, count - positions.shape[1])), constant_values=-1)
        elif probes > 1:
            scores = np.where(positions >= 0, scores, -np.inf)
            best = np.argpartition(scores, -count, axis=1)[:, -count:]
            each = np.arange(number)[:, None]
            positions = positions[each, best]
            unseen = np.maximum(unseen, scores[each, best].min(axis=1)[:, None])
        last = (-unseen - self._eps(times, lists, cosh)).min(axis=1)
        return Candidates(positions, last, lists=lists, outside=self._outside(beyond))

    def certified(self, queries: Float64, kth_distance: Float64, candidates: Candidates) -> Bool:
        """-s_m - eps > cosh(sqrt(c) d)."""
        return np.asarray(candidates.last > _cosh(math.sqrt(self.c) * kth_distance), dtype=np.bool_)

    def within(self, query: Float64, distance: float, allowed: Bool | None, lists: Int64 | None = None) -> Int64:
        """Rows with s >= -(cosh(sqrt(c) d) + eps), of every list that reaches so near."""
        wide = math.sqrt(self.c) * distance
        scaled, times = self.frames.unit(query[None])
        if lists is None:
            near = self.frames.cosh_to_all(scaled, times)[0] - self.frames.rounding(times)
            lists = np.flatnonzero(near <= _cosh(wide + np.arccosh(self._bounds[0])) * (1 + 1e-12))
        found: list[Int64] = []
        step = max(1, BLOCK // len(query))
        for start in range(0, len(lists), step):
            part = lists[start : start + step]
            inside, cosh = self.frames.enter(scaled, times, part[None], flip_time=True)
            threshold = _cosh(np.array([wide])) + self._eps(times, part[None], cosh)[0]
            # One threshold for all: -1, a hair wider than its rounding.
            rows = (inside[0] / threshold[:, None]).astype(np.float32)
            found.append(range_search_lists(self.inverted, rows, part, -(1 + 8 * ROUNDING), allowed))
        return np.concatenate([np.zeros(0, dtype=np.int64), *found])

    def route(self, queries: Float64, nprobe: int) -> tuple[Int64, Float64]:
        """The nearest lists (q, p), nearest first, and cosh(sqrt(c) d) that no other list's centroid falls below (q,).

        Float32 products, float64 where centroids lie at radius 7/sqrt(c) or beyond.
        """
        return self._route(*self.frames.unit(queries), nprobe)

    def _route(self, scaled: Float64, times: Float64, nprobe: int) -> tuple[Int64, Float64]:
        probes = min(nprobe, self.nlist)
        wanted = min(probes + 1, self.nlist)
        if self._wide:
            cosh = self.frames.cosh_to_all(scaled, times)
            lists = np.argpartition(cosh, wanted - 1, axis=1)[:, :wanted]
            found = np.take_along_axis(cosh, lists, axis=1)
            order = np.argsort(found, axis=1)
            lists, found = np.take_along_axis(lists, order, axis=1), np.take_along_axis(found, order, axis=1)
            rounding = self.frames.rounding(times, slice(0, 1)) / self.frames.times[0]
        else:
            flipped = np.concatenate([-times[:, None], scaled], axis=1).astype(np.float32)
            search = own_method(self.inverted.quantizer, "search")
            with inner_products_by_blas() if len(times) > 1 else nullcontext():
                scores, lists = search(flipped, wanted)
            found = -scores.astype(np.float64)
            rounding = self._factor * ROUNDING * times
        beyond = np.full(len(times), np.inf)
        if wanted > probes:
            beyond = found[:, -1] - rounding * self._farthest_centroid
        return lists[:, :probes], np.maximum(beyond, 1)

    def _add(self, space: Float32) -> None:
        library = faiss()
        first = len(self.points)
        step = max(1, BLOCK // space.shape[1])
        for start in range(0, len(space), step):
            part = self.frames.unit(space[start : start + step].astype(np.float64))
            lists = self._route(*part, 1)[0]
            inside, cosh = self.frames.enter(*part, lists)
            rows, lists = np.ascontiguousarray(inside[:, 0]), np.ascontiguousarray(lists[:, 0])
            positions = np.arange(first + start, first + start + len(rows), dtype=np.int64)
            self.inverted.add_core(len(rows), *map(library.swig_ptr, (rows, positions, lists)))
            rounding = self.frames.rounding(part[1], lists)
            np.maximum.at(self._bounds[0], lists, cosh[:, 0] + rounding)
            np.maximum.at(self._bounds[1], lists, self._row_errors(rows) + 2 * rounding)
            self._longest = max(self._longest, self._length_of(np.unique(lists[lists >= 0]).tolist()))
        self._span = self._largest_span()

    def _largest_span(self) -> float:
        """The largest radius of a centroid and reach of its list together: products with rows grow by exp of it."""
        return float((np.arccosh(self.frames.times) + np.arccosh(self._bounds[0])).max())

    def _length_of(self, lists: Iterable[int]) -> int:
        """The length of the longest of these lists."""
        return max((int(self.inverted.invlists.list_size(number)) for number in lists), default=0)

    def _train_eight_bits(self, space: Float32) -> None:
        """The range of each coordinate, over all frames."""
        step = max(1, BLOCK // space.shape[1])
        low, high = [], []
        for start in range(0, len(space), step):
            part = self.frames.unit(space[start : start + step].astype(np.float64))
            inside, _ = self.frames.enter(*part, self._route(*part, 1)[0])
            low.append(inside[:, 0].min(axis=0))
            high.append(inside[:, 0].max(axis=0))
        ends = np.stack([np.min(low, axis=0), np.max(high, axis=0)]).astype(np.float32)
        self.inverted.sq.train(ends)

    def _row_errors(self, rows: Float32) -> Float64 | float:
        """|x' - x' as it is stored| of each row."""
        if self.kind == "ivf":
            return 0.0
        stored = self.inverted.sq.decode(self.inverted.sq.compute_codes(rows))
        return norms(stored.astype(np.float64) - rows)

    def _eps(self, times: Float64, lists: Int64, cosh: Float64) -> Float64:
        """Bound on the error of s for queries' times (q,) and lists (q, p) at cosh(sqrt(c) d(q, mu)) (q, p)."""
        reach, row_error = self._bounds[0][lists], self._bounds[1][lists]
        entering = 2 * self.frames.rounding(times[:, None], lists)
        # |y'| <= sqrt(2) cosh of either side, times the error of the other.
        return np.asarray(self._factor * ROUNDING * cosh * reach + math.sqrt(2) * (cosh * row_error + reach * entering))

    def _outside(self, beyond: Float64) -> Float64:
        reach = float(np.arccosh(self._bounds[0]).max())
        return np.asarray((np.arccosh(beyond) - reach) / math.sqrt(self.c))


def _cosh(value: Any) -> Any:
    return np.cosh(np.minimum(value, 700.0))
