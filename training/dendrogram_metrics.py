"""How well a binary tree over items (a dendrogram) agrees with their labels and with their true distances.

A dendrogram over n items is a merge matrix Z (n - 1, 4) as SciPy's ``linkage`` returns it: row t joins the nodes
Z[t, 0] and Z[t, 1] (items are 0 ... n - 1, earlier merges n, n + 1, ...) at height Z[t, 2] into node n + t.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike, NDArray


def _merges(Z: ArrayLike) -> NDArray[np.int64]:
    """The first two columns as integers. Raises ``ValueError`` where they are no tree."""
    matrix = np.asarray(Z, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[1] < 3 or len(matrix) == 0:
        raise ValueError(f"expected a merge matrix (n - 1, 4) of two or more items, got shape {matrix.shape}")
    merges = matrix[:, :2].astype(np.int64)
    n = len(merges) + 1
    late = merges.max(1) >= np.arange(n, 2 * n - 1)
    if late.any() or merges.min() < 0 or len(np.unique(merges)) != merges.size:
        raise ValueError("expected every node to be joined once, after it was made: Z is no merge matrix of a tree")
    return merges


def dendrogram_purity(
    Z: Float[NDArray[np.float64], "merges 4"], labels: Int[NDArray[np.int64], "n levels"]
) -> list[float]:
    """Dendrogram purity at each label level, most general first; (n - 1, 4) and (n, levels) -> levels fractions.

    The mean over all pairs of items of one class of the purity of their lowest common ancestor: the share of that
    class among the items under it. 1 where every class is a subtree. Exact, from counts: a merge of l and r items of
    class k into m items adds l_k r_k pairs of purity (l_k + r_k)/m. A level on which no two items share a class gives
    NaN. ``labels``: class numbers, columns as :func:`training.metrics.label_indices` makes them; a 1-d array is one
    level. The smaller table of counts is always poured into the larger: O(n log n), 20,000 items in a fraction of a
    second. Source: Heller & Ghahramani, "Bayesian hierarchical clustering", 2005; over pairs as in Kobren et al., 2017.
    """
    merges = _merges(Z)
    labels = np.asarray(labels).reshape(len(labels), -1)
    if len(labels) != len(merges) + 1:
        raise ValueError(f"expected labels of the {len(merges) + 1} items of the tree, got {len(labels)}")
    sizes = subtree_sizes(Z)[len(labels) :]
    return [_purity(merges.tolist(), sizes.tolist(), column.tolist()) for column in labels.T]


def _purity(merges: list[list[int]], sizes: list[int], classes: list[int]) -> float:
    counts: list[dict[int, int]] = [{label: 1} for label in classes]
    total, pairs = 0.0, 0
    for (left, right), size in zip(merges, sizes, strict=True):
        large, small = counts[left], counts[right]
        if len(large) < len(small):
            large, small = small, large
        pure = 0
        for label, number in small.items():
            other = large.get(label, 0)
            if other:
                pairs += number * other
                pure += number * other * (number + other)
            large[label] = other + number
        total += pure / size
        counts.append(large)
        counts[left] = counts[right] = {}
    return total / pairs if pairs else float("nan")


def subtree_sizes(Z: ArrayLike) -> Int[NDArray[np.int64], " nodes"]:
    """Number of items under each of the 2n - 1 nodes."""
    merges = _merges(Z)
    n = len(merges) + 1
    sizes = [1] * n
    for left, right in merges.tolist():
        sizes.append(sizes[left] + sizes[right])
    return np.array(sizes)


def parents_of(Z: ArrayLike) -> Int[NDArray[np.int64], " nodes"]:
    """Parent of each of the 2n - 1 nodes, -1 for the root."""
    merges = _merges(Z)
    n = len(merges) + 1
    parents = np.full(2 * n - 1, -1, np.int64)
    parents[merges.ravel()] = np.repeat(np.arange(n, 2 * n - 1), 2)
    return parents


@dataclass(frozen=True)
class CommonAncestors:
    """Lowest common ancestors of any pairs of items, each in constant time after O(n log n) preparation.

    Items are laid out so that every node is an interval; the ancestor of two of them is the latest merge between
    neighbours on the way from one to the other, read from a table of maxima over spans of 2^k.
    """

    position: Int[NDArray[np.int64], " n"]
    table: tuple[Int[NDArray[np.int64], " spans"], ...]

    @classmethod
    def of(cls, Z: ArrayLike) -> "CommonAncestors":
        """Prepare a dendrogram; memory 8 n log2(n) bytes."""
        merges = _merges(Z)
        n = len(merges) + 1
        sizes = subtree_sizes(Z).tolist()
        start = [0] * (2 * n - 1)
        between = np.zeros(n - 1, np.int64)
        for row in range(n - 2, -1, -1):
            left, right = (int(node) for node in merges[row])
            start[left] = start[n + row]
            start[right] = start[n + row] + sizes[left]
            between[start[right] - 1] = n + row
        table = [between]
        while 2 ** len(table) <= n - 1:
            last, half = table[-1], 2 ** (len(table) - 1)
            table.append(np.maximum(last[:-half], last[half:]))
        return cls(np.array(start[:n]), tuple(table))

    def __call__(
        self, a: Int[NDArray[np.int64], " pairs"], b: Int[NDArray[np.int64], " pairs"]
    ) -> Int[NDArray[np.int64], " pairs"]:
        """Node of each pair's lowest common ancestor; items must differ."""
        low, high = np.sort(np.stack([self.position[np.asarray(a)], self.position[np.asarray(b)]]), axis=0)
        length = high - low
        if (length < 1).any():
            raise ValueError("expected pairs of different items")
        level = np.frexp(length)[1] - 1  # floor(log2(length)), exact
        found = np.empty(len(length), np.int64)
        for k in np.unique(level):
            chosen = level == k
            values = self.table[k]
            found[chosen] = np.maximum(values[low[chosen]], values[high[chosen] - 2**k])
        return found


