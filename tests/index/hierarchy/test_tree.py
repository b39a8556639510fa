"""The tree's promises: radii, members, exemplars, labels, and what attaching and removing do to them."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.errors import PointError
from index.hierarchy import Hierarchy

C = 0.7


def lorentz_centroid(space, c):
    """Written out: the normalised sum in R^{d+1}, in extended precision."""
    points = space.astype(np.longdouble)
    total = np.concatenate([np.sqrt(1 / np.longdouble(c) + (points**2).sum(1, keepdims=True)), points], 1).sum(0)
    return (total / np.sqrt(c * (total[0] ** 2 - (total[1:] ** 2).sum())))[1:].astype(np.float64)


def check(tree, space_of):
    """Everything that must hold in any state of a tree; `space_of`: row -> point."""
    count = len(tree.ids)
    assert len(set(tree.ids)) == count
    assert tree.rows.tolist() == sorted(space_of)
    points = zip(tree.rows.tolist(), tree.item_space, strict=True)
    assert all(np.array_equal(point, space_of[row]) for row, point in points)
    children = {node: [] for node in range(count)}
    for node in range(1, count):
        assert 0 <= tree.parents[node] < node
        children[int(tree.parents[node])].append(node)
    members = {node: set() for node in range(count)}
    for row, owner in zip(tree.rows.tolist(), tree.owners.tolist(), strict=True):
        for node in tree.ancestors(owner):
            members[node].add(row)
    for node in range(count):
        assert tree.children(node) == tuple(children[node])
        found = tree.members(node).tolist()
        assert len(found) == tree.sizes[node]
        assert set(found) == members[node]
        assert set(tree.exemplars(node)) <= members[node]
        assert len(tree.exemplars(node)) == len(set(tree.exemplars(node))) >= min(1, len(members[node]))
        own = set(tree.members(node, own=True).tolist())
        assert own == members[node] - {row for child in children[node] for row in members[child]}
        if node:
            assert tree.sizes[node] > 0
            parent = tree.parents[node]
            assert tree.radii[parent] <= tree.radii[node]
            assert tree.heights[parent] >= tree.heights[node]
            assert tree.depths[node] == tree.depths[parent] + 1
        if members[node]:
            centroid = lorentz_centroid(np.array([space_of[row] for row in members[node]]), tree.c)
            radius = np.arcsinh(np.sqrt(tree.c) * np.linalg.norm(centroid)) / np.sqrt(tree.c)
            lowest = min([radius, *(tree.radii[child] for child in children[node])])
            assert tree.radii[node] == pytest.approx(lowest, rel=1e-6, abs=1e-9)
            along = tree.space[node] / max(np.linalg.norm(tree.space[node]), 1e-30)
            assert along @ centroid == pytest.approx(np.linalg.norm(centroid), rel=1e-5, abs=1e-6)
            assert np.linalg.norm(tree.space[node]) == pytest.approx(
                np.sinh(np.sqrt(tree.c) * tree.radii[node]) / np.sqrt(tree.c), rel=1e-5, abs=1e-7
            )


@pytest.mark.parametrize("radius", [0.5, 3.0, 8.3])
def test_radii_fall_towards_the_root_without_exception(grow_tree, radius):
    space = grow_tree(radius, 7, count=800, dim=12, c=C)
    tree = Hierarchy.build(space, np.arange(len(space)), C)
    check(tree, dict(enumerate(space)))
    assert len(tree.ids) > 50


@given(st.integers(0, 60), st.sampled_from([0.05, 1.0, 30.0]), st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_any_points_make_a_tree(count, scale, seed):
    space = np.random.default_rng(seed).normal(scale=scale, size=(count, 3)).astype(np.float32)
    space[count // 2 :] = space[: count - count // 2]  # duplicates too
    check(Hierarchy.build(space, np.arange(count), C), dict(enumerate(space)))


def test_nodes_as_callers_see_them(hierarchy, forest):
    _, rows, labels = forest
    root = hierarchy.root
    assert (root.index, root.parent, root.depth, root.size, root.name) == (0, None, 0, 600, None)
    nodes = list(hierarchy.nodes())
    assert [node.index for node in nodes] == list(range(len(hierarchy.ids)))
    for node in nodes:
        assert hierarchy.node(node.id) == node
        assert all(nodes[child].parent == node.index for child in node.children)
    pairs = zip(rows.tolist(), labels, strict=True)
    path_of = dict(pairs)
    kinds = [
        node for node in nodes if len({path_of[row] for row in hierarchy.members(node.index).tolist()}) == 1
        and node.size == 12
    ]  # fmt: skip
    assert len(kinds) >= 48
    assert kinds[0].labels[1] == {path_of[hierarchy.members(kinds[0].index)[0]]: 12}
    with pytest.raises(KeyError):
        hierarchy.node("000000000000")
    with pytest.raises(KeyError):
        hierarchy.owner_of(-1)


def test_label_histograms_count_prefixes_and_are_bounded(hierarchy, forest):
    _, rows, labels = forest
    path_of = dict(zip(rows.tolist(), labels, strict=True))
    for node in hierarchy.nodes():
        paths = [path_of[row] for row in hierarchy.members(node.index).tolist()]
        for level, shown in enumerate(node.labels):
            counts = Counter(path[: level + 1] for path in paths)
            assert len(shown) == min(12, len(counts))
            assert all(counts[prefix] == number for prefix, number in shown.items())
            assert list(shown.values()) == sorted(shown.values(), reverse=True)
            assert min(shown.values()) >= sorted(counts.values(), reverse=True)[len(shown) - 1]


def test_label_paths_of_many_depths():
    space = np.eye(6, dtype=np.float32)
    tree = Hierarchy.build(space, np.arange(6), C, labels=[(), ("a",), ("a", "b"), ("a", "b"), ("c",), ()])
    assert tree.root.labels == ({("a",): 3, ("c",): 1}, {("a", "b"): 2})
    assert Hierarchy.build(space, np.arange(6), C).root.labels == ()


def test_exemplars_begin_with_the_medoid_and_differ(forest, brute_force):
    space, _, _ = forest
    doubled = np.concatenate([space, space])  # every photo twice
    tree = Hierarchy.build(doubled, np.arange(1200), C)
    for node in range(len(tree.ids)):
        members = tree.members(node)
        shown = tree.exemplars(node)
        assert len(shown) <= 5
        among = brute_force(doubled[list(shown)], doubled[list(shown)], C)
        assert (among[~np.eye(len(shown), dtype=bool)] > 1e-3).all()  # no photo with its own copy
        if len(members) <= 200:
            means = brute_force(doubled[members], doubled[members], C).mean(axis=1)
            assert means[members.tolist().index(shown[0])] == pytest.approx(means.min(), rel=1e-5)
            if len(members) >= 10:
                assert all(means[members.tolist().index(row)] <= np.median(means) + 1e-5 for row in shown)


@pytest.mark.parametrize("radius", [0.9, 2.0, 6.0, 9.0])
def test_equal_photos_have_one_exemplar(radius):
    point = np.random.default_rng(0).normal(size=64)
    space = np.repeat(point[None] / np.linalg.norm(point) * np.sinh(radius), 6, axis=0).astype(np.float32)
    assert Hierarchy.build(space[:2], [3, 5], 1.0).exemplars(0) == (3,)
    assert len(Hierarchy.build(space, np.arange(6), 1.0).exemplars(0)) == 1
    turned = np.roll(space[:1], 1, axis=1)
    assert sorted(Hierarchy.build(np.concatenate([space[:3], turned]), np.arange(4), 1.0).exemplars(0))[-1] == 3


def test_exemplars_are_spread(hierarchy, forest, brute_force):
    """Of the root's 50 clusters five different ones are shown."""
    _, rows, labels = forest
    path_of = dict(zip(rows.tolist(), labels, strict=True))
    shown = {path_of[row] for row in hierarchy.root.exemplars}
    assert len(shown) == 5


