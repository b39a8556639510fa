"""Scans on a GPU: what goes there and what does not, shown on a stand-in that answers as FAISS's GPU classes are
documented to; and the same answers on a real GPU, where there is one.

The tests marked `needs_gpu` have never run: no machine of this project had a GPU with FAISS for it.
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faiss
import numpy as np
import pytest

from index.catalogue import Item
from index.collection import Collection
from index.errors import DeviceError
from index.lorentz_index import LorentzIndex

K = 10
RADII = [1, 2, 3, 5, 7, 8.3]
HAS_GPU = hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0
needs_gpu = pytest.mark.skipif(not HAS_GPU, reason="no GPU, or no FAISS that was built for one")


class StandIn:
    """FAISS's GPU classes, computing on the CPU; counts copies and searches, and takes no more than a GPU takes."""

    def __init__(self) -> None:
        self.copies = self.searches = 0
        self.full = False  # out of memory
        self.damage: Callable[[np.ndarray], np.ndarray] = lambda rows: rows  # what the kernels make of their operands
        self.expands_norms = False
        self.busy = threading.Lock()

    def config(self) -> SimpleNamespace:
        return SimpleNamespace(device=None, use_cuvs=True, flatConfig=SimpleNamespace(device=None, use_cuvs=True))

    def made(self, resources: Any, config: SimpleNamespace) -> None:
        assert isinstance(resources, SimpleNamespace)
        assert (config.device, config.use_cuvs) == (0, False)
        if self.full:
            raise RuntimeError("StandardGpuResources: alloc fail (cudaMalloc error out of memory [2])")
        self.copies += 1

    def flat(self, resources: Any, dim: int, metric: int, config: SimpleNamespace) -> "FlatStandIn":
        self.made(resources, config)
        return FlatStandIn(self, dim, metric)

    def lists(self, resources: Any, index: Any, config: SimpleNamespace) -> "ListsStandIn":
        self.made(resources, config)
        return ListsStandIn(self, index)

    def searched(self, count: int) -> None:
        assert count <= 2048
        if self.full:
            raise RuntimeError("StandardGpuResources: alloc fail (cudaMalloc error out of memory [2])")
        self.searches += 1


