"""A labelled tree set in three levels, and its hierarchy."""

import numpy as np
import pytest

from index.hierarchy import Hierarchy

C = 0.7


@pytest.fixture(scope="session")
def forest(grow_tree):
    """600 points in 50 clusters of 12, catalogue rows in another order than the points, label paths."""
    space = grow_tree(4.0, 12, count=600, dim=16, c=C, scatter=0.1)
    rows = np.random.default_rng(1).permutation(5000)[:600].astype(np.int64)
    labels = [(f"family-{i // 60}", f"kind-{i // 12}") for i in range(600)]
    return space, rows, labels


@pytest.fixture
def hierarchy(forest):
    space, rows, labels = forest
    return Hierarchy.build(space, rows, C, labels=labels, model_hash="fa4e00000001")
