"""LorentzIndex as a container: what it takes and refuses, adding and removing, saving and loading,
threads."""

import json
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from index.errors import FaissMissingError, PointError, SnapshotError
from index.lorentz_index import LorentzIndex

BIG = 2**62


@pytest.fixture
def points() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)


def test_an_empty_index_answers_with_nothing() -> None:
    index = LorentzIndex(4, 1.0)
    distances, ids, exact = index.search(np.ones((2, 4)), 3)
    assert exact
    assert (ids == -1).all()
    assert np.isinf(distances).all()
    lims, distances, ids = index.range_search(np.ones((2, 4)), 3.0)
    assert lims.tolist() == [0, 0, 0]
    assert len(distances) == len(ids) == 0
    built = LorentzIndex.build(np.zeros((0, 4)), [], 1.0)
    assert len(built) == 0
    assert built.remove([3]) == 0


def test_no_queries_give_no_answers(points: np.ndarray) -> None:
    index = LorentzIndex.build(points, np.arange(60), 1.0)
    distances, ids, exact = index.search(np.zeros((0, 5)), 3)
    assert distances.shape == ids.shape == (0, 3)
    assert exact
    assert index.range_search(np.zeros((0, 5)), 1.0)[0].tolist() == [0]


def test_more_neighbours_than_points_are_padded(points: np.ndarray) -> None:
    index = LorentzIndex.build(points[:3], [BIG, BIG + 1, 7], 1.0)
    distances, ids, exact = index.search(points[:1], 5)
    assert exact
    assert distances.dtype == np.float64
    assert ids.dtype == np.int64
    assert ids[0, 0] == BIG
    assert set(ids[0, :3].tolist()) == {BIG, BIG + 1, 7}
    assert ids[0, 3:].tolist() == [-1, -1]
    assert np.isinf(distances[0, 3:]).all()


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (np.zeros(5), r"shape \(n, 5\), got shape \(5,\)"),
        (np.zeros((1, 4)), r"shape \(n, 5\), got shape \(1, 4\)"),
        ([[0, 0, 0, 0, np.nan]], "NaN"),
        ([[0, 0, 0, 0, np.inf]], "inf"),
        ([[0, 0, 0, 0, 1e39]], "float32"),
        ([["a"] * 5], "real dtype"),
    ],
)
def test_bad_points_are_refused(space: object, said: str, points: np.ndarray) -> None:
    index = LorentzIndex.build(points, np.arange(60), 1.0)
    with pytest.raises(PointError, match=said):
        index.search(space, 1)  # type: ignore[arg-type]
    with pytest.raises(PointError, match=said):
        index.range_search(space, 1.0)  # type: ignore[arg-type]
    with pytest.raises(PointError, match=said):
        index.add(space, [100])  # type: ignore[arg-type]
    assert len(index) == 60


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ([100, 100], "more than once"),
        ([100, 5], "5 are in the index already"),
        ([100], "one id per point"),
        ([100, -1], "2\\^63"),
        ([1.0, 2.0], "int64"),
        ([[100, 101]], "int64"),
        (np.array([100, 2**63], dtype=np.uint64), "2\\^63"),
    ],
)
def test_bad_ids_are_refused_and_nothing_is_added(ids: object, said: str, points: np.ndarray) -> None:
    index = LorentzIndex.build(points, np.arange(60), 1.0)
    with pytest.raises(PointError, match=said):
        index.add(points[:2], ids)  # type: ignore[arg-type]
    assert len(index) == 60
    assert index.search(points[:1], 60)[1][0].tolist() != []


def test_bad_parameters_are_refused(points: np.ndarray) -> None:
    with pytest.raises(ValueError, match="kind"):
        LorentzIndex.build(points, np.arange(60), 1.0, kind="annoy")  # type: ignore[arg-type]
    for c in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="c > 0"):
            LorentzIndex(4, c)
    with pytest.raises(ValueError, match="embedding_dim"):
        LorentzIndex(0, 1.0)
    index = LorentzIndex.build(points, np.arange(60), 1.0)
    with pytest.raises(ValueError, match="k >= 1"):
        index.search(points[:1], 0)
    for radius in (-1.0, np.nan):
        with pytest.raises(ValueError, match="radius"):
            index.range_search(points[:1], radius)
    assert index.range_search(points[:1], np.inf)[0].tolist() == [0, 60]


