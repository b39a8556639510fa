"""What a tree answers: where a photo belongs and how surely, what photos have in common, what lies between them."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from index.distances import Float64, distances, radii
from index.errors import PointError
from index.hierarchy.calibration import Fit, path_probabilities
from index.hierarchy.linkage import distance_matrix
from index.hierarchy.posterior import Posterior
from index.hierarchy.records import CommonAncestor, LabelStep, Neighbour, Path, Step, Waypoint, Ways, Zoom
from index.hierarchy.tree import Hierarchy
from index.hierarchy.walk import Walk, along, deepest
from index.kmeans import centroids_of_sums, lifted
from index.points import some, valid_ids, valid_points

__all__ = [
    "Answers",
    "CommonAncestor",
    "LabelStep",
    "Neighbour",
    "Path",
    "Step",
    "Waypoint",
    "Ways",
    "Zoom",
    "geodesic",
]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
Number = TypeVar("Number", np.int64, np.float64)

FEWEST, MOST = 2, 32  # photos that a common ancestor is asked of
AT_ONCE = 256  # queries whose masses are held at a time


class Answers:
    """Answers from a tree and what was fitted for it (:func:`index.hierarchy.fitting.fit`).

    Follows changes of the tree: the sums over its items are made anew when it has changed. Points are space parts.
    """

    def __init__(self, hierarchy: Hierarchy, fit: Fit | None = None) -> None:
        """`fit`: in place of the tree's own. ``ValueError`` where there is neither."""
        found = fit or hierarchy.fit
        if found is None:
            raise ValueError(
                "expected a tree with a fit: set hierarchy.fit = index.hierarchy.fitting.fit(hierarchy, space, labels) "
                "first, or run 'lhier hierarchy build'"
            )
        self.hierarchy = hierarchy
        self.fit = found
        self._state: tuple[tuple[int, int], Posterior] | None = None

    @property
    def posterior(self) -> Posterior:
        """The sums over the items of the tree as it is now."""
        now = (self.hierarchy.changed, len(self.hierarchy.ids))
        if self._state is None or self._state[0] != now:
            self._state = (now, Posterior.of(self.hierarchy))
        return self._state[1]

    def ways(self, space: npt.ArrayLike) -> Ways:
        """The ways of points (q, d) through nodes and labels, without a stop: for many at once."""
        points, posterior = self._points(space), self.posterior
        down, down_labels = Walk(posterior.parents), Walk(posterior.labels.parents)
        parts: list[tuple[Int64, Float64, Int64, Float64, Float64]] = []
        for start in range(0, max(len(points), 1), AT_ONCE):
            masses = posterior.masses(points[start : start + AT_ONCE], self.fit.temperature, z0=self.fit.z0)
            nodes, labels = down(masses.nodes), down_labels(masses.labels)
            below_root = path_probabilities((self.fit.nodes,), along(masses.belonging, nodes)[:, 1:], nodes[:, 1:])
            node_probabilities = np.concatenate([np.ones((len(nodes), 1)), below_root], axis=1)
            label_probabilities = path_probabilities(self.fit.labels, along(masses.labels, labels), labels)
            parts.append((nodes, node_probabilities, labels, label_probabilities, masses.specificity))
        specificity = np.concatenate([part[4] for part in parts])
        return Ways(
            nodes=_stacked([part[0] for part in parts], -1),
            node_probabilities=_stacked([part[1] for part in parts], 0.0),
            labels=_stacked([part[2] for part in parts], -1),
            label_probabilities=_stacked([part[3] for part in parts], 0.0),
            specificity=specificity,
            in_distribution=self.fit.percentile(specificity),
        )

    def paths(self, space: npt.ArrayLike) -> list[Path]:
        """The paths of points (q, d): the heavier child is followed while its probability is at least theta."""
        points = self._points(space)
        ways = self.ways(points)
        radius = radii(points.astype(np.float64), self.hierarchy.c)
        return [self._path(ways, query, float(radius[query])) for query in range(len(points))]

    def path(self, space: npt.ArrayLike) -> Path:
        """The path of one point (d,)."""
        return self.paths(np.asarray(space)[None])[0]

    def specificity(self, space: npt.ArrayLike) -> tuple[Float64, Float64]:
        """How specific points (q, d) are, and the share of the photos fitted on that were at most so: (q,), (q,).

        See :meth:`Posterior.specificity`. The second is the score of what does not belong into the collection: a photo
        at .02 is less specific than 98 % of those fitted on.
        """
        _, found = self.posterior.specificity(self._points(space), self.fit.temperature, z0=self.fit.z0)
        return found, self.fit.percentile(found)

    def common_ancestor(self, space: npt.ArrayLike | None = None, *, rows: Sequence[int] = ()) -> CommonAncestor:
        """What 2 to 32 photos have in common: points (q, d), catalogue rows of items, or both.

        The deepest node under which every photo has at least the fitted mass, and the deepest label likewise; the root
        if there is no other. Items count as their own nearest neighbours. :class:`PointError` for another number of
        photos, for bad points, and for rows that are not in the tree.
        """
        tree, posterior = self.hierarchy, self.posterior
        points = self._points(np.empty((0, tree.embedding_dim), np.float32) if space is None else space)
        wanted = valid_ids(rows)
        positions = tree.items.positions(wanted)
        if (positions < 0).any():
            raise PointError(f"rows {some(wanted[positions < 0])} are not in the tree")
        points = np.concatenate([points, tree.item_space[positions]])
        if not FEWEST <= len(points) <= MOST:
            raise PointError(f"expected {FEWEST} to {MOST} photos to find their common ancestor, got {len(points)}")
        masses = posterior.masses(points, self.fit.temperature)
        threshold = self.fit.common_ancestor_mass
        node = int(deepest(masses.nodes.min(axis=0)[None], tree.depths, threshold)[0])
        forest = posterior.labels
        shared = masses.labels.min(axis=0)
        label = int(deepest(shared[None], forest.levels, threshold)[0])
        way = np.array([forest.find(forest.names[label])]) if label >= 0 else np.empty((1, 0), dtype=np.int64)
        probabilities = path_probabilities(self.fit.labels, along(shared[None], way), way)[0]
        sums = lifted(points, tree.c).sum(axis=0, keepdims=True)
        centre = centroids_of_sums(sums, [len(points)], tree.c)
        return CommonAncestor(
            node=tree.at(node),
            probability=self._probability(node, float(masses.belonging[:, node].min())),
            labels=tuple(
                LabelStep(forest.names[number], float(probability))
                for number, probability in zip(way[0].tolist(), probabilities, strict=True)
            )[::-1],
            centre=centre[0].astype(np.float32),
            radius=float(radii(centre, tree.c)[0]),
        )

    def zoom(self, space: npt.ArrayLike, levels: int = 0, k: int = 10) -> Zoom:
        """One point (d,) seen from `levels` nodes above (> 0) or below (< 0) the node where its path stops.

        Goes no higher than the root and no lower than the last node on the way to the heaviest child.
        """
        point, posterior = self._points(np.asarray(space)[None]), self.posterior
        masses = posterior.masses(point, self.fit.temperature)
        way = Walk(posterior.parents)(masses.nodes)
        probabilities = path_probabilities((self.fit.nodes,), along(masses.belonging, way)[:, 1:], way[:, 1:])[0]
        place = min(max(int((probabilities >= self.fit.theta).sum()) - levels, 0), way.shape[1] - 1)
        node = int(way[0, place])
        children = sorted(self.hierarchy.children(node), key=lambda child: -float(masses.nodes[0, child]))

        def step(index: int) -> Step:
            return Step(index, self.hierarchy.ids[index], self._probability(index, float(masses.belonging[0, index])))

        return Zoom(step(node), self.search_within(node, point[0], k), tuple(step(child) for child in children))

    def search_within(self, node: int | str, space: npt.ArrayLike, k: int = 10) -> tuple[Neighbour, ...]:
        """The k items under a node (its number or its id) that are nearest one point (d,), nearest first.

        ``KeyError`` for an unknown id, ``IndexError`` for an unknown number.
        """
        index = self.hierarchy.index_of(node) if isinstance(node, str) else node
        if not 0 <= index < len(self.hierarchy.ids):
            raise IndexError(f"expected a node 0 .. {len(self.hierarchy.ids) - 1}, got {index}")
        positions = self.hierarchy.positions(index) if index else None
        return self._nearest(self._points(np.asarray(space)[None]), positions, k)[0]

    def traverse(
        self, space: npt.ArrayLike, to: npt.ArrayLike | None = None, steps: int = 5, k: int = 5
    ) -> list[Waypoint]:
        """`steps` >= 2 points at even distances from one point (d,) to another, or to the origin; both included.

        With the node and the k items that lie nearest each. ``ValueError`` for fewer steps.
        """
        if steps < 2:
            raise ValueError(f"expected 2 or more steps, start and end included, got {steps}")
        tree = self.hierarchy
        start = self._points(np.asarray(space)[None]).astype(np.float64)
        end = np.zeros_like(start) if to is None else self._points(np.asarray(to)[None]).astype(np.float64)
        points, lengths = geodesic(start[0], end[0], np.linspace(0, 1, steps), tree.c)
        stored = points.astype(np.float32)
        nodes = distance_matrix(stored, tree.space, tree.c).argmin(axis=1)
        items = self._nearest(stored, None, k)
        radius = radii(points, tree.c)
        return [Waypoint(stored[i], float(radius[i]), float(lengths[i]), int(nodes[i]), items[i]) for i in range(steps)]

    def _path(self, ways: Ways, query: int, radius: float) -> Path:
        tree, names = self.hierarchy, self.posterior.labels.names
        steps = [
            Step(node, tree.ids[node], probability)
            for node, probability in zip(
                ways.nodes[query].tolist(), ways.node_probabilities[query].tolist(), strict=True
            )
            if node >= 0
        ]
        labels = [
            LabelStep(names[label], probability)
            for label, probability in zip(
                ways.labels[query].tolist(), ways.label_probabilities[query].tolist(), strict=True
            )
            if label >= 0
        ]
        sure = 1 + sum(step.probability >= self.fit.theta for step in steps[1:])
        sure_labels = sum(step.probability >= self.fit.label_threshold.theta for step in labels)
        return Path(
            nodes=tuple(steps[:sure][::-1]),
            stopped_at=steps[sure - 1].node if sure < len(steps) else None,
            next=steps[sure] if sure < len(steps) else None,
            labels=tuple(labels[:sure_labels][::-1]),
            next_label=labels[sure_labels] if sure_labels < len(labels) else None,
            radius=radius,
            specificity=float(ways.specificity[query]),
            in_distribution=float(ways.in_distribution[query]),
        )

    def _probability(self, node: int, belonging: float) -> float:
        return 1.0 if node == 0 else float(self.fit.nodes(belonging))

    def _points(self, space: npt.ArrayLike) -> Float32:
        return valid_points(space, self.hierarchy.embedding_dim).astype(np.float32)

    def _nearest(self, points: Float32, positions: Int64 | None, k: int) -> list[tuple[Neighbour, ...]]:
        """Of the items at these positions, or of all; chosen in float32, ranked in float64."""
        if k < 1:
            raise ValueError(f"expected k >= 1, got {k}")
        items, rows = self.hierarchy.item_space, self.hierarchy.rows
        if positions is None and len(items):  # prepared once, which takes longer than the distances
            rough = np.concatenate([found for _, found in self.posterior.distances(points)])
        else:
            chosen_from = slice(None) if positions is None else positions
            items, rows = items[chosen_from], rows[chosen_from]
            rough = distance_matrix(points, items, self.hierarchy.c)
        count = min(2 * k + 16, len(items))
        chosen = np.argpartition(rough, count - 1, axis=1)[:, :count] if count else np.empty((len(points), 0), int)
        exact = distances(points.astype(np.float64), items[chosen], self.hierarchy.c)
        order = np.argsort(exact, axis=1, kind="stable")[:, :k]
        return [
            tuple(Neighbour(int(rows[chosen[i, j]]), float(exact[i, j])) for j in order[i].tolist())
            for i in range(len(points))
        ]


def geodesic(x: Float64, y: Float64, shares: Float64, c: float) -> tuple[Float64, Float64]:
    """Points at shares t of the way from x to y, and their distances from x: (d,), (d,), (n,) -> (n, d), (n,).

    (sinh((1 - t) D) x + sinh(t D) y) / sinh D with D = sqrt(c) d(x, y): sums of what grows no larger than its ends, so
    that it stays accurate far out. Between equal points, that point.
    """
    length = float(distances(x[None], y[None, None], c)[0, 0])
    scaled = np.sqrt(c) * length
    if scaled == 0:
        return np.tile(x, (len(shares), 1)), np.zeros(len(shares))
    toward = np.sinh(shares * scaled) / np.sinh(scaled)
    back = np.sinh((1 - shares) * scaled) / np.sinh(scaled)
    return back[:, None] * x + toward[:, None] * y, shares * length


def _stacked(parts: Sequence[npt.NDArray[Number]], filler: float) -> npt.NDArray[Number]:
    """Blocks (b, steps) of ways of different lengths, one below the other."""
    width = max(part.shape[1] for part in parts)
    padded = [np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=filler) for part in parts]
    return np.concatenate(padded)
