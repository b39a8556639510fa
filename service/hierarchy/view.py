"""TreeView: one state of a tree, which never changes while it is read, and what is worked out from it once."""

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from index.catalogue import Catalogue
from index.hierarchy.answers import Answers
from index.hierarchy.items import Labels
from index.hierarchy.opened import spoken
from index.hierarchy.records import Path
from index.hierarchy.selection import label_share, majority_label
from index.hierarchy.tree import Hierarchy
from service.hierarchy.projection import Projection, project

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

PROJECTIONS_KEPT = 8
AT_ONCE = 4096  # items whose specificity is worked out together


class NotFittedError(RuntimeError):
    """A tree that can be looked at but not asked, for it was built over fewer than two items, or holds none now."""


@dataclass(frozen=True, slots=True)
class Description:
    """What a tree says of a point: see :class:`index.hierarchy.records.Path`, of which ``path`` is the whole."""

    radius: float
    specificity: float
    in_distribution: float
    path: Path


class TreeView:
    """A tree as it was at write ``sequence`` of its collection; ``built`` tells the one on disk that it came from.

    Any thread may read it. Only names change: they are replaced as a whole.
    """

    def __init__(self, hierarchy: Hierarchy, catalogue: Catalogue, built: object) -> None:
        self.hierarchy = hierarchy
        self.built = built
        self.sequence = hierarchy.sequence
        self._catalogue = catalogue
        self._lock = threading.Lock()
        self._titles: dict[int, str] = {}
        self._labels: dict[int, tuple[Labels, float]] = {}
        self._projections: OrderedDict[tuple[int, int, int], Projection] = OrderedDict()
        self._specificities = np.full(len(hierarchy), np.nan)
        self._answers = Answers(hierarchy) if hierarchy.fit is not None and len(hierarchy) else None
        # What is made when it is first needed is made here, before several threads need it at once.
        hierarchy.items.holders()
        if self._answers is not None:
            self._answers.paths(np.zeros((1, hierarchy.embedding_dim), dtype=np.float32))

    @property
    def can_answer(self) -> bool:
        """Whether :attr:`answers` is there."""
        return self._answers is not None

    @property
    def answers(self) -> Answers:
        """What can be asked of it. Raises :class:`NotFittedError`."""
        if self._answers is None:
            raise NotFittedError(
                "the tree was built over fewer than 2 items, or holds none now: add items, then build it anew "
                "('lhier hierarchy build', or a job of kind 'hierarchy')"
            )
        return self._answers

    def title(self, node: int) -> str:
        """What a person is told a node is: its name, its items' label, or "like <item>"."""
        given = self.hierarchy.names.get(self.hierarchy.ids[node])
        if given is not None:
            return given
        if node not in self._titles:
            self._titles[node] = spoken(self.hierarchy, node, self._catalogue)
        return self._titles[node]

    def label(self, node: int) -> tuple[Labels, float]:
        """The label that most of a node's items bear, and the share that do: ((), 0) for none."""
        if node not in self._labels:
            label = majority_label(self.hierarchy, node)
            self._labels[node] = label, label_share(self.hierarchy, node, label)
        return self._labels[node]

    def describe(self, space: Float32) -> Description:
        """What the tree says of one point (d,). Raises :class:`NotFittedError`."""
        path = self.answers.path(space)
        return Description(path.radius, path.specificity, path.in_distribution, path)

    def specificity(self, space: Float32) -> tuple[float, float]:
        """Specificity of one point (d,), and the share of the photos fitted on that were at most so: far cheaper than
        :meth:`describe`, for it looks at the labels' centroids, not at every item. Raises :class:`NotFittedError`."""
        specificity, in_distribution = self.answers.specificity(space[None])
        return float(specificity[0]), float(in_distribution[0])

    def specificities(self, rows: npt.ArrayLike) -> Float64:
        """Specificity of stored items by catalogue row (n,), each as if it were asked for; NaN for unknown ones.

        Worked out when first asked for, and kept. Raises :class:`NotFittedError`.
        """
        answers, items = self.answers, self.hierarchy.items
        wanted = items.positions(rows)
        known = wanted[wanted >= 0]
        missing = np.unique(known[np.isnan(self._specificities[known])])
        for start in range(0, len(missing), AT_ONCE):
            part = missing[start : start + AT_ONCE]
            self._specificities[part] = answers.specificity(items.space[part])[0]
        return np.where(wanted >= 0, self._specificities[wanted], np.nan)

    def projection(self, node: int, nodes: int, items: int) -> Projection:
        """The subtree of a node on the Poincare disk; the last few are kept."""
        key = node, nodes, items
        with self._lock:  # one at a time: each takes a while, and would take longer beside another
            if key not in self._projections:
                self._projections[key] = project(self.hierarchy, node, most_nodes=nodes, most_items=items)
                while len(self._projections) > PROJECTIONS_KEPT:
                    self._projections.popitem(last=False)
            self._projections.move_to_end(key)
            return self._projections[key]
