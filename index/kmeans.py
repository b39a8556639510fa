"""Lorentz k-means: cells of near points, for the first cut of a tree and the lists of an inverted file."""

import logging
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from index.distances import Float64, norms

logger = logging.getLogger(__name__)

Int64 = npt.NDArray[np.int64]

FLOAT32_RADIUS = 7.0  # in units of 1/sqrt(c): from there on x_time^2 2^-24 is no longer small against cosh d
PLUS_PLUS_UP_TO = 1024  # cells: k-means++ takes a pass over all points for each
PER_CELL = 256  # points a centroid is learnt from, at most
BLOCK = 1 << 24  # numbers of a block of products


def time_parts(space: npt.ArrayLike, c: float) -> Float64:
    """x_time = sqrt(1/c + |x_space|^2) in float64: (n, d) -> (n,)."""
    return np.asarray(np.sqrt(1 / c + np.square(np.asarray(space, dtype=np.float64)).sum(axis=1)))


def lifted(space: npt.ArrayLike, c: float) -> Float64:
    """Points in float64 with the time first: (n, d) -> (n, d + 1)."""
    return np.concatenate([time_parts(space, c)[:, None], np.asarray(space, dtype=np.float64)], axis=1)


def centroids_of_sums(sums: Float64, counts: npt.ArrayLike, c: float) -> Float64:
    """Space parts (n, d) of Lorentz centroids, from sums of points with the time first (n, d + 1) and their counts.

    mu = s / (sqrt(c) |s|_L): the point that minimises the sum of squared Lorentz distances (Law et al. 2019).
    c |s|_L^2 >= count^2 holds for points of the hyperboloid and is enforced, because the difference of squares rounds
    at 1e-16 cosh^2 r of itself.
    """
    length = c * (np.square(sums[:, 0]) - np.square(sums[:, 1:]).sum(axis=1))
    length = np.sqrt(np.maximum(length, np.square(np.asarray(counts, dtype=np.float64))))
    return np.asarray(sums[:, 1:] / np.where(length > 0, length, 1.0)[:, None])


def assign(space: npt.ArrayLike, centroids: npt.ArrayLike, c: float) -> Int64:
    """The nearest centroid of each point, that of the largest <x, mu>_L: (n, d), (k, d) -> (n,).

    One matrix product in float32, in float64 where a point or a centroid lies at radius 7/sqrt(c) or beyond.
    """
    return _nearest(np.asarray(space), np.asarray(centroids), c)[0]


def lorentz_kmeans(
    space: npt.ArrayLike,
    count: int,
    c: float,
    *,
    iterations: int = 8,
    seed: int = 0,
    start: Literal["k-means++", "sample"] | None = None,
) -> Float64:
    """Space parts (count, d) of `count` centroids of points with space parts (n, d), n >= count >= 1.

    Points are assigned by the largest <x, mu>_L (:func:`assign`) and centroids made from sum vectors
    (:func:`centroids_of_sums`), `iterations` times. At most 256 points a cell are learnt from, drawn at random.
    `start`: "k-means++" (up to 1,024 cells by default; Arthur & Vassilvitskii 2007, by cosh d - 1, which |x - y|_L^2
    is twice of) or "sample". An empty cell is given the point that is farthest from its centroid. The same seed gives
    the same centroids.
    """
    points = np.asarray(space)
    if points.ndim != 2 or not 1 <= count <= len(points):
        raise ValueError(f"expected 1 to {len(points)} cells for space parts of shape (n, d), got {count}")
    rng = np.random.default_rng(seed)
    if len(points) > PER_CELL * count:
        points = points[np.sort(rng.choice(len(points), PER_CELL * count, replace=False))]
    if start is None:
        start = "k-means++" if count <= PLUS_PLUS_UP_TO else "sample"
    chosen = (
        _plus_plus(points, count, c, rng) if start == "k-means++" else rng.choice(len(points), count, replace=False)
    )
    centroids = points[chosen].astype(np.float64)
    lift = lifted(points, c)
    for _ in range(iterations):
        cells, products = _nearest(points, centroids, c)
        counts = np.bincount(cells, minlength=count)
        ones = np.ones(len(points))
        sums = csr_matrix((ones, (cells, np.arange(len(points)))), shape=(count, len(points))) @ lift
        centroids = centroids_of_sums(sums, counts, c)
        empty = np.flatnonzero(counts == 0)
        if len(empty):
            farthest = np.argsort(products, kind="stable")[: len(empty)]
            centroids[empty] = points[farthest]
            logger.debug("event=empty_cells count=%d", len(empty))
    return centroids


def _nearest(points: npt.NDArray[np.floating], centroids: npt.NDArray[np.floating], c: float) -> tuple[Int64, Float64]:
    """The nearest centroid of each point, and <x, mu>_L with it: (n,), (n,)."""
    farthest = max(norms(points.astype(np.float64)).max(), norms(centroids.astype(np.float64)).max())
    far = np.arcsinh(np.sqrt(c) * farthest) >= FLOAT32_RADIUS
    dtype: type[np.floating] = np.float64 if far else np.float32
    flipped = np.concatenate([-time_parts(centroids, c)[:, None], centroids], axis=1).astype(dtype).T.copy()
    nearest, best = np.empty(len(points), dtype=np.int64), np.empty(len(points))
    rows = max(1, BLOCK // len(centroids))
    for first in range(0, len(points), rows):
        block = points[first : first + rows]
        products = lifted(block, c).astype(dtype) @ flipped
        nearest[first : first + rows] = cells = products.argmax(axis=1)
        best[first : first + rows] = np.take_along_axis(products, cells[:, None], axis=1)[:, 0]
    return nearest, best


def _plus_plus(points: npt.NDArray[np.floating], count: int, c: float, rng: np.random.Generator) -> Int64:
    """Positions of the first centroids, each drawn with probability in proportion to its cost so far."""
    lift = lifted(points, c)
    chosen = np.empty(count, dtype=np.int64)
    chosen[0] = rng.integers(len(points))
    cost = np.full(len(points), np.inf)
    for number in range(count):
        if number:
            total = np.cumsum(cost)
            # All points are centroids already (duplicates): any will do.
            drawn = rng.random() * total[-1]
            place = np.searchsorted(total, drawn, side="right") if total[-1] > 0 else rng.integers(len(points))
            chosen[number] = min(int(place), len(points) - 1)
        flipped = lift[chosen[number]] * np.concatenate([[1.0], np.full(points.shape[1], -1.0)])
        np.minimum(cost, np.maximum(c * (lift @ flipped) - 1, 0), out=cost)
        cost[chosen[number]] = 0
    return chosen
