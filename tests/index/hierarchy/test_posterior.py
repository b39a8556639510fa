"""Masses of nodes and labels against sums over members written out; the ways down against a plain loop."""

import numpy as np
import pytest
import torch

from hyperbolic import lorentz
from index.hierarchy import Hierarchy, posterior
from index.hierarchy.labels import LabelForest
from index.hierarchy.posterior import Posterior
from index.hierarchy.walk import Walk, along, deepest, node_depths

C, T = 0.7, 0.4


@pytest.fixture
def queries(forest):
    """Points beside and between the items, one equal to an item, one at the origin."""
    space = forest[0].astype(np.float64)
    rng = np.random.default_rng(3)
    near = space[rng.permutation(600)[:12]] * rng.uniform(0.6, 1.1, (12, 1)) + rng.normal(0, 0.4, (12, 16))
    return np.concatenate([near, space[:1], np.zeros((1, 16))]).astype(np.float32)


def item_masses(hierarchy, queries, brute_force, without=None):
    """softmax(-d / T) over the items, as a dict row -> mass for each query."""
    found = []
    for query, distances in enumerate(brute_force(queries, hierarchy.item_space, C)):
        weights = np.exp(-(distances - distances.min()) / T)
        if without is not None:
            weights[without[query]] = 0
        found.append(dict(zip(hierarchy.rows.tolist(), (weights / weights.sum()).tolist(), strict=True)))
    return found


def labels_of(hierarchy, forest):
    return dict(zip(forest[1].tolist(), forest[2], strict=True))


def test_node_and_label_masses_are_sums_over_members(hierarchy, forest, queries, brute_force):
    found = Posterior.of(hierarchy)
    masses = found.masses(queries, T)
    labels = labels_of(hierarchy, forest)
    for query, mass in enumerate(item_masses(hierarchy, queries, brute_force)):
        for node in range(len(hierarchy.ids)):
            expected = sum(mass[row] for row in hierarchy.members(node).tolist())
            assert masses.nodes[query, node] == pytest.approx(expected, rel=1e-5, abs=1e-9)
        for number, name in enumerate(found.labels.names):
            expected = sum(value for row, value in mass.items() if labels[row][: len(name)] == name)
            assert masses.labels[query, number] == pytest.approx(expected, rel=1e-5, abs=1e-9)
    assert masses.nodes[:, 0] == pytest.approx(1, abs=1e-9)


def test_belonging_is_the_mass_of_items_whose_label_is_at_home_under_the_node(hierarchy, forest, queries, brute_force):
    labels = labels_of(hierarchy, forest)
    of_class = {}
    for row, label in labels.items():
        of_class.setdefault(label, set()).add(row)

    def at_home(node, label):
        members = set(hierarchy.members(node).tolist())
        shared = 2 * len(members & of_class[label])
        here = shared > 0 and (shared >= len(of_class[label]) or shared >= len(members))
        return here or any(at_home(child, label) for child in hierarchy.children(node))

    homes = [{label for label in of_class if at_home(node, label)} for node in range(len(hierarchy.ids))]
    assert 0 < sum(map(len, homes[1:])) < len(homes[1:]) * len(of_class)
    found = Posterior.of(hierarchy).masses(queries, T).belonging
    for query, mass in enumerate(item_masses(hierarchy, queries, brute_force)):
        for node, home in enumerate(homes):
            expected = sum(value for row, value in mass.items() if labels[row] in home)
            assert found[query, node] == pytest.approx(expected, rel=1e-5, abs=1e-9)
        below = found[query, 1:] <= found[query, hierarchy.parents[1:]] + 1e-12
        assert below.all()


def test_items_without_a_label_count_where_they_lie(forest, queries):
    space, rows, labels = forest
    bare = Hierarchy.build(space, rows, C)
    masses = Posterior.of(bare).masses(queries, T)
    assert np.array_equal(masses.belonging, masses.nodes)
    assert masses.labels.shape == (len(queries), 0)
    # Labels on the first half only: the others' masses are still all there at the root, and not at any label.
    half = Hierarchy.build(space, rows, C, labels=[label if i < 300 else () for i, label in enumerate(labels)])
    masses = Posterior.of(half).masses(queries, T)
    families = masses.labels[:, Posterior.of(half).labels.levels == 0].sum(axis=1)
    assert masses.belonging[:, 0] == pytest.approx(1, abs=1e-9)
    assert families.min() < 0.01
    assert 0.99 < families.max() <= 1 + 1e-9


def test_an_excluded_item_is_as_good_as_removed(hierarchy, forest, brute_force):
    positions = np.array([5, 250, 599, -1])
    points = hierarchy.item_space[[5, 250, 599, 5]]
    found = Posterior.of(hierarchy).masses(points, T, z0=-5.0, exclude=positions)
    expected = item_masses(hierarchy, points[:3], brute_force, without=positions[:3])
    for query in range(3):
        for node in range(len(hierarchy.ids)):
            mass = sum(expected[query][row] for row in hierarchy.members(node).tolist())
            assert found.nodes[query, node] == pytest.approx(mass, rel=1e-5, abs=1e-9)
    space, rows, labels = forest
    order = np.argsort(rows)
    for query, position in enumerate(positions[:3].tolist()):
        kept = np.delete(order, position)
        other = Posterior.of(Hierarchy.build(space[kept], rows[kept], C, labels=[labels[i] for i in kept]))
        log_density, specificity = other.specificity(points[query : query + 1], T, z0=-5.0)
        assert found.log_density[query] == pytest.approx(log_density[0], abs=1e-4)
        assert found.specificity[query] == pytest.approx(specificity[0], abs=1e-4)
    unchanged = Posterior.of(hierarchy).masses(points[3:], T, z0=-5.0)
    assert found.nodes[3] == pytest.approx(unchanged.nodes[0], rel=1e-6)


