"""What benchmarks/search.py compares: each engine is built from space parts and answers (queries, k) with ids."""

import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from benchmarks.search_sets import Array, Float32, Int64, lift

TARGET = 0.99  # recall that engines with a setting are set to


class Engine:
    """One way of searching. `settings`: from fast to accurate, the first that reaches TARGET is taken."""

    name = ""
    slow = False  # measured on few queries
    graph = False  # takes long to build
    settings: ClassVar[tuple[int, ...]] = ()

    def __init__(self, space: Float32) -> None:
        self.setting: int | None = None
        self.memory = 0  # bytes

    def search(self, queries: Float32, k: int) -> Int64:
        """Ids (q, k)."""
        raise NotImplementedError


class Lhier(Engine):
    """LorentzIndex, saved and opened again, so that its exact points lie in a mapped file."""

    kind = "flat"

    def __init__(self, space: Float32) -> None:
        from index.lorentz_index import LorentzIndex

        super().__init__(space)
        index = LorentzIndex.build(space, np.arange(len(space)), 1.0, self.kind)  # type: ignore[arg-type]
        self._folder = tempfile.TemporaryDirectory()
        index.save(Path(self._folder.name) / "index")
        self.index = LorentzIndex.load(Path(self._folder.name) / "index", hashes_verified=True)
        self.memory = self.index.resident_bytes
        self.plan = self.index.plan.as_dict()

    def search(self, queries: Float32, k: int) -> Int64:
        """As a caller does, with all defaults."""
        return self.index.search(queries, k)[1]


class LhierFlat(Lhier):
    """Everything is scanned."""

    name = "LHIER flat"


class LhierIvf(Lhier):
    """The nearest lists."""

    name, kind = "LHIER ivf", "ivf"


class LhierIvfExact(Lhier):
    """The same, proven exact."""

    name, kind = "LHIER ivf exact", "ivf"

    def search(self, queries: Float32, k: int) -> Int64:
        """Until every answer is proven."""
        return self.index.search(queries, k, exact=True)[1]


class LhierSq8(Lhier):
    """Rows of 8 bits."""

    name, kind = "LHIER ivf_sq8", "ivf_sq8"


class FaissFlatIP(Engine):
    """Inner products of (x_time, x_space) with (-q_time, q_space), in batches by BLAS."""

    name = "FAISS flat IP"

    def __init__(self, space: Float32) -> None:
        import faiss

        super().__init__(space)
        self._faiss = faiss
        self.index: Any = faiss.IndexFlatIP(space.shape[1] + 1)
        self.index.add(lift(space).astype(np.float32))
        self.memory = 4 * space.shape[0] * (space.shape[1] + 1)

    def search(self, queries: Float32, k: int) -> Int64:
        """Products with the flipped query."""
        settings = self._faiss.cvar
        saved, settings.distance_compute_blas_threshold = settings.distance_compute_blas_threshold, 2
        try:
            found: Int64 = self.index.search(flipped(queries), k)[1]
        finally:
            settings.distance_compute_blas_threshold = saved
        return found


class FaissFlatL2(Engine):
    """Euclidean distances of Poincare-ball coordinates, off BLAS (which expands the norms)."""

    name = "FAISS flat L2 (ball)"
    blas_from = 1 << 30

    def __init__(self, space: Float32) -> None:
        import faiss

        super().__init__(space)
        self._faiss = faiss
        self.index: Any = faiss.IndexFlatL2(space.shape[1])
        self.index.add(ball(space))
        self.memory = 4 * space.size

    def search(self, queries: Float32, k: int) -> Int64:
        """Distances of ball coordinates."""
        settings = self._faiss.cvar
        saved, settings.distance_compute_blas_threshold = settings.distance_compute_blas_threshold, self.blas_from
        try:
            found: Int64 = self.index.search(ball(queries), k)[1]
        finally:
            settings.distance_compute_blas_threshold = saved
        return found


class FaissFlatL2Blas(FaissFlatL2):
    """The same by BLAS: faster in batches, and wrong far out."""

    name = "FAISS flat L2 (ball, BLAS)"
    blas_from = 2


class FaissIvfIP(Engine):
    """FAISS's own inverted file over (x_time, x_space), with as many lists as LHIER's."""

    name = "FAISS IVF-IP"
    settings = (1, 2, 4, 8, 16, 32, 64, 128, 256)

    def __init__(self, space: Float32) -> None:
        import faiss

        from index.plan import default_nlist

        super().__init__(space)
        rows = lift(space).astype(np.float32)
        lists = default_nlist(len(space))
        self._coarse = faiss.IndexFlatIP(rows.shape[1])
        self.index: Any = faiss.IndexIVFFlat(self._coarse, rows.shape[1], lists, faiss.METRIC_INNER_PRODUCT)
        self.index.cp.max_points_per_centroid = 64
        self.index.train(rows)
        self.index.add(rows)
        self.memory = 4 * rows.size + 8 * len(rows) + 4 * lists * rows.shape[1]

    def search(self, queries: Float32, k: int) -> Int64:
        """With `setting` probes."""
        self.index.nprobe = self.setting or 1
        found: Int64 = self.index.search(flipped(queries), k)[1]
        return found


