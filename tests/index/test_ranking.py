"""Rankings within a radius equal brute force, whether the search or the radius is what bounds them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from index.catalogue import Item
from index.collection import Collection
from index.lorentz_index import LorentzIndex
from index.ranking import ranked

COUNT = 3000


@pytest.fixture(scope="module")
def points(grow_tree: Callable) -> np.ndarray:
    return np.asarray(grow_tree(4.0, 30, count=COUNT, dim=12))


@pytest.mark.parametrize("kind", ["flat", "ivf", "ivf_sq8"])
def test_a_radius_and_a_number_of_hits_equal_brute_force(kind: str, points: np.ndarray, brute_force: Callable) -> None:
    index = LorentzIndex.build(points, np.arange(COUNT), 1.0, kind, nprobe=1)
    queries = points[::500] * np.float32(1.02)
    truth = brute_force(queries, points, 1.0)
    some = np.flatnonzero(np.random.default_rng(0).random(COUNT) < 0.1)
    for k in (1, 20, 400):
        for radius in (0.05, 0.4, 2.0, 30.0):
            for allowed in (None, some):
                found = list(ranked(index, queries, k, radius=radius, allowed=allowed, exact=False))
                for (distances, rows, proven), all_distances in zip(found, truth, strict=True):
                    assert proven
                    among = all_distances if allowed is None else all_distances[allowed]
                    expected = np.sort(among[among <= radius])[:k]
                    np.testing.assert_allclose(distances, expected, rtol=1e-8, atol=1e-7)
                    np.testing.assert_allclose(all_distances[rows], distances, rtol=1e-8, atol=1e-7)
                    assert len(set(rows.tolist())) == len(rows)
                    assert allowed is None or set(rows.tolist()) <= set(allowed.tolist())


def test_what_was_proven_is_told_of_each_query(points: np.ndarray) -> None:
    """One probed list proves nothing for a query between lists, everything for one deep in its own."""
    index = LorentzIndex.build(points, np.arange(COUNT), 1.0, "ivf", nprobe=1)
    queries = np.concatenate([points[::100], np.zeros((1, 12), np.float32)])
    together = [proven for *_, proven in ranked(index, queries, 5, radius=None, allowed=None, exact=False)]
    alone = [next(ranked(index, query[None], 5, radius=None, allowed=None, exact=False))[2] for query in queries]
    assert together == alone
    assert any(together)
    assert not all(together)
    assert all(proven for *_, proven in ranked(index, queries, 5, radius=None, allowed=None, exact=True))


def test_a_ranking_names_the_state_it_is_of(tmp_path: Path) -> None:
    with Collection.create(tmp_path, embedding_dim=2, c=1.0, model_hash="m") as collection:
        collection.upsert([Item(f"{x}", np.array([x, 0], np.float32)) for x in (0, 1, 2)])
        (ranking,) = collection.rank(np.zeros((1, 2)), 5)
        assert (ranking.rows.tolist(), ranking.sequence) == ([1, 2, 3], 1)
        assert ranking.generation == collection.generation
        collection.delete(["1"])
        (ranking,) = collection.rank(np.zeros((1, 2)), 5, radius=1.5)
        assert (ranking.rows.tolist(), ranking.sequence) == ([1, 3], 2)
        assert collection.rank(np.zeros((1, 2)), 5, radius=0.0)[0].rows.tolist() == [1]
