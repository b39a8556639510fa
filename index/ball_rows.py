"""Generator B: a flat scan of Poincare-ball coordinates, good at any radius."""

import math
from pathlib import Path
from typing import Any, Self

import numpy as np

from index.distances import Float64, norms
from index.exact_points import ExactPoints, Float32, Int64
from index.faiss_library import faiss, own_method, write_faiss
from index.generators import FAISS_FILE, ROUNDING, SPACE_FILE, Bool, Candidates, remove_rows, selector
from index.gpu import SHRINK, Device, GpuCopy


class BallRows:
    """Generator B: Euclidean distances between Poincare-ball coordinates of the unit ball, good at any
    radius.

    x -> b = sqrt c x_s / (1 + sqrt c x_time). With t = tanh(d / 2 sqrt K), w = 2 sqrt K / (q_time + sqrt K)
    and |b_q|^2 = 1 - w, the hyperbolic ball of radius d about q *is* the Euclidean ball about b_q (1 -
    t^2)/(1 - |b_q|^2 t^2) of radius w t / (1 - |b_q|^2 t^2), whose points lie within w t / (1 - |b_q| t) of
    b_q. All of 1 - |b_q|^2 t^2 is computed as (1 - t^2) + w t^2, which does not cancel.

    Euclidean distances to b_q come in another order than hyperbolic ones (their ratio may be exp(2 d / sqrt K) at
    equal d). So the scan is about the centre of the hyperbolic ball of a *guessed* k-th distance, the running median
    of those that were found: the nearer the guess, the fewer proposals it takes. The certificate holds for any guess.

    The float32 error of a Euclidean distance D is at most 4 u (rounding the two points, and the centre) +
    (d + 4)/2 u D (the sums of squares, worst case). Memory: 8 d n bytes: the ball rows, and the exact space
    parts for the re-rank.
    """

    name = "ball"
    compact = True

    def __init__(self, embedding_dim: int, c: float, flat: Any = None, points: ExactPoints | None = None) -> None:
        self.c = c
        self.flat = faiss().IndexFlatL2(embedding_dim) if flat is None else flat
        self.points = ExactPoints(np.zeros((0, embedding_dim), dtype=np.float32)) if points is None else points
        self.gpu: GpuCopy | None = None
        self._guess = 0.0

    @classmethod
    def read(cls, folder: Path, embedding_dim: int, c: float) -> Self:
        """What :meth:`write` wrote; the exact points stay in their file."""
        return cls(embedding_dim, c, faiss().read_index(str(folder / FAISS_FILE)), ExactPoints.map(folder / SPACE_FILE))

    def write(self, folder: Path) -> None:
        """index.faiss, space.npy"""
        write_faiss(self.flat, folder / FAISS_FILE)
        np.save(folder / SPACE_FILE, self.points.array())

    def __len__(self) -> int:
        return int(self.flat.ntotal)

    @property
    def resident_bytes(self) -> int:
        """4 d n, and as much again for exact points that are not mapped."""
        return 4 * int(self.flat.d) * len(self) + self.points.resident_bytes

    def use(self, device: Device) -> None:
        """Let the CPU propose, or a GPU."""
        self.gpu = GpuCopy(self.flat) if device == "cuda" else None

    def add(self, space: Float32) -> None:
        """Append rows (n, d)."""
        self.points.append(space)
        self.flat.add(self._ball(space.astype(np.float64)).astype(np.float32))

    def remove(self, positions: Int64) -> None:
        """Remove rows by position."""
        remove_rows(self.flat, positions, len(self))
        self.points.delete(positions)

    def gather(self, positions: Int64) -> Float32:
        """Space parts exactly as they were added."""
        return self.points.gather(positions)

    def serves(self, queries: Float64) -> Bool:
        """All of them: ball coordinates never overflow."""
        return np.ones(len(queries), dtype=np.bool_)

    def candidates(self, queries: Float64, count: int, allowed: Bool | None, nprobe: int | None = None) -> Candidates:
        """The `count` smallest Euclidean distances to the centre of the ball of the guessed radius."""
        centre = self._centre(queries, np.full(len(queries), self._guess))
        rows = (self._ball(queries) * centre[:, None]).astype(np.float32)
        if allowed is None and self.gpu and (found := self.gpu.search(rows, count)):
            squares, positions = found
            return Candidates(positions, SHRINK * np.sqrt(squares[:, -1].astype(np.float64)), centre)
        squares, positions = own_method(self.flat, "search")(rows, count, params=selector(allowed))
        return Candidates(positions, np.sqrt(squares[:, -1].astype(np.float64)), centre)

    def certified(self, queries: Float64, kth_distance: Float64, candidates: Candidates) -> Bool:
        """D_m > |b_q| |centre - centre(d)| + w t / (1 - |b_q|^2 t^2) + error."""
        centre = np.ones(len(queries)) if candidates.centre is None else candidates.centre
        farthest = self._farthest(queries, kth_distance, centre)
        self._learn(kth_distance)
        return np.asarray(candidates.last > farthest + self._error(farthest), dtype=np.bool_)

    def within(self, query: Float64, distance: float, allowed: Bool | None, lists: Int64 | None = None) -> Int64:
        """Rows in the Euclidean ball that the hyperbolic ball is."""
        reach = np.array([distance])
        t, w, denominator = (float(value[0]) for value in self._ball_of(query[None], reach))
        centre = self._ball(query[None]) * self._centre(query[None], reach)[:, None]
        radius = w * t / denominator
        bound = np.float32((radius + self._error(radius)) ** 2 * (1 + 2 * ROUNDING))
        _, _, positions = own_method(self.flat, "range_search")(
            centre.astype(np.float32), float(bound), params=selector(allowed)
        )
        return np.asarray(positions, dtype=np.int64)

    def _ball(self, space: Float64) -> Float64:
        root = math.sqrt(self.c)
        return np.asarray(root * space / (1 + np.sqrt(1 + np.square(root * norms(space))))[..., None])

    def _farthest(self, queries: Float64, distance: Float64, centre: Float64) -> Float64:
        """How far from `centre` (a fraction of b_q) the ball of radius d about q reaches."""
        t, w, denominator = self._ball_of(queries, distance)
        apart = np.sqrt(1 - w) * np.abs(centre - self._centre(queries, distance))
        return np.asarray(apart + w * t / denominator)

    def _centre(self, queries: Float64, distance: Float64) -> Float64:
        """(1 - t^2)/(1 - |b_q|^2 t^2): the centre of the ball of radius d about q, as a fraction of b_q."""
        _, _, denominator = self._ball_of(queries, distance)
        # 1 - t^2 without cancelling; cosh of anything beyond 300 would overflow when squared.
        half = np.minimum(300.0, math.sqrt(self.c) * distance / 2)
        return np.asarray(1 / np.square(np.cosh(half)) / denominator)

    def _learn(self, kth_distance: Float64) -> None:
        median = float(np.median(kth_distance)) if len(kth_distance) else math.inf
        if math.isfinite(median):
            self._guess = 0.8 * self._guess + 0.2 * median if self._guess else median

    def _ball_of(self, queries: Float64, distance: Float64) -> tuple[Float64, Float64, Float64]:
        half = np.minimum(300.0, math.sqrt(self.c) * distance / 2)
        t = np.tanh(half)
        w = 2 / (1 + np.sqrt(1 + np.square(math.sqrt(self.c) * norms(queries))))
        return t, w, 1 / np.square(np.cosh(half)) + w * np.square(t)

    def _error(self, distance: Any) -> Any:
        return ROUNDING * (4 + (self.flat.d + 4) / 2 * distance)