class FlatStandIn:
    def __init__(self, gpu: StandIn, dim: int, metric: int) -> None:
        self.gpu, self.index = gpu, faiss.IndexFlat(dim, metric)
        self.metric_arg = 0.0

    def add(self, rows: np.ndarray) -> None:
        self.index.add(self.gpu.damage(rows))

    def search(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        self.gpu.searched(count)
        assert self.gpu.busy.acquire(blocking=False), "two searches at once: GPU resources are not safe for threads"
        try:
            if self.gpu.expands_norms or self.index.metric_type == faiss.METRIC_L2:
                rows = faiss.rev_swig_ptr(self.index.get_xb(), self.index.ntotal * self.index.d)
                rows = rows.reshape(-1, self.index.d)
                squares = (queries**2).sum(1)[:, None] - 2 * queries @ rows.T + (rows**2).sum(1)
                found = np.argsort(squares, axis=1)[:, :count]
                return np.take_along_axis(squares, found, axis=1), found
            self.index.metric_arg = self.metric_arg
            return self.index.search(self.gpu.damage(queries), count)
        finally:
            self.gpu.busy.release()

    def range_search(self, *_: object) -> None:
        raise RuntimeError("range search not implemented for this type of index")


class ListsStandIn:
    def __init__(self, gpu: StandIn, index: Any) -> None:
        self.gpu, self.index = gpu, faiss.clone_index(index)

    def search_preassigned_c(self, number: int, queries: Any, count: int, *rest: Any) -> None:
        self.gpu.searched(count)
        assert rest[-1].sel is None
        assert rest[-1].nprobe == 1
        self.index.search_preassigned_c(number, queries, count, *rest)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    gpu = StandIn()
    names = {
        "StandardGpuResources": SimpleNamespace,
        "get_num_gpus": lambda: 1,
        "GpuIndexFlatConfig": gpu.config,
        "GpuIndexIVFFlatConfig": gpu.config,
        "GpuIndexFlat": gpu.flat,
        "GpuIndexIVFFlat": gpu.lists,
    }
    for name, value in names.items():
        monkeypatch.setattr(faiss, name, value, raising=False)
    return gpu


def assert_same(one: tuple, other: tuple) -> None:
    for mine, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def both(points: np.ndarray, kind: str, **options: Any) -> tuple[LorentzIndex, LorentzIndex]:
    ids = np.random.default_rng(1).permutation(len(points)) + 10**12
    return (
        LorentzIndex.build(points, ids, 1.0, kind, **options),
        LorentzIndex.build(points, ids, 1.0, kind, device="cuda", **options),
    )


def queries_about(points: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(2)
    members = points[rng.choice(len(points), 15, replace=False)]
    return np.concatenate([members, members * rng.normal(1, 0.05, size=members.shape).astype(np.float32)])


@pytest.mark.parametrize("radius", RADII)
def test_a_flat_index_answers_the_same_through_the_gpu(
    radius: float, gpu: StandIn, grow_tree: Callable, brute_force: Callable
) -> None:
    points = grow_tree(radius, 1000, count=3000)
    queries = queries_about(points)
    cpu, cuda = both(points, "flat")
    distances, ids, exact = cuda.search(queries, K)
    assert exact
    assert (gpu.copies, gpu.searches) == (1, 2)  # one to measure the copy, one for all queries
    assert cuda.generator == cpu.generator == ("inner_product" if radius <= 3 else "ball")
    assert_same((distances, ids), cpu.search(queries, K)[:2])
    truth = np.sort(brute_force(queries, points, 1.0), axis=1)[:, :K]
    np.testing.assert_allclose(distances, truth, rtol=1e-8, atol=1e-7)


@pytest.mark.parametrize("radius", [1, 3, 8.3])
@pytest.mark.parametrize("exact", [False, True])
def test_lists_answer_the_same_through_the_gpu(radius: float, exact: bool, gpu: StandIn, grow_tree: Callable) -> None:
    points = grow_tree(radius, 100, count=2000, dim=16)
    queries = queries_about(points)
    cpu, cuda = both(points, "ivf", nlist=24, nprobe=3)
    assert_same(cuda.search(queries, K, exact=exact), cpu.search(queries, K, exact=exact))
    assert gpu.copies == 1
    assert gpu.searches >= 2


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_filters_ranges_and_many_neighbours_stay_on_the_cpu(kind: str, gpu: StandIn, grow_tree: Callable) -> None:
    points = grow_tree(5, 500, count=3000, dim=8)
    queries = queries_about(points)[:4]
    cpu, cuda = both(points, kind)
    tuned = gpu.searches
    allowed = cpu.ids[: len(points) * 3 // 4]
    assert_same(cuda.search(queries, K, allowed=allowed), cpu.search(queries, K, allowed=allowed))
    assert_same(cuda.range_search(queries, 0.4), cpu.range_search(queries, 0.4))
    assert gpu.searches == tuned
    assert_same(cuda.search(queries, 2045), cpu.search(queries, 2045))
    # No list is as long as what a GPU's search is limited to.
    assert (gpu.searches > tuned) is (kind == "ivf")
    tuned = gpu.searches
    cuda.search(queries, K)
    assert gpu.searches > tuned


def test_lists_of_eight_bits_stay_on_the_cpu(gpu: StandIn, grow_tree: Callable) -> None:
    points = grow_tree(3, 100, count=2000, dim=16)
    cpu, cuda = both(points, "ivf_sq8", nlist=16, nprobe=4)
    assert_same(cuda.search(points[:20], K), cpu.search(points[:20], K))
    assert gpu.copies == 0


@pytest.mark.parametrize("kind", ["flat", "ivf"])
@pytest.mark.parametrize("radius", [2, 8.3])
def test_writes_invalidate_the_copy(kind: str, radius: float, gpu: StandIn, grow_tree: Callable) -> None:
    points = grow_tree(radius, 100, count=2400, dim=16)
    cpu, cuda = both(points[:2000], kind)
    queries = points[::60]
    cuda.search(queries, K)
    before = gpu.copies
    for index in (cpu, cuda):
        index.add(points[2000:], np.arange(400))
    assert gpu.copies == before  # made anew when it is searched, not when it is written to
    answer = cuda.search(queries, K)
    assert_same(answer, cpu.search(queries, K))
    assert (answer[1] < 400).any()  # the later rows are found
    gone = answer[1][:, 0]
    for index in (cpu, cuda):
        assert index.remove(gone) == len(np.unique(gone))
    answer = cuda.search(queries, K)
    assert_same(answer, cpu.search(queries, K))
    assert not np.isin(answer[1], gone).any()
    cuda.search(queries, K)
    assert gpu.copies == before + 2


def test_the_ball_takes_over_on_the_gpu_too(gpu: StandIn, grow_tree: Callable) -> None:
    near, far = grow_tree(1, 100, count=1000, dim=16), grow_tree(8.3, 100, count=1000, dim=16)
    cpu, cuda = both(near, "flat")
    cuda.search(near[:3], K)
    for index in (cpu, cuda):
        index.add(far, np.arange(1000))
    assert cuda.generator == "ball"
    assert_same(cuda.search(far[:9], K), cpu.search(far[:9], K))
    assert gpu.copies == 2


def test_a_saved_index_can_be_loaded_for_either_device(gpu: StandIn, grow_tree: Callable, tmp_path: Path) -> None:
    points = grow_tree(8.3, 100, count=1000, dim=16)
    _, cuda = both(points, "flat")
    cuda.save(tmp_path / "index")
    cpu, again = LorentzIndex.load(tmp_path / "index"), LorentzIndex.load(tmp_path / "index", device="cuda")
    assert (cpu.device, again.device) == ("cpu", "cuda")
    assert_same(again.search(points[:9], K), cpu.search(points[:9], K))
    assert gpu.copies == 1


def test_a_collection_keeps_its_device_through_writes_and_rebuilds(
    gpu: StandIn, items: list[Item], tmp_path: Path
) -> None:
    Collection.create(tmp_path, embedding_dim=4, c=0.7, model_hash="m").close()
    with Collection.open(tmp_path, device="cuda") as cuda:
        cuda.upsert(items)
        for _ in range(2):
            seen, device = gpu.searches, cuda.index.device
            hits = cuda.search(items[3].space, 5)
            assert (device, hits[0].item.id, hits[0].distance) == ("cuda", "item-3", 0)
            assert gpu.searches > seen
            cuda.rebuild()
    with Collection.open(tmp_path) as cpu:
        assert cpu.index.device == "cpu"
        assert [hit.item.id for hit in cpu.search(items[3].space, 5)] == [hit.item.id for hit in hits]


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize("kind", ["flat", "ivf"])
@pytest.mark.parametrize("when", ["copying", "searching"])
def test_a_full_gpu_is_given_up_with_one_warning(
    kind: str, when: str, gpu: StandIn, grow_tree: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    points = grow_tree(5, 100, count=2000, dim=16)
    gpu.full = when == "copying"
    cpu, cuda = both(points, kind)
    if when == "searching":
        cuda.search(points[:5], K)
    gpu.full = True
    assert_same(cuda.search(points[:20], K), cpu.search(points[:20], K))
    gpu.full = False
    seen = gpu.searches
    assert_same(cuda.search(points[:20], K), cpu.search(points[:20], K))
    assert gpu.searches == seen
    (warning,) = warnings_of(caplog)
    assert "event=gpu_given_up count=2000" in warning
    assert "out of memory" in warning


def rounded_to_tf32(rows: np.ndarray) -> np.ndarray:
    """The 10 bits after the leading one that TF32 keeps."""
    bits = np.ascontiguousarray(rows, dtype=np.float32).view(np.uint32)
    return ((bits + 0x1000) & np.uint32(0xFFFFE000)).view(np.float32)


@pytest.mark.parametrize("dim", [2, 64, 512])
def test_products_in_tf32_are_found_out(
    dim: int, gpu: StandIn, grow_tree: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    points = grow_tree(2, 100, count=1000, dim=dim)
    gpu.damage = rounded_to_tf32
    cpu, cuda = both(points, "flat")
    assert_same(cuda.search(points[:20], K), cpu.search(points[:20], K))
    (warning,) = warnings_of(caplog)
    assert "NVIDIA_TF32_OVERRIDE" in warning


def test_distances_by_expanded_norms_are_found_out(
    gpu: StandIn, grow_tree: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    points = grow_tree(8.3, 100, count=1000)
    gpu.expands_norms = True
    cpu, cuda = both(points, "flat")
    assert_same(cuda.search(points[:20], K), cpu.search(points[:20], K))
    (warning,) = warnings_of(caplog)
    assert "more than float32 products are" in warning


def test_searches_of_many_threads_take_turns(gpu: StandIn, grow_tree: Callable) -> None:
    points = grow_tree(8.3, 100, count=2000, dim=16)
    cpu, cuda = both(points, "flat")
    expected = cpu.search(points[:20], K)
    with ThreadPoolExecutor(4) as pool:
        for answer in pool.map(lambda _: cuda.search(points[:20], K), range(24)):
            assert_same(answer, expected)
    assert gpu.copies == 1


def test_cuda_without_a_faiss_for_it_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(faiss, "StandardGpuResources", raising=False)
    with pytest.raises(DeviceError, match=r"pip install \"lhier\[gpu\]\"'.*device 'cpu'"):
        LorentzIndex(4, 1.0, device="cuda")


def test_cuda_without_a_gpu_is_refused(gpu: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    with pytest.raises(DeviceError, match="finds none: check 'nvidia-smi'"):
        LorentzIndex.build(np.zeros((1, 4)), [0], 1.0, device="cuda")


def test_other_devices_are_refused() -> None:
    with pytest.raises(DeviceError, match="expected device 'cpu' or 'cuda', got 'tpu'"):
        LorentzIndex(4, 1.0, device="tpu")


@needs_gpu
@pytest.mark.parametrize("kind", ["flat", "ivf"])
@pytest.mark.parametrize("radius", RADII)
@pytest.mark.parametrize("dim", [8, 128])
def test_a_real_gpu_answers_the_same(kind: str, radius: float, dim: int, grow_tree: Callable) -> None:
    points = grow_tree(radius, 1000, count=10_000, dim=dim)
    queries = queries_about(points)
    cpu, cuda = both(points, kind)
    for asked in (queries, queries[:1]):
        assert_same(cuda.search(asked, K, exact=True), cpu.search(asked, K, exact=True))
    copy = cuda._generator.gpu
    assert copy is not None
    assert copy._copy is not None, "the GPU was given up: see the warning"
    assert cuda.statistics["uncertified"] <= 0.2 * cuda.statistics["queries"]  # a bad scan is found out, at a price
    for index in (cpu, cuda):
        index.remove(index.ids[:100])
        index.add(points[:50], np.arange(50))
    assert_same(cuda.search(queries, K, exact=True), cpu.search(queries, K, exact=True))
