"""Fitting a tree's answers: to photos that are not in it, or, where there are none, to its own items leave-one-out."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.sparse import csr_matrix, vstack

from index.errors import PointError
from index.hierarchy.calibration import Fit, Platt, Threshold, path_probabilities
from index.hierarchy.items import Labels
from index.hierarchy.posterior import Masses, Posterior
from index.hierarchy.walk import Walk, along, deepest, node_depths
from index.points import valid_points

if TYPE_CHECKING:
    from index.hierarchy.tree import Hierarchy

logger = logging.getLogger(__name__)

Bool = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

PRECISION = 0.95
SAMPLE = 2_000  # queries that are fitted on, at most,
MOST_DISTANCES = 50_000_000  # and distances
PAIRS = 5_000  # pairs that the common ancestor is fitted on, at most,
MOST_PAIR_MASSES = 20_000_000  # and masses of pairs
COMMON_ANCESTOR_MASSES = tuple(step / 20 for step in range(1, 15))
DEFAULT_COMMON_ANCESTOR_MASS = 0.3  # where there are no pairs to fit it on
QUANTILE = 0.02  # of the log density, from which on down the origin outweighs the collection
FLOOR = 1e-6  # of a mass whose logarithm is taken


@dataclass(frozen=True, slots=True, eq=False)
class Questions:
    """Points whose place in the tree is known."""

    space: Float32
    exclude: Int64
    """(q,) position of the item that the query is; -1 for a photo that is not in the tree."""
    labels: Int64
    """(q, levels) number of the right label of each level; -1 where there is none, or none that an item has."""
    nodes: csr_matrix
    """(q, n): 1 where a node is right."""
    kin: csr_matrix
    """(q, m): 1 at the items of the query's most specific known label; without labels, at those of its own node."""


