"""Dendrogram measures against brute force over the subtrees, and against SciPy."""

import itertools
import math
import time

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.cluster.hierarchy import cophenet, linkage, to_tree
from scipy.spatial.distance import pdist, squareform
from scipy.stats import spearmanr

from training.dendrogram_metrics import (
    CommonAncestors,
    common_ancestor_radius_spearman,
    common_levels,
    dendrogram_purity,
    item_pairs,
    parents_of,
    spearman,
    subtree_sizes,
    tree_distance_spearman,
)


def tree(n: int, method: str = "average", seed: int = 0) -> NDArray[np.float64]:
    return linkage(np.random.default_rng(seed).normal(size=(n, 5)), method)


def chain(n: int) -> NDArray[np.float64]:
    """Each merge adds one item: the deepest tree there is."""
    rows = [[0, 1, 1.0, 2]] + [[n + t - 1, t + 1, float(t + 1), t + 2] for t in range(1, n - 1)]
    return np.array(rows, dtype=np.float64)


def members(Z: NDArray[np.float64]) -> list[frozenset[int]]:
    """Items under every node, by SciPy's own reading of the matrix."""
    _, nodes = to_tree(Z, rd=True)
    return [frozenset(node.pre_order()) for node in nodes]


def lowest(sets: list[frozenset[int]], i: int, j: int) -> int:
    return min((k for k, s in enumerate(sets) if i in s and j in s), key=lambda k: len(sets[k]))


def brute_purity(Z: NDArray[np.float64], classes: NDArray[np.int64]) -> float:
    sets = members(Z)
    values = []
    for i, j in itertools.combinations(range(len(classes)), 2):
        if classes[i] == classes[j]:
            under = sets[lowest(sets, i, j)]
            values.append(sum(classes[k] == classes[i] for k in under) / len(under))
    return sum(values) / len(values)


TREES = [tree(25), tree(25, "ward", 1), tree(25, "single", 2), tree(25, "centroid", 3), chain(25)]


@pytest.mark.parametrize("Z", TREES, ids=["average", "ward", "single", "centroid", "chain"])
def test_purity_is_its_definition_pair_by_pair(Z: NDArray[np.float64]) -> None:
    rng = np.random.default_rng(1)
    fine = rng.integers(0, 9, 25)
    labels = np.stack([fine // 5, fine], axis=1)
    found = dendrogram_purity(Z, labels)
    assert found == pytest.approx([brute_purity(Z, column) for column in labels.T], rel=1e-12)
    assert dendrogram_purity(Z, fine) == pytest.approx([found[1]], rel=1e-12)
    assert found[0] > found[1] > 0


def test_purity_of_trees_that_can_be_told_by_hand() -> None:
    Z = np.array([[0, 1, 1, 2], [2, 3, 1, 2], [4, 5, 2, 4]], dtype=np.float64)
    assert dendrogram_purity(Z, np.array([0, 0, 1, 1])) == [1.0]
    assert dendrogram_purity(Z, np.array([0, 1, 0, 1])) == [0.5]
    # pairs (0,1): 1; (0,2), (1,2): 3/4
    assert dendrogram_purity(Z, np.array([0, 0, 0, 1])) == pytest.approx([(1 + 0.75 + 0.75) / 3])
    assert math.isnan(dendrogram_purity(Z, np.array([0, 1, 2, 3]))[0])


@pytest.mark.parametrize("shape", ["average", "chain"])
def test_purity_of_20000_items_takes_seconds(shape: str) -> None:
    n = 20_000
    rng = np.random.default_rng(0)
    if shape == "chain":
        Z = chain(n)
    else:  # random pairs of what is left, which is what a linkage's matrix looks like
        alive, rows = list(range(n)), []
        for t in range(n - 1):
            a, b = (alive.pop(int(rng.integers(len(alive)))) for _ in range(2))
            alive.append(n + t)
            rows.append([a, b, float(t), 0.0])
        Z = np.array(rows)
    classes = rng.integers(0, 500, n)
    started = time.perf_counter()
    (found,) = dendrogram_purity(Z, classes)
    assert time.perf_counter() - started < 10
    assert 1 / 500 < found < 0.05  # labels at random: hardly purer than the whole


@pytest.mark.parametrize("Z", TREES, ids=["average", "ward", "single", "centroid", "chain"])
def test_common_ancestors_are_the_smallest_subtrees_that_hold_both(Z: NDArray[np.float64]) -> None:
    sets = members(Z)
    i, j = item_pairs(25)
    assert len(i) == 300
    expected = [lowest(sets, a, b) for a, b in zip(i.tolist(), j.tolist(), strict=True)]
    lookup = CommonAncestors.of(Z)
    assert lookup(i, j).tolist() == expected
    assert lookup(j, i).tolist() == expected
    assert subtree_sizes(Z).tolist() == [len(s) for s in sets]
    parents = parents_of(Z)
    assert parents[-1] == -1
    assert all(sets[node] < sets[parent] for node, parent in enumerate(parents[:-1].tolist()))
    with pytest.raises(ValueError, match="pairs of different items"):
        lookup(np.array([3]), np.array([3]))


def test_two_items_have_one_ancestor() -> None:
    Z = np.array([[0, 1, 3.0, 2]])
    assert CommonAncestors.of(Z)(np.array([0]), np.array([1])).tolist() == [2]
    assert dendrogram_purity(Z, np.array([5, 5])) == [1.0]


@pytest.mark.parametrize("method", ["average", "ward", "complete"])
def test_tree_distance_spearman_is_scipys_on_its_cophenetic_distances(method: str) -> None:
    points = np.random.default_rng(4).normal(size=(60, 3))
    true = pdist(points)
    Z = linkage(true, method)
    expected = spearmanr(cophenet(Z), true).statistic
    assert tree_distance_spearman(Z, squareform(true)) == pytest.approx(expected, abs=1e-12)
    sampled = tree_distance_spearman(Z, squareform(true), limit=1500, seed=1)
    assert sampled == pytest.approx(expected, abs=0.06)
    assert sampled != pytest.approx(expected, abs=1e-9)
    assert sampled == tree_distance_spearman(Z, squareform(true), limit=1500, seed=1)


def test_pairs_are_all_there_are_or_a_fair_draw() -> None:
    i, j = item_pairs(7)
    assert sorted(zip(i.tolist(), j.tolist(), strict=True)) == list(itertools.combinations(range(7), 2))
    i, j = item_pairs(10, limit=44, seed=0)
    assert len(i) == 44
    i, j = item_pairs(400, limit=60_000)
    assert (i < j).all()
    counts = np.bincount(np.concatenate([i, j]), minlength=400)  # 300 of each on average
    assert counts.min() > 220
    assert counts.max() < 380


def test_spearman_is_scipys_with_ties_and_has_no_value_for_constants() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, 200), rng.integers(0, 3, 200) + rng.integers(0, 2, 200)
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)
    assert math.isnan(spearman(np.ones(4), np.arange(4)))


