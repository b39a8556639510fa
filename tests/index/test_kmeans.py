"""Lorentz k-means against brute force in float64, and what is promised of it."""

import numpy as np
import pytest

from index.kmeans import assign, centroids_of_sums, lifted, lorentz_kmeans

C = 0.7


def cost(space, centroids, brute_force):
    """Mean Lorentz cost cosh(sqrt(c) d) - 1 to the nearest centroid, by all distances."""
    nearest = brute_force(space, centroids, C).min(axis=1)
    return float((np.cosh(np.sqrt(C) * nearest) - 1).mean())


@pytest.mark.parametrize("radius", [1.0, 3.0, 8.3, 12.0])
def test_points_are_assigned_to_the_nearest_centroid(grow_tree, brute_force, radius):
    space = grow_tree(radius, 40, count=2000, dim=16, c=C)
    centroids = space[::40].astype(np.float64)
    exact = brute_force(space, centroids, C)
    assigned = exact[np.arange(len(space)), assign(space, centroids, C)]
    # Where two are equally near for float32, either will do; beyond radius 7 float64 decides.
    assert (assigned - exact.min(axis=1)).max() < 1e-3


def test_float32_would_not_do_far_out(grow_tree, brute_force):
    """The reason for float64 at radius 7 and above: the plain float32 product takes other cells."""
    space = grow_tree(12.0, 40, count=2000, dim=16, c=C)
    centroids = space[::5].astype(np.float64)
    flipped = lifted(centroids, C).astype(np.float32) * np.r_[-1, np.ones(16)].astype(np.float32)
    plain = (lifted(space, C).astype(np.float32) @ flipped.T).argmax(axis=1)
    exact = brute_force(space, centroids, C)
    assert (exact[np.arange(len(space)), plain] > exact.min(axis=1) + 0.1).mean() > 0.05


def test_clusters_are_found(grow_tree):
    space = grow_tree(4.0, 50, count=1000, dim=16, c=C, scatter=0.05)
    cells = assign(space, lorentz_kmeans(space, 20, C), C).reshape(20, 50)
    assert (cells == cells[:, :1]).all()
    assert len(set(cells[:, 0].tolist())) == 20


@pytest.mark.parametrize("start", ["k-means++", "sample"])
def test_iterations_lower_the_cost(grow_tree, brute_force, start):
    space = grow_tree(3.0, 25, count=1000, dim=8, c=C)
    costs = [
        cost(space, lorentz_kmeans(space, 24, C, iterations=n, start=start, seed=3), brute_force) for n in (0, 1, 8)
    ]
    assert costs[2] <= costs[1] <= costs[0]
    assert costs[2] < 0.9 * costs[0]


def test_the_seed_decides(grow_tree):
    space = grow_tree(3.0, 25, count=600, dim=8, c=C)
    first, again, other = (lorentz_kmeans(space, 12, C, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_empty_cells_get_points_of_their_own():
    rng = np.random.default_rng(0)
    space = rng.normal(scale=0.01, size=(300, 4)).astype(np.float32)
    space[0] = 5.0  # far from all others, and never drawn by these seeds' samples
    for seed in range(5):
        centroids = lorentz_kmeans(space, 40, C, seed=seed, start="sample")
        assert np.isfinite(centroids).all()
        assert len(np.unique(assign(space, centroids, C))) >= 38


def test_equal_points_make_cells_too():
    space = np.ones((30, 3), dtype=np.float32)
    for start in ("k-means++", "sample"):
        assert np.allclose(lorentz_kmeans(space, 4, C, start=start), 1.0)


def test_a_centroid_has_the_smallest_cost():
    """Against small steps in all directions, with the cost written out."""
    rng = np.random.default_rng(0)
    space = rng.normal(size=(50, 3))
    points = lifted(space, C)
    centroid = centroids_of_sums(points.sum(axis=0)[None], [50], C)[0]

    def total(at):
        point = np.r_[np.sqrt(1 / C + at @ at), at]
        return float((points[:, 0] * point[0] - points[:, 1:] @ point[1:]).sum())

    assert all(total(centroid + step) > total(centroid) for step in 1e-3 * rng.normal(size=(50, 3)))


def test_centroid_far_out_stays_among_its_points():
    """At radius 18 the difference of squares has lost every digit."""
    direction = np.array([[0.6, 0.8]])
    space = np.repeat(direction * np.sinh(18.0), 5, axis=0)
    centroid = centroids_of_sums(lifted(space, 1.0).sum(axis=0)[None], [5], 1.0)
    assert np.allclose(np.arcsinh(np.linalg.norm(centroid)), 18.0, atol=1e-3)


@pytest.mark.parametrize("count", [0, 11])
def test_impossible_numbers_of_cells_are_refused(count):
    with pytest.raises(ValueError, match="expected 1 to 10 cells"):
        lorentz_kmeans(np.ones((10, 2), dtype=np.float32), count, C)
