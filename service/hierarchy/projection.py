"""A subtree on the Poincare disk: its largest nodes and an even sample of its items, for a page to draw."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from index.distances import Float64, radii
from index.hierarchy.layout import layout, sibling_order
from index.hierarchy.selection import branches, largest
from index.hierarchy.tree import Hierarchy

Int64 = npt.NDArray[np.int64]

ITEM_SHARE = 0.35  # disc of an item beside that of a node


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """k nodes, the centre first and parents before children, then n items."""

    nodes: Int64
    """(k,) numbers in the hierarchy."""
    rows: Int64
    """(n,) catalogue rows."""
    parents: Int64
    """(k + n,) places among the nodes here; -1 for the centre."""
    points: Float64
    """(k + n, 2) inside the unit disk."""
    radii: Float64
    """(k + n,) geodesic distances to the origin."""
    branches: Int64
    """(k + n,) colour group, numbered around the disk; -1 above the branches."""


def project(hierarchy: Hierarchy, node: int, *, most_nodes: int, most_items: int) -> Projection:
    """The subtree of `node`, which lies at the centre: at most `most_nodes` >= 1 nodes, and `most_items` >= 0 items.

    Nodes as :func:`index.hierarchy.selection.largest` chooses them; an item hangs on the deepest of them that holds
    it. Where each lies: :mod:`index.hierarchy.layout`.
    """
    end = hierarchy.end(node)
    up = hierarchy.parents[node:end].astype(np.int64) - node
    up[0] = -1
    sizes = hierarchy.sizes[node:end]
    named = [place for place, id_ in enumerate(hierarchy.ids[node:end]) if id_ in hierarchy.names]
    nodes, parents = largest(up, sizes, most_nodes, named)
    items = hierarchy.positions(node)
    if len(items) > most_items:
        items = items[(np.arange(most_items) * len(items)) // max(most_items, 1)]
    owners = hierarchy.owners[items].astype(np.int64) - node
    space = np.concatenate([hierarchy.space[node + nodes], hierarchy.item_space[items]])
    item_radii = radii(hierarchy.item_space[items].astype(np.float64), hierarchy.c)
    radius = np.concatenate([hierarchy.radii[node + nodes], item_radii])
    all_parents = np.concatenate([parents, _nearest_drawn(up, nodes)[owners]])
    shares = np.where(np.arange(len(radius)) < len(nodes), 1.0, ITEM_SHARE)
    placed = layout(all_parents, radius, sibling_order(all_parents, space, hierarchy.c), shares=shares)
    branch = branches(up, sizes)
    return Projection(
        nodes=node + nodes,
        rows=hierarchy.rows[items],
        parents=all_parents,
        points=placed.points,
        radii=radius,
        branches=_around(np.concatenate([branch[nodes], branch[owners]]), placed.angles),
    )


def _nearest_drawn(parents: Int64, drawn: Int64) -> Int64:
    """For every node, the place in `drawn` of itself or of its next ancestor there."""
    place = np.full(len(parents), -1, dtype=np.int64)
    place[drawn] = np.arange(len(drawn))
    for node, above in enumerate(parents.tolist()):  # parents come first
        if place[node] < 0:
            place[node] = place[above]
    return place


def _around(branch: Int64, angles: Float64) -> Int64:
    """Branches numbered anew in the order in which their first nodes lie around the disk."""
    numbers, first = np.unique(branch, return_index=True)
    numbers, first = numbers[numbers >= 0], first[numbers >= 0]
    new = np.full(int(numbers.max(initial=-1)) + 2, -1, dtype=np.int64)  # the last stays -1, for -1
    new[numbers[np.argsort(angles[first], kind="stable")]] = np.arange(len(numbers))
    return new[branch]