def test_attached_items_join_their_cluster(forest):
    space, rows, labels = forest
    later = np.arange(600) % 12 == 5
    tree = Hierarchy.build(
        space[~later], rows[~later], C, labels=[path for path, late in zip(labels, later, strict=True) if not late]
    )
    before = len(tree.ids)
    late_labels = [path for path, late in zip(labels, later, strict=True) if late]
    owners = tree.attach(space[later], rows[later], late_labels)
    check(tree, dict(zip(rows.tolist(), space, strict=True)))
    assert len(tree.ids) == before
    assert tree.changed == 50
    assert [tree.owner_of(row) for row in rows[later].tolist()] == owners.tolist()
    # A few are odd for their cluster, and loose one level above it.
    right = [
        next(iter(tree.labels(owner)[1])) == path and tree.sizes[owner] <= 14
        for owner, path in zip(owners.tolist(), late_labels, strict=True)
    ]
    assert np.mean(right) >= 0.8
    assert tree.root.labels == Hierarchy.build(space, rows, C, labels=labels).root.labels


def test_one_by_one_is_as_good_as_at_once(forest):
    space, rows, _ = forest
    trees = []
    for steps in ([600], [1] * 60 + [540]):
        tree = Hierarchy.build(space[:0], rows[:0], C)
        start = 0
        for step in steps:
            tree.attach(space[start : start + step], rows[start : start + step])
            start += step
        check(tree, dict(zip(rows.tolist(), space, strict=True)))
        trees.append(tree)
    assert [tree.ids == [tree.ids[0]] for tree in trees] == [True, True]
    assert trees[0].radii[0] == pytest.approx(trees[1].radii[0], rel=1e-9)


