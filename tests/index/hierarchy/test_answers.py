"""Answers against the tree's own arrays, brute force over members, and geoopt's geodesics."""

import warnings
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch

from hyperbolic import lorentz
from index.errors import PointError
from index.hierarchy import Hierarchy
from index.hierarchy.answers import Answers, geodesic
from index.hierarchy.fitting import fit

C = 0.7


@pytest.fixture
def photos(forest):
    """Points between the clusters, of which some are unsure, with the labels of the item they come from."""
    space, _, labels = forest
    rng = np.random.default_rng(5)
    chosen = rng.permutation(600)[:120]
    moved = space[chosen] * rng.uniform(0.2, 1.0, (120, 1)) + rng.normal(0, 1.2, (120, 16))
    return moved.astype(np.float32), [labels[i] for i in chosen]


@pytest.fixture
def answers(hierarchy, photos):
    hierarchy.fit = fit(hierarchy, *photos)
    return Answers(hierarchy)


@pytest.fixture(scope="session")
def geoopt() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # geoopt still uses torch.jit.script
        import geoopt
    return geoopt


def at_theta(answers, theta):
    threshold = replace(answers.fit.node_threshold, theta=theta)
    return Answers(answers.hierarchy, replace(answers.fit, node_threshold=threshold, label_threshold=threshold))


def test_a_path_leads_from_what_is_sure_enough_to_the_root(answers, photos):
    tree, theta = answers.hierarchy, answers.fit.theta
    stopped = 0
    for path in answers.paths(photos[0]):
        nodes = [step.node for step in path.nodes]
        assert nodes == tree.ancestors(nodes[0])
        assert [step.id for step in path.nodes] == [tree.ids[node] for node in nodes]
        probabilities = [step.probability for step in path.nodes]
        assert probabilities == sorted(probabilities)
        assert probabilities[-1] == 1
        assert all(probability >= theta for probability in probabilities)
        if path.stopped_at is None:
            assert path.next is None
            assert not tree.children(nodes[0])
        else:
            stopped += 1
            assert path.stopped_at == nodes[0]
            assert path.next.node in tree.children(nodes[0])
            assert path.next.probability < theta
        labels = [step.label for step in path.labels]
        assert all(len(label) == len(labels) - place for place, label in enumerate(labels))
        assert all(label == labels[0][: len(label)] for label in labels)
        assert all(step.probability >= answers.fit.label_threshold.theta for step in path.labels)
        assert path.next_label is None or path.next_label.probability < answers.fit.label_threshold.theta
    assert 5 < stopped < 120


def test_theta_decides_where_a_path_stops(answers, photos):
    tree = answers.hierarchy
    whole, none = at_theta(answers, 0.0), at_theta(answers, 1.1)
    for sure, unsure in zip(whole.paths(photos[0]), none.paths(photos[0]), strict=True):
        assert not tree.children(sure.nodes[0].node)
        assert (sure.stopped_at, sure.next, sure.next_label, len(sure.labels)) == (None, None, None, 2)
        assert [step.node for step in unsure.nodes] == [0]
        assert (unsure.stopped_at, unsure.labels) == (0, ())
        assert unsure.next == sure.nodes[-2]
        assert unsure.next_label == sure.labels[-1]


def test_an_item_finds_its_own_place(answers, forest):
    space, rows, labels = forest
    for i in range(0, 600, 25):
        path = answers.path(space[i])
        assert answers.hierarchy.owner_of(int(rows[i])) in [step.node for step in path.nodes]
        assert path.labels[0].label == labels[i]
        radius = float(lorentz.distance(lorentz.lift(torch.from_numpy(space[i]), C), lorentz.origin(16, C), C))
        assert path.radius == pytest.approx(radius, rel=1e-5)


def test_what_is_far_from_everything_is_out_of_distribution(answers, photos):
    far = np.zeros(16)
    far[3] = 1e5
    specificity, in_distribution = answers.specificity(np.stack([far, photos[0][0], np.zeros(16)]))
    assert in_distribution[0] == 0
    assert specificity[0] < 0.01 * specificity[1]
    assert answers.path(photos[0][0]).specificity == pytest.approx(specificity[1])
    assert answers.path(far).in_distribution == 0


def test_many_at_once_are_as_one_by_one(answers, photos, monkeypatch):
    together = answers.paths(photos[0])
    monkeypatch.setattr("index.hierarchy.answers.AT_ONCE", 7)
    for one, other in zip(answers.paths(photos[0]), together, strict=True):
        assert [step.node for step in one.nodes] == [step.node for step in other.nodes]
        assert [step.probability for step in one.nodes] == pytest.approx([step.probability for step in other.nodes])
        assert one.in_distribution == pytest.approx(other.in_distribution, abs=1e-6)
    assert answers.paths(np.empty((0, 16))) == []