def fit(
    hierarchy: "Hierarchy",
    space: npt.ArrayLike | None = None,
    labels: Sequence[Labels] | None = None,
    *,
    precision: float = PRECISION,
    seed: int = 0,
) -> Fit:
    """Fit the answers of a tree: T, the recalibration of nodes and labels, thresholds, z0 and percentiles.

    `space` (q, d) and `labels`: photos that are not in the tree, which needs labels too. They should be like those that
    will be asked about: other shops, other days. Without them up to 2,000 of the tree's own items are asked for, each
    left out of the tree's masses; this promises too much where photos come in series, since the next photo of the same
    thing stays in. What was used is said in ``fitted_on``. `precision`: the share of right answers wished for.

    T minimises the mean negative log-likelihood of the most specific label (without labels: of the node that holds the
    item). A node is right if the photo's label is at home under it (:func:`index.hierarchy.labels.homes`), without
    labels if the item is. The same seed gives the same fit. Raises :class:`PointError` for bad points, and for photos
    without labels or a tree of fewer than two items.
    """
    posterior = Posterior.of(hierarchy)
    if len(posterior) < 2:
        raise PointError(f"expected a tree of two items or more to fit its answers, got {len(posterior)}")
    rng = np.random.default_rng(seed)
    most = max(1, min(SAMPLE, MOST_DISTANCES // len(posterior)))
    if space is None:
        chosen = np.sort(rng.permutation(len(posterior))[:most])
        questions = own_items(posterior, chosen)
        fitted_on = f"leave-one-out: {len(chosen)} items"
    else:
        points = valid_points(space, hierarchy.embedding_dim).astype(np.float32)
        if labels is None or len(labels) != len(points) or not len(posterior.labels):
            raise PointError(
                f"expected a label path for each of {len(points)} photos, and a tree whose items have labels: leave "
                "the photos out to fit leave-one-out"
            )
        if not len(points):
            raise PointError("expected validation photos, got none: leave them out to fit leave-one-out")
        chosen = np.sort(rng.permutation(len(points))[:most])
        questions = photos(posterior, points[chosen], [labels[i] for i in chosen.tolist()])
        fitted_on = f"validation: {len(chosen)} photos"
    found = fit_questions(posterior, questions, fitted_on, precision, rng)
    logger.info(
        "event=hierarchy_fitted on=%r temperature=%.4f theta=%.3f precision=%.3f answered=%.3f",
        fitted_on, found.temperature, found.theta, found.node_threshold.precision, found.node_threshold.answered,
    )  # fmt: skip
    return found


def photos(posterior: Posterior, space: Float32, labels: Sequence[Labels]) -> Questions:
    """Photos from outside the tree, by their labels as far as the tree has them."""
    forest = posterior.labels
    known = [forest.find(tuple(path)) for path in labels]
    place = np.array([found[-1] if found else -1 for found in known], dtype=np.int64)
    nowhere = len(forest) + len(posterior.parents)
    exclude = np.full(len(space), -1, dtype=np.int64)
    return _questions(posterior, space, exclude, _padded(known, forest.depth), np.where(place >= 0, place, nowhere))


def own_items(posterior: Posterior, positions: Int64) -> Questions:
    """Items of the tree, by their labels, or by the node that holds them where they have none."""
    forest = posterior.labels
    own = forest.of_items[positions]
    known = [forest.find(forest.names[label]) if label >= 0 else [] for label in own.tolist()]
    place = np.where(own >= 0, own, len(forest) + posterior.owners[positions])
    return _questions(posterior, posterior.space[positions], positions, _padded(known, forest.depth), place)


def _questions(posterior: Posterior, space: Float32, exclude: Int64, labels: Int64, place: Int64) -> Questions:
    """`place` (q,): a label, or a node counted on from the labels, or one more for none but the root."""
    count, items = len(posterior.parents), len(posterior)
    root = csr_matrix((np.ones(1), ([0], [0])), shape=(1, count))
    right = vstack([posterior.homes.T, posterior.below.T, root], format="csr")
    kin = vstack([posterior.bears, posterior.below @ posterior.own, csr_matrix((1, items))], format="csr")
    return Questions(space, exclude, labels, right[place], kin[place])


def _padded(known: Sequence[Sequence[int]], depth: int) -> Int64:
    found = np.full((len(known), depth), -1, dtype=np.int64)
    for row, numbers in zip(found, known, strict=True):
        row[: len(numbers)] = numbers
    return found


def fit_questions(
    posterior: Posterior, questions: Questions, fitted_on: str, precision: float, rng: np.random.Generator
) -> Fit:
    """:func:`fit` on questions."""
    temperature = fit_temperature(posterior, questions)
    log_density, _ = posterior.specificity(questions.space, temperature, exclude=questions.exclude)
    z0 = float(np.quantile(log_density, QUANTILE))
    masses = posterior.masses(questions.space, temperature, z0=z0, exclude=questions.exclude)
    nodes, node_threshold = fit_nodes(posterior, masses, questions.nodes, precision)
    levels, label_threshold = fit_labels(posterior, masses, questions.labels, precision)
    return Fit(
        temperature=temperature,
        nodes=nodes,
        labels=levels,
        precision=precision,
        node_threshold=node_threshold,
        label_threshold=label_threshold,
        common_ancestor_mass=fit_common_ancestor(posterior, masses, questions, rng),
        z0=z0,
        specificities=tuple(np.quantile(masses.specificity, np.linspace(0, 1, 101)).tolist()),
        fitted_on=fitted_on,
        count=len(questions.space),
    )


def fit_temperature(posterior: Posterior, questions: Questions) -> float:
    """T that minimises the mean of -log(mass of the query's kin), to 1 %; between 1/300 and 1 of the mean distance."""
    blocks: list[tuple[Float32, Int64, Int64]] = []
    total, number = 0.0, 0
    for rows, found in posterior.distances(questions.space, questions.exclude):
        kin = questions.kin[rows].tocoo()
        finite = np.isfinite(found)
        total, number = total + float(found[finite].sum(dtype=np.float64)), number + int(finite.sum())
        blocks.append((found - found.min(axis=1, keepdims=True), kin.row.astype(np.int64), kin.col.astype(np.int64)))

    def loss(log_temperature: float) -> float:
        scale = np.float32(-np.exp(-log_temperature))
        result = 0.0
        for found, row, column in blocks:
            mass = np.exp(found * scale)
            of_kin = np.bincount(row, weights=mass[row, column], minlength=len(found))
            result -= float(np.log(of_kin / mass.sum(axis=1, dtype=np.float64) + FLOOR).sum())
        return result

    mean = max(total / max(number, 1), 1e-6)
    grid = np.linspace(np.log(mean / 300), np.log(mean), 12)
    best = int(np.argmin([loss(value) for value in grid]))
    bounds = (grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 0.01}).x))


