"""LorentzIndex: exact nearest neighbours on the hyperboloid, from FAISS scans in float32 and a float64
re-rank."""

import logging
import math
import threading
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from index import tuning
from index.ball_rows import BallRows
from index.distances import Float64, norms
from index.errors import PointError
from index.exact_points import Float32, Int64
from index.generators import Bool, Generator, InnerProductRows, inner_product_radius
from index.gpu import Device, require_device
from index.ids import Ids
from index.list_rows import ListRows
from index.locks import ReadWriteLock
from index.plan import Plan, Request, choose, default_nlist, outgrown
from index.points import some, valid_ids, valid_points
from index.scan import Scan
from index.storage import Stored, read_index, write_index

logger = logging.getLogger(__name__)

SWITCH_AFTER_QUERIES = 64
SWITCH_AT_FAILURES = 0.1


class LorentzIndex:
    """Nearest neighbours by geodesic distance among float32 space parts, certified exact.

    The truth is the float32 space part of each point; times and distances are computed from it in float64.
    FAISS proposes candidates in float32, the candidates are re-ranked in float64, and a bound on the
    float32 error certifies that no other row can belong to the answer. Where it cannot, everything within
    the k-th distance is listed by a range scan and re-ranked. Equal distances come in the order of their ids.

    Kinds, by what is scanned:

    - "flat": everything. Every answer is exact.
    - "ivf": the `nprobe` nearest lists of an inverted file. An answer is exact among the points of those
      lists, and proven exact over all where no other list reaches as near as its k-th distance.
    - "ivf_sq8": the same with rows of 8 bits, a quarter of the memory. Where the proof over the probed lists
      fails, which is often, the answer is the best of the candidates.

    With device "cuda" a GPU proposes the candidates of "flat" and "ivf" (:mod:`index.gpu`); re-rank, certificate and
    what the certificate makes necessary stay as they are, and so do the answers.

    With `exact=True` a search of either goes on until its answer is proven. Range searches always are exact.

    Safe for any number of concurrent searches with concurrent writers (searches wait while a write is
    applied).
    """

    def __init__(self, embedding_dim: int, c: float, *, device: Device = "cpu") -> None:
        """An empty index of kind "flat": lists must be learnt from points, see :meth:`build`."""
        if not (np.isfinite(c) and c > 0):
            raise ValueError(f"expected a finite c > 0 (the curvature is -c), got {c}")
        if embedding_dim < 1:
            raise ValueError(f"expected embedding_dim >= 1, got {embedding_dim}")
        self.c = float(c)
        self.embedding_dim = embedding_dim
        self._plan = Plan()
        self._lock = ReadWriteLock()
        self._device = require_device(device)
        self._generator: Generator = InnerProductRows(embedding_dim, self.c)
        self._generator.use(self._device)
        self._ids = Ids(np.zeros(0, dtype=np.int64))
        self._counter = threading.Lock()
        self._queries = 0
        self._uncertified = 0

    @classmethod
    def build(
        cls,
        space: npt.ArrayLike,
        ids: npt.ArrayLike,
        c: float,
        kind: Request = "flat",
        *,
        nlist: int | None = None,
        nprobe: int | None = None,
        memory: int | None = None,
        device: Device = "cpu",
    ) -> Self:
        """An index of the points with space parts `space` (n, d), under the int64 ids `ids` (n,), >= 0 and
        unique.

        `kind`: "auto" chooses by count, radius and `memory` (bytes that it may hold, none by default).
        `nlist`: lists, 4 sqrt(n) by default. `nprobe`: lists that a search for 10 neighbours probes; by
        default as many as a sample of the points needs for a recall of 0.99. `device`: what proposes candidates, "cpu"
        or "cuda" (:class:`~index.errors.DeviceError` where that cannot be).
        """
        space = np.asarray(space)
        if space.ndim != 2:
            raise PointError(f"expected space parts of shape (n, d), got shape {space.shape}")
        for name, value in (("nlist", nlist), ("nprobe", nprobe), ("memory", memory)):
            if value is not None and value < 1:
                raise ValueError(f"expected {name} >= 1, got {value}")
        index = cls(space.shape[1], c, device=device)
        points, new_ids = index._checked(space, ids)
        radii = np.arcsinh(math.sqrt(c) * norms(points.astype(np.float64)))
        chosen, reason = choose(kind, len(points), index.embedding_dim, radii, memory)
        plan = Plan(kind, memory, nlist, nprobe, chosen, reason, len(points))
        if chosen == "flat":
            index._plan = plan
            index.add(points, new_ids)
        else:
            centroids = tuning.learn_centroids(points, min(nlist or default_nlist(len(points)), len(points)), c)
            rows = ListRows.create(chosen, centroids, float(c), points)
            rows.use(index._device)
            index._generator, index._ids = rows, Ids(new_ids)
            index._plan = replace(plan, nlist=rows.nlist, imbalance=rows.imbalance, nprobe=nprobe or 1)
            index._tune(rows, nprobe)
        logger.info("event=index_built kind=%s count=%d reason=%r", chosen, len(points), reason)
        return index

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def kind(self) -> str:
        """ "flat", "ivf" or "ivf_sq8"."""
        return self._plan.kind

    @property
    def plan(self) -> Plan:
        """What was asked for, what was chosen, and why."""
        return self._plan

    @property
    def generator(self) -> str:
        """What proposes the candidates now: "inner_product", "ball" or "lists"."""
        return self._generator.name

    @property
    def device(self) -> Device:
        """What proposes the candidates: "cpu", or "cuda" as long as the GPU can."""
        return self._device

    @property
    def ids(self) -> Int64:
        """A copy of all ids, ascending."""
        with self._lock.read():
            return self._ids.ascending

    @property
    def resident_bytes(self) -> int:
        """Bytes held in memory; exact points of a loaded index lie in their file and do not count."""
        with self._lock.read():
            return self._generator.resident_bytes + self._ids.nbytes

    @property
    def outgrown(self) -> str | None:
        """Why the index should be built anew: it grew, its lists drifted. None while it need not be."""
        with self._lock.read():
            imbalance = self._generator.imbalance if isinstance(self._generator, ListRows) else 1.0
            return outgrown(self._plan, len(self._ids), len(self._ids.by_position), imbalance)

    @property
    def statistics(self) -> dict[str, int]:
        """`queries` answered by this generator since the index was made or loaded, and how many the scan
        did not certify."""
        with self._counter:
            return {"queries": self._queries, "uncertified": self._uncertified}

    def add(self, space: npt.ArrayLike, ids: npt.ArrayLike) -> None:
        """Add points: space parts (n, d) and their ids (n,). All of them or, on :class:`PointError`, none."""
        points, new_ids = self._checked(space, ids)
        if not len(points):
            return
        with self._lock.write():
            live = self._ids.positions(new_ids) >= 0
            if live.any():
                raise PointError(f"ids {some(new_ids[live])} are in the index already: remove them first")
            if self._generator.name == "inner_product" and self._too_far(points):
                self._switch_to_ball()
            self._drop_copy()
            self._generator.add(points)
            self._ids = self._ids.with_added(new_ids)

    def remove(self, ids: npt.ArrayLike) -> int:
        """Remove points by id; ids that are not there are passed over. Returns how many were removed."""
        gone = np.unique(valid_ids(ids))
        with self._lock.write():
            positions = self._ids.positions(gone)
            positions = np.sort(positions[positions >= 0])
            if len(positions):
                self._drop_copy()
                self._generator.remove(positions)
                self._ids = self._ids.without(positions, compact=self._generator.compact)
            return len(positions)

    def search(
        self,
        space_queries: npt.ArrayLike,
        k: int,
        *,
        allowed: npt.ArrayLike | None = None,
        nprobe: int | None = None,
        exact: bool = False,
    ) -> tuple[Float64, Int64, bool]:
        """The k nearest points of each query, nearest first.

        `space_queries`: space parts (q, d). `allowed`: ids to choose from (all by default; ids not in the
        index are passed over). `nprobe`: lists to probe, for kinds that have them; by default the tuned number,
        times k/10 for more neighbours, and more for a filter that leaves few. `exact`: go on until the answers
        are proven exact. Returns geodesic distances (q, k) in float64, ids (q, k), and whether all of it is
        proven exact: that no point of the index, probed or not, belongs in any answer. Where fewer than k
        points exist the rest is filled with inf and -1.
        """
        distances, found, proven = self.search_each(space_queries, k, allowed=allowed, nprobe=nprobe, exact=exact)
        return distances, found, bool(proven.all())

    def search_each(
        self,
        space_queries: npt.ArrayLike,
        k: int,
        *,
        allowed: npt.ArrayLike | None = None,
        nprobe: int | None = None,
        exact: bool = False,
    ) -> tuple[Float64, Int64, Bool]:
        """:meth:`search`, telling of each query (q,) by itself whether its answer is proven exact."""
        queries = valid_points(space_queries, self.embedding_dim)
        for name, value in (("k", k), ("nprobe", nprobe)):
            if value is not None and value < 1:
                raise ValueError(f"expected {name} >= 1, got {value}")
        with self._lock.read():
            mask, population = self._mask(allowed)
            found = np.full((len(queries), k), np.inf), np.full((len(queries), k), -1, dtype=np.int64)
            proven, failures = np.ones(len(queries), dtype=bool), 0
            if population and len(queries):
                probes = self._probes(min(k, population), population, nprobe)
                spare = math.ceil(self._plan.spare * max(1, k / tuning.K))
                scan = Scan(self._generator, self._ids, self.c, mask, population, exact=exact, spare=spare)
                proven, failures = scan.search(queries, min(k, population), probes, found)
        self._note(len(queries), failures)
        return *found, proven

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
        empty = (np.zeros(0), np.zeros(0, dtype=np.int64))
        with self._lock.read():
            mask, population = self._mask(allowed)
            scan = Scan(self._generator, self._ids, self.c, mask, population, exact=True)
            hits = [scan.within(query, radius) if population else empty for query in queries]
        lims = np.cumsum([0, *(len(ids) for _, ids in hits)], dtype=np.int64)
        all_distances, all_ids = zip(empty, *hits, strict=True)
        return lims, np.concatenate(all_distances), np.concatenate(all_ids)

    def save(self, folder: Path) -> None:
        """Write the index into `folder`, which is replaced as a whole: `index.json` names each file's
        SHA-256."""
        with self._lock.read():
            stored = Stored(
                self._generator, self._ids.by_position.astype(np.int64), self._plan, self.embedding_dim, self.c
            )
            write_index(Path(folder), stored)

    @classmethod
    def load(cls, folder: Path, *, hashes_verified: bool = False, device: Device = "cpu") -> Self:
        """Read what :meth:`save` wrote. Every hash is verified before FAISS reads a byte;
        :class:`SnapshotError` otherwise.

        `hashes_verified`: the caller just did that, by hashes of its own. `device`: as in :meth:`build`; it is not
        stored with the index.
        """
        stored = read_index(Path(folder), hashes_verified=hashes_verified)
        index = cls(stored.embedding_dim, stored.c, device=device)
        stored.generator.use(index._device)
        index._generator, index._ids, index._plan = stored.generator, Ids(stored.ids), stored.plan
        return index

    def use(self, device: Device) -> None:
        """Let "cpu" propose the candidates from now on, or "cuda" (:class:`~index.errors.DeviceError`)."""
        with self._lock.write():
            self._device = require_device(device)
            self._generator.use(self._device)

    def _checked(self, space: npt.ArrayLike, ids: npt.ArrayLike) -> tuple[Float32, Int64]:
        points = valid_points(space, self.embedding_dim).astype(np.float32)
        new_ids = valid_ids(ids)
        if len(new_ids) != len(points):
            raise PointError(f"expected one id per point, got {len(points)} points and {len(new_ids)} ids")
        unique, counts = np.unique(new_ids, return_counts=True)
        if (counts > 1).any():
            raise PointError(f"expected unique ids, got {some(unique[counts > 1])} more than once")
        return points, new_ids

    def _probes(self, k: int, population: int, nprobe: int | None) -> int:
        """How many lists to probe."""
        if nprobe is not None or not self._plan.nprobe:
            return nprobe or 1
        return math.ceil(self._plan.nprobe * max(1, k / tuning.K) * len(self._ids) / population)

    def _tune(self, rows: ListRows, nprobe: int | None) -> None:
        """Choose the number of probes on a sample of the points, and note the recall that is reached."""
        k = min(tuning.K, len(self) - 1)
        if not k:
            return
        chosen = tuning.sample(len(self))
        neighbours = tuning.nearest_others(rows.points.array(), chosen, k, self.c)
        self._plan = replace(self._plan, nprobe=nprobe or tuning.probes_for(rows, chosen, neighbours))
        queries, truth = rows.gather(chosen), self._ids.by_position[neighbours]
        # Rows of 8 bits may blur what is near: then more candidates are re-ranked, up to all of a list and more.
        spares = (0, *tuning.SPARES) if rows.kind == "ivf_sq8" else (0,)
        for spare in spares:
            self._plan = replace(self._plan, spare=spare)
            _, found, _ = self.search(queries, k + 1, nprobe=self._plan.nprobe)
            hits = [len(np.intersect1d(one, other)) for one, other in zip(found, truth, strict=True)]
            self._plan = replace(self._plan, recall=round(float(np.mean(hits)) / k, 4))
            if np.mean(hits) >= tuning.TARGET * k:
                break

    def _mask(self, allowed: npt.ArrayLike | None) -> tuple[Bool | None, int]:
        if allowed is None:
            return None, len(self._ids)
        positions = self._ids.positions(valid_ids(allowed))
        mask = np.zeros(len(self._ids.by_position), dtype=bool)
        mask[positions[positions >= 0]] = True
        return mask, int(np.count_nonzero(mask))

    def _note(self, queries: int, failures: int) -> None:
        with self._counter:
            self._queries += queries
            self._uncertified += failures
            often = self._queries >= SWITCH_AFTER_QUERIES and self._uncertified > SWITCH_AT_FAILURES * self._queries
        if often and self._generator.name == "inner_product":
            with self._lock.write():
                if self._generator.name == "inner_product":
                    self._switch_to_ball()

    def _drop_copy(self) -> None:
        if self._generator.gpu is not None:
            self._generator.gpu.drop()

    def _too_far(self, points: Float32) -> bool:
        farthest = np.arcsinh(np.sqrt(self.c) * norms(points.astype(np.float64))).max()
        return bool(farthest > inner_product_radius(self.embedding_dim))

    def _switch_to_ball(self) -> None:
        logger.info(
            "event=generator_switched to=ball count=%d queries=%d uncertified=%d",
            len(self), self._queries, self._uncertified,
        )  # fmt: skip
        ball = BallRows(self.embedding_dim, self.c)
        ball.use(self._device)
        if len(self):
            ball.add(self._generator.gather(np.arange(len(self))))
        self._generator = ball
        with self._counter:
            self._queries = self._uncertified = 0
