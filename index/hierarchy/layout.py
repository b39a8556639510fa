"""A tree on the Poincare disk: radius says how specific a node is, the angle gives each subtree the room it needs.

Everything is worked out in the hyperbolic plane of curvature -1 and put on the unit disk in the last step.

Distance from the centre. With rho a node's radius and u = (rho - rho_root) / (rho_max - rho_root) in 0..1,

    r(root) = 0,    r(node) = reach (floor + (1 - floor) u),

so r never falls as rho grows, no node but the root is at the centre, and the farthest lie at `reach`.

Angle. A disc of radius s whose centre lies at distance r is seen from the centre of the plane under the angle

    a(r) = 2 asin(sinh s / sinh r)

(right triangle: the sine of the angle is sinh of the side opposite over sinh of the hypotenuse). A node asks for the
angle of its own disc, of radius s times the node's share, or for what its children ask together, whichever is more;
parents hand on what they have in that proportion. The circle has 2 pi, of which a little is left as gaps between
the root's branches: s is the largest for which everything fits, found by bisection, since every a(r) grows with s. A
circle of radius r has circumference 2 pi sinh r, so the room grows with the distance as the number of nodes does, and
s hardly depends on how deep they are. Hence, since each disc lies inside its node's wedge, nodes i and j of which
neither is the other's ancestor are at least s (share_i + share_j) apart.

Position: the point at distance r has |p| = tanh(r / 2). Edges are geodesics: arcs of circles that meet the unit
circle at right angles (:func:`geodesic`).

Source: Lamping, Rao, Pirolli, "A focus+context technique based on hyperbolic geometry", CHI 1995, for wedges in the
hyperbolic plane; there the distance from the centre is the depth, here it is measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from index.distances import Float64
from index.hierarchy.linkage import distance_matrix

REACH = 2.8
FLOOR = 0.12
START = -np.pi / 2  # the first branch begins, and the last ends, at the foot of the disk
GAPS = 0.04  # share of the circle
STEPS = 60  # of the bisection: to the last bits of float64
ORDERED_EXACTLY = 200  # children whose leaf order is made optimal, which takes the cube of their number


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Where n nodes are: polar coordinates in the hyperbolic plane of curvature -1, and points of the unit disk."""

    distances: Float64
    """(n,) from the centre."""
    angles: Float64
    """(n,) in radians."""
    wedges: Float64
    """(n, 2) where the wedge that holds the node's subtree begins and ends; the root's is the circle."""
    disc: float
    """s: radius of the disc that a node of share 1 has to itself."""
    radius_scale: tuple[float, float, float]
    """(rho_root, rho_max, reach), which :meth:`distance_of` uses."""

    @property
    def points(self) -> Float64:
        """(n, 2) on the unit disk."""
        directions = np.stack([np.cos(self.angles), np.sin(self.angles)], axis=1)
        return np.asarray(np.tanh(self.distances / 2)[:, None] * directions)

    def distance_of(self, radius: float) -> float:
        """The distance from the centre at which a node of that radius is drawn."""
        low, high, reach = self.radius_scale
        return float(_distances(np.array([radius]), low, high, reach)[0])


