"""LorentzIndex: exact nearest neighbours on the hyperboloid, from FAISS scans in float32 and a float64
re-rank."""

import json
import logging
import threading
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from index.distances import Float64, distances, norms
from index.errors import PointError, SnapshotError
from index.faiss_library import faiss
from index.files import new_folder, sha256, write_json
from index.generators import BallRows, Bool, Float32, Generator, InnerProductRows, Int64, inner_product_radius
from index.locks import ReadWriteLock
from index.points import some, valid_ids, valid_points

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
SWITCH_AFTER_QUERIES = 64
SWITCH_AT_FAILURES = 0.1
SCAN_ALL_BELOW = 2048  # so few allowed rows are compared in float64 at once
RERANK_ELEMENTS = 4_000_000  # float64 numbers of candidates held at a time


class LorentzIndex:
    """Nearest neighbours by geodesic distance among float32 space parts, certified exact.

    The truth is the float32 space part of each point; times and distances are computed from it in float64.
    FAISS proposes candidates in float32, the candidates are re-ranked in float64, and a bound on the
    float32 error certifies that no other row can belong to the answer. Where it cannot, everything within
    the k-th distance is listed by a range scan and re-ranked: the answers of kind "flat" are exact. Equal
    distances come in the order of their ids.

    Safe for any number of concurrent searches with concurrent writers (searches wait while a write is
    applied).
    """

    def __init__(self, embedding_dim: int, c: float, *, kind: Literal["flat"] = "flat") -> None:
        if kind != "flat":
            raise ValueError(f"expected kind 'flat', got {kind!r}")
        if not (np.isfinite(c) and c > 0):
            raise ValueError(f"expected a finite c > 0 (the curvature is -c), got {c}")
        if embedding_dim < 1:
            raise ValueError(f"expected embedding_dim >= 1, got {embedding_dim}")
        self.kind = kind
        self.c = float(c)
        self.embedding_dim = embedding_dim
        self._lock = ReadWriteLock()
        self._generator: Generator = InnerProductRows(embedding_dim, self.c)
        self._set_ids(np.zeros(0, dtype=np.int64))
        self._counter = threading.Lock()
        self._queries = 0
        self._uncertified = 0

    @classmethod
    def build(
        cls, space: npt.ArrayLike, ids: npt.ArrayLike, c: float, kind: Literal["flat"] = "flat"
    ) -> "LorentzIndex":
        """An index of the points with space parts `space` (n, d), under the int64 ids `ids` (n,), >= 0 and
        unique."""
        space = np.asarray(space)
        if space.ndim != 2:
            raise PointError(f"expected space parts of shape (n, d), got shape {space.shape}")
        index = cls(space.shape[1], c, kind=kind)
        index.add(space, ids)
        return index

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def generator(self) -> str:
        """What proposes the candidates now: "inner_product" or "ball"."""
        return self._generator.name

    @property
    def ids(self) -> Int64:
        """A copy of all ids, ascending."""
        with self._lock.read():
            return self._sorted_ids.copy()

    @property
    def statistics(self) -> dict[str, int]:
        """`queries` answered by this generator since the index was made or loaded, and how many the scan
        did not certify."""
        with self._counter:
            return {"queries": self._queries, "uncertified": self._uncertified}

    def add(self, space: npt.ArrayLike, ids: npt.ArrayLike) -> None:
        """Add points: space parts (n, d) and their ids (n,). All of them or, on :class:`PointError`, none."""
        points = valid_points(space, self.embedding_dim).astype(np.float32)
        new_ids = valid_ids(ids)
        if len(new_ids) != len(points):
            raise PointError(f"expected one id per point, got {len(points)} points and {len(new_ids)} ids")
        unique, counts = np.unique(new_ids, return_counts=True)
        if (counts > 1).any():
            raise PointError(f"expected unique ids, got {some(unique[counts > 1])} more than once")
        if not len(points):
            return
        with self._lock.write():
            live = self._positions(new_ids) >= 0
            if live.any():
                raise PointError(f"ids {some(new_ids[live])} are in the index already: remove them first")
            if self._generator.name == "inner_product" and self._too_far(points):
                self._switch_to_ball()
            self._generator.add(points)
            self._set_ids(np.concatenate([self._ids, new_ids]))

    def remove(self, ids: npt.ArrayLike) -> int:
        """Remove points by id; ids that are not there are passed over. Returns how many were removed."""
        gone = np.unique(valid_ids(ids))
        with self._lock.write():
            positions = self._positions(gone)
            positions = np.sort(positions[positions >= 0])
            if len(positions):
                self._generator.remove(positions)
                self._set_ids(np.delete(self._ids, positions))
            return len(positions)

    def search(
        self, space_queries: npt.ArrayLike, k: int, *, allowed: npt.ArrayLike | None = None
    ) -> tuple[Float64, Int64, bool]:
        """The k nearest points of each query, nearest first.

        `space_queries`: space parts (q, d). `allowed`: ids to choose from (all by default; ids not in the
        index are passed over). Returns geodesic distances (q, k) in float64, ids (q, k), and whether all of
        it is proven exact. Where fewer than k points exist the rest is filled with inf and -1.
        """
        queries = valid_points(space_queries, self.embedding_dim)
        if k < 1:
            raise ValueError(f"expected k >= 1, got {k}")
        with self._lock.read():
            mask, population = self._mask(allowed)
            found = np.full((len(queries), k), np.inf), np.full((len(queries), k), -1, dtype=np.int64)
            exact, failures = True, 0
            if population and len(queries):
                exact, failures = self._search(queries, min(k, population), mask, population, found)
        self._note(len(queries), failures)
        return *found, exact

    def range_search(
        self, space_queries: npt.ArrayLike, radius: float, *, allowed: npt.ArrayLike | None = None
    ) -> tuple[Int64, Float64, Int64]:
        """Every point within geodesic distance `radius` of each query, nearest first; none missed, none
        beyond.

        Returns (lims, distances, ids): the hits of query i are at lims[i]:lims[i + 1], lims (q + 1,).
        """
        queries = valid_points(space_queries, self.embedding_dim)
        if not radius >= 0:
            raise ValueError(f"expected a radius >= 0, got {radius}")
        with self._lock.read():
            mask, population = self._mask(allowed)
            hits = [
                self._within(query, radius, mask) if population else (np.zeros(0), np.zeros(0, dtype=np.int64))
                for query in queries
            ]
        lims = np.cumsum([0, *(len(ids) for _, ids in hits)], dtype=np.int64)
        empty = (np.zeros(0), np.zeros(0, dtype=np.int64))
        all_distances, all_ids = zip(empty, *hits, strict=True)
        return lims, np.concatenate(all_distances), np.concatenate(all_ids)

    def save(self, folder: Path) -> None:
        """Write the index into `folder`, which is replaced as a whole: `index.json` names each file's
        SHA-256."""
        library = faiss()
        folder = Path(folder)
        with self._lock.read(), new_folder(folder, replace=True) as temporary:
            generator: Any = self._generator
            library.write_index(generator.flat, str(temporary / "index.faiss"))
            np.save(temporary / "ids.npy", self._ids)
            if isinstance(generator, BallRows):
                np.save(temporary / "space.npy", generator.space)
            description = {
                "format_version": FORMAT_VERSION,
                "kind": self.kind,
                "generator": generator.name,
                "embedding_dim": self.embedding_dim,
                "c": self.c,
                "count": len(self),
                "files": {path.name: sha256(path) for path in sorted(temporary.iterdir())},
            }
            write_json(temporary / "index.json", description)

    @classmethod
    def load(cls, folder: Path, *, hashes_verified: bool = False) -> Self:
        """Read what :meth:`save` wrote. Every hash is verified before FAISS reads a byte;
        :class:`SnapshotError` otherwise.

        `hashes_verified`: the caller just did that, by hashes of its own.
        """
        library = faiss()
        folder = Path(folder)
        try:
            description = json.loads((folder / "index.json").read_text(encoding="utf-8"))
            version = description["format_version"]
            if version != FORMAT_VERSION:
                raise SnapshotError(
                    f"{folder} has index format {version}, this version reads {FORMAT_VERSION}: rebuild it"
                )
            for name, expected in description["files"].items():
                if not hashes_verified and (found := sha256(folder / name)) != expected:
                    raise SnapshotError(
                        f"{folder / name} is damaged: expected sha256 {expected[:12]}, found {found[:12]}"
                    )
            index = cls(description["embedding_dim"], description["c"], kind=description["kind"])
            ids = np.load(folder / "ids.npy", allow_pickle=False)
            flat = library.read_index(str(folder / "index.faiss"))
            if description["generator"] == "ball":
                space = np.load(folder / "space.npy", allow_pickle=False)
                index._generator = BallRows(index.embedding_dim, index.c, flat, space)
            else:
                index._generator = InnerProductRows(index.embedding_dim, index.c, flat)
            count = description["count"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SnapshotError(f"{folder} holds no readable index ({error}): rebuild it") from error
        if not flat.ntotal == len(ids) == count:
            raise SnapshotError(f"{folder} is inconsistent: {count} points announced, {flat.ntotal} found: rebuild it")
        index._set_ids(ids)
        return index

    def _search(
        self, queries: Float64, k: int, mask: Bool | None, population: int, found: tuple[Float64, Int64]
    ) -> tuple[bool, int]:
        """Fill the first k columns of `found`; returns (all proven exact, queries that the scan did not
        certify)."""
        if mask is not None and population <= SCAN_ALL_BELOW:
            positions = np.flatnonzero(mask)
            for row, query in enumerate(queries):
                self._keep(found, row, *self._ranked(query, positions), k)
            return True, 0
        served = self._generator.serves(queries)
        certified = np.zeros(len(queries), dtype=bool)
        count = min(population, 2 * k + 20)
        chunk = max(1, RERANK_ELEMENTS // (count * self.embedding_dim))
        rows = np.flatnonzero(served)
        if len(rows):
            positions, last_score = self._generator.candidates(queries[rows], count, mask)
            for start in range(0, len(rows), chunk):
                part = slice(start, start + chunk)
                exact = distances(queries[rows[part]], self._generator.gather(positions[part]), self.c)
                candidate_ids = self._ids[positions[part]]
                order = np.lexsort((candidate_ids, exact), axis=-1)[:, :k]
                found[0][rows[part], :k] = np.take_along_axis(exact, order, axis=1)
                found[1][rows[part], :k] = np.take_along_axis(candidate_ids, order, axis=1)
            certified[rows] = (count == population) | self._generator.certified(
                queries[rows], found[0][rows, k - 1], last_score
            )
        for row in np.flatnonzero(~certified).tolist():
            # The k-th candidate bounds the k-th neighbour from above, so the neighbours are all within its
            # distance.
            if served[row]:
                hits = self._within(queries[row], float(found[0][row, k - 1]), mask)
            else:
                hits = self._ranked(queries[row], self._all_positions(mask))
            self._keep(found, row, *hits, k)
        # Each query was certified, or everything that could be in its answer was compared in float64.
        return True, int(np.count_nonzero(~certified))

    @staticmethod
    def _keep(found: tuple[Float64, Int64], row: int, exact: Float64, ids: Int64, k: int) -> None:
        found[0][row, :k], found[1][row, :k] = exact[:k], ids[:k]

    def _within(self, query: Float64, radius: float, mask: Bool | None) -> tuple[Float64, Int64]:
        if self._generator.serves(query[None])[0]:
            # The re-rank's own rounding must not lose a point at exactly the radius: scan a hair wider.
            positions = self._generator.within(query, radius * (1 + 1e-9), mask)
        else:
            positions = self._all_positions(mask)
        exact, ids = self._ranked(query, positions)
        end = int(np.searchsorted(exact, radius, side="right"))
        return exact[:end], ids[:end]

    def _ranked(self, query: Float64, positions: Int64) -> tuple[Float64, Int64]:
        """Exact distances of one query to some rows, and their ids, nearest first."""
        chunk = max(1, RERANK_ELEMENTS // self.embedding_dim)
        parts = [
            distances(query[None], self._generator.gather(positions[start : start + chunk])[None], self.c)[0]
            for start in range(0, len(positions), chunk)
        ]
        exact = np.concatenate(parts) if parts else np.zeros(0)
        ids = self._ids[positions]
        order = np.lexsort((ids, exact))
        return exact[order], ids[order]

    def _all_positions(self, mask: Bool | None) -> Int64:
        return np.arange(len(self._ids)) if mask is None else np.flatnonzero(mask)

    def _mask(self, allowed: npt.ArrayLike | None) -> tuple[Bool | None, int]:
        if allowed is None:
            return None, len(self._ids)
        positions = self._positions(valid_ids(allowed))
        mask = np.zeros(len(self._ids), dtype=bool)
        mask[positions[positions >= 0]] = True
        return mask, int(np.count_nonzero(mask))

    def _set_ids(self, ids: Int64) -> None:
        self._ids = ids
        self._order = np.argsort(ids, kind="stable")
        self._sorted_ids = ids[self._order]

    def _positions(self, ids: Int64) -> Int64:
        """Row of each id, -1 where it is not in the index."""
        if not len(self._ids):
            return np.full(len(ids), -1, dtype=np.int64)
        places = np.minimum(np.searchsorted(self._sorted_ids, ids), len(self._ids) - 1)
        return np.where(self._sorted_ids[places] == ids, self._order[places], -1)

    def _note(self, queries: int, failures: int) -> None:
        with self._counter:
            self._queries += queries
            self._uncertified += failures
            often = self._queries >= SWITCH_AFTER_QUERIES and self._uncertified > SWITCH_AT_FAILURES * self._queries
        if often and self._generator.name == "inner_product":
            with self._lock.write():
                if self._generator.name == "inner_product":
                    self._switch_to_ball()

    def _too_far(self, points: Float32) -> bool:
        farthest = np.arcsinh(np.sqrt(self.c) * norms(points.astype(np.float64))).max()
        return bool(farthest > inner_product_radius(self.embedding_dim))

    def _switch_to_ball(self) -> None:
        logger.info(
            "event=generator_switched to=ball count=%d queries=%d uncertified=%d",
            len(self._ids), self._queries, self._uncertified,
        )  # fmt: skip
        ball = BallRows(self.embedding_dim, self.c)
        if len(self._ids):
            ball.add(self._generator.gather(np.arange(len(self._ids))))
        self._generator = ball
        with self._counter:
            self._queries = self._uncertified = 0