def test_a_stranger_is_loose_at_the_root(hierarchy, forest):
    space, rows, _ = forest
    stranger = np.full((1, 16), -40.0, dtype=np.float32)
    height = hierarchy.heights[0]
    assert hierarchy.attach(stranger, [9999], [("odd",)]).tolist() == [0]
    assert hierarchy.heights[0] > height
    check(hierarchy, {**dict(zip(rows.tolist(), space, strict=True)), 9999: stranger[0]})


@pytest.mark.parametrize("seed", range(4))
def test_removing_and_attaching_in_any_order(hierarchy, forest, seed):
    space, rows, labels = forest
    rng = np.random.default_rng(seed)
    present = dict(zip(rows.tolist(), space, strict=True))
    place = {row: i for i, row in enumerate(rows.tolist())}
    gone = {}
    for _ in range(12):
        leaving = rng.choice(sorted(present), min(len(present), int(rng.integers(1, 120))), replace=False)
        assert hierarchy.remove([*leaving.tolist(), 123456]) == len(leaving)
        gone |= {row: present.pop(row) for row in leaving.tolist()}
        coming = rng.choice(sorted(gone), min(len(gone), int(rng.integers(1, 60))), replace=False).tolist()
        owners = hierarchy.attach([gone[row] for row in coming], coming, [labels[place[row]] for row in coming])
        present |= {row: gone.pop(row) for row in coming}
        assert [hierarchy.owner_of(row) for row in coming] == owners.tolist()
        check(hierarchy, present)
    paths = Counter(labels[place[row]][:1] for row in present)
    assert hierarchy.root.labels[0] == dict(paths)


def test_removing_everything_leaves_the_root(hierarchy, forest):
    space, rows, _ = forest
    root = hierarchy.ids[0]
    assert hierarchy.remove(rows) == 600
    assert len(hierarchy) == 0
    assert (len(hierarchy.ids), hierarchy.root.size, hierarchy.root.radius) == (1, 0, 0.0)
    hierarchy.attach(space[:3], rows[:3])
    check(hierarchy, dict(zip(rows[:3].tolist(), space[:3], strict=True)))
    assert root == hierarchy.ids[0] or len(hierarchy.ids) == 1


def test_a_node_left_with_one_child_becomes_it(forest):
    space, rows, labels = forest
    tree = Hierarchy.build(space, rows, C, labels=labels)
    node = next(
        n for n in tree.nodes() if len(n.children) == 2 and n.size == tree.sizes[list(n.children)].sum() and n.parent
    )
    stays, goes = (tree.at(child) for child in node.children)
    tree.set_name(stays.id, "stays")
    tree.remove(tree.members(goes.index))
    assert node.id not in tree.ids
    assert goes.id not in tree.ids
    found = tree.node(stays.id)
    assert (found.name, found.size, found.depth) == ("stays", stays.size, node.depth)
    left = set(tree.rows.tolist())
    check(tree, {row: point for row, point in zip(rows.tolist(), space, strict=True) if row in left})


def test_bad_items_are_refused(hierarchy, forest):
    space, rows, _ = forest
    with pytest.raises(PointError, match="in the tree already"):
        hierarchy.attach(space[:1], rows[:1])
    with pytest.raises(PointError, match="unique rows"):
        Hierarchy.build(space[:2], [3, 3], C)
    with pytest.raises(PointError, match="one row per point"):
        Hierarchy.build(space[:2], [3], C)
    with pytest.raises(PointError, match="one row per point"):
        Hierarchy.build(space[:2], [3, 4], C, labels=[()])
    with pytest.raises(PointError, match="expected space parts of shape"):
        hierarchy.attach(space[:1, :3], [77777])
    assert len(hierarchy) == 600


def test_names(hierarchy):
    node = hierarchy.ids[3]
    hierarchy.set_name(node, "  citrus fruit ")
    assert hierarchy.node(node).name == "citrus fruit"
    for wrong in ("", "   ", "x" * 201, "two\nlines"):
        with pytest.raises(ValueError, match="expected a name"):
            hierarchy.set_name(node, wrong)
    with pytest.raises(KeyError):
        hierarchy.set_name("000000000000", "nobody")
    assert hierarchy.node(node).name == "citrus fruit"
    hierarchy.set_name(node, None)
    assert hierarchy.node(node).name is None


def test_names_survive_a_rebuild(hierarchy, forest):
    space, rows, _ = forest
    node = max(hierarchy.nodes(), key=lambda node: (node.depth, node.size))
    hierarchy.set_name(node.id, "the deepest")
    again = Hierarchy.build(space[:-5], rows[:-5], C, previous=hierarchy)
    named = [found for found in again.nodes() if found.name == "the deepest"]
    assert len(named) == 1
    shared = set(again.members(named[0].index).tolist()) & set(hierarchy.members(node.index).tolist())
    assert len(shared) >= 0.5 * node.size
