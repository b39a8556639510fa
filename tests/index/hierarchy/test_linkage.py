"""Average linkage against scipy's, and the cells-first form against the exact one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import cophenet, is_valid_linkage, linkage
from scipy.spatial.distance import squareform

from index.hierarchy.linkage import average_linkage, dendrogram, distance_matrix, mean_distance_matrix


def matrix_of(space):
    """Distances in float32 that scipy and we both see."""
    return distance_matrix(space, space, 1.0)


def scipy_linkage(matrix):
    return linkage(squareform(matrix.astype(np.float64), checks=False), method="average")


@pytest.mark.parametrize("count", [2, 3, 50, 900])
def test_equals_scipy(count):
    space = np.random.default_rng(count).normal(scale=2, size=(count, 6)).astype(np.float32)
    matrix = matrix_of(space)
    matrix = np.maximum(matrix, matrix.T)
    expected = scipy_linkage(matrix)
    found = average_linkage(matrix)
    assert is_valid_linkage(found)
    assert np.array_equal(found[:, :2], np.sort(expected[:, :2], axis=1))
    assert np.abs(found[:, 2] - expected[:, 2]).max() < 2e-6 * expected[-1, 2]
    assert np.array_equal(found[:, 3], expected[:, 3])


def test_one_item_has_no_merges():
    assert average_linkage(np.zeros((1, 1), dtype=np.float32)).shape == (0, 4)
    assert dendrogram(np.ones((1, 3), dtype=np.float32), 1.0).shape == (0, 4)


def test_sizes_stand_for_items():
    """Clusters given by their sizes and mean distances end as the same clusters given item by item."""
    rng = np.random.default_rng(0)
    space = np.repeat(rng.normal(size=(12, 4)), rng.integers(1, 6, 12), axis=0).astype(np.float32)
    firsts, sizes = np.unique(space, axis=0, return_counts=True)
    whole = scipy_linkage(np.maximum(matrix_of(space), matrix_of(space).T))[-11:]
    found = average_linkage(matrix_of(firsts), sizes)
    assert np.allclose(found[:, 2], whole[:, 2], rtol=1e-5)
    assert np.array_equal(found[:, 3], whole[:, 3])
    assert not np.allclose(average_linkage(matrix_of(firsts))[:, 2], whole[:, 2], rtol=1e-3)


@given(st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=2), min_size=1, max_size=40))
@settings(max_examples=60)
def test_ties_and_duplicates_end_in_one_tree(points):
    found = dendrogram(np.array(points, dtype=np.float32), 1.0)
    assert found.shape == (len(points) - 1, 4)
    if len(points) > 1:
        assert is_valid_linkage(found)
        assert (np.diff(found[:, 2]) >= 0).all()
        assert found[-1, 3] == len(points)


@pytest.mark.parametrize("arguments", [(np.zeros((2, 3), np.float32), None), (np.zeros((2, 2), np.float32), [1, 0])])
def test_what_is_no_square_or_no_size_is_refused(arguments):
    with pytest.raises(ValueError, match="expected"):
        average_linkage(*arguments)


@pytest.mark.parametrize("radius", [1.0, 5.0, 9.0])
def test_distances(grow_tree, brute_force, radius):
    space = grow_tree(radius, 10, count=300, dim=8, c=0.6)
    expected = brute_force(space, space, 0.6)
    largest_time = np.sqrt(1 + 0.6 * np.square(space.astype(np.float64)).sum(axis=1).max())
    with np.errstate(divide="ignore"):
        rounding = np.minimum(3e-8 * largest_time, 1e-15 * largest_time**2 / (np.sqrt(0.6) * expected))
    assert (np.abs(distance_matrix(space, space, 0.6) - expected) * np.sqrt(0.6) <= 3e-7 * expected + rounding).all()


def test_mean_distances(grow_tree, brute_force):
    space = grow_tree(3.0, 10, count=240, dim=8, c=0.6)
    expected = brute_force(space, space, 0.6).reshape(80, 3, 80, 3).mean(axis=(1, 3))
    found = mean_distance_matrix(space.reshape(80, 3, 8), 0.6)
    assert np.array_equal(found, found.T)
    # Self-distances of duplicates round at 1e-8 of the time, others far less.
    assert np.abs(found - expected).max() < 2e-6


def test_cells_first_is_near_the_exact_tree(grow_tree):
    space = grow_tree(4.0, 20, count=1500, dim=16)
    exact, cells = dendrogram(space, 1.0), dendrogram(space, 1.0, exact_below=300)
    assert is_valid_linkage(cells)
    assert (np.diff(cells[:, 2]) >= 0).all()
    assert cells[-1, 3] == 1500
    # The same clusters of 20, and nearly the same distances at which items meet.
    for tree in (exact, cells):
        assert _clusters(tree, 20) >= 0.97 * 75
    assert np.corrcoef(cophenet(exact), cophenet(cells))[0, 1] > 0.97


def _clusters(tree, size):
    """How many of the leaf clusters (runs of `size` items) are clusters of the tree."""
    members = {item: frozenset([item]) for item in range(len(tree) + 1)}
    for number, (a, b) in enumerate(tree[:, :2].astype(int).tolist()):
        members[len(tree) + 1 + number] = members[a] | members[b]
    wanted = {frozenset(range(start, start + size)) for start in range(0, len(tree) + 1, size)}
    return len(wanted & set(members.values()))


@pytest.mark.parametrize("count", [2, 3, 150, 9000])
def test_cells_of_equal_points(count):
    found = dendrogram(np.ones((count, 2), dtype=np.float32), 1.0, exact_below=count // 2)
    assert found[-1, 3] == count
    assert found[-1, 2] < 1e-6


@given(st.integers(2, 60), st.integers(1, 20), st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_cells_of_any_size_make_one_tree(count, exact_below, seed):
    space = np.random.default_rng(seed).normal(size=(count, 2)).round(1).astype(np.float32)
    found = dendrogram(space, 1.0, exact_below=exact_below)
    assert is_valid_linkage(found)
    assert found[-1, 3] == count
    assert (np.diff(found[:, 2]) >= 0).all()
