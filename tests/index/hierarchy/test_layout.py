"""The layout's promises, checked with formulas of its own: discs apart, wedges apart, radius kept, edges geodesics."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.hierarchy.layout import (
    GAPS,
    REACH,
    Layout,
    child_lists,
    geodesic,
    geodesic_curve,
    layout,
    sibling_order,
)

Array = np.ndarray


def random_tree(rng: np.random.Generator, count: int) -> tuple[Array, Array]:
    """Parents (n,) and radii (n,) that grow along every branch."""
    parents = np.array([-1, *(int(rng.integers(0, max(1, node))) for node in range(1, count))])
    radii = np.zeros(count)
    radii[0] = rng.uniform(0, 1)
    for node in range(1, count):
        radii[node] = radii[parents[node]] + rng.exponential(0.4) * (rng.random() > 0.1)
    return parents, radii


def ancestors(parents: Array) -> list[set[int]]:
    above: list[set[int]] = [set()]
    for node in range(1, len(parents)):
        above.append(above[parents[node]] | {int(parents[node])})
    return above


def disk_distances(p: Array) -> Array:
    """All distances (n, n) on the disk, curvature -1, by the textbook's arccosh."""
    rim = 1 - (p**2).sum(1)
    apart = ((p[:, None] - p[None]) ** 2).sum(-1)
    return np.arccosh(1 + 2 * apart / np.outer(rim, rim))


trees = st.builds(
    lambda seed, count: random_tree(np.random.default_rng(seed), count), st.integers(0, 2**32), st.integers(1, 120)
)


@settings(max_examples=60)
@given(trees, st.integers(0, 2**32))
def test_nodes_of_different_branches_keep_their_discs_apart(tree: tuple[Array, Array], seed: int) -> None:
    parents, radii = tree
    shares = np.random.default_rng(seed).uniform(0.3, 2, len(parents))
    placed = layout(parents, radii, shares=shares)
    apart = disk_distances(placed.points)
    above = ancestors(parents)
    for i in range(len(parents)):
        for j in range(i):
            if j in above[i]:
                # A triangle with the centre: no two points are nearer than their distances from it differ.
                assert apart[i, j] >= abs(placed.distances[i] - placed.distances[j]) - 1e-6
            else:
                # 1e-6: arccosh of 1 + x loses half of the digits.
                assert apart[i, j] >= placed.disc * (shares[i] + shares[j]) - 1e-6


@settings(max_examples=60)
@given(trees)
def test_wedges_are_nested_and_do_not_overlap(tree: tuple[Array, Array]) -> None:
    parents, radii = tree
    placed = layout(parents, radii)
    np.testing.assert_allclose(placed.wedges[0, 1] - placed.wedges[0, 0], 2 * np.pi)
    for node, family in enumerate(child_lists(parents)):
        start, end = placed.wedges[node]
        assert start <= placed.angles[node] <= end
        for child in family:
            assert placed.wedges[child, 0] >= start - 1e-9
            assert placed.wedges[child, 1] <= end + 1e-9
        for left, right in itertools.pairwise(family):
            assert placed.wedges[left, 1] <= placed.wedges[right, 0] + 1e-9


@settings(max_examples=60)
@given(trees)
def test_distance_from_the_centre_follows_the_radius(tree: tuple[Array, Array]) -> None:
    parents, radii = tree
    placed = layout(parents, radii)
    order = np.argsort(radii[1:], kind="stable") + 1
    assert (np.diff(placed.distances[order]) >= 0).all()
    assert placed.distances[0] == 0
    assert (placed.distances[1:] > 0).all()
    if len(parents) > 1:
        assert placed.distances.max() == pytest.approx(REACH)
    on_disk = np.linalg.norm(placed.points, axis=1)
    # The distance from the centre of the disk, as an integral of the metric 2 |dp| / (1 - |p|^2).
    np.testing.assert_allclose(np.log((1 + on_disk) / (1 - on_disk)), placed.distances, atol=1e-9)
    np.testing.assert_allclose([placed.distance_of(value) for value in radii[1:]], placed.distances[1:])


def test_the_disc_is_the_largest_that_fits() -> None:
    """A star of n equal leaves: n discs touch all around the circle, so sinh s = sinh r sin(pi (1 - gaps) / n)."""
    for count in (3, 10, 500):
        placed = layout([-1] + [0] * count, [0.0] + [2.0] * count)
        expected = np.arcsinh(np.sinh(REACH) * np.sin(np.pi * (1 - GAPS) / count))
        assert placed.disc == pytest.approx(expected, rel=1e-9)
        np.testing.assert_allclose(np.diff(placed.angles[1:]), 2 * np.pi / count)


def test_specific_nodes_take_less_of_the_circle() -> None:
    """Angles of discs at radii 1 and 2 are as the hyperbolic sine says, not as the circumference of a flat circle."""
    placed = layout([-1, 0, 0, 0, 0], [0.0, 1.0, 1.0, 2.0, 2.0])
    widths = np.diff(placed.wedges[1:], axis=1).ravel()
    near, far = (np.arcsin(np.sinh(placed.disc) / np.sinh(placed.distances[node])) for node in (1, 3))
    assert widths[0] / widths[2] == pytest.approx(near / far)
    assert widths[0] / widths[2] > 2 * placed.distances[1] / placed.distances[3]


