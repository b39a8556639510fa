"""Points of many dimensions on the Poincare disk, in two ways.

`disk_layout`: two dimensions cannot keep 128; what they can keep exactly is each point's distance from the origin,
which is what depth means here. Which points are drawn side by side follows the leaves of an average-linkage tree over
geodesic distances (scipy, optimal leaf order, Bar-Joseph et al. 2001), and neighbours far apart get a wider gap.

`plane_layout`: principal components in the tangent space at the centroid.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hyperbolic import lorentz

OUTERMOST = 0.94
"""Where the farthest point is drawn at most, as a share of the disk's radius."""


@dataclass(frozen=True)
class DiskLayout:
    """Positions in the unit disk, of items and of the nodes (proxies, ancestors) among them."""

    items: Float[Tensor, "n 2"]
    nodes: Float[Tensor, "m 2"]
    scale: float
    """Factor on the radii before drawing: 1, or less where points lie so far out that all would sit on the rim."""
    kept: float
    """Share of the items' ten nearest in d dimensions that are among the ten nearest on the disk."""


def disk_layout(items: Float[Tensor, "n d"], nodes: Float[Tensor, "m d"], c: float) -> DiskLayout:
    """Lay out space parts (n, d) of items and (m, d) of nodes, n >= 2. A node's angle is that of the items around it.

    The disk's radius of a point at distance r is tanh(scale sqrt(c) r / 2). Deterministic; time n^2 log n and
    memory a few n x n matrices.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    items, nodes = items.double(), nodes.double()
    distances = lorentz.pairwise_distance(items, items, c)
    condensed = squareform(((distances + distances.T) / 2).fill_diagonal_(0.0).numpy(), checks=False)
    tree = linkage(condensed, "average", optimal_ordering=True)
    order = torch.from_numpy(leaves_list(tree).astype(np.int64))
    steps = distances[order, order.roll(-1)]
    # Every leaf gets its place, and half of the circle goes to the gaps by how far the neighbours are apart.
    shares = 1.0 / len(items) + steps / steps.sum().clamp_min(1e-12)
    angle = torch.empty(len(items), dtype=torch.float64)
    angle[order] = 2 * torch.pi * (shares.cumsum(0) - shares) / shares.sum()

    radius = _radius(torch.cat([items, nodes]), c)
    scale = min(1.0, 2 * float(np.arctanh(OUTERMOST)) / max(float(radius.max()), 1e-12))
    on_disk = torch.tanh(scale * radius / 2)
    placed = on_disk[: len(items), None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    node_angle = _node_angles(lorentz.pairwise_distance(nodes, items, c), angle)
    placed_nodes = on_disk[len(items) :, None] * torch.stack([node_angle.cos(), node_angle.sin()], dim=1)
    return DiskLayout(placed, placed_nodes, scale, _kept(distances, placed))


@dataclass(frozen=True)
class PlaneLayout:
    """Positions in the unit disk by the two main directions of the tangent space at the items' centroid."""

    items: Float[Tensor, "n 2"]
    nodes: Float[Tensor, "m 2"]
    share: float
    """Share of the tangent vectors' variance that the two directions hold."""


def plane_layout(items: Float[Tensor, "n d"], nodes: Float[Tensor, "m d"], c: float) -> PlaneLayout:
    """Principal components of logmap at the items' Lorentz centroid, mapped back onto the disk by expmap.

    The centre of the disk is the centroid, not the origin. A linear view, so distances shrink by what the other
    directions hold; what it separates is far apart indeed. Where it would reach beyond OUTERMOST it is scaled down.
    """
    x = lorentz.lift(torch.cat([items, nodes]).double(), c)
    centre = lorentz.centroid(x[: len(items)], torch.ones(len(items), dtype=torch.float64), c)
    there = lorentz.origin(items.shape[1], c, like=x)
    tangent = lorentz.transport(centre, there, lorentz.logmap(centre, x, c), c)[:, 1:]
    _, sizes, directions = torch.linalg.svd(tangent[: len(items)], full_matrices=False)
    flat = c**0.5 * tangent @ directions[:2].T
    length = flat.norm(dim=1, keepdim=True).clamp_min(1e-12)
    scale = min(1.0, 2 * float(np.arctanh(OUTERMOST)) / float(length.max()))
    placed = torch.tanh(scale * length / 2) * flat / length
    variance = sizes.square()
    return PlaneLayout(placed[: len(items)], placed[len(items) :], float(variance[:2].sum() / variance.sum()))


def geodesic_arc(a: tuple[float, float], b: tuple[float, float], steps: int = 12) -> list[tuple[float, float]]:
    """Points of the disk along the geodesic between two of its points, both ends included."""
    ends = torch.tensor([a, b], dtype=torch.float64)
    square = ends.square().sum(1, keepdim=True)
    x = torch.cat([(1 + square) / (1 - square), 2 * ends / (1 - square)], dim=1)  # on the hyperboloid of c = 1
    t = torch.linspace(0, 1, steps, dtype=torch.float64)[:, None]
    chord = (1 - t) * x[0] + t * x[1]
    # The chord, scaled back onto the hyperboloid, is the geodesic: both lie in one plane through 0.
    chord = chord / torch.sqrt(chord[:, :1].square() - chord[:, 1:].square().sum(1, keepdim=True))
    return [(float(u), float(v)) for u, v in chord[:, 1:] / (1 + chord[:, :1])]


def _radius(space: Tensor, c: float) -> Tensor:
    """Distance from the origin in units of 1/sqrt(c)."""
    return torch.asinh(c**0.5 * torch.linalg.vector_norm(space, dim=-1))


def _node_angles(distances: Tensor, angle: Tensor) -> Tensor:
    if not len(distances):
        return torch.empty(0, dtype=torch.float64)
    nearest = distances.topk(min(20, distances.shape[1]), largest=False)
    weight = torch.softmax(-2 * nearest.values, dim=1)
    around = angle[nearest.indices]
    return torch.atan2((weight * around.sin()).sum(1), (weight * around.cos()).sum(1))


def _kept(distances: Tensor, placed: Tensor) -> float:
    square = placed.square().sum(1, keepdim=True)
    flat = lorentz.pairwise_distance(2 * placed / (1 - square), 2 * placed / (1 - square), 1.0)
    k = min(10, len(placed) - 1)
    among = []
    for matrix in (distances, flat):
        nearest = matrix.clone().fill_diagonal_(torch.inf).topk(k, largest=False).indices
        among.append(torch.zeros_like(matrix, dtype=torch.bool).scatter_(1, nearest, True))
    return float((among[0] & among[1]).sum()) / (k * len(placed))
