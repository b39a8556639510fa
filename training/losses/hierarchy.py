"""The HIER regulariser, eq. (6), over learned hierarchical proxies: on the hyperboloid (LHIER) or on the ball (HIER).

Source: Kim et al., HIER, CVPR 2023; Bdeir & Landwehr, section 4.1. Everything is drawn on the device in a handful
of tensor operations, with no loop over anchors.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hyperbolic import lorentz, poincare
from hyperbolic.curvature import Curvature, LorentzParameter
from hyperbolic.models.config import ModelConfig
from hyperbolic.nn.rescale import MaxDistanceRescale
from training.recipe import HierarchyConfig


def related_pairs(
    distances: Float[Tensor, "n n"], neighbours: int, classes: Int[Tensor, " n"] | None = None
) -> Bool[Tensor, "n n"]:
    """Which pairs are each among the other's ``neighbours`` nearest by exp(-d), plus 1 where the classes agree.

    Symmetric; the diagonal is False (nothing is related to itself).
    """
    similarity = torch.exp(-distances.detach())
    if classes is not None:
        similarity = similarity + (classes[:, None] == classes[None, :])
    similarity = similarity.fill_diagonal_(-1.0)
    k = min(neighbours, len(similarity) - 1)
    nearest = similarity.topk(k, dim=1).indices
    among = torch.zeros_like(similarity, dtype=torch.bool).scatter_(1, nearest, True)
    return (among & among.T).fill_diagonal_(False)


def draw_triplets(related: Bool[Tensor, "n n"], per_anchor: int) -> tuple[Tensor, Tensor, Tensor]:
    """Triplets (i, j, k): j drawn from those related to i, k from those that are not, ``per_anchor`` of each i.

    The anchor is never its own negative. Anchors without a related or an unrelated point have no triplet.
    """
    unrelated = ~related
    unrelated = unrelated.clone().fill_diagonal_(False)
    anchors = torch.nonzero(related.any(1) & unrelated.any(1)).squeeze(1)
    if len(anchors) == 0:
        return anchors, anchors, anchors
    j = torch.multinomial(related[anchors].float(), per_anchor, replacement=True)
    k = torch.multinomial(unrelated[anchors].float(), per_anchor, replacement=True)
    return anchors.repeat_interleave(per_anchor), j.flatten(), k.flatten()


def hierarchical_triplet_loss(
    to_proxies: Float[Tensor, "n p"],
    triplets: tuple[Tensor, Tensor, Tensor],
    temperature: float,
    margin: float,
) -> Float[Tensor, ""]:
    """Eq. (6), the mean over triplets.

    ``to_proxies``: geodesic distance of each point to each proxy. The lowest common ancestor of (i, j) is the proxy
    drawn by hard Gumbel-softmax over -max(d_i, d_j)/t; of (i, j, k) over -max(d_i, d_j, d_k)/t; gradients pass straight
    through the soft probabilities. A triplet whose two ancestors coincide counts zero. Memory: a few arrays of
    (triplets, proxies) float32.
    """
    i, j, k = triplets
    if len(i) == 0:
        return to_proxies.sum() * 0.0
    d_i, d_j, d_k = to_proxies[i], to_proxies[j], to_proxies[k]
    pair = torch.maximum(d_i, d_j)
    ancestor_pair = F.gumbel_softmax(-pair / temperature, dim=1, hard=True)
    ancestor_all = F.gumbel_softmax(-torch.maximum(pair, d_k) / temperature, dim=1, hard=True)
    between = ancestor_pair - ancestor_all
    towards_i, towards_j, towards_k = ((d * between).sum(1) for d in (d_i, d_j, d_k))
    loss = F.relu(towards_i + margin) + F.relu(towards_j + margin) + F.relu(margin - towards_k)
    differ = ancestor_pair.argmax(1) != ancestor_all.argmax(1)
    return (loss * differ).mean()


class HierarchicalProxyLoss(nn.Module):
    """LHIER (``geometry = lorentz``: proxies are points, rescaled before use) or HIER (``poincare``).

    The same triplet loss is taken among the batch's points and among the proxies themselves.
    """

    def __init__(self, model: ModelConfig, curvature: Curvature, config: HierarchyConfig) -> None:
        super().__init__()
        self.config = config
        self.clip_radius = model.clip_radius
        self.poincare = model.geometry == "poincare"
        self.rescale = MaxDistanceRescale(model.x_time_max, model.tightness) if model.rescale else None
        directions = F.normalize(torch.randn(config.proxies, model.embedding_dim), dim=-1)
        with torch.no_grad():
            c = curvature()
            if self.poincare:
                self.proxies = nn.Parameter(directions * model.clip_radius * torch.rand(config.proxies, 1))
            else:
                # From near the origin to the shell: ancestors must be able to lie inside what they cover.
                reach = float(lorentz.max_distance(c, model.x_time_max))
                radii = reach * (0.2 + 0.6 * torch.rand(config.proxies, 1))
                self.proxies = LorentzParameter(lorentz.expmap0(directions * radii, c), curvature)

    def points(self, c: Tensor) -> Float[Tensor, "p d"]:
        """Space parts of the proxies as they are used: clipped and mapped (HIER), or rescaled (LHIER)."""
        if self.poincare:
            ball = poincare.expmap0(poincare.clip_radius(self.proxies, self.clip_radius), c)
            return poincare.to_lorentz(ball, c)[..., 1:]
        if self.rescale is None:
            return self.proxies[..., 1:]
        z = self.rescale.tangent(lorentz.logmap0(self.proxies, c), c)
        return lorentz.expmap0(z, c)[..., 1:]

    def distance(self, a: Float[Tensor, "n d"], b: Float[Tensor, "m d"], c: Tensor) -> Float[Tensor, "n m"]:
        """Geodesic distances between space parts, computed in the model's own geometry."""
        if not self.poincare:
            return lorentz.pairwise_distance(a, b, c)
        ball_a, ball_b = (poincare.from_lorentz(lorentz.lift(x, c), c) for x in (a, b))
        return poincare.pairwise_distance(ball_a, ball_b, c)

    def forward(self, space: Float[Tensor, "n d"], classes: Int[Tensor, " n"], c: Tensor) -> Float[Tensor, ""]:
        """Space parts (n, d) and class indices (n,) -> scalar."""
        config = self.config
        proxies = self.points(c)
        with torch.no_grad():
            among_points = related_pairs(self.distance(space, space, c), config.neighbours, classes)
        between_proxies = self.distance(proxies, proxies, c)
        among_proxies = related_pairs(between_proxies, config.neighbours)
        points_loss = hierarchical_triplet_loss(
            self.distance(space, proxies, c),
            draw_triplets(among_points, config.triplets_per_anchor),
            config.temperature,
            config.margin,
        )
        proxies_loss = hierarchical_triplet_loss(
            between_proxies,
            draw_triplets(among_proxies, config.triplets_per_proxy),
            config.temperature,
            config.margin,
        )
        return points_loss + proxies_loss