def test_a_parent_has_room_for_its_children() -> None:
    parents, radii = random_tree(np.random.default_rng(3), 2000)
    placed = layout(parents, radii)
    assert placed.disc > 0
    leaves = np.setdiff1d(np.arange(len(parents)), parents)
    order = leaves[np.argsort(placed.angles[leaves])]
    starts, ends = placed.wedges[order].T
    assert (starts[1:] >= ends[:-1] - 1e-9).all()


@pytest.mark.parametrize(
    ("parents", "radii", "shares"),
    [
        ([], [], None),
        ([0, 0], [0, 1], None),
        ([-1, -1], [0, 1], None),
        ([-1, 2, 0], [0, 1, 1], None),
        ([-1, 0], [0, np.nan], None),
        ([-1, 0], [0, 1, 2], None),
        ([-1, 0], [0, 1], [1, 0]),
    ],
)
def test_what_is_no_tree_is_refused(parents: list[int], radii: list[float], shares: list[float] | None) -> None:
    with pytest.raises(ValueError, match="expected"):
        layout(parents, radii, shares=shares)


def test_equal_radii_and_one_node() -> None:
    alone = layout([-1], [0.7])
    np.testing.assert_array_equal(alone.points, [[0, 0]])
    flat = layout([-1, 0, 0, 1, 1], [1.0] * 5)
    assert np.isfinite(flat.points).all()
    np.testing.assert_allclose(flat.distances[1:], REACH)


@pytest.mark.parametrize("seed", range(8))
def test_like_lies_beside_like(seed: int) -> None:
    """Points along a line: whatever their numbers, siblings come out in the line's order, and so do families."""
    rng = np.random.default_rng(seed)
    places = np.sort(rng.uniform(-1.5, 1.5, 24))
    shuffled = rng.permutation(24)
    families = np.repeat(np.arange(1, 5), 6)
    parents = np.concatenate([[-1, 0, 0, 0, 0], families[shuffled]])
    means = [places[families == family].mean() for family in range(1, 5)]
    line = np.concatenate([[0.0], means, places[shuffled]])
    space = np.zeros((len(line), 3), dtype=np.float32)
    space[:, 0], space[:, 1] = np.sinh(line), 1.0
    order = sibling_order(parents, space, 1.0)
    assert sorted(order[0]) == [1, 2, 3, 4]
    around = [node for family in order[0] for node in order[family]]
    steps = np.diff(line[around])
    # The circle closes somewhere, and there alone it goes back.
    assert (steps > 0).all() or (steps < 0).all()


def on_circle(p: Array, q: Array) -> tuple[Array, Array]:
    circle = geodesic(p, q)
    assert circle is not None
    centre = np.array(circle.centre)
    # It meets the unit circle at right angles: Pythagoras for the two centres and a common point.
    assert centre @ centre == pytest.approx(1 + circle.radius**2)
    curve = geodesic_curve(p, q)
    t = np.linspace(0, 1, 9)[:, None]
    for four in (curve[:4], curve[3:]):
        weights = np.concatenate([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], axis=1)
        on = weights @ four
        off = np.abs(np.linalg.norm(on - centre, axis=1) - circle.radius)
        assert off.max() <= 3e-4 * circle.radius
    return curve, centre


@settings(max_examples=100)
@given(st.lists(st.floats(-0.69, 0.69), min_size=4, max_size=4))
def test_edges_are_geodesics(numbers: list[float]) -> None:
    p, q = np.array(numbers[:2]), np.array(numbers[2:])
    curve = geodesic_curve(p, q)
    np.testing.assert_allclose(curve[[0, -1]], [p, q], atol=1e-12)
    if abs(p[0] * q[1] - p[1] * q[0]) < 1e-3:
        return
    curve, _ = on_circle(p, q)
    # The length along the way, in the metric of the disk, is the distance of its ends.
    t = np.linspace(0, 1, 400)[:, None]
    way = np.concatenate(
        [
            (1 - t) ** 3 * four[0] + 3 * t * (1 - t) ** 2 * four[1] + 3 * t**2 * (1 - t) * four[2] + t**3 * four[3]
            for four in (curve[:4], curve[3:])
        ]
    )
    middle = (way[1:] + way[:-1]) / 2
    length = (2 * np.linalg.norm(np.diff(way, axis=0), axis=1) / (1 - (middle**2).sum(1))).sum()
    assert length == pytest.approx(disk_distances(np.stack([p, q]))[0, 1], rel=2e-3)


def test_a_diameter_is_straight() -> None:
    assert geodesic([0.2, 0.4], [-0.1, -0.2]) is None
    curve = geodesic_curve([0.0, 0.0], [0.6, -0.3])
    np.testing.assert_allclose(curve[:, 1], -curve[:, 0] / 2, atol=1e-12)


def test_placing_is_deterministic() -> None:
    parents, radii = random_tree(np.random.default_rng(1), 300)
    first, second = layout(parents, radii), layout(parents, radii)
    assert isinstance(first, Layout)
    np.testing.assert_array_equal(first.points, second.points)
