"""The flat index finds the exact neighbours of tree-like sets, out to the radius of what float32 encoders
produce."""

from collections.abc import Callable

import numpy as np
import pytest

from index.lorentz_index import LorentzIndex

K = 10


def recall(found: np.ndarray, ids: np.ndarray, truth: np.ndarray) -> float:
    """Share of the true neighbours found: `truth` (q, n) are all distances, ties at the k-th place count
    for either."""
    kth = np.sort(truth, axis=1)[:, K - 1]
    place = {int(id_): column for column, id_ in enumerate(ids)}
    hits = 0
    for row, answer in enumerate(found):
        assert len(set(answer.tolist())) == K
        # The oracle's own rounding: 1e-9 of a distance at radius 8.3.
        hits += sum(truth[row, place[int(id_)]] <= kth[row] * (1 + 1e-9) for id_ in answer)
    return hits / found.size


@pytest.mark.parametrize("radius", [1, 2, 3, 5, 7, 8.3])
@pytest.mark.parametrize("cluster", [100, 1000])
def test_recall_is_one(radius: float, cluster: int, grow_tree: Callable, brute_force: Callable) -> None:
    points = grow_tree(radius, cluster)
    ids = np.random.default_rng(1).permutation(len(points)) + 10**12
    index = LorentzIndex.build(points, ids, 1.0)
    rng = np.random.default_rng(2)
    members = points[rng.choice(len(points), 24, replace=False)]
    strangers = members * rng.normal(1, 0.05, size=members.shape).astype(np.float32)
    queries = np.concatenate([members, strangers])
    truth = brute_force(queries, points, 1.0)

    distances, found, exact = index.search(queries, K)

    assert exact
    assert recall(found, ids, truth) == 1.0
    np.testing.assert_allclose(distances, np.sort(truth, axis=1)[:, :K], rtol=1e-8, atol=1e-7)
    assert (distances[:24, 0] == 0).all()
    one_by_one = [index.search(query[None], K) for query in queries[:6]]
    for row, (alone, alone_ids, _) in enumerate(one_by_one):
        assert (alone[0] == distances[row]).all()
        assert (alone_ids[0] == found[row]).all()


@pytest.mark.parametrize("generator_radius", [0.0, 100.0], ids=["ball", "inner_product"])
@pytest.mark.parametrize("c", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("radius", [0.5, 4, 6.5])
def test_either_generator_is_exact_at_any_radius_and_curvature(
    generator_radius: float,
    c: float,
    radius: float,
    grow_tree: Callable,
    brute_force: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("index.lorentz_index.inner_product_radius", lambda _: generator_radius)
    monkeypatch.setattr("index.lorentz_index.SWITCH_AFTER_QUERIES", 10**9)
    points = grow_tree(radius / np.sqrt(c), 200, count=4000, dim=32, c=c, scatter=0.2 / np.sqrt(c))
    ids = np.arange(len(points))
    index = LorentzIndex.build(points, ids, c)
    assert index.generator == ("ball" if generator_radius == 0 else "inner_product")
    queries = points[::150]
    truth = brute_force(queries, points, c)
    distances, found, exact = index.search(queries, K)
    assert exact
    assert recall(found, ids, truth) == 1.0
    np.testing.assert_allclose(distances, np.sort(truth, axis=1)[:, :K], rtol=1e-8, atol=1e-7)


def test_recall_does_not_depend_on_the_process_wide_blas_threshold(grow_tree: Callable, brute_force: Callable) -> None:
    import faiss

    points = grow_tree(8.3, 1000, count=5000)
    index = LorentzIndex.build(points, np.arange(len(points)), 1.0)
    queries = points[::100]
    before = faiss.cvar.distance_compute_blas_threshold
    faiss.cvar.distance_compute_blas_threshold = 1
    try:
        _, found, exact = index.search(queries, K)
        lims, _, _ = index.range_search(queries, 0.25)
    finally:
        faiss.cvar.distance_compute_blas_threshold = before
    truth = brute_force(queries, points, 1.0)
    assert exact
    assert recall(found, np.arange(len(points)), truth) == 1.0
    assert (np.diff(lims) == (truth <= 0.25).sum(axis=1)).all()


def test_plain_float32_inner_products_fail_on_these_sets(grow_tree: Callable, brute_force: Callable) -> None:
    """The sets are hard: if this recall were high, the tests above would prove little."""
    import faiss

    points = grow_tree(8.3, 1000)
    times = np.sqrt(1 + (points.astype(np.float64) ** 2).sum(1, keepdims=True)).astype(np.float32)
    flat = faiss.IndexFlatIP(points.shape[1] + 1)
    flat.add(np.concatenate([times, points], axis=1))
    chosen = np.arange(0, len(points), 400)
    _, found = flat.search(np.concatenate([-times[chosen], points[chosen]], axis=1), K)
    assert recall(found, np.arange(len(points)), brute_force(points[chosen], points, 1.0)) < 0.3


@pytest.mark.parametrize(("radius", "reach"), [(3, 0.25), (8.3, 0.2), (8.3, 0.25), (8.3, 2.0)])
def test_range_search_misses_nothing_and_adds_nothing(
    radius: float, reach: float, grow_tree: Callable, brute_force: Callable
) -> None:
    points = grow_tree(radius, 1000)
    ids = np.arange(len(points))[::-1].copy()
    index = LorentzIndex.build(points, ids, 1.0)
    queries = points[::1000]
    truth = brute_force(queries, points, 1.0)
    # No distance lies so close to the threshold that the oracle's rounding (1e-9) could decide.
    assert (np.abs(truth - reach) > 1e-9).all()

    lims, distances, found = index.range_search(queries, reach)

    for row, distances_of_row in enumerate(truth):
        part = slice(lims[row], lims[row + 1])
        expected = set(ids[distances_of_row <= reach].tolist())
        assert set(found[part].tolist()) == expected
        assert len(found[part]) == len(expected)
        assert (np.diff(distances[part]) >= 0).all()
    assert lims[-1] == len(found)


@pytest.mark.parametrize("copies", [6, 200], ids=["among the candidates", "more than the scan proposes"])
@pytest.mark.parametrize("scale", [1.0, 1000.0], ids=["inner_product", "ball"])
def test_ties_come_in_the_order_of_their_ids(copies: int, scale: float) -> None:
    rng = np.random.default_rng(0)
    place, others = rng.normal(size=(1, 16)) * scale, rng.normal(size=(300, 16)) * scale
    points = np.concatenate([np.repeat(place, copies, axis=0), others]).astype(np.float32)
    ids = rng.permutation(len(points))
    index = LorentzIndex.build(points, ids, 1.0)
    distances, found, exact = index.search(points[:1], 5)
    assert exact
    assert (distances == 0).all()
    assert found[0].tolist() == sorted(ids[:copies].tolist())[:5]
    assert index.range_search(points[:1], 0.0)[2].tolist() == sorted(ids[:copies].tolist())


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e6, 1e18, 3e38])
def test_extreme_points_and_queries_are_answered(scale: float) -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(400, 4))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    near = LorentzIndex.build(points, np.arange(400), 1.0)
    far = LorentzIndex.build(points * max(scale, 1.0), np.arange(400), 1.0)
    for index in (near, far):
        distances, found, exact = index.search(points[:3] * scale, 5)
        assert exact
        assert np.isfinite(distances).all()
        assert (np.diff(distances, axis=1) >= 0).all()
        if scale >= 1:
            assert found[:, 0].tolist() == [0, 1, 2]
