"""Average linkage on geodesic distance: one merge matrix over all items, exact for thousands, cells first above.

A merge matrix Z is that of scipy.cluster.hierarchy: row t of (n - 1, 4) merges clusters Z[t, 0] and Z[t, 1] (items
are 0 .. n - 1, the cluster made by row t is n + t) at height Z[t, 2], and the new one holds Z[t, 3] items.
"""

import logging
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from index.distances import Float64
from index.kmeans import assign, lifted, lorentz_kmeans

logger = logging.getLogger(__name__)

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

EXACT_BELOW = 10_000  # items whose distances fit one float32 matrix of 400 MB
CELL = 400  # items in a cell, about
LARGEST_CELL = 4_000
GROUPS = 6_000  # what the cells are cut into, and linked exactly again
REPRESENTATIVES = 4  # items that stand for a group where groups are compared
BLOCK = 1 << 18  # distances made at a time: 2 MB of float64, which stay in cache


class DistancesTo:
    """All geodesic distances to a set of points with space parts (m, d), which is prepared once: 8 m (d + 1) bytes.

    arccosh(-c <x, y>_L) / sqrt(c) as 2 asinh(sqrt((z - 1) / 2)), z from one float64 product. With s the greater
    sqrt(c) x_time, z rounds at a few 1e-16 s^2, so that the error of a distance d, in units of 1/sqrt(c), is
    <= 3e-7 d + min(3e-8 s, 1e-15 s^2 / d) (tests/index/hierarchy/test_linkage.py): near 0, 2e-4 at radius 9.
    """

    def __init__(self, space: npt.ArrayLike, c: float) -> None:
        self.c = c
        self._columns = _flipped(space, c)

    def __call__(self, x: npt.ArrayLike) -> Float32:
        """Of points with space parts (n, d): float32 (n, m). Memory: 4 n m bytes and small blocks."""
        left, right = lifted(x, self.c), self._columns
        found = np.empty((len(left), right.shape[1]), dtype=np.float32)
        rows = max(1, BLOCK // max(1, right.shape[1]))
        for start in range(0, len(left), rows):
            found[start : start + rows] = _distances(left[start : start + rows], right, self.c)
        return found


def distance_matrix(x: npt.ArrayLike, y: npt.ArrayLike, c: float) -> Float32:
    """All geodesic distances between two sets of space parts, see :class:`DistancesTo`: (n, d) x (m, d) -> (n, m)."""
    return DistancesTo(y, c)(x)


def mean_distance_matrix(groups: npt.ArrayLike, c: float) -> Float32:
    """Mean distance between the points of each two groups, space parts (n, r, d) -> float32 (n, n), symmetric."""
    points = np.asarray(groups)
    count, each, _ = points.shape
    left = lifted(points.reshape(count * each, -1), c)
    right = [_flipped(points[:, number], c) for number in range(each)]
    found = np.empty((count, count), dtype=np.float32)
    rows = max(1, BLOCK // (count * each))
    for start in range(0, count, rows):
        # From the diagonal on, and mirrored.
        block = left[start * each : (start + rows) * each]
        mean = np.zeros((len(block) // each, count - start), dtype=np.float32)
        for columns in right:
            part = _distances(block, columns[:, start:], c)
            for number in range(each):
                mean += part[number::each]
        mean /= np.float32(each * each)
        square = mean[:, : len(mean)]
        np.maximum(square, square.T.copy(), out=square)  # a product rounds differently on either side of the diagonal
        found[start : start + rows, start:] = mean
        found[start:, start : start + rows] = mean.T
    return found


def _flipped(space: npt.ArrayLike, c: float) -> Float64:
    """-c times points with the space part's sign turned, as columns: x @ flipped = -c <x, y>_L."""
    points = lifted(space, c)
    points[:, 0] *= -1
    points *= -c
    return np.ascontiguousarray(points.T)


def _distances(left: Float64, right: Float64, c: float) -> Float32:
    product = left @ right
    product -= 1
    found = product.astype(np.float32)
    np.maximum(found, 0, out=found)
    found *= np.float32(0.5)
    np.arcsinh(np.sqrt(found, out=found), out=found)
    found *= np.float32(2 / np.sqrt(c))
    return found


def average_linkage(distances: Float32, sizes: npt.ArrayLike | None = None) -> Float64:
    """Merge matrix (n - 1, 4) of average linkage (UPGMA) on a matrix of distances (n, n), which is used up.

    The distance of two clusters is the mean over all pairs of their members; `sizes` (n,): how many items each of the
    n already stands for (1 by default), so that given distances are means over their members. Nearest-neighbour chains
    (Murtagh 1983): O(n^2) time, no memory beyond the matrix, which must be symmetric to the last bit. Averages are
    kept no smaller than the smaller of the two distances they come from, so that rounding cannot send a chain in a
    circle.
    """
    count = len(distances)
    if distances.shape != (count, count):
        raise ValueError(f"expected a square matrix of distances, got shape {distances.shape}")
    weight = np.ones(count) if sizes is None else np.array(sizes, dtype=np.float64)
    if weight.shape != (count,) or not (weight > 0).all():
        raise ValueError(f"expected {count} sizes > 0, got shape {weight.shape}")
    matrix, label = distances, np.arange(count)
    np.fill_diagonal(matrix, np.inf)
    alive = np.ones(count, dtype=bool)
    merges = np.empty((max(0, count - 1), 3))
    chain: list[int] = []
    for step in range(count - 1):
        if 2 * (count - 1 - step) + 2 <= len(matrix) and len(matrix) > 256:
            # Half of the rows are merged away: leave them, so that those to come are short.
            kept = np.flatnonzero(alive)
            place = np.cumsum(alive) - 1
            chain = [int(place[i]) for i in chain]
            matrix, label, weight = matrix[np.ix_(kept, kept)], label[kept], weight[kept]
            alive = np.ones(len(kept), dtype=bool)
        if not chain:
            chain.append(int(np.argmax(alive)))
        while True:
            last = chain[-1]
            row = matrix[last]
            nearest = int(row.argmin())
            if len(chain) > 1:
                previous = chain[-2]
                if row[previous] <= row[nearest]:  # equally near: close the chain rather than lengthen it
                    break
            chain.append(nearest)
        i, j = chain.pop(), chain.pop()
        height = float(matrix[i, j])
        merges[step] = label[i], label[j], height
        # The merged cluster lives on in row j.
        merged = (weight[i] * matrix[i].astype(np.float64) + weight[j] * matrix[j]) / (weight[i] + weight[j])
        lower = np.minimum(matrix[i], matrix[j])
        new = np.maximum(merged.astype(np.float32), lower)
        new[i] = new[j] = np.inf
        matrix[j], matrix[:, j] = new, new
        matrix[:, i] = np.inf
        alive[i] = False
        weight[j] += weight[i]
    return _sorted_merges(merges, np.ones(count) if sizes is None else np.asarray(sizes, dtype=np.float64))


def _sorted_merges(merges: Float64, sizes: Float64) -> Float64:
    """Merges of representatives (i, j, height), in the order of their making, as a merge matrix by height."""
    count = len(sizes)
    order = np.argsort(merges[:, 2], kind="stable")  # a merge is never lower than those it builds on
    parent = list(range(2 * count - 1))
    total = [*sizes.tolist(), *[0.0] * (count - 1)]
    rows = np.empty((max(0, count - 1), 4))

    def top(cluster: int) -> int:
        while parent[cluster] != cluster:
            parent[cluster] = parent[parent[cluster]]
            cluster = parent[cluster]
        return cluster

    for number, (i, j, height) in enumerate(merges[order].tolist()):
        a, b = sorted((top(int(i)), top(int(j))))
        new = count + number
        parent[a] = parent[b] = new
        total[new] = total[a] + total[b]
        rows[number] = a, b, height, total[new]
    return rows


def dendrogram(space: npt.ArrayLike, c: float, *, exact_below: int = EXACT_BELOW, seed: int = 0) -> Float64:
    """Merge matrix (n - 1, 4) of average linkage over points with space parts (n, d), n >= 1.

    Exact up to `exact_below` items. Above, exact inside Lorentz k-means cells of about 400; the cells are cut at one
    height into 6,000 groups, which are linked anew by the mean distance of four members each, weighted by size. So
    cells never hold apart what belongs together: their borders matter only inside a group. 100,000 x 128:
    benchmarks/hierarchy_scale.py.
    """
    points = np.asarray(space, dtype=np.float32)
    if points.ndim != 2 or len(points) < 1:
        raise ValueError(f"expected space parts of shape (n, d) with n >= 1, got shape {points.shape}")
    if len(points) <= exact_below:
        return average_linkage(mean_distance_matrix(points[:, None], c))
    cells = _cells(points, c, seed)
    parts = [average_linkage(mean_distance_matrix(points[cell][:, None], c)) for cell in cells]
    return _join(points, c, cells, parts, min(GROUPS, max(1, exact_below)))


def _cells(points: Float32, c: float, seed: int) -> list[Int64]:
    """Positions of the members of each k-means cell, none empty, none above LARGEST_CELL."""
    pending, done = [np.arange(len(points))], []
    while pending:
        members = pending.pop()
        if len(members) <= LARGEST_CELL and len(members) < len(points):
            done.append(members)
            continue
        part = points[members]
        count = max(2, -(-len(members) // CELL))
        centroids = lorentz_kmeans(part, count, c, seed=seed)
        cell_of = assign(part, centroids, c)
        if (cell_of == cell_of[0]).all():  # equal points, which no centroid can part
            cell_of = np.arange(len(members)) * count // len(members)
        order = np.argsort(cell_of, kind="stable")
        pending += [members[p] for p in np.split(order, np.cumsum(np.bincount(cell_of))[:-1]) if len(p)]
    return done


def _join(points: Float32, c: float, cells: Sequence[Int64], parts: Sequence[Float64], groups: int) -> Float64:
    """One merge matrix from those of the cells: what lies below the cut as it is, linked anew above it."""
    heights = np.sort(np.concatenate([part[:, 2] for part in parts]))
    kept = max(0, len(points) - max(groups, len(cells)))
    cut = heights[kept - 1] if kept else -np.inf
    merges: list[Float64] = []
    group_members: list[Int64] = []
    for cell, part in zip(cells, parts, strict=True):
        below = int(np.searchsorted(part[:, 2], cut, side="right"))
        # Each merge by one item of either side, as _sorted_merges takes them.
        first = np.concatenate([np.arange(len(cell)), np.zeros(len(part), dtype=np.int64)])
        label = np.arange(len(cell) + below)
        for number in range(below):
            new = len(cell) + number
            a, b = int(part[number, 0]), int(part[number, 1])
            label[a] = label[b] = new
            first[new] = first[a]
        if below:
            sides = part[:below, :2].astype(np.int64)
            merges.append(np.column_stack([cell[first[sides[:, 0]]], cell[first[sides[:, 1]]], part[:below, 2]]))
        for number in range(len(label) - 1, -1, -1):
            label[number] = label[label[number]]
        _, group_of = np.unique(label[: len(cell)], return_inverse=True)
        order = np.argsort(group_of, kind="stable")
        group_members += [cell[p] for p in np.split(order, np.cumsum(np.bincount(group_of))[:-1])]
    sizes = np.array([len(members) for members in group_members], dtype=np.float64)
    above = average_linkage(mean_distance_matrix(_representatives(points, group_members), c), sizes)
    firsts = np.array([members[0] for members in group_members], dtype=np.int64)
    representative = np.concatenate([firsts, np.zeros(len(above), dtype=np.int64)])
    rows = np.empty((len(above), 3))
    for number, (a, b, height, _) in enumerate(above):
        rows[number] = representative[int(a)], representative[int(b)], max(height, cut)
        representative[len(firsts) + number] = representative[int(a)]
    logger.info(
        "event=cells_linked items=%d cells=%d groups=%d cut=%.3f", len(points), len(cells), len(firsts), cut
    )  # fmt: skip
    return _sorted_merges(np.concatenate([*merges, rows]), np.ones(len(points)))


def _representatives(points: Float32, members: Sequence[Int64]) -> Float32:
    """Evenly chosen members of each group: space parts (groups, REPRESENTATIVES, d)."""
    places = (np.arange(REPRESENTATIVES) + 0.5) / REPRESENTATIVES
    return points[np.stack([group[(places * len(group)).astype(np.int64)] for group in members])]