def test_common_ancestor_is_the_deepest_node_with_mass_for_every_photo(answers, forest):
    tree = answers.hierarchy
    rng = np.random.default_rng(2)
    family = {}
    for i, label in enumerate(forest[2]):
        family.setdefault(label[0], []).append(i)
    for members in list(family.values())[:5]:
        chosen = rng.permutation(members)[: rng.integers(2, 6)]
        found = answers.common_ancestor(forest[0][chosen])
        masses = answers.posterior.masses(forest[0][chosen], answers.fit.temperature).nodes.min(axis=0)
        enough = [node for node in range(len(tree.ids)) if masses[node] >= answers.fit.common_ancestor_mass]
        assert found.node == tree.at(max(enough, key=lambda node: (tree.depths[node], masses[node])))
        # Clusters do not overlap, so that this is where they join in the tree.
        ways = [tree.ancestors(tree.owner_of(int(forest[1][i]))) for i in chosen.tolist()]
        assert found.node.index == max(set.intersection(*map(set, ways)))
        assert found.labels[-1].label == (forest[2][chosen[0]][0],)
        assert 0 < found.probability <= 1
        points = lorentz.lift(torch.from_numpy(forest[0][chosen]).double(), C)
        centre = lorentz.centroid(points, torch.ones(len(points)), C)
        assert found.centre == pytest.approx(centre[1:].numpy(), rel=1e-4, abs=1e-5)
        distance = float(lorentz.distance(centre, lorentz.origin(16, C, like=centre), C))
        assert found.radius == pytest.approx(distance, rel=1e-6)
        by_rows = answers.common_ancestor(rows=[int(forest[1][i]) for i in chosen])
        mixed = answers.common_ancestor(forest[0][chosen[:1]], rows=[int(forest[1][i]) for i in chosen[1:]])
        assert found.node == by_rows.node == mixed.node


def test_photos_of_different_families_meet_at_the_root(answers, forest):
    found = answers.common_ancestor(forest[0][::100])
    assert (found.node.index, found.node.depth, found.probability, found.labels) == (0, 0, 1, ())


def test_common_ancestor_needs_2_to_32_photos_of_the_tree(answers, forest):
    for count in (0, 1, 33):
        with pytest.raises(PointError, match=f"2 to 32 photos .* got {count}"):
            answers.common_ancestor(forest[0][:count])
    assert answers.common_ancestor(forest[0][:16], rows=forest[1][16:32].tolist()).node.size == 600
    with pytest.raises(PointError, match="9999 are not in the tree"):
        answers.common_ancestor(rows=[int(forest[1][0]), 9999])


def brute_force_nearest(tree, point, rows, k, brute_force):
    place = {row: position for position, row in enumerate(tree.rows.tolist())}
    distances = brute_force(point[None], tree.item_space[[place[row] for row in rows]], C)[0]
    return sorted(zip(distances.tolist(), rows, strict=True))[:k]


def test_search_within_a_subtree(answers, photos, brute_force):
    tree = answers.hierarchy
    for node in (0, tree.children(0)[0], len(tree.ids) - 1):
        for point in photos[0][:3]:
            expected = brute_force_nearest(tree, point, tree.members(node).tolist(), 7, brute_force)
            for key in (node, tree.ids[node]):
                found = answers.search_within(key, point, k=7)
                assert [hit.row for hit in found] == [row for _, row in expected]
                assert [hit.distance for hit in found] == pytest.approx([distance for distance, _ in expected])
    assert len(answers.search_within(len(tree.ids) - 1, photos[0][0], k=600)) == tree.sizes[-1]
    with pytest.raises(KeyError):
        answers.search_within("unknown", photos[0][0])
    with pytest.raises(IndexError):
        answers.search_within(len(tree.ids), photos[0][0])
    with pytest.raises(ValueError, match="k >= 1"):
        answers.search_within(0, photos[0][0], k=0)


def test_zoom_goes_up_and_down_from_where_the_path_stops(answers, photos, brute_force):
    tree = answers.hierarchy
    moved = 0
    for point, path in zip(photos[0][:40], answers.paths(photos[0][:40]), strict=True):
        here = path.nodes[0].node
        way = tree.ancestors(here)
        for levels in (0, 1, 2, 50):
            found = answers.zoom(point, levels, k=4)
            assert found.node == path.nodes[min(levels, len(way) - 1)]
            expected = brute_force_nearest(tree, point, tree.members(found.node.node).tolist(), 4, brute_force)
            assert [hit.row for hit in found.items] == [row for _, row in expected]
            assert {step.node for step in found.branches} == set(tree.children(found.node.node))
            masses = answers.posterior.masses(point[None], answers.fit.temperature).nodes[0]
            assert [masses[step.node] for step in found.branches] == sorted(
                (masses[step.node] for step in found.branches), reverse=True
            )
        below = answers.zoom(point, -1)
        assert below.node == (path.next or path.nodes[0])
        moved += below.node.node != here
        assert not tree.children(answers.zoom(point, -50).node.node)
    assert moved


