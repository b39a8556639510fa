"""The tree over a collection: its nodes, and answers to questions about it."""

from typing import Annotated

from pydantic import AfterValidator, Field

from index.hierarchy.store import LONGEST_NAME
from service.schemas.common import MAX_LIMIT, Answer, Request
from service.schemas.query import Query

MAX_NODES = 2000  # of one answer
MAX_DEPTH = 32  # levels below a node that are listed at once
MAX_LEVELS = 64  # of zooming
FEWEST_QUERIES, MOST_QUERIES = 2, 32
FEWEST_STEPS, MOST_STEPS = 2, 32
MAX_NEAR = 100  # items beside each step of a way
MAX_PROJECTED_NODES, MAX_PROJECTED_ITEMS = 2000, 5000

Probability = Annotated[float, Field(ge=0, le=1)]
Radius = Annotated[float, Field(description="Geodesic distance to the origin: small is general, large is specific.")]


class ItemLink(Answer):
    """An item, and where its thumbnail lives; null where the collection keeps no photo of it."""

    id: str
    thumbnail: str | None


class NodeLink(Answer):
    """A node in few words. ``title`` is what a person is told: its name, its items' label, or "like <item>"."""

    id: str
    title: str


class NodeSummary(NodeLink):
    """A node of the tree. A child is never nearer the origin than its parent: ``radius`` grows downwards."""

    name: Annotated[str | None, Field(description="What a person called it; null where nobody did.")]
    parent: Annotated[str | None, Field(description="Id of the node above; null for the root.")]
    depth: Annotated[int, Field(ge=0, description="Steps from the root.")]
    size: Annotated[int, Field(ge=0, description="Items under it.")]
    radius: Radius
    height: Annotated[float, Field(ge=0, description="Mean distance at which its members merge; 0 for one item.")]
    num_children: Annotated[int, Field(ge=0)]
    label: Annotated[
        list[str], Field(description="Longest label path that at least 60 % of its items begin with; possibly none.")
    ]
    label_share: Annotated[Probability, Field(description="Share of its items that have this label; 0 for none.")]
    exemplars: Annotated[list[ItemLink], Field(description="Items that show it: the most central first, at most 5.")]


class ListedNode(NodeSummary):
    """A node in a list. ``cut``: it has children that the list leaves out (too deep, or too many)."""

    cut: bool


class TreeInfo(Answer):
    """The tree as a whole. ``changed``: items that came or went since it was built; with many, build it anew.

    ``fitted_on`` says what its probabilities were fitted on; null where there were too few items to fit any.
    """

    items: int
    nodes: int
    depth: Annotated[int, Field(description="Steps from the root to the deepest node.")]
    changed: int
    fitted_on: str | None


class NodesAnswer(Answer):
    """Nodes from the asked one downwards, level by level, the largest of a level's siblings first."""

    tree: TreeInfo
    nodes: list[ListedNode]


class LabelCount(Answer):
    """How many items have a label path that begins so."""

    label: list[str]
    count: int


class NodeAnswer(NodeSummary):
    """All there is to know about a node."""

    ancestors: Annotated[list[NodeLink], Field(description="From its parent to the root.")]
    children: Annotated[list[NodeSummary], Field(description="The largest first.")]
    own_items: Annotated[int, Field(ge=0, description="Items that it holds itself, not through a child.")]
    labels: Annotated[
        list[list[LabelCount]],
        Field(description="Per level, most general first, the most frequent label paths of its items; at most 12."),
    ]


class MemberItem(ItemLink):
    """An item of a node, with its distance from the node's centroid."""

    path: Annotated[list[str], Field(description="Label path, most general first.")]
    radius: Radius
    distance: Annotated[float, Field(ge=0, description="Geodesic distance to the node's centroid.")]


class NodeItemsAnswer(Answer):
    """A page of a node's items; ``next_cursor`` is null on the last, ``total`` counts all."""

    items: list[MemberItem]
    next_cursor: str | None
    total: int


def _name(given: str | None) -> str | None:
    if given is not None and not (given.strip() and given.isprintable()):
        raise ValueError("expected printable characters, and not spaces alone; null takes the name away")
    return given


class NodeChange(Request):
    """A new name for a node, or null for none."""

    name: Annotated[str | None, Field(min_length=1, max_length=LONGEST_NAME), AfterValidator(_name)]


class PathStep(NodeLink):
    """A node on a path, and the probability that it is right for the query."""

    name: str | None
    depth: int
    size: int
    radius: Radius
    probability: Probability


class LabelStep(Answer):
    """A label path, and the probability that the query bears it."""

    label: list[str]
    probability: Probability