class Hnsw(Engine):
    """hnswlib, M = 16, over Poincare-ball coordinates and L2 (it has no Lorentz distance)."""

    graph = True
    name = "hnswlib (ball L2)"
    settings = (20, 40, 80, 160, 320, 640)

    def __init__(self, space: Float32) -> None:
        import hnswlib

        super().__init__(space)
        self.index = hnswlib.Index(space="l2", dim=space.shape[1])
        self.index.init_index(max_elements=len(space), ef_construction=200, M=16)
        self.index.set_num_threads(1)
        self.index.add_items(ball(space), np.arange(len(space)))
        self.memory = 4 * space.size + len(space) * (2 * 16 * 4 + 12)

    def search(self, queries: Float32, k: int) -> Int64:
        """With ef = `setting`."""
        self.index.set_ef(self.setting or 20)
        found: Int64 = self.index.knn_query(ball(queries), k=k)[0].astype(np.int64)
        return found


class Ngt(Engine):
    """NGT's graph with its Lorentz distance, which its Python only takes by way of the property file."""

    graph = True
    name = "NGT Lorentz"
    settings = (5, 10, 20, 30)  # epsilon, in hundredths

    def __init__(self, space: Float32) -> None:
        import ngtpy

        super().__init__(space)
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name) / "index"
        ngtpy.create(str(path).encode(), space.shape[1] + 1, distance_type="L2")
        properties = path / "prf"
        text = properties.read_text()
        if "DistanceType\tL2\n" not in text:
            raise RuntimeError("NGT's property file names no DistanceType L2 to change")
        properties.write_text(text.replace("DistanceType\tL2\n", "DistanceType\tLorentz\n"))
        self.index = ngtpy.Index(str(path).encode())
        self.index.batch_insert(lift(space).astype(np.float32), num_threads=1)
        self.index.save()
        self.memory = sum(file.stat().st_size for file in path.iterdir())

    def search(self, queries: Float32, k: int) -> Int64:
        """One by one: there is no other way with one thread."""
        found = np.full((len(queries), k), -1, dtype=np.int64)
        for row, query in enumerate(lift(queries).astype(np.float32)):
            hits = self.index.search(query, size=k, epsilon=(self.setting or 10) / 100)
            found[row, : len(hits)] = [hit[0] for hit in hits]
        return found


class TorchBruteForce(Engine):
    """One matrix product in float32, and topk."""

    name = "torch matmul + topk"

    def __init__(self, space: Float32) -> None:
        import torch

        super().__init__(space)
        self._torch = torch
        self.rows = torch.from_numpy(lift(space).astype(np.float32))
        self.memory = 4 * self.rows.numel()

    def search(self, queries: Float32, k: int) -> Int64:
        """The k largest products."""
        with self._torch.inference_mode():
            products = self._torch.from_numpy(flipped(queries)) @ self.rows.T
            found: Int64 = products.topk(k, dim=1).indices.numpy()
        return found


class Float64BruteForce(Engine):
    """Products in float64: what float32 has to be measured against."""

    name = "float64 brute force"
    slow = True

    def __init__(self, space: Float32) -> None:
        super().__init__(space)
        self.rows = lift(space)
        self.memory = self.rows.nbytes

    def search(self, queries: Float32, k: int) -> Int64:
        """The k largest products."""
        wide = lift(queries)
        wide[:, 0] *= -1
        found: Int64 = np.argpartition(-(wide @ self.rows.T), k - 1, axis=1)[:, :k]
        return found


class Geoopt(Engine):
    """geoopt's Lorentz distance in float32, and topk."""

    name = "geoopt distance + topk"
    slow = True

    def __init__(self, space: Float32) -> None:
        import geoopt
        import torch

        super().__init__(space)
        self._torch = torch
        self.manifold = geoopt.Lorentz(k=1.0)
        self.rows = torch.from_numpy(lift(space).astype(np.float32))
        self.memory = 4 * self.rows.numel()

    def search(self, queries: Float32, k: int) -> Int64:
        """Query by query: the distances are not made of matrix products."""
        with self._torch.inference_mode():
            points = self._torch.from_numpy(lift(queries).astype(np.float32))
            found = [self.manifold.dist(self.rows, q[None]).topk(k, largest=False).indices for q in points]
            return np.asarray(self._torch.stack(found).numpy())


ENGINES: dict[str, type[Engine]] = {
    "flat": LhierFlat,
    "ivf": LhierIvf,
    "ivf_exact": LhierIvfExact,
    "ivf_sq8": LhierSq8,
    "faiss_ip": FaissFlatIP,
    "faiss_l2": FaissFlatL2,
    "faiss_l2_blas": FaissFlatL2Blas,
    "faiss_ivf": FaissIvfIP,
    "hnsw": Hnsw,
    "ngt": Ngt,
    "torch": TorchBruteForce,
    "float64": Float64BruteForce,
    "geoopt": Geoopt,
}


def flipped(queries: Array) -> Float32:
    """(-q_time, q_space) in float32."""
    rows = lift(queries)
    rows[:, 0] *= -1
    return rows.astype(np.float32)


def ball(space: Array) -> Float32:
    """Poincare-ball coordinates in float32."""
    rows = lift(space)
    return (rows[:, 1:] / (1 + rows[:, :1])).astype(np.float32)


def build(kind: str, space: Float32) -> tuple[Engine, float]:
    """An engine, and the seconds it took; ImportError where its package is not installed."""
    start = time.perf_counter()
    engine = ENGINES[kind](space)
    return engine, time.perf_counter() - start


def query_by_query(engine: Engine, queries: npt.NDArray[np.float32], k: int) -> None:
    """As a service that gets them one at a time."""
    for row in range(len(queries)):
        engine.search(queries[row : row + 1], k)