def item_pairs(n: int, limit: int = 1_000_000, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All pairs i < j of n items where there are at most ``limit``, else ``limit`` of them drawn at random.

    Drawn with replacement, each pair with equal chance; deterministic in ``seed``.
    """
    if n * (n - 1) // 2 <= limit:
        i, j = np.triu_indices(n, 1)
        return i.astype(np.int64), j.astype(np.int64)
    rng = np.random.default_rng(seed)
    i = rng.integers(0, n, limit)
    j = (i + rng.integers(1, n, limit)) % n
    return np.minimum(i, j), np.maximum(i, j)


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's rank correlation, -1 to 1, ties sharing their mean rank; NaN where one side is constant."""
    from scipy.stats import rankdata

    x, y = (rankdata(np.asarray(values, dtype=np.float64)) for values in (a, b))
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale > 0 else float("nan")


def tree_distance_spearman(
    Z: Float[NDArray[np.float64], "merges 4"],
    true_distance: Float[NDArray[np.float64], "n n"],
    limit: int = 1_000_000,
    seed: int = 0,
) -> float:
    """Spearman's correlation of tree distance with true distance over pairs of items.

    Tree (cophenetic) distance: the height Z[t, 2] of the pair's lowest common ancestor, also where heights are not
    monotone. ``true_distance``: square, of which each pair i < j is read, all of them up to ``limit`` and as many drawn
    pairs above, see :func:`item_pairs`. Rank correlation, so the units do not matter. Source: Sokal & Rohlf, "The
    comparison of dendrograms by objective methods", 1962, by ranks.
    """
    n = len(np.asarray(Z)) + 1
    if np.shape(true_distance) != (n, n):
        raise ValueError(f"expected true distances ({n}, {n}) of the tree's items, got {np.shape(true_distance)}")
    i, j = item_pairs(n, limit, seed)
    nodes = CommonAncestors.of(Z)(i, j)
    return spearman(np.asarray(Z)[nodes - n, 2], np.asarray(true_distance)[i, j])


def common_ancestor_radius_spearman(
    Z: Float[NDArray[np.float64], "merges 4"],
    node_radii: Float[NDArray[np.float64], " nodes"],
    labels: Int[NDArray[np.int64], "n levels"],
    limit: int = 1_000_000,
    seed: int = 0,
) -> float:
    """Spearman's correlation of the radius of a pair's lowest common ancestor with the true common level.

    ``node_radii``: geodesic distances to the origin of all 2n - 1 nodes, items first; the true level is the number of
    label levels that the two share (0: none). 1 where radius grows with specificity without exception. Pairs as in
    :func:`tree_distance_spearman`.
    """
    labels = np.asarray(labels).reshape(len(labels), -1)
    n = len(np.asarray(Z)) + 1
    if len(labels) != n or len(node_radii) != 2 * n - 1:
        raise ValueError(f"expected {n} labels and {2 * n - 1} radii, got {len(labels)} and {len(node_radii)}")
    i, j = item_pairs(n, limit, seed)
    return spearman(np.asarray(node_radii)[CommonAncestors.of(Z)(i, j)], common_levels(labels[i], labels[j]))


def common_levels(
    a: Int[NDArray[np.int64], "pairs levels"], b: Int[NDArray[np.int64], "pairs levels"]
) -> Int[NDArray[np.int64], " pairs"]:
    """Levels that two label paths share from the top, 0 to levels."""
    same = np.asarray(a) == np.asarray(b)
    shared: NDArray[np.int64] = np.cumprod(same, axis=1).sum(1)
    return shared
