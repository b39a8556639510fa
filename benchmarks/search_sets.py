"""Generated sets for benchmarks/search.py: points of the hyperboloid at c = 1, their queries, and the float64 truth.

``tree``: a random recursive tree, each node a geodesic step from its parent (0.55 +- 0.18, radius up to about 6).
``m12``: a 12-dimensional sheet, radii uniform in 1-6, no tree. ``r<R>x<C>``: four levels of geodesic steps, leaf
clusters of C points at radius R (``r8.3x1000``).
"""

import re
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]
Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

STEP, STEP_SD = 0.55, 0.18
SHEET_DIM = 12
SCATTER = 0.2
QUERY_NOISE = 0.03
BLOCK = 1 << 22


def lift(space: Array) -> Array:
    """The time before the space part, in float64."""
    wide = np.asarray(space, dtype=np.float64)
    return np.concatenate([np.sqrt(1 + np.square(wide).sum(-1, keepdims=True)), wide], axis=-1)


def step(x: Array, direction: Array, length: Array | float) -> Array:
    """exp_x of a tangent vector of the given length: a direction at the origin, carried to x without turning."""
    direction = direction / np.linalg.norm(direction, axis=-1, keepdims=True)
    inner = (x[:, 1:] * direction).sum(-1, keepdims=True)
    at_x = np.concatenate([np.zeros_like(inner), direction], axis=-1)
    both = x.copy()
    both[:, :1] += 1
    at_x += inner / (1 + x[:, :1]) * both
    return lift((np.cosh(length) * x + np.sinh(length) * at_x)[:, 1:])


def recursive_tree(count: int, dim: int, seed: int = 0) -> Float32:
    """Node i hangs below a node drawn from those before it."""
    rng = np.random.default_rng(seed)
    parent = np.floor(rng.random(count) * np.arange(count)).astype(np.int64)
    depth = np.zeros(count, dtype=np.int64)
    for node in range(1, count):
        depth[node] = depth[parent[node]] + 1
    points = np.zeros((count, dim + 1))
    points[0, 0] = 1
    for level in range(1, int(depth.max()) + 1):
        nodes = np.flatnonzero(depth == level)
        lengths = np.maximum(0.05, rng.normal(STEP, STEP_SD, size=(len(nodes), 1)))
        points[nodes] = step(points[parent[nodes]], rng.normal(size=(len(nodes), dim)), lengths)
    return points[:, 1:].astype(np.float32)


def sheet(count: int, dim: int, seed: int = 0) -> Float32:
    """Directions of a 12-dimensional subspace, radii 1-6."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(dim, SHEET_DIM)))[0]
    directions = rng.normal(size=(count, SHEET_DIM))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return (np.sinh(rng.uniform(1, 6, size=(count, 1))) * directions @ basis.T).astype(np.float32)


def clusters(count: int, dim: int, radius: float, size: int, seed: int = 0) -> Float32:
    """Leaf clusters of `size` points at `radius`, below three levels of branches."""
    rng = np.random.default_rng(seed)
    leaves = max(1, count // size)
    branching = max(2, int(np.ceil(leaves ** (1 / 3))))
    levels = lift(np.zeros((1, dim)))
    for _ in range(3):
        parents = np.repeat(levels, branching, axis=0)
        levels = step(parents, rng.normal(size=(len(parents), dim)), radius / 3)
    space = levels[:, 1:] / np.linalg.norm(levels[:, 1:], axis=1, keepdims=True) * np.sinh(radius)
    centres = lift(space[rng.permutation(len(space))[:leaves]])
    points = np.repeat(centres, size, axis=0)[:count]
    lengths = rng.normal(SCATTER, SCATTER / 4, size=(len(points), 1))
    return step(points, rng.normal(size=(len(points), dim)), lengths)[:, 1:].astype(np.float32)


def make(name: str) -> Callable[[int, int], Float32]:
    """The generator (count, dim) -> space parts of a set's name; ValueError for another name."""
    if name == "tree":
        return recursive_tree
    if name == "m12":
        return sheet
    match = re.fullmatch(r"r([0-9.]+)x([0-9]+)", name)
    if not match:
        raise ValueError(f"expected a set 'tree', 'm12' or 'r<radius>x<cluster>' such as r8.3x1000, got {name!r}")
    return lambda count, dim: clusters(count, dim, float(match[1]), int(match[2]))


def parse(name: str, count: int, dim: int) -> tuple[Callable[[int, int], Float32], int, int]:
    """Generator, count and dimension of a set's name, which may end in a size of its own (tree:1000000x64)."""
    kind, _, size = name.partition(":")
    if size:
        match = re.fullmatch(r"([0-9]+)x([0-9]+)", size)
        if not match:
            raise ValueError(f"expected a size <count>x<dim> such as 1000000x64, got {size!r} in {name!r}")
        count, dim = int(match[1]), int(match[2])
    return make(kind), count, dim


def queries_of(space: Float32, count: int, seed: int = 1) -> Float32:
    """Stored points moved by a geodesic step of 0.03."""
    rng = np.random.default_rng(seed)
    chosen = lift(space[rng.choice(len(space), count, replace=False)])
    return step(chosen, rng.normal(size=(count, space.shape[1])), QUERY_NOISE)[:, 1:].astype(np.float32)


def cosh_distances(queries: Float32, space: Float32) -> Array:
    """-<q, x>_L in float64 (q, n): at radius 8.3 right to 2e-9."""
    flipped = lift(queries)
    flipped[:, 1:] *= -1
    return np.concatenate(
        [flipped @ lift(space[start : start + BLOCK // 64]).T for start in range(0, len(space), BLOCK // 64)], axis=1
    )


def truth_of(queries: Float32, space: Float32, k: int) -> tuple[Int64, Array]:
    """Ids of the k nearest (q, k), and cosh of the k-th distance (q,)."""
    ids, kth = [], []
    for start in range(0, len(queries), 50):
        cosh = cosh_distances(queries[start : start + 50], space)
        nearest = np.argpartition(cosh, k - 1, axis=1)[:, :k]
        ids.append(nearest)
        kth.append(np.take_along_axis(cosh, nearest, axis=1).max(axis=1))
    return np.concatenate(ids), np.concatenate(kth)


def recall(found: Int64, queries: Float32, space: Float32, kth: Array) -> float:
    """Share of the k nearest found; whatever is as near as the k-th (to 1e-8 of cosh d - 1, 4e-9 of cosh d) counts."""
    hits = 0
    for query, answer, limit in zip(queries, found, kth, strict=True):
        named = np.unique(answer[answer >= 0])
        if not len(named):
            continue
        cosh = cosh_distances(query[None], space[named])[0]
        hits += int(np.count_nonzero(cosh <= limit + 1e-8 * (limit - 1) + 4e-9 * limit))
    return hits / found.size
