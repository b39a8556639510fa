"""Which part of a tree a picture shows: its largest nodes, then photos; what they are called, and to which branch each
belongs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from index.distances import Float64, radii

if TYPE_CHECKING:
    from index.hierarchy.tree import Hierarchy

Int64 = npt.NDArray[np.int64]

MAJORITY = 0.6  # share of a node's labelled items that a label must have to stand for the node
BRANCHES = 8  # colours that a picture has at least, if the tree is wide enough,
MOST_BRANCHES = 12  # and at most
LARGE = 0.2  # share of all items above which a branch is shown as its children


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """A tree of n drawn nodes, the root first and parents before children: nodes of the hierarchy, then photos."""

    parents: Int64
    """(n,) places in this selection; -1 for the root."""
    nodes: Int64
    """(n,) number of the node in the hierarchy; -1 for a photo."""
    rows: Int64
    """(n,) catalogue row of the photo, or of a node's first exemplar."""
    sizes: Int64
    """(n,) items it stands for."""
    radii: Float64
    space: npt.NDArray[np.float32]
    branches: Int64
    """(n,) number of its branch, or -1 above the branches."""
    names: list[str]
    """What a node is called: the name a person gave it, else the most specific label most of its items share."""


def select(hierarchy: "Hierarchy", most: int) -> Selection:
    """The `most` largest nodes, as :func:`largest` has it; where all fit, photos spread evenly over the tree."""
    if most < 1:
        raise ValueError(f"expected to draw at least one node, got {most}")
    named = [node for node, id_ in enumerate(hierarchy.ids) if id_ in hierarchy.names]
    nodes, parents = largest(hierarchy.parents, hierarchy.sizes, most, named)
    place = np.full(len(hierarchy.ids), -1, dtype=np.int64)
    place[nodes] = np.arange(len(nodes))
    items = hierarchy.positions(0)
    if len(nodes) < len(hierarchy.ids):
        items = items[:0]
    elif len(nodes) + len(items) > most:
        room = most - len(nodes)
        items = items[(np.arange(room) * len(items)) // max(room, 1)]
    exemplars = [hierarchy.exemplars(node)[:1] for node in nodes.tolist()]
    branch_of_node = branches(hierarchy.parents, hierarchy.sizes)
    owners = hierarchy.owners[items].astype(np.int64)
    item_space = hierarchy.item_space[items]
    return Selection(
        parents=np.concatenate([parents, place[owners]]),
        nodes=np.concatenate([nodes, np.full(len(items), -1)]),
        rows=np.concatenate([[rows[0] if rows else -1 for rows in exemplars], hierarchy.rows[items]]).astype(np.int64),
        sizes=np.concatenate([hierarchy.sizes[nodes], np.ones(len(items), dtype=np.int64)]),
        radii=np.concatenate([hierarchy.radii[nodes], radii(item_space.astype(np.float64), hierarchy.c)]),
        space=np.concatenate([hierarchy.space[nodes], item_space]),
        branches=np.concatenate([branch_of_node[nodes], branch_of_node[owners]]),
        names=[node_name(hierarchy, node) for node in nodes.tolist()] + [""] * len(items),
    )


def largest(parents: npt.ArrayLike, sizes: npt.ArrayLike, most: int, kept: Sequence[int] = ()) -> tuple[Int64, Int64]:
    """At most `most` nodes in ascending order, and the place of each one's next ancestor among them: (k,), (k,).

    By size, a node before its descendants; but one of whose children only one is large enough is passed over, for it
    would show the same branch twice, unless it is in `kept`. All nodes where they are no more than `most`.
    """
    up, size = np.asarray(parents, dtype=np.int64), np.asarray(sizes, dtype=np.int64)
    order = np.argsort(-size, kind="stable")
    count = min(most, len(up))
    found = _contracted(up, order[:count], kept if count < len(up) else order)
    while count < len(up):
        count = min(len(up), count + max(1, (most - len(found[0])) // 2))
        more = _contracted(up, order[:count], kept if count < len(up) else order)
        if len(more[0]) > most:
            break
        found = more
    return found


def _contracted(up: Int64, chosen: Int64, kept: Sequence[int] | Int64) -> tuple[Int64, Int64]:
    """The chosen nodes without those that have a single chosen child; the ancestors of all of them are among them."""
    inside = np.zeros(len(up), dtype=bool)
    inside[chosen] = True
    children = np.bincount(up[chosen[up[chosen] >= 0]], minlength=len(up))
    stays = inside & (children != 1)
    stays[np.asarray(kept, dtype=np.int64)] = True
    stays &= inside
    stays[0] = True
    nodes = np.flatnonzero(stays)
    above = up.copy()
    for node in np.flatnonzero(inside).tolist():  # parents come first
        if above[node] >= 0 and not stays[above[node]]:
            above[node] = above[above[node]]
    place = np.cumsum(stays) - 1
    return nodes, np.where(above[nodes] >= 0, place[above[nodes]], -1)


def node_name(hierarchy: "Hierarchy", index: int) -> str:
    """The name a person gave a node; else the last part of the most specific label that 60 % of its items have; else
    nothing."""
    given = hierarchy.names.get(hierarchy.ids[index])
    return given or (majority_label(hierarchy, index) or ("",))[-1]


def majority_label(hierarchy: "Hierarchy", index: int) -> tuple[str, ...]:
    """The longest label prefix that at least 60 % of a node's items have; () where there is none.

    A level on which all items of the tree agree says nothing about a node, and alone it is no label.
    """
    found: tuple[str, ...] = ()
    size = int(hierarchy.sizes[index])
    for level in hierarchy.labels(index):
        label, count = next(iter(level.items()))
        if count < MAJORITY * size:
            break
        found = label
    return found if index == 0 or found != _common_prefix(hierarchy, len(found)) else ()


def label_share(hierarchy: "Hierarchy", index: int, label: tuple[str, ...]) -> float:
    """Share of a node's items that have its majority label; 0 for ()."""
    return hierarchy.labels(index)[len(label) - 1][label] / int(hierarchy.sizes[index]) if label else 0.0


def _common_prefix(hierarchy: "Hierarchy", level: int) -> tuple[str, ...] | None:
    levels = hierarchy.labels(0)
    if not 0 < level <= len(levels):
        return None
    label, count = next(iter(levels[level - 1].items()))
    return label if count == hierarchy.sizes[0] else None


def branches(parents: npt.ArrayLike, sizes: npt.ArrayLike) -> Int64:
    """A branch number for every node (n,), 0 and up in the order of the nodes; -1 for the root and what else is split.

    The root's children, of which the largest is replaced by its own children as long as it holds more than 20 % of
    all items or there are fewer than 8 branches, and no more than 12 come out: average linkage likes to set a few
    outliers beside one branch that holds everything, which would be one colour.
    """
    up, size = np.asarray(parents, dtype=np.int64), np.asarray(sizes, dtype=np.int64)
    children: list[list[int]] = [[] for _ in up]
    for node in range(1, len(up)):
        children[up[node]].append(node)
    heads, whole = list(children[0]), set()
    while candidates := [head for head in heads if head not in whole and children[head]]:
        largest = max(candidates, key=lambda head: (size[head], -head))
        wanted = len(heads) < BRANCHES or size[largest] > LARGE * size[0]
        if not wanted:
            break
        if len(heads) - 1 + len(children[largest]) > MOST_BRANCHES:
            whole.add(largest)
            continue
        heads.remove(largest)
        heads += children[largest]
    number = np.full(len(up), -1, dtype=np.int64)
    number[sorted(heads)] = np.arange(len(heads))
    for node in range(1, len(up)):
        if number[node] < 0:
            number[node] = number[up[node]]
    return number