@pytest.mark.parametrize("to_origin", [True, False])
def test_traverse_follows_the_geodesic(answers, photos, brute_force, geoopt, to_origin):
    tree = answers.hierarchy
    start, end = photos[0][0].astype(np.float64), np.zeros(16) if to_origin else photos[0][7].astype(np.float64)
    found = answers.traverse(start, None if to_origin else end, steps=7, k=3)
    manifold = geoopt.Lorentz(k=torch.tensor(1 / C, dtype=torch.float64))
    x, y = (lorentz.lift(torch.from_numpy(point), C) for point in (start, end))
    log = manifold.logmap(x, y)
    for step, here in enumerate(found):
        expected = manifold.expmap(x, step / 6 * log)
        assert here.space == pytest.approx(expected[1:].numpy(), rel=1e-4, abs=1e-4)
        assert here.distance == pytest.approx(step / 6 * float(manifold.dist(x, y)), rel=1e-5)
        assert here.radius == pytest.approx(float(manifold.dist0(expected)), rel=1e-4, abs=1e-4)
        nearest = brute_force_nearest(tree, here.space, tree.rows.tolist(), 3, brute_force)
        assert [hit.distance for hit in here.items] == pytest.approx([distance for distance, _ in nearest], abs=1e-6)
        by_node = brute_force(here.space[None], tree.space, C)[0]
        assert by_node[here.node] == pytest.approx(by_node.min(), rel=1e-5)
    assert len(found) == 7
    if to_origin:
        assert found[-1].radius == 0
        assert [tree.depths[here.node] for here in found][-1] == 0


def test_geodesic_far_out_and_between_equal_points():
    direction = np.eye(5)[1] * np.sinh(12.0)
    points, lengths = geodesic(direction, -direction, np.array([0.0, 0.25, 0.5, 1.0]), 1.0)
    assert lengths == pytest.approx([0, 6, 12, 24], rel=1e-12)
    assert points[:, 1] == pytest.approx(np.sinh([12, 6, 0, -12]), rel=1e-9, abs=1e-9)
    points, lengths = geodesic(direction, direction, np.linspace(0, 1, 3), 1.0)
    assert np.array_equal(points, np.tile(direction, (3, 1)))
    assert (lengths == 0).all()


def test_traverse_needs_two_steps(answers, photos):
    with pytest.raises(ValueError, match="2 or more steps"):
        answers.traverse(photos[0][0], steps=1)


def test_answers_follow_the_tree(answers, forest):
    """What was attached is found, what was removed is not, and labels that are new count too."""
    tree = answers.hierarchy
    place = np.full((1, 16), 0.1, dtype=np.float32)
    before = answers.path(place[0])
    assert before.labels == () or before.labels[0].label[0] != "new"
    tree.attach(np.repeat(place, 60, axis=0), np.arange(6000, 6060), labels=[("new", "kind")] * 60)
    assert answers.search_within(0, place[0], k=1)[0].row >= 6000
    assert answers.path(place[0]).labels[0].label == ("new", "kind")
    tree.remove(np.arange(6000, 6060))
    assert answers.search_within(0, place[0], k=1)[0].row < 6000
    assert [step.label for step in answers.path(place[0]).labels] == [step.label for step in before.labels]


def test_an_unlabelled_tree_answers_too(forest, photos):
    space, rows, _ = forest
    tree = Hierarchy.build(space, rows, C)
    tree.fit = fit(tree)
    answers = Answers(tree)
    path = answers.path(space[0])
    assert tree.owner_of(int(rows[0])) in [step.node for step in path.nodes]
    assert (path.labels, path.next_label) == ((), None)
    assert answers.common_ancestor(space[:3]).labels == ()
    assert answers.zoom(photos[0][0], 1).items


def test_a_tree_without_a_fit_is_refused(hierarchy):
    with pytest.raises(ValueError, match="lhier hierarchy build"):
        Answers(hierarchy)


@pytest.mark.parametrize("bad", [np.zeros(15), np.full(16, np.nan), np.zeros((2, 16))])
def test_bad_points_are_refused(answers, bad):
    for ask in (answers.path, answers.zoom, answers.traverse, lambda point: answers.search_within(0, point)):
        with pytest.raises(PointError):
            ask(bad)
