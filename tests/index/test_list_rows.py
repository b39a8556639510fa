"""Kinds with lists: certified within the lists probed, proven over all by covering radii, exact when asked to be."""

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from index.list_rows import ListRows
from index.lorentz_index import LorentzIndex

K = 10
KINDS = ["ivf", "ivf_sq8"]


def near(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Share of each answer (q, k) that is among the true k nearest: `truth` (q, n) are all distances."""
    kth = np.sort(truth, axis=1)[:, found.shape[1] - 1]
    return (np.take_along_axis(truth, found, axis=1) <= kth[:, None] * (1 + 1e-9)).mean(axis=1)


@pytest.fixture(scope="module")
def tree(grow_tree: Callable) -> dict[float, np.ndarray]:
    return {radius: grow_tree(radius, 250, count=6000, dim=24) for radius in (1.0, 3.0, 8.3)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("radius", [1.0, 3.0, 8.3])
def test_exact_searches_and_range_searches_equal_brute_force(
    kind: str, radius: float, tree: dict[float, np.ndarray], brute_force: Callable
) -> None:
    points = tree[radius]
    ids = np.random.default_rng(1).permutation(len(points)) + 10**12
    index = LorentzIndex.build(points, ids, 1.0, kind)
    assert (index.kind, index.generator) == (kind, "lists")
    rng = np.random.default_rng(2)
    members = points[::300]
    strangers = members * rng.normal(1, 0.05, size=members.shape).astype(np.float32)
    queries = np.concatenate([members, strangers, np.zeros_like(members[:1])])
    truth = brute_force(queries, points, 1.0)
    place = np.argsort(ids)
    distances, found, proven = index.search(queries, K, exact=True)
    assert proven
    assert (near(place[np.searchsorted(ids[place], found)], truth) == 1).all()
    np.testing.assert_allclose(distances, np.sort(truth, axis=1)[:, :K], rtol=1e-8, atol=1e-7)
    reach = float(np.median(distances[:, -1])) + 1e-6
    lims, _, hits = index.range_search(queries, reach)
    for row, distances_of_row in enumerate(truth):
        assert set(hits[lims[row] : lims[row + 1]].tolist()) == set(ids[distances_of_row <= reach].tolist())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("radius", [1.0, 8.3])
def test_the_tuned_number_of_probes_reaches_the_recall_it_was_tuned_for(
    kind: str, radius: float, tree: dict[float, np.ndarray], brute_force: Callable
) -> None:
    points = tree[radius]
    index = LorentzIndex.build(points, np.arange(len(points)), 1.0, kind)
    assert 1 <= index.plan.nprobe < index.plan.nlist / 4
    assert index.plan.recall is not None
    assert index.plan.recall >= 0.99
    queries = points[7::60]
    truth = brute_force(queries, points, 1.0)
    distances, found, _ = index.search(queries, K)
    assert near(found, truth).mean() >= 0.985  # of 1,000 neighbours: 0.99 less 1.6 standard errors
    np.testing.assert_allclose(distances, np.take_along_axis(truth, found, axis=1), rtol=1e-8, atol=1e-7)
    few = LorentzIndex.build(points, np.arange(len(points)), 1.0, kind, nprobe=1)
    assert few.plan.nprobe == 1
    assert few.plan.recall < index.plan.recall


def test_answers_are_exact_within_the_lists_that_were_probed(
    tree: dict[float, np.ndarray], brute_force: Callable
) -> None:
    for radius in (3.0, 8.3):
        points = tree[radius]
        index = LorentzIndex.build(points, np.arange(len(points)), 1.0, "ivf")
        rows = index._generator
        assert isinstance(rows, ListRows)
        queries = points[5::200]
        truth = brute_force(queries, points, 1.0)
        lists = rows.route(points.astype(np.float64), 1)[0][:, 0]
        for nprobe in (1, 3):
            probed = rows.route(queries.astype(np.float64), nprobe)[0]
            distances, found, _ = index.search(queries, 5, nprobe=nprobe)
            for row in range(len(queries)):
                inside = np.flatnonzero(np.isin(lists, probed[row]))
                if len(inside) >= 5:
                    expected = np.sort(truth[row, inside])[:5]
                    np.testing.assert_allclose(distances[row], expected, rtol=1e-8, atol=1e-7)
                    assert np.isin(found[row], inside).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("radius", [1.0, 8.3])
def test_proposals_are_never_claimed_complete_when_they_are_not(
    kind: str, radius: float, tree: dict[float, np.ndarray], brute_force: Callable
) -> None:
    """The scores' lower bound on what was left out, and the lists' on what was not scanned, against all distances."""
    points = tree[radius]
    rows = LorentzIndex.build(points, np.arange(len(points)), 1.0, kind)._generator
    assert isinstance(rows, ListRows)
    queries = points[3::150]
    truth = brute_force(queries, points, 1.0)
    lists = rows.route(points.astype(np.float64), 1)[0][:, 0]
    claimed = 0
    for nprobe in (1, 4):
        candidates = rows.candidates(queries.astype(np.float64), 12, None, nprobe)
        for row in range(len(queries)):
            scanned = np.isin(lists, candidates.lists[row])
            left_out = scanned.copy()
            left_out[candidates.positions[row][candidates.positions[row] >= 0]] = False
            if left_out.any():
                assert candidates.last[row] <= np.cosh(truth[row, left_out].min()) * (1 + 1e-12)
            assert candidates.outside[row] <= truth[row, ~scanned].min()
            claimed += candidates.outside[row] > 0
    assert claimed  # else the bounds are trivial


def test_an_answer_that_other_lists_could_better_is_not_called_exact(tree: dict[float, np.ndarray]) -> None:
    points = tree[8.3]
    index = LorentzIndex.build(points, np.arange(len(points)), 1.0, "ivf")
    wrong = proven_right = 0
    for row in range(0, len(points), 40):
        truth = index.search(points[row : row + 1], K, exact=True)
        distances, _, proven = index.search(points[row : row + 1], K, nprobe=1)
        same = np.array_equal(distances, truth[0])
        assert same or not proven
        wrong += not same
        proven_right += proven
    assert wrong
    one = LorentzIndex.build(points[:100], np.arange(100), 1.0, "ivf", nlist=1)
    assert one.search(points[:3], K)[2]  # one list is all there is


@pytest.mark.parametrize("few", [10, 1_000_000], ids=["scanned", "compared in float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_filters(
    few: int, kind: str, tree: dict[float, np.ndarray], brute_force: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("index.scan.SCAN_ALL_BELOW", few)
    points = tree[3.0]
    index = LorentzIndex.build(points, np.arange(len(points)), 1.0, kind)
    allowed = np.arange(0, len(points), 40)  # a fortieth: few lists hold 8 of them
    truth = brute_force(points[:20], points[allowed], 1.0)
    _, found, _ = index.search(points[:20], 8, allowed=allowed, exact=True)
    assert (found == allowed[np.argsort(truth, axis=1)[:, :8]]).all()
    default = index.search(points[:20], 8, allowed=allowed)
    assert (np.isin(default[1], allowed)).all()
    assert near(np.searchsorted(allowed, default[1]), truth).mean() >= 0.95
    every = index.search(points[:2], len(allowed), allowed=allowed, nprobe=1)[1]
    assert sorted(every[0].tolist()) == allowed.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_it_answers_the_same_from_a_mapped_file(
    kind: str, tree: dict[float, np.ndarray], tmp_path: Path
) -> None:
    points = tree[8.3]
    index = LorentzIndex.build(points, np.arange(len(points)), 1.0, kind)
    index.remove([5, 17])
    index.save(tmp_path / "index")
    loaded = LorentzIndex.load(tmp_path / "index")
    assert loaded.plan == index.plan
    flat = 4 * points.size
    assert loaded.resident_bytes < index.resident_bytes - 0.99 * flat
    assert index.search(points[5:6], 1)[1][0, 0] != 5
    for exact in (False, True):
        for one, other in zip(
            index.search(points[:30], K, exact=exact), loaded.search(points[:30], K, exact=exact), strict=True
        ):
            assert np.array_equal(one, other)
    loaded.add(points[5:6], [10**12])
    assert loaded.search(points[5:6], 1)[1].tolist() == [[10**12]]
    loaded.save(tmp_path / "index")  # over the file that it maps
    assert loaded.search(points[3:4], 1)[1].tolist() == [[3]]
    again = LorentzIndex.load(tmp_path / "index")
    assert len(again) == len(points) - 1
    assert again.search(points[5:6], 1)[1].tolist() == [[10**12]]


def test_eight_bits_take_under_a_third_of_the_memory(grow_tree: Callable, tmp_path: Path) -> None:
    points = grow_tree(5.0, 500, count=8000, dim=128)
    sizes = {}
    for kind in KINDS:
        LorentzIndex.build(points, np.arange(len(points)), 1.0, kind, nlist=40, nprobe=4).save(tmp_path / kind)
        sizes[kind] = LorentzIndex.load(tmp_path / kind).resident_bytes / (4 * points.size)
    assert sizes["ivf"] <= 1.05
    assert sizes["ivf_sq8"] <= 0.30


@pytest.mark.parametrize("radius", [15.0, 40.0])
@pytest.mark.parametrize("kind", KINDS)
def test_points_too_far_for_frames_are_still_found(kind: str, radius: float, brute_force: Callable) -> None:
    """Beyond radius 12 certificates fail and float64 compares everything: slow, but right."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(300, 8))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    points = (directions * np.sinh(radius)).astype(np.float32)
    index = LorentzIndex.build(points, np.arange(300), 1.0, kind, nlist=6)
    distances, found, proven = index.search(points[:10], 5, exact=True)
    reference = LorentzIndex.build(points, np.arange(300), 1.0).search(points[:10], 5)
    assert proven
    np.testing.assert_allclose(distances, reference[0], rtol=1e-12)
    assert (found[:, 0] == np.arange(10)).all()


class ListsAgainstDictionary(RuleBasedStateMachine):
    """Random adds, updates, removals, saves, rebuilds and exact searches, against arccosh in long double."""

    @initialize(scale=st.sampled_from([0.5, 30.0]), kind=st.sampled_from(KINDS), c=st.sampled_from([0.3, 1.0]))
    def start(self, scale: float, kind: str, c: float) -> None:
        self.c, self.scale, self.kind = c, scale, kind
        self.rng = np.random.default_rng(0)
        self.model = dict(enumerate(self._points(20)))
        self._build()

    @rule(ids=st.lists(st.integers(0, 40), min_size=1, max_size=12, unique=True))
    def update(self, ids: list[int]) -> None:
        space = self._points(len(ids))
        assert self.index.remove(ids) == len(self.model.keys() & set(ids))
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

    @rule()
    def rebuild(self) -> None:
        self._build()

    @rule(k=st.integers(1, 50))
    def search(self, k: int) -> None:
        query = self._points(1)[0]
        expected = sorted((self._distance(query, point), id_) for id_, point in self.model.items())[:k]
        distances, ids, proven = self.index.search(query[None], k, exact=True)
        assert proven
        assert ids[0].tolist() == [id_ for _, id_ in expected] + [-1] * (k - len(expected))
        np.testing.assert_allclose(distances[0, : len(expected)], [d for d, _ in expected], rtol=1e-6)
        assert self.index.ids.tolist() == sorted(self.model)

    def _build(self) -> None:
        ids = list(self.model)
        space = np.array([self.model[id_] for id_ in ids]).reshape(-1, 3)
        self.index = LorentzIndex.build(space, ids, self.c, self.kind, nlist=4)  # type: ignore[arg-type]

    def _points(self, count: int) -> np.ndarray:
        return (self.rng.normal(size=(count, 3)) * self.scale).astype(np.float32)

    def _distance(self, x: np.ndarray, y: np.ndarray) -> float:
        x, y, c = x.astype(np.longdouble), y.astype(np.longdouble), np.longdouble(self.c)
        times = np.sqrt(1 / c + x @ x) * np.sqrt(1 / c + y @ y)
        return float(np.arccosh(np.maximum(1, c * (times - x @ y))) / np.sqrt(c))


TestListsAgainstDictionary = ListsAgainstDictionary.TestCase
TestListsAgainstDictionary.settings = settings(max_examples=15, stateful_step_count=15)


def test_eight_bits_re_rank_as_many_as_the_recall_needs(brute_force: Callable) -> None:
    """On a sheet without clusters many points are nearly as near as the nearest, and 8 bits blur them."""
    rng = np.random.default_rng(5)
    basis = np.linalg.qr(rng.normal(size=(64, 8)))[0].T
    directions = rng.normal(size=(12_000, 8))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    points = (np.sinh(rng.uniform(1, 6, size=(len(directions), 1))) * directions @ basis).astype(np.float32)
    index = LorentzIndex.build(points, np.arange(len(points)), 1.0, "ivf_sq8")
    assert index.plan.spare > 0
    assert index.plan.recall is not None
    assert index.plan.recall >= 0.99
    queries = points[7::60]
    _, found, _ = index.search(queries, K)
    assert near(found, brute_force(queries, points, 1.0)).mean() >= 0.985
    index._plan = replace(index.plan, spare=0)
    _, fewer, _ = index.search(queries, K)
    assert near(fewer, brute_force(queries, points, 1.0)).mean() < 0.985


@pytest.mark.parametrize("kind", KINDS)
def test_points_whose_products_float32_cannot_hold_are_found(kind: str) -> None:
    # Radius 89 and, in the other direction, 81: to a query at radius 5.3 the first is nearer, 83 against 86.7.
    far = np.array([[3e38, 0, 0, 0], [-1e35, 0, 0, 0]], dtype=np.float32)
    near_points = np.random.default_rng(0).normal(size=(400, 4)).astype(np.float32)
    query = np.array([[100.0, 0, 0, 0]])
    built = LorentzIndex.build(np.concatenate([near_points, far]), np.arange(402), 1.0, kind, nlist=8)
    grown = LorentzIndex.build(near_points, np.arange(400), 1.0, kind, nlist=8)
    with np.errstate(over="ignore"):  # the rows themselves do not fit into float32 in every frame
        grown.add(far, [400, 401])
    for index in (built, grown):
        distances, found, proven = index.search(query, 402, exact=True)
        assert proven
        assert found[0, -2:].tolist() == [400, 401]
        np.testing.assert_allclose(distances[0, -2:], np.arcsinh([3e38, 1e35]) + np.arcsinh([-100, 100]), rtol=1e-6)
        assert np.array_equal(index.range_search(query, 100.0)[2], found[0])


@pytest.mark.parametrize("kind", KINDS)
def test_many_neighbours_of_many_queries_take_no_more_memory_than_there_are_points(
    kind: str, brute_force: Callable
) -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(6000, 4)).astype(np.float32)
    index = LorentzIndex.build(points, np.arange(6000), 1.0, kind, nlist=100, nprobe=10)
    queries = points[::200]
    tracemalloc.start()
    distances, _, _ = index.search(queries, 3000, exact=kind == "ivf")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # 30 queries, 100 lists and 3,008 proposals of each would be 9 million, of 24 bytes each.
    assert peak < 9e6 * 24 / 2
    if kind == "ivf":
        truth = np.sort(brute_force(queries, points, 1.0), axis=1)[:, :3000]
        np.testing.assert_allclose(distances, truth, rtol=1e-8, atol=1e-7)
