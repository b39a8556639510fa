"""The tree over a collection, by the client."""

from collections.abc import Iterator, Sequence
from typing import Literal

from service.client.base import Base, calls, given, quoted
from service.client.transport import parse
from service.schemas.hierarchy import (
    AncestorsRequest,
    CommonAncestorAnswer,
    CommonAncestorRequest,
    MemberItem,
    NodeAnswer,
    NodeChange,
    NodeItemsAnswer,
    NodesAnswer,
    PathAnswer,
    ProjectionAnswer,
    TraverseAnswer,
    TraverseRequest,
    ZoomAnswer,
    ZoomRequest,
)
from service.schemas.query import Query


class TreeMethods(Base):
    """Nodes, names, and questions about photos."""

    @calls("nodes")
    def nodes(
        self,
        parent: str | None = None,
        *,
        depth: int | None = None,
        limit: int | None = None,
        collection: str | None = None,
    ) -> NodesAnswer:
        """A node (None: the root) and what lies below it."""
        return parse(NodesAnswer, self._tree(collection, "nodes", parent=parent, depth=depth, limit=limit))

    @calls("node_by_id")
    def node(self, node_id: str, *, collection: str | None = None) -> NodeAnswer:
        """All there is to know about a node."""
        return parse(NodeAnswer, self._tree(collection, f"nodes/{quoted(node_id)}"))

    @calls("node_items")
    def node_items(
        self,
        node_id: str,
        *,
        order: Literal["stored", "nearest"] = "stored",
        page: int = 100,
        collection: str | None = None,
    ) -> Iterator[MemberItem]:
        """The items under a node, asked for ``page`` at a time."""
        cursor = None
        while True:
            found = self._tree(collection, f"nodes/{quoted(node_id)}/items", order=order, limit=page, cursor=cursor)
            answer = parse(NodeItemsAnswer, found)
            yield from answer.items
            if (cursor := answer.next_cursor) is None:
                return

    @calls("change_node")
    def name_node(self, node_id: str, name: str | None, *, collection: str | None = None) -> NodeAnswer:
        """Give a node a name, or with None take it away."""
        path = f"{self._in(collection)}/hierarchy/nodes/{quoted(node_id)}"
        return parse(NodeAnswer, self._transport.request("PATCH", path, NodeChange(name=name)))

    @calls("ancestors")
    def ancestors(self, query: Query, *, collection: str | None = None) -> PathAnswer:
        """Where ``query`` belongs: nodes from the most specific to the root, with probabilities."""
        return parse(PathAnswer, self._post(collection, "hierarchy/ancestors", AncestorsRequest(query=query)))

    @calls("common_ancestor")
    def common_ancestor(self, queries: Sequence[Query], *, collection: str | None = None) -> CommonAncestorAnswer:
        """What 2 to 32 queries have in common."""
        body = CommonAncestorRequest(queries=list(queries))
        return parse(CommonAncestorAnswer, self._post(collection, "hierarchy/common-ancestor", body))

    @calls("zoom")
    def zoom(self, query: Query, levels: int, *, limit: int = 10, collection: str | None = None) -> ZoomAnswer:
        """``query`` seen from ``levels`` steps above (below 0: below) where its path stops."""
        body = ZoomRequest(query=query, levels=levels, limit=limit)
        return parse(ZoomAnswer, self._post(collection, "hierarchy/zoom", body))

    @calls("traverse")
    def traverse(
        self, query: Query, to: Query | None = None, *, steps: int = 5, limit: int = 5, collection: str | None = None
    ) -> TraverseAnswer:
        """The geodesic from ``query`` to the origin, or to another query, with what lies nearest."""
        body = TraverseRequest(query=query, steps=steps, limit=limit, **given(to=to))
        return parse(TraverseAnswer, self._post(collection, "hierarchy/traverse", body))

    @calls("projection")
    def projection(
        self,
        node_id: str | None = None,
        *,
        nodes: int | None = None,
        items: int | None = None,
        collection: str | None = None,
    ) -> ProjectionAnswer:
        """Where nodes and a sample of items lie on the Poincare disk."""
        return parse(ProjectionAnswer, self._tree(collection, "projection", node=node_id, nodes=nodes, items=items))
