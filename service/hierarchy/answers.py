"""TreeTeller: answers of a tree as clients get them, with ids for rows and titles for nodes."""

import base64
import binascii
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np

from index.catalogue import Item
from index.collection import Collection
from index.distances import distances, radii
from index.hierarchy import records
from index.hierarchy.records import Neighbour, Path, Step
from service.hierarchy.view import TreeView
from service.problems import Problem
from service.schemas.hierarchy import (
    DrawnItem,
    DrawnNode,
    ItemLink,
    LabelCount,
    LabelStep,
    ListedNode,
    MemberItem,
    NearItem,
    NodeAnswer,
    NodeItemsAnswer,
    NodeLink,
    NodesAnswer,
    NodeSummary,
    PathAnswer,
    PathStep,
    ProbableNode,
    ProjectionAnswer,
    TreeInfo,
    Waypoint,
)
from service.state import item_url

Order = Literal["stored", "nearest"]


class TreeTeller:
    """Tells of one view of a tree over ``collection``; for one request, which looks each item up once.

    Items that were deleted since the view was made are left out.
    """

    def __init__(self, view: TreeView, collection: Collection) -> None:
        self.view = view
        self._tree = view.hierarchy
        self._collection = collection
        self._items: dict[int, Item | None] = {}

    def fetch(self, rows: Iterable[int]) -> list[Item]:
        """The items of these catalogue rows that are still there, in that order."""
        wanted = list(rows)
        missing = [row for row in dict.fromkeys(wanted) if row not in self._items]
        self._items.update(zip(missing, self._collection.catalogue.get_rows(missing), strict=True))
        return [item for row in wanted if (item := self._items[row]) is not None]

    def tree(self) -> TreeInfo:
        """The tree as a whole."""
        tree = self._tree
        return TreeInfo(
            items=len(tree),
            nodes=len(tree.ids),
            depth=int(tree.depths.max()),
            changed=tree.changed,
            fitted_on=tree.fit.fitted_on if tree.fit is not None else None,
        )

    def link(self, node: int) -> NodeLink:
        """A node in few words."""
        return NodeLink(id=self._tree.ids[node], title=self.view.title(node))

    def summaries(self, nodes: Sequence[int]) -> list[NodeSummary]:
        """Nodes as lists show them."""
        return [NodeSummary(**fields) for fields in self._fields(nodes)]

    def probable(self, steps: Sequence[Step]) -> list[ProbableNode]:
        """Nodes with their probabilities."""
        fields = self._fields([step.node for step in steps])
        return [ProbableNode(**each, probability=step.probability) for each, step in zip(fields, steps, strict=True)]

    def node(self, node: int) -> NodeAnswer:
        """A node with all there is to know about it."""
        tree = self._tree
        children = self._by_size(node)
        (own,) = self._fields([node])
        return NodeAnswer(
            **own,
            ancestors=[self.link(above) for above in tree.ancestors(node)[1:]],
            children=self.summaries(children),
            own_items=len(tree.positions(node, own=True)),
            labels=[
                [LabelCount(label=list(label), count=count) for label, count in level.items()]
                for level in tree.labels(node)
            ],
        )

    def below(self, node: int, depth: int, limit: int) -> NodesAnswer:
        """At most ``limit`` nodes from ``node`` downwards, level by level, at most ``depth`` levels below it."""
        listed, level = [node], [node]
        for _ in range(depth):
            level = [child for parent in level for child in self._by_size(parent)][: limit - len(listed)]
            listed += level
        shown = set(listed)
        return NodesAnswer(
            tree=self.tree(),
            nodes=[
                ListedNode(**fields, cut=any(child not in shown for child in self._tree.children(number)))
                for number, fields in zip(listed, self._fields(listed), strict=True)
            ],
        )

    def members(self, node: int, order: Order, limit: int, cursor: str | None) -> NodeItemsAnswer:
        """A page of a node's items, in stored order or nearest its centroid first.

        A cursor holds the last item's place in that order, so that it is good for any later state of the tree. Raises
        :class:`~service.problems.Problem` 422 for one that is none.
        """
        tree = self._tree
        positions = np.sort(tree.positions(node))
        total = len(positions)
        rows, centre = tree.rows[positions], tree.space[node].astype(np.float64)
        after = None if cursor is None else _place_of(cursor, order)
        if order == "stored":
            positions = positions[0 if after is None else np.searchsorted(rows, after[1], side="right") :]
            page = positions[:limit]
            apart = distances(centre[None], tree.item_space[page][None], tree.c)[0]
        else:
            apart = distances(centre[None], tree.item_space[positions][None], tree.c)[0]
            by_distance = np.lexsort((rows, apart))
            if after is not None:
                passed = (apart < after[0]) | ((apart == after[0]) & (rows <= after[1]))
                by_distance = by_distance[int(passed.sum()) :]
            positions, apart = positions[by_distance], apart[by_distance]
            page, apart = positions[:limit], apart[:limit]
        found = tree.rows[page].tolist()
        self.fetch(found)
        more = len(positions) > limit
        item_radii = radii(tree.item_space[page].astype(np.float64), tree.c).tolist()
        return NodeItemsAnswer(
            items=[
                MemberItem(**self._link_fields(item), path=list(item.labels), radius=radius, distance=distance)
                for row, radius, distance in zip(found, item_radii, apart.tolist(), strict=True)
                if (item := self._items[row]) is not None
            ],
            next_cursor=_cursor(order, float(apart[-1]), found[-1]) if more else None,
            total=total,
        )

    def path(self, path: Path) -> PathAnswer:
        """Where a query belongs."""
        return PathAnswer(
            nodes=[self._step(step) for step in path.nodes],
            stopped_at=None if path.stopped_at is None else self._tree.ids[path.stopped_at],
            next=None if path.next is None else self._step(path.next),
            labels=label_steps(path.labels),
            next_label=None if path.next_label is None else label_steps([path.next_label])[0],
            radius=path.radius,
            specificity=path.specificity,
            in_distribution=path.in_distribution,
        )

    def near(self, found: Sequence[Neighbour]) -> list[NearItem]:
        """Items beside a point."""
        self.fetch(neighbour.row for neighbour in found)
        return [
            NearItem(
                **self._link_fields(item),
                path=list(item.labels),
                distance=neighbour.distance,
                score=1.0 / (1.0 + neighbour.distance),
            )
            for neighbour in found
            if (item := self._items[neighbour.row]) is not None
        ]

    def ways(self, waypoints: Sequence[records.Waypoint]) -> list[Waypoint]:
        """The points of a way, with what lies nearest each."""
        self.fetch(near.row for point in waypoints for near in point.items)
        nodes = self.summaries([point.node for point in waypoints])
        return [
            Waypoint(distance=point.distance, radius=point.radius, node=node, items=self.near(point.items))
            for point, node in zip(waypoints, nodes, strict=True)
        ]

    def projection(self, node: int, nodes: int, items: int) -> ProjectionAnswer:
        """The subtree of a node on the Poincare disk."""
        tree, drawn = self._tree, self.view.projection(node, nodes, items)
        numbers = drawn.nodes.tolist()
        places = list(zip(drawn.parents.tolist(), drawn.points.tolist(), drawn.radii.tolist(), strict=True))
        branches = [branch if branch >= 0 else None for branch in drawn.branches.tolist()]
        ids = [tree.ids[number] for number in numbers]
        exemplars = self._exemplars(numbers, 1)
        self.fetch(drawn.rows.tolist())
        return ProjectionAnswer(
            nodes=[
                DrawnNode(
                    id=ids[place],
                    title=self.view.title(number),
                    name=tree.names.get(ids[place]),
                    parent=ids[parent] if parent >= 0 else None,
                    x=x,
                    y=y,
                    radius=radius,
                    depth=int(tree.depths[number]),
                    size=int(tree.sizes[number]),
                    branch=branches[place],
                    exemplar=exemplars[place][0] if exemplars[place] else None,
                )
                for place, (number, (parent, (x, y), radius)) in enumerate(zip(numbers, places, strict=False))
            ],
            items=[
                DrawnItem(**self._link_fields(item), parent=ids[parent], x=x, y=y, radius=radius, branch=branch)
                for row, (parent, (x, y), radius), branch in zip(
                    drawn.rows.tolist(), places[len(numbers) :], branches[len(numbers) :], strict=True
                )
                if (item := self._items[row]) is not None
            ],
            of_nodes=tree.end(node) - node,
            of_items=int(tree.sizes[node]),
        )

    def links(self, items: Sequence[Item]) -> list[ItemLink]:
        """Items and their thumbnails."""
        return [ItemLink(**self._link_fields(item)) for item in items]

    def _fields(self, nodes: Sequence[int]) -> list[dict[str, Any]]:
        tree = self._tree
        found = []
        for node, exemplars in zip(nodes, self._exemplars(nodes), strict=True):
            parent = int(tree.parents[node])
            label, share = self.view.label(node)
            found.append(
                {
                    "id": tree.ids[node],
                    "title": self.view.title(node),
                    "name": tree.names.get(tree.ids[node]),
                    "parent": tree.ids[parent] if parent >= 0 else None,
                    "depth": int(tree.depths[node]),
                    "size": int(tree.sizes[node]),
                    "radius": float(tree.radii[node]),
                    "height": float(tree.heights[node]),
                    "num_children": len(tree.children(node)),
                    "label": list(label),
                    "label_share": share,
                    "exemplars": exemplars,
                }
            )
        return found

    def _exemplars(self, nodes: Sequence[int], most: int | None = None) -> list[list[ItemLink]]:
        rows = [self._tree.exemplars(node)[:most] for node in nodes]
        self.fetch(row for some in rows for row in some)
        return [self.links(self.fetch(some)) for some in rows]

    def _by_size(self, node: int) -> list[int]:
        return sorted(self._tree.children(node), key=lambda child: -int(self._tree.sizes[child]))

    def _step(self, step: Step) -> PathStep:
        tree, node = self._tree, step.node
        return PathStep(
            id=step.id,
            title=self.view.title(node),
            name=tree.names.get(step.id),
            depth=int(tree.depths[node]),
            size=int(tree.sizes[node]),
            radius=float(tree.radii[node]),
            probability=step.probability,
        )

    def _link_fields(self, item: Item) -> dict[str, Any]:
        thumbnail = item_url(self._collection, item, "thumbnail") if item.image is not None else None
        return {"id": item.id, "thumbnail": thumbnail}


def label_steps(steps: Sequence[records.LabelStep]) -> list[LabelStep]:
    """Labels with their probabilities."""
    return [LabelStep(label=list(step.label), probability=step.probability) for step in steps]


def _cursor(order: Order, distance: float, row: int) -> str:
    return base64.urlsafe_b64encode(f"{order}:{distance.hex()}:{row}".encode()).decode().rstrip("=")


def _place_of(cursor: str, order: Order) -> tuple[float, int]:
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
        kind, distance, row = text.split(":")
        if kind == order and row.isdigit() and int(row) < 2**63:
            return float.fromhex(distance), int(row)
    except (binascii.Error, ValueError, OverflowError):
        pass
    raise Problem(422, "invalid_cursor", f"cursor: expected the next_cursor of an earlier page in order {order!r}")
