"""What the answers of a tree look like."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from index.distances import Float64
from index.hierarchy.items import Labels
from index.hierarchy.tree import Node

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Step:
    """A node on a path, and the probability that it is right for the photo."""

    node: int
    id: str
    probability: float


@dataclass(frozen=True, slots=True)
class LabelStep:
    """A label, as its path from the most general on, and the probability that the photo bears it."""

    label: Labels
    probability: float


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An item by its catalogue row, and its geodesic distance."""

    row: int
    distance: float


@dataclass(frozen=True, slots=True)
class Path:
    """Where a photo belongs, as far as that is sure enough."""

    nodes: tuple[Step, ...]
    """From the most specific node that is sure enough to the root, which is always right."""
    stopped_at: int | None
    """The node at which the path stopped because its heavier child was unsure; None where it ended at a leaf."""
    next: Step | None
    """That child."""
    labels: tuple[LabelStep, ...]
    """Likewise the labels that are sure enough, the most specific first; possibly none."""
    next_label: LabelStep | None
    """The label one level below, which was not sure enough."""
    radius: float
    """Geodesic distance of the point to the origin."""
    specificity: float
    in_distribution: float
    """Share of the photos fitted on that were at most as specific: near 0 for a photo of something else."""


@dataclass(frozen=True, slots=True, eq=False)
class Ways:
    """The ways of q photos to the heaviest child each time, down to the leaves, with probabilities that fall."""

    nodes: Int64
    """(q, steps) nodes from the root down; -1 below the last."""
    node_probabilities: Float64
    """(q, steps): that of the root is 1; 0 below the last."""
    labels: Int64
    """(q, levels) labels from the most general down, as numbered by `Posterior.labels`; -1 below the last."""
    label_probabilities: Float64
    """(q, levels); 0 below the last."""
    specificity: Float64
    """(q,)"""
    in_distribution: Float64
    """(q,) share of the photos fitted on that were at most as specific."""


@dataclass(frozen=True, slots=True, eq=False)
class CommonAncestor:
    """What several photos have in common."""

    node: Node
    probability: float
    """The smallest probability, over the photos, that the node is right."""
    labels: tuple[LabelStep, ...]
    """Labels that all share, the most specific first, each with its smallest probability."""
    centre: Float32
    """Space part (d,) of the photos' Lorentz centroid."""
    radius: float
    """Its geodesic distance to the origin."""


@dataclass(frozen=True, slots=True)
class Zoom:
    """A photo at some level of the tree."""

    node: Step
    items: tuple[Neighbour, ...]
    """The node's items nearest the photo."""
    branches: tuple[Step, ...]
    """The node's children, the heaviest first."""


@dataclass(frozen=True, slots=True, eq=False)
class Waypoint:
    """A point on a geodesic, and what lies near."""

    space: Float32
    """(d,)"""
    radius: float
    distance: float
    """From the start."""
    node: int
    """The node whose centroid is nearest."""
    items: tuple[Neighbour, ...]