def test_radius_spearman_is_1_where_radius_follows_the_level_and_turns_with_its_sign() -> None:
    Z = np.array([[0, 1, 1, 2], [2, 3, 1, 2], [4, 5, 1, 2], [6, 7, 2, 4], [8, 9, 3, 6]], dtype=np.float64)
    labels = np.array([[0, 0], [0, 0], [0, 1], [0, 1], [1, 2], [1, 2]])
    radii = np.array([3.0] * 6 + [2.0, 2.0, 2.0, 1.0, 0.1])
    assert common_ancestor_radius_spearman(Z, radii, labels) == pytest.approx(1.0)
    assert common_ancestor_radius_spearman(Z, -radii, labels) == pytest.approx(-1.0)
    rng = np.random.default_rng(5)
    Z, labels, radii = tree(30), rng.integers(0, 2, (30, 3)), rng.random(59)
    sets = members(Z)
    pairs = list(itertools.combinations(range(30), 2))
    levels = [next((k for k in range(3) if labels[i, k] != labels[j, k]), 3) for i, j in pairs]
    expected = spearmanr([radii[lowest(sets, i, j)] for i, j in pairs], levels).statistic
    assert common_ancestor_radius_spearman(Z, radii, labels) == pytest.approx(expected, abs=1e-12)


def test_common_levels_stop_at_the_first_difference() -> None:
    a = np.array([[1, 2, 3], [1, 2, 3], [1, 9, 3], [0, 2, 3]])
    b = np.array([[1, 2, 3], [1, 2, 4], [1, 2, 3], [1, 2, 3]])
    assert common_levels(a, b).tolist() == [3, 2, 1, 0]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((0, 4)), "of two or more items"),
        (np.zeros(4), "of two or more items"),
        (np.array([[0, 1, 1, 2], [0, 2, 2, 3]]), "joined once"),
        (np.array([[0, 4, 1, 2], [1, 2, 2, 3]]), "joined once"),
    ],
)
def test_what_is_no_tree_is_refused(rows: NDArray[np.float64], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dendrogram_purity(rows, np.zeros(3, np.int64))


def test_sizes_that_do_not_fit_are_refused() -> None:
    Z = tree(5)
    with pytest.raises(ValueError, match="labels of the 5 items"):
        dendrogram_purity(Z, np.zeros(4, np.int64))
    with pytest.raises(ValueError, match=r"true distances \(5, 5\)"):
        tree_distance_spearman(Z, np.zeros((4, 4)))
    with pytest.raises(ValueError, match="5 labels and 9 radii"):
        common_ancestor_radius_spearman(Z, np.zeros(5), np.zeros(5, np.int64))