def fit_nodes(posterior: Posterior, masses: Masses, right: csr_matrix, precision: float) -> tuple[Platt, Threshold]:
    """The recalibration of all nodes on the ways down, the root excepted, and the threshold for the wish."""
    way = Walk(posterior.parents)(masses.nodes)[:, 1:]
    was_right = np.zeros(way.shape, dtype=bool)
    query, step = np.nonzero(way >= 0)
    if len(query):
        was_right[query, step] = np.asarray(right[query, way[query, step]]).ravel() > 0
    mass = along(masses.belonging, way)
    platt = Platt.fit(mass[way >= 0], was_right[way >= 0])
    return platt, Threshold.fit(path_probabilities((platt,), mass, way), was_right, precision)


def fit_labels(
    posterior: Posterior, masses: Masses, labels: Int64, precision: float
) -> tuple[tuple[Platt, ...], Threshold]:
    """A recalibration per level of the labels on the ways down, and one threshold for all levels."""
    way = Walk(posterior.labels.parents)(masses.labels)
    was_right = (way >= 0) & (way == labels[:, : way.shape[1]])
    mass = along(masses.labels, way)
    levels = tuple(Platt.fit(mass[there, level], was_right[there, level]) for level, there in enumerate((way >= 0).T))
    return levels, Threshold.fit(path_probabilities(levels, mass, way), was_right, precision)


def fit_common_ancestor(posterior: Posterior, masses: Masses, questions: Questions, rng: np.random.Generator) -> float:
    """The mass for which the common ancestor of pairs is most often exactly at the right level (without labels: node).

    Pairs are balanced over the true levels: as many that share nothing as share the most specific label.
    """
    has_labels = bool((questions.labels >= 0).any())
    if has_labels:
        mass, depths = masses.labels, posterior.labels.levels
        places = questions.labels
    else:
        mass, depths = masses.nodes, node_depths(posterior.parents)
        places = _ways(posterior.parents, posterior.owners[questions.exclude])
    left, right, level = _pairs(places, rng, max(1, min(PAIRS, MOST_PAIR_MASSES // max(mass.shape[1], 1))))
    if not len(left):
        return DEFAULT_COMMON_ANCESTOR_MASS
    smallest = np.minimum(mass[left], mass[right])
    exact = []
    for threshold in COMMON_ANCESTOR_MASSES:
        found = deepest(smallest, depths, threshold)
        # As deep as what the pair shares, and the same: each level has one of a query's ancestors.
        true = np.where(level >= 0, places[left, np.maximum(level, 0)], -1)
        exact.append(float((found == true).mean()))
    return COMMON_ANCESTOR_MASSES[int(np.argmax(exact))]


def _pairs(places: Int64, rng: np.random.Generator, most: int) -> tuple[Int64, Int64, Int64]:
    """Pairs of queries and the last level at which their places (q, levels) agree, -1 for none; balanced over it."""
    order = np.lexsort(places.T[::-1])
    gaps = 2 ** np.arange(max(1, int(np.log2(max(len(order), 2)))))
    left = np.concatenate([order[:-gap] for gap in gaps.tolist()])
    right = np.concatenate([order[gap:] for gap in gaps.tolist()])
    agree = (places[left] == places[right]) & (places[left] >= 0)
    level = np.logical_and.accumulate(agree, axis=1).sum(axis=1) - 1
    counts = np.unique(level, return_counts=True)[1]
    share = min(int(counts.min()), most // len(counts)) if len(counts) else 0
    chosen = [rng.permutation(np.flatnonzero(level == value))[: max(share, 1)] for value in np.unique(level)]
    kept = np.concatenate([np.empty(0, dtype=np.int64), *chosen])
    return left[kept], right[kept], level[kept]


def _ways(parents: Int64, nodes: Int64) -> Int64:
    """Nodes (q,) -> their ways from the root down (q, steps), -1 below them."""
    depth = node_depths(parents)
    found = np.full((len(nodes), int(depth[nodes].max()) + 1), -1, dtype=np.int64)
    current = nodes.copy()
    while (there := np.flatnonzero(current >= 0)).size:
        found[there, depth[current[there]]] = current[there]
        current[there] = parents[current[there]]
    return found