def test_specificity_is_the_radius_of_the_centroid_with_the_origin(hierarchy, forest, queries, brute_force):
    labels = labels_of(hierarchy, forest)
    kinds = sorted(set(labels.values()))
    centroids = []
    for kind in kinds:
        members = [space for row, space in zip(hierarchy.rows.tolist(), hierarchy.item_space, strict=True)
                   if labels[row] == kind]  # fmt: skip
        points = lorentz.lift(torch.from_numpy(np.array(members, dtype=np.float64)), C)
        centroids.append(lorentz.centroid(points, torch.ones(len(points), dtype=torch.float64), C)[1:].numpy())
    z0 = -6.0
    log_density, specificity = Posterior.of(hierarchy).specificity(queries, T, z0=z0)
    points = lorentz.lift(torch.from_numpy(np.array([*centroids, np.zeros(16)])), C)
    for query, distances in enumerate(brute_force(queries, np.array(centroids), C)):
        weights = np.append(np.exp(-distances / T), np.exp(z0))
        assert log_density[query] == pytest.approx(np.log(weights[:-1].sum()), abs=1e-5)
        centre = lorentz.centroid(points, torch.from_numpy(weights), C)
        radius = float(lorentz.distance(centre, lorentz.origin(16, C, like=centre), C))
        assert specificity[query] == pytest.approx(radius, rel=1e-4, abs=1e-5)


def test_what_is_near_nothing_is_not_specific(hierarchy, forest):
    away = np.zeros((1, 16), dtype=np.float32)
    away[0, 0] = 1e4
    found = Posterior.of(hierarchy)
    usual, _ = found.specificity(forest[0][:50], T)
    _, bound = found.specificity(forest[0][:50], T, z0=float(usual.min()))
    _, lost = found.specificity(away, T, z0=float(usual.min()))
    assert lost[0] < 0.01 * bound.min()


def test_queries_in_blocks_have_the_same_masses(hierarchy, queries, monkeypatch):
    found = Posterior.of(hierarchy)
    whole = found.masses(queries, T, z0=-6.0, exclude=np.arange(len(queries)))
    monkeypatch.setattr(posterior, "BLOCK", 1300)
    parts = found.masses(queries, T, z0=-6.0, exclude=np.arange(len(queries)))
    for name in ("nodes", "belonging", "labels", "log_density", "specificity"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-6, abs=1e-12)


def test_a_tree_without_items_is_refused():
    with pytest.raises(ValueError, match="no answers"):
        Posterior(np.empty((0, 3)), 1.0, [-1], np.empty(0, dtype=int))


def test_labels_of_different_depth():
    paths = [(), ("b", "x"), ("a",), ("b", "x", "1"), ("c", "x")]
    forest = LabelForest(paths, [1, 2, 0, 3, 4, 4])
    assert forest.names == (("a",), ("b",), ("c",), ("b", "x"), ("c", "x"), ("b", "x", "1"))
    assert forest.parents.tolist() == [-1, -1, -1, 1, 2, 3]
    assert forest.of_items.tolist() == [3, 0, -1, 5, 4, 4]
    assert forest.depth == 3
    assert forest.find(("b", "x", "2")) == [1, 3]
    assert forest.find(("d", "x")) == []


def random_parents(rng, count, roots):
    return np.array([-1] * roots + [int(rng.integers(0, node)) for node in range(roots, count)])


@pytest.mark.parametrize("seed", range(20))
def test_the_way_down_follows_the_heaviest_child(seed):
    rng = np.random.default_rng(seed)
    parents = random_parents(rng, int(rng.integers(1, 40)), int(rng.integers(1, 4)))
    masses = rng.uniform(size=(7, len(parents)))
    way = Walk(parents)(masses)
    for query in range(7):
        expected, current = [], -1
        while (children := np.flatnonzero(parents == current)).size:
            current = int(max(children, key=lambda node, query=query: masses[query, node]))
            expected.append(current)
        assert [node for node in way[query].tolist() if node >= 0] == expected
        assert along(masses, way)[query, : len(expected)].tolist() == masses[query, expected].tolist()
        assert (along(masses, way)[query, len(expected) :] == 0).all()


def test_the_deepest_node_with_enough_mass():
    parents = np.array([-1, 0, 0, 1, 1, 2])
    depths = node_depths(parents)
    assert depths.tolist() == [0, 1, 1, 2, 2, 2]
    masses = np.array([[1.0, 0.9, 0.1, 0.4, 0.5, 0.1], [1.0, 0.2, 0.2, 0.1, 0.1, 0.1], [0.2, 0.1, 0.1, 0.0, 0.0, 0.0]])
    assert deepest(masses, depths, 0.3).tolist() == [4, 0, -1]
    assert Walk([])(np.empty((2, 0))).shape == (2, 0)
    assert deepest(np.empty((2, 0)), [], 0.3).tolist() == [-1, -1]
