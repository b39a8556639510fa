"""Pruned trees: fan-out, sizes, loose items, and what is kept of the merge matrix."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.hierarchy.linkage import dendrogram
from index.hierarchy.prune import prune


def structure(pruned):
    """Sizes of all nodes with everything below, and their children."""
    count = len(pruned.parents)
    sizes = np.bincount(pruned.owners, minlength=count)
    children = [[] for _ in range(count)]
    for node in range(count - 1, 0, -1):
        sizes[pruned.parents[node]] += sizes[node]
        children[pruned.parents[node]].insert(0, node)
    return sizes, children


@given(
    st.integers(1, 120), st.integers(2, 12), st.integers(1, 9), st.integers(0, 2**32 - 1), st.sampled_from([0.3, 2.0])
)
@settings(max_examples=80)
def test_what_every_pruned_tree_keeps(count, max_children, min_size, seed, scale):
    space = np.random.default_rng(seed).normal(scale=scale, size=(count, 3)).astype(np.float32)
    pruned = prune(dendrogram(space, 1.0), max_children=max_children, min_size=min_size)
    sizes, children = structure(pruned)
    assert sizes[0] == count == len(pruned.owners)
    assert pruned.parents[0] == -1
    assert all(2 <= len(found) <= max_children for found in children if found)
    assert (sizes[1:] >= min_size).all()
    assert all(pruned.heights[node] <= pruned.heights[pruned.parents[node]] for node in range(1, len(sizes)))
    # Depth first: what comes after a node, up to the size of its subtree, is below it.
    way = [0]
    for node in range(1, len(sizes)):
        while way[-1] != pruned.parents[node]:
            way.pop()
        way.append(node)


def test_families_within_families(grow_tree):
    """64 clusters of 12 on a tree of four ways and four ways and four ways: all three levels are found."""
    space = grow_tree(6.0, 12, count=64 * 12, dim=24, scatter=0.1)
    pruned = prune(dendrogram(space, 1.0), min_size=7)  # more than half of a cluster, which is not torn then
    sizes, _ = structure(pruned)
    owners = pruned.owners.reshape(64, 12)
    assert (owners == owners[:, :1]).mean() > 0.98
    assert np.isin([12, 48, 192], sizes).sum() >= 1
    assert np.count_nonzero(sizes == 12) >= 60


def test_few_odd_items_are_loose():
    """Two clusters and three strangers, who hang from the root and make no nodes."""
    rng = np.random.default_rng(0)
    directions = np.zeros((43, 6))
    directions[:20, 0], directions[20:40, 1] = 2.0, 2.0
    directions[40, 2] = directions[41, 3] = directions[42, 4] = 6.0
    space = (directions + rng.normal(scale=0.02, size=(43, 6))).astype(np.float32)
    pruned = prune(dendrogram(space, 1.0), min_size=15)
    sizes, children = structure(pruned)
    assert sizes.tolist() == [43, 20, 20]
    assert children[0] == [1, 2]
    assert pruned.owners[40:].tolist() == [0, 0, 0]


def test_the_widest_gap_is_cut():
    """Five clusters equally far from each other become five children, not a ladder of pairs."""
    rng = np.random.default_rng(0)
    space = np.repeat(3 * np.eye(5), 10, axis=0) + rng.normal(scale=0.01, size=(50, 5))
    _, children = structure(prune(dendrogram(space.astype(np.float32), 1.0)))
    assert len(children[0]) == 5


def test_a_single_item():
    pruned = prune(np.zeros((0, 4)))
    assert (pruned.parents.tolist(), pruned.heights.tolist(), pruned.owners.tolist()) == ([-1], [0.0], [0])


@pytest.mark.parametrize("wrong", [{"max_children": 1}, {"min_size": 0}])
def test_unreadable_wishes_are_refused(wrong):
    with pytest.raises(ValueError, match="expected max_children >= 2 and min_size >= 1"):
        prune(np.zeros((0, 4)), **wrong)