def layout(
    parents: npt.ArrayLike,
    radii: npt.ArrayLike,
    children: Sequence[Sequence[int]] | None = None,
    *,
    shares: npt.ArrayLike | None = None,
    reach: float = REACH,
) -> Layout:
    """Lay a tree out: `parents` (n,), -1 for the root, which is node 0, each before its children; `radii` (n,) >= 0.

    `children`: the children of every node in the order in which they are to lie around the circle (see
    :func:`sibling_order`; by number without it). `shares` (n,): how large a node's disc is beside the others' (1).
    Time O(n) times the bisection's 60 steps, in numpy one depth at a time. Raises ``ValueError`` for other shapes.
    """
    up, rho = np.asarray(parents, dtype=np.int64), np.asarray(radii, dtype=np.float64)
    count = len(up)
    share = np.ones(count) if shares is None else np.asarray(shares, dtype=np.float64)
    if count == 0 or up[0] != -1 or rho.shape != up.shape or share.shape != up.shape:
        raise ValueError(f"expected parents, radii and shares (n,), n >= 1, parents[0] = -1; got {count} parents")
    if (up[1:] < 0).any() or (up[1:] >= np.arange(1, count)).any():
        raise ValueError("expected every node but the first to have a parent, and parents to come before children")
    if not (np.isfinite(rho).all() and (share > 0).all()):
        raise ValueError("expected finite radii and shares > 0")
    low, high = float(rho[0]), float(rho.max())
    distances = _distances(rho, low, high, reach)
    distances[0] = 0.0
    levels = _levels(up)
    disc, needs = _largest_disc(distances, up, levels, share)
    wedges = _wedges(up, needs, levels, children if children is not None else child_lists(up))
    return Layout(distances, wedges.mean(axis=1), wedges, disc, (low, high, reach))


def child_lists(parents: npt.ArrayLike) -> list[list[int]]:
    """The children of every node, by number."""
    lists: list[list[int]] = [[] for _ in range(len(np.asarray(parents)))]
    for node, parent in enumerate(np.asarray(parents).tolist()):
        if parent >= 0:
            lists[parent].append(node)
    return lists


def _distances(radii: Float64, low: float, high: float, reach: float) -> Float64:
    share = np.clip((radii - low) / (high - low), 0.0, 1.0) if high > low else np.ones(len(radii))
    return np.asarray(reach * (FLOOR + (1 - FLOOR) * share))


