"""The HIER regulariser, eq. (6), over learned hierarchical proxies: on the hyperboloid (LHIER) or on the ball (HIER).

Source: Kim et al., HIER, CVPR 2023; Bdeir & Landwehr, section 4.1. Everything is drawn on the device in a handful
of tensor operations, with no loop over anchors.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hyperbolic import lorentz, poincare
from hyperbolic.curvature import Curvature, LorentzParameter
from hyperbolic.models.config import ModelConfig
from hyperbolic.nn.rescale import MaxDistanceRescale
from training.recipe import HierarchyConfig

BLOCK_CPU = 512  # triplets: block x 512 proxies of float32 is 1 MB, which stays in cache
BLOCK_DEVICE = 1 << 16


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
    through the soft probabilities. A triplet whose two ancestors coincide counts zero. Equals the form written with
    ``F.gumbel_softmax`` and autograd (test_losses.py, same draws), in about half its time: value and gradient are
    made together, in blocks that stay in cache. Memory: a few arrays of (block, proxies) float32.
    """
    if len(triplets[0]) == 0:
        return to_proxies.sum() * 0.0
    loss: Tensor = _TripletLoss.apply(to_proxies, *triplets, temperature, margin)
    return loss


class _TripletLoss(torch.autograd.Function):
    """Value and gradient of eq. (6) with straight-through ancestors, without keeping (triplets, proxies) for backward.

    With A, B the one-hot ancestors of the pair and of all three, p, q their soft versions and
    w = s_i d_i + s_j d_j - s_k d_k (s: which hinges are active), the gradient of d_i is s_i (A - B) and that of the
    two logit vectors p (w - <p, w>) and -q (w - <q, w>), passed on to whichever distance was the maximum.
    """

    @staticmethod
    def forward(
        ctx: Any, distances: Tensor, i: Tensor, j: Tensor, k: Tensor, temperature: float, margin: float
    ) -> Tensor:
        gradient = torch.zeros_like(distances)
        total = distances.new_zeros(())
        size = BLOCK_CPU if distances.device.type == "cpu" else BLOCK_DEVICE
        for start in range(0, len(i), size):
            rows = [index[start : start + size] for index in (i, j, k)]
            d = [distances.index_select(0, index) for index in rows]
            pair = torch.maximum(d[0], d[1])
            logits_pair = _gumbel_logits(pair, temperature)
            logits_every = _gumbel_logits(torch.maximum(pair, d[2]), temperature)
            # Unlike argmax, max over a row is vectorised.
            chosen_pair, chosen_every = (x.max(1, keepdim=True).indices for x in (logits_pair, logits_every))
            towards = [(x.gather(1, chosen_pair) - x.gather(1, chosen_every)).squeeze(1) for x in d]
            hinges = F.relu(torch.stack([towards[0] + margin, towards[1] + margin, margin - towards[2]]))
            hinges = hinges * (chosen_pair != chosen_every).squeeze(1)
            total = total + hinges.sum()
            active = (hinges > 0).any(0).nonzero().squeeze(1)
            sign = (hinges[:, active] > 0).to(distances.dtype)
            sign[2].neg_()
            if len(active) < len(pair):
                rows = [index.index_select(0, active) for index in rows]
                d, (pair, logits_pair, logits_every, chosen_pair, chosen_every) = (
                    [x.index_select(0, active) for x in tensors]
                    for tensors in (d, (pair, logits_pair, logits_every, chosen_pair, chosen_every))
                )
            w = torch.addcmul(sign[0, :, None] * d[0], sign[1, :, None], d[1]).addcmul_(sign[2, :, None], d[2])
            of_pair = _softmax_gradient(logits_pair, w).div_(temperature)
            of_every = _softmax_gradient(logits_every, w).div_(-temperature)
            # Each maximum passes its gradient to whichever was the greater: masks as numbers, which multiply faster.
            third = of_every * (d[2] > pair).to(w.dtype)
            of_pair.add_(of_every).sub_(third)
            first = of_pair * (d[0] >= d[1]).to(w.dtype)
            for part, index, s in zip((first, of_pair.sub_(first), third), rows, sign, strict=True):
                part.scatter_add_(1, chosen_pair, s[:, None])
                part.scatter_add_(1, chosen_every, -s[:, None])
                gradient.index_add_(0, index, part)
        ctx.save_for_backward(gradient / len(i))
        return total / len(i)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, None, None, None, None, None


def _softmax_gradient(logits: Tensor, w: Tensor) -> Tensor:
    """The gradient of -<softmax(logits), w> in the logits: p (<p, w> - w)."""
    p = logits.softmax(1)
    pw = p * w
    return p.mul_(pw.sum(1, keepdim=True)).sub_(pw)


def _gumbel_logits(farthest: Tensor, temperature: float) -> Tensor:
    """-d/t plus standard Gumbel noise."""
    if farthest.device.type == "cpu":
        # The numbers of ``exponential_`` in a fifth of its time, which draws and takes logarithms one by one.
        uniform = torch.empty_like(farthest, dtype=torch.float64).uniform_()
        noise = torch.sub(1.0, uniform, out=uniform).log_().to(farthest.dtype).neg_()
    else:
        noise = torch.empty_like(farthest).exponential_()
    return noise.log_().add_(farthest, alpha=1.0 / temperature).neg_()


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