class PathAnswer(Answer):
    """Where a query belongs, as far as that is sure enough. Probabilities fall from the root downwards."""

    nodes: Annotated[list[PathStep], Field(description="From the most specific node that is sure enough to the root.")]
    stopped_at: Annotated[
        str | None,
        Field(description="Id of the node below which it became unsure; null where the path ends in a leaf."),
    ]
    next: Annotated[PathStep | None, Field(description="The child that was not sure enough.")]
    labels: Annotated[list[LabelStep], Field(description="Likewise the labels, the most specific first.")]
    next_label: Annotated[LabelStep | None, Field(description="The label that was not sure enough.")]
    radius: Radius
    specificity: Annotated[
        float, Field(description="How specific the tree finds it: small where what is near disagrees, or nothing is.")
    ]
    in_distribution: Annotated[
        Probability,
        Field(description="Share of the photos fitted on that were at most as specific: near 0 for something else."),
    ]


class AncestorsRequest(Request):
    """Body of a question for ancestors as JSON."""

    query: Query


class FormAncestors(Request):
    """The same as a form: the photo alone."""


class CommonAncestorRequest(Request):
    """Body of a question for what several have in common, as JSON."""

    queries: Annotated[list[Query], Field(min_length=FEWEST_QUERIES, max_length=MOST_QUERIES)]


class FormCommonAncestor(Request):
    """The same as a form: the photos alone."""


class Centre(Answer):
    """The Lorentz centroid of the queries; ``embedding`` may be searched with."""

    embedding: list[float]
    radius: Radius


class CommonAncestorAnswer(Answer):
    """The deepest node that holds all queries, and the labels they share, the most specific first.

    ``probability`` is the smallest, over the queries, that the node is right.
    """

    node: NodeSummary
    probability: Probability
    labels: list[LabelStep]
    centre: Centre


class ZoomOptions(Request):
    """From how far above to look: ``levels`` steps up from where the query's path stops, below 0 down."""

    levels: Annotated[int, Field(ge=-MAX_LEVELS, le=MAX_LEVELS)] = 0
    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT, description="How many items at most.")] = 10


class ZoomRequest(ZoomOptions):
    """Body of a zoom as JSON."""

    query: Query


class NearItem(ItemLink):
    """An item beside a point. ``score = 1 / (1 + distance)``."""

    path: Annotated[list[str], Field(description="Label path, most general first.")]
    distance: Annotated[float, Field(ge=0, description="Geodesic distance.")]
    score: Probability


class ProbableNode(NodeSummary):
    """A node, and the probability that it is right for the query."""

    probability: Probability


class ZoomAnswer(Answer):
    """The node at that level, its items nearest the query, and its children, the most probable first."""

    node: ProbableNode
    items: list[NearItem]
    branches: list[ProbableNode]


class TraverseOptions(Request):
    """How many points to take, both ends included, and how many items to name beside each."""

    steps: Annotated[int, Field(ge=FEWEST_STEPS, le=MOST_STEPS)] = 5
    limit: Annotated[int, Field(ge=1, le=MAX_NEAR)] = 5


class TraverseRequest(TraverseOptions):
    """Body of a traversal as JSON: from ``query`` to ``to``, or to the origin."""

    query: Query
    to: Query | None = None


class Waypoint(Answer):
    """A point of the way: its node and items are those that lie nearest."""

    distance: Annotated[float, Field(ge=0, description="From the query.")]
    radius: Radius
    node: NodeSummary
    items: list[NearItem]


class TraverseAnswer(Answer):
    """Points at even distances on the geodesic, the query first. ``length`` is that of the whole way."""

    length: Annotated[float, Field(ge=0)]
    steps: list[Waypoint]


class DrawnNode(NodeLink):
    """A node on the Poincare disk; ``parent`` is the next one above that is drawn too."""

    name: str | None
    parent: str | None
    x: Annotated[float, Field(gt=-1, lt=1)]
    y: Annotated[float, Field(gt=-1, lt=1)]
    radius: Radius
    depth: int
    size: int
    branch: Annotated[int | None, Field(description="Colour group, 0 to 11 around the disk; null above the branches.")]
    exemplar: ItemLink | None


class DrawnItem(ItemLink):
    """An item on the Poincare disk, below the drawn node ``parent``."""

    parent: str
    x: Annotated[float, Field(gt=-1, lt=1)]
    y: Annotated[float, Field(gt=-1, lt=1)]
    radius: Radius
    branch: int | None


class ProjectionAnswer(Answer):
    """Nodes, parents first, and a sample of items, where they lie on the Poincare disk.

    ``of_nodes`` and ``of_items`` say how many there are under the node at the centre.
    """

    nodes: list[DrawnNode]
    items: list[DrawnItem]
    of_nodes: int
    of_items: int