def _levels(parents: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """The nodes at each depth, the root's first."""
    depth = np.zeros(len(parents), dtype=np.int64)
    for node in range(1, len(parents)):
        depth[node] = depth[parents[node]] + 1
    order = np.argsort(depth, kind="stable")
    return np.split(order, np.cumsum(np.bincount(depth))[:-1])


def _largest_disc(
    distances: Float64, parents: npt.NDArray[np.int64], levels: Sequence[npt.NDArray[np.int64]], share: Float64
) -> tuple[float, Float64]:
    """The largest s for which the root's branches fit, and the angle that every node asks for then."""
    room = 2 * np.pi * (1 - GAPS)
    if len(distances) == 1:
        return float(np.inf), np.array([room])
    low, high = 0.0, float((distances[1:] / share[1:]).max())
    for _ in range(STEPS):
        middle = (low + high) / 2
        if _needs(middle, distances, parents, levels, share)[0] <= room:
            low = middle
        else:
            high = middle
    return low, _needs(low, distances, parents, levels, share)


def _needs(
    disc: float,
    distances: Float64,
    parents: npt.NDArray[np.int64],
    levels: Sequence[npt.NDArray[np.int64]],
    share: Float64,
) -> Float64:
    """The angle of every node's own disc, or of its children's together; the root's is what its branches ask for."""
    own = np.full(len(distances), 2 * np.pi)  # a disc that reaches the centre is seen all around
    fits = share * disc < distances
    own[fits] = 2 * np.arcsin(np.sinh(share[fits] * disc) / np.sinh(distances[fits]))
    own[0] = 0.0
    for level in reversed(levels[1:]):
        below = np.bincount(parents[level], weights=own[level], minlength=len(own))
        np.maximum(own, below, out=own)
    return own


def _wedges(
    parents: npt.NDArray[np.int64],
    needs: Float64,
    levels: Sequence[npt.NDArray[np.int64]],
    children: Sequence[Sequence[int]],
) -> Float64:
    wedges = np.zeros((len(parents), 2))
    wedges[0] = START, START + 2 * np.pi
    for level in levels:
        for node in level.tolist():
            below = list(children[node])
            if not below:
                continue
            start, end = wedges[node]
            gap = (end - start) * GAPS / len(below) if node == 0 else 0.0
            asked = needs[below]
            widths = asked / asked.sum() * (end - start - gap * len(below))
            ends = start + np.cumsum(widths + gap) - gap / 2
            wedges[below] = np.stack([ends - widths, ends], axis=1)
    return wedges


def sibling_order(parents: npt.ArrayLike, space: npt.NDArray[np.floating], c: float) -> list[list[int]]:
    """The children of every node in an order that puts like beside like; `space` (n, d) are the nodes' points.

    Siblings follow the leaves of their average-linkage tree in the optimal order (Bar-Joseph et al. 2001). Then, from
    the root down, each family is turned round where its ends fit better so to the neighbours of its parent.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    families = child_lists(parents)
    for node, family in enumerate(families):
        if len(family) > 2:
            apart = distance_matrix(space[family], space[family], c).astype(np.float64)
            np.fill_diagonal(apart, 0.0)
            condensed = squareform((apart + apart.T) / 2, checks=False)
            tree = linkage(condensed, "average", optimal_ordering=len(family) <= ORDERED_EXACTLY)
            families[node] = [family[place] for place in leaves_list(tree).tolist()]
    around = families[0]
    while around:
        following: list[int] = []
        for place, node in enumerate(around):
            family = families[node]
            if len(family) > 1:
                before, after = around[place - 1], around[(place + 1) % len(around)]
                ends = distance_matrix(space[[family[0], family[-1]]], space[[before, after]], c)
                if ends[0, 0] + ends[1, 1] > ends[1, 0] + ends[0, 1]:
                    family.reverse()
            following += family
        around = following
    return families


@dataclass(frozen=True, slots=True)
class Circle:
    """A circle that meets the unit circle at right angles: |centre|^2 = 1 + radius^2."""

    centre: tuple[float, float]
    radius: float


def geodesic(p: npt.ArrayLike, q: npt.ArrayLike) -> Circle | None:
    """The circle on which the geodesic between two points of the disk lies; None where it is a diameter.

    Its centre o solves <o, p> = (1 + |p|^2)/2 and <o, q> = (1 + |q|^2)/2, and its radius is sqrt(|o|^2 - 1).
    """
    (px, py), (qx, qy) = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    determinant = px * qy - py * qx
    if abs(determinant) < 1e-9:
        return None
    a, b = (1 + px * px + py * py) / 2, (1 + qx * qx + qy * qy) / 2
    x, y = (a * qy - b * py) / determinant, (b * px - a * qx) / determinant
    return Circle((float(x), float(y)), float(np.sqrt(max(x * x + y * y - 1, 0.0))))


def geodesic_curve(p: npt.ArrayLike, q: npt.ArrayLike) -> Float64:
    """The geodesic from p to q as two cubic Bezier curves end to end: (7, 2), p first and q last.

    Each spans at most a quarter of its circle; it departs from the arc by less than 3e-4 of the circle's radius there,
    and by 1e-6 where it spans 35 degrees.
    """
    start, end = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    circle = geodesic(start, end)
    if circle is None:
        return start + np.linspace(0, 1, 7)[:, None] * (end - start)
    centre = np.array(circle.centre)
    first, last = (np.arctan2(*(point - centre)[::-1]) for point in (start, end))
    turn = (last - first + np.pi) % (2 * np.pi) - np.pi  # the way inside the disk is the short one
    angles = first + turn * np.array([0.0, 0.5, 1.0])
    on = centre + circle.radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    on[0], on[2] = start, end
    reach = 4 / 3 * np.tan(turn / 8) * circle.radius
    tangent = reach * np.stack([-np.sin(angles), np.cos(angles)], axis=1)
    return np.stack(
        [on[0], on[0] + tangent[0], on[1] - tangent[1], on[1], on[1] + tangent[1], on[2] - tangent[2], on[2]]
    )
