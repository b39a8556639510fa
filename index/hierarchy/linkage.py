"""Average linkage on geodesic distance: one merge matrix over all items, exact for thousands, cells first above.

A merge matrix Z is that of scipy.cluster.hierarchy: row t of (n - 1, 4) merges clusters Z[t, 0] and Z[t, 1] (items
are 0 .. n - 1, the cluster made by row t is n + t) at height Z[t, 2], and the new one holds Z[t, 3] items.
"""

import logging
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from index.distances import Float64
from index.kmeans import assign, lorentz_kmeans

logger = logging.getLogger(__name__)

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

EXACT_BELOW = 10_000  # items whose distances fit one float32 matrix of 400 MB
CELL = 400  # items in a cell, about
LARGEST_CELL = 4_000
GROUPS = 6_000  # what the cells are cut into, and linked exactly again
REPRESENTATIVES = 4  # items that stand for a group where groups are compared
BLOCK = 1 << 22  # distances in float64 held at a time


def distance_matrix(x: npt.ArrayLike, y: npt.ArrayLike, c: float) -> Float32:
    """All geodesic distances between two sets of space parts: (n, d) x (m, d) -> float32 (n, m).

    The polar form of :func:`index.distances.distances` with the angle from a float64 product:
    sin^2(theta/2) = (1 - cos theta)/2 rounds at 1e-16, so that the error of a distance d (in units of 1/sqrt(c)) is
    <= 3e-7 d + min(1e-8 s, 1e-15 s^2 / d), with s the greater sqrt(c)|x_s|. Memory: 4 n m bytes and a few blocks.
    """
    x_units, x_radii = _polar(x, c)
    same = y is x
    y_units, y_radii = (x_units, x_radii) if same else _polar(y, c)
    found = np.empty((len(x_units), len(y_units)), dtype=np.float32)
    rows = max(1, BLOCK // max(1, len(y_units)))
    for start in range(0, len(x_units), rows):
        block = slice(start, start + rows)
        # Of a symmetric matrix each block is made from the diagonal on, and mirrored.
        columns = slice(start if same else 0, None)
        versine = 1 - x_units[block] @ y_units[columns].T
        np.maximum(versine, 0, out=versine)
        versine *= np.sinh(x_radii[block])[:, None] * np.sinh(y_radii[columns])[None] / 2
        versine += np.square(np.sinh((x_radii[block, None] - y_radii[None, columns]) / 2))
        part = versine.astype(np.float32)
        np.arcsinh(np.sqrt(part, out=part), out=part)
        part *= np.float32(2 / np.sqrt(c))
        found[block, columns] = part
        if same:
            found[columns, block] = part.T
    return found


def _polar(space: npt.ArrayLike, c: float) -> tuple[Float64, Float64]:
    """Directions (n, d), and radii times sqrt(c) (n,); the direction of the origin is 0."""
    points = np.asarray(space, dtype=np.float64)
    lengths = np.sqrt(np.square(points).sum(axis=1))
    return points / np.where(lengths > 0, lengths, 1.0)[:, None], np.arcsinh(np.sqrt(c) * lengths)


def average_linkage(distances: Float32, sizes: npt.ArrayLike | None = None) -> Float64:
    """Merge matrix (n - 1, 4) of average linkage (UPGMA) on a square matrix of distances (n, n), which is used up.

    The distance of two clusters is the mean over all pairs of their members; `sizes` (n,): how many items each of the
    n already stands for (1 by default), so that given distances are means over their members. Nearest-neighbour chains
    (Murtagh 1983): O(n^2) time, no memory beyond the matrix, which is overwritten. Averages are kept no smaller than
    the smaller of the two distances they come from, so that rounding cannot send a chain in a circle.
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
        return average_linkage(distance_matrix(points, points, c))
    cells = _cells(points, c, seed)
    parts = [average_linkage(distance_matrix(points[cell], points[cell], c)) for cell in cells]
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
        count = -(-len(members) // CELL)
        centroids = lorentz_kmeans(part, count, c, seed=seed)
        cell_of = assign(part, centroids, c)
        if (cell_of == cell_of[0]).all():  # equal points, which no centroid can part
            cell_of = np.arange(len(members)) // CELL
        order = np.argsort(cell_of, kind="stable")
        pending += [members[p] for p in np.split(order, np.cumsum(np.bincount(cell_of))[:-1]) if len(p)]
    return done


def _join(points: Float32, c: float, cells: Sequence[Int64], parts: Sequence[Float64], groups: int) -> Float64:
    """One merge matrix from those of the cells: what lies below the cut as it is, linked anew above it."""
    heights = np.sort(np.concatenate([part[:, 2] for part in parts]))
    kept = max(0, len(points) - max(groups, len(cells)))
    cut = heights[kept - 1] if kept else -np.inf
    label = np.empty(0, dtype=np.int64)
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
    above = average_linkage(_group_distances(points, c, group_members), sizes)
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


def _group_distances(points: Float32, c: float, members: Sequence[Int64]) -> Float32:
    """Mean distance between evenly chosen members of each two groups: float32 (groups, groups)."""
    places = (np.arange(REPRESENTATIVES) + 0.5) / REPRESENTATIVES
    chosen = np.stack([group[(places * len(group)).astype(np.int64)] for group in members])
    total = np.zeros((len(members), len(members)), dtype=np.float32)
    for i in range(REPRESENTATIVES):
        x = points[chosen[:, i]]
        total += distance_matrix(x, x, c)
        for j in range(i + 1, REPRESENTATIVES):
            part = distance_matrix(x, points[chosen[:, j]], c)
            total += part
            total += part.T
    total /= np.float32(REPRESENTATIVES**2)
    return total