@pytest.mark.parametrize("few", [10, 1_000_000], ids=["scanned by FAISS", "compared in float64"])
@pytest.mark.parametrize("radius", [2.0, 8.3])
def test_allowed_ids(
    few: int, radius: float, grow_tree: Callable, brute_force: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("index.scan.SCAN_ALL_BELOW", few)
    points = grow_tree(radius, 300, count=3000, dim=16)
    ids = np.random.default_rng(0).permutation(3000)
    index = LorentzIndex.build(points, ids, 1.0)
    allowed = ids[::7]
    truth = brute_force(points[:20], points[::7], 1.0)
    # 10^6 is no id here: it is passed over.
    distances, found, exact = index.search(points[:20], 8, allowed=[*allowed, 10**6])
    assert exact
    order = np.argsort(truth, axis=1)[:, :8]
    assert (found == allowed[order]).all()
    np.testing.assert_allclose(distances, np.take_along_axis(truth, order, axis=1), rtol=1e-8, atol=1e-7)
    lims, _, found = index.range_search(points[:20], 0.28, allowed=allowed)
    for row in range(20):
        assert set(found[lims[row] : lims[row + 1]].tolist()) == set(allowed[truth[row] <= 0.28].tolist())
    assert (index.search(points[:1], 3, allowed=[])[1] == -1).all()
    assert index.range_search(points[:1], 3.0, allowed=[])[0].tolist() == [0, 0]
    assert (index.search(points[:1], 3, allowed=allowed[:2])[1][0, 2:] == -1).all()


def test_it_moves_to_ball_coordinates_when_inner_products_certify_too_little(
    grow_tree: Callable, brute_force: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("index.lorentz_index.inner_product_radius", lambda _: 100.0)
    points = grow_tree(8.3, 500, count=3000)
    index = LorentzIndex.build(points, np.arange(3000), 1.0)
    assert index.generator == "inner_product"
    before = index.search(points[:80], 10)
    assert index.generator == "ball"
    assert index.statistics == {"queries": 0, "uncertified": 0}
    after = index.search(points[:80], 10)
    for one, other in zip(before, after, strict=True):
        assert np.array_equal(one, other)
    assert index.statistics["queries"] == 80


def test_it_moves_to_ball_coordinates_when_a_far_point_comes(points: np.ndarray) -> None:
    index = LorentzIndex.build(points, np.arange(60), 1.0)
    assert index.generator == "inner_product"
    index.add(points[:1] * 1000, [60])
    assert index.generator == "ball"
    assert index.search(points[:1], 1)[1].tolist() == [[0]]
    assert index.search(points[:1] * 1000, 1)[1].tolist() == [[60]]


@pytest.mark.parametrize("scale", [1.0, 1000.0], ids=["inner_product", "ball"])
def test_saved_and_loaded_it_answers_the_same_and_goes_on(scale: float, points: np.ndarray, tmp_path: Path) -> None:
    points = points * np.float32(scale)
    index = LorentzIndex.build(points, np.arange(60) + BIG, 0.5)
    index.remove([BIG + 3])
    index.save(tmp_path / "index")
    index.save(tmp_path / "index")  # replaces
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
    loaded = LorentzIndex.load(tmp_path / "index")
    assert (len(loaded), loaded.c, loaded.embedding_dim, loaded.generator) == (59, 0.5, 5, index.generator)
    for one, other in zip(index.search(points, 7), loaded.search(points, 7), strict=True):
        assert np.array_equal(one, other)
    loaded.add(points[3:4], [BIG + 3])
    assert loaded.search(points[3:4], 1)[1].tolist() == [[BIG + 3]]
    loaded.remove(index.ids)
    assert loaded.ids.tolist() == [BIG + 3]


def test_damaged_files_are_refused_before_faiss_reads_them(
    points: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import faiss

    LorentzIndex.build(points * 1000, np.arange(60), 1.0).save(tmp_path / "good")

    def never(*_: object) -> None:
        raise AssertionError("FAISS read a damaged file")

    monkeypatch.setattr(faiss, "read_index", never)
    for name in ("index.faiss", "ids.npy", "space.npy", "index.json"):
        for number, damage in enumerate((_flip, _truncate, _empty, Path.unlink)):
            folder = tmp_path / f"{name}-{number}"
            shutil.copytree(tmp_path / "good", folder)
            damage(folder / name)
            if name == "index.json" and damage is _flip:
                continue  # may only change a space; the snapshot's manifest holds this file's own hash
            with pytest.raises(SnapshotError, match=r"damaged|no readable index"):
                LorentzIndex.load(folder)
    description = json.loads((tmp_path / "good" / "index.json").read_text())
    (tmp_path / "good" / "index.json").write_text(json.dumps(description | {"format_version": 99}))
    with pytest.raises(SnapshotError, match="format 99"):
        LorentzIndex.load(tmp_path / "good")
    with pytest.raises(SnapshotError, match="no readable index"):
        LorentzIndex.load(tmp_path / "nothing")


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def test_searches_and_writes_at_once(points: np.ndarray) -> None:
    """Every answer belongs to some state between two writes: the fixed points are always found, moving ones
    whole or not."""
    index = LorentzIndex.build(points, np.arange(60), 1.0)
    stop = threading.Event()

    def write() -> None:
        rng = np.random.default_rng(1)
        while not stop.is_set():
            ids = np.arange(100, 150)
            index.add(rng.normal(size=(50, 5)) * 20, ids)
            index.remove(ids)

    def read(seed: int) -> int:
        rng = np.random.default_rng(seed)
        for _ in range(60):
            chosen = rng.integers(0, 60, 5)
            distances, ids, exact = index.search(points[chosen], 4)
            assert exact
            assert ids[:, 0].tolist() == chosen.tolist()
            assert (distances[:, 0] == 0).all()
            lims, _, _ = index.range_search(points[chosen[:1]], 1e3)
            assert lims[1] in (60, 110)
        return seed

    with ThreadPoolExecutor(5) as pool:
        writer = pool.submit(write)
        try:
            readers = [pool.submit(read, seed) for seed in range(4)]
            assert [reader.result(60) for reader in readers] == list(range(4))
        finally:
            stop.set()
        writer.result(60)


def test_a_missing_faiss_is_explained_with_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(FaissMissingError, match=r'pip install "lhier\[cpu\]"'):
        LorentzIndex(4, 1.0)


class IndexAgainstDictionary(RuleBasedStateMachine):
    """Random adds, removals, saves and searches, against a dictionary and arccosh in long double."""

    @initialize(scale=st.sampled_from([0.5, 30.0]), c=st.sampled_from([0.3, 1.0]))
    def start(self, scale: float, c: float) -> None:
        self.index = LorentzIndex(3, c)
        self.c, self.scale = c, scale
        self.model: dict[int, np.ndarray] = {}
        self.rng = np.random.default_rng(0)

    @rule(ids=st.lists(st.integers(0, 40), min_size=1, max_size=12, unique=True))
    def add(self, ids: list[int]) -> None:
        space = (self.rng.normal(size=(len(ids), 3)) * self.scale).astype(np.float32)
        if self.model.keys() & set(ids):
            with pytest.raises(PointError):
                self.index.add(space, ids)
            return
        self.index.add(space, ids)
        self.model |= dict(zip(ids, space, strict=True))

    @rule(ids=st.lists(st.integers(0, 40), max_size=12))
    def remove(self, ids: list[int]) -> None:
        assert self.index.remove(ids) == len(self.model.keys() & set(ids))
        for id_ in ids:
            self.model.pop(id_, None)

    @rule()
    def save_and_load(self) -> None:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            self.index.save(Path(folder) / "index")
            self.index = LorentzIndex.load(Path(folder) / "index")

    @rule(k=st.integers(1, 50))
    def search(self, k: int) -> None:
        query = (self.rng.normal(size=3) * self.scale).astype(np.float32)
        expected = sorted((self._distance(query, point), id_) for id_, point in self.model.items())[:k]
        distances, ids, exact = self.index.search(query[None], k)
        assert exact
        assert ids[0].tolist() == [id_ for _, id_ in expected] + [-1] * (k - len(expected))
        np.testing.assert_allclose(distances[0, : len(expected)], [d for d, _ in expected], rtol=1e-6)

    @invariant()
    def same_ids(self) -> None:
        if hasattr(self, "model"):
            assert self.index.ids.tolist() == sorted(self.model)

    def _distance(self, x: np.ndarray, y: np.ndarray) -> float:
        x, y, c = x.astype(np.longdouble), y.astype(np.longdouble), np.longdouble(self.c)
        times = np.sqrt(1 / c + x @ x) * np.sqrt(1 / c + y @ y)
        return float(np.arccosh(np.maximum(1, c * (times - x @ y))) / np.sqrt(c))


TestIndexAgainstDictionary = IndexAgainstDictionary.TestCase
TestIndexAgainstDictionary.settings = settings(max_examples=25, stateful_step_count=20)
