"""SC: pairwise cross-entropy on geodesic distance, each pair of a class against the photos of other classes."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def pairwise_cross_entropy(
    distances: Float[Tensor, "n n"], classes: Int[Tensor, " n"], temperature: float
) -> Float[Tensor, ""]:
    """Mean over anchors i of the mean over positives j of -log(e^{-d_ij/t} / (e^{-d_ij/t} + sum_k e^{-d_ik/t})).

    k runs over the photos of other classes only, so positives do not push each other away (two points of MAP@R more on
    Grocery than with all others in the denominator, in a prototype; see CHANGELOG). ``distances`` in geodesic units,
    ``temperature`` t likewise. Anchors without a positive or a negative count zero.
    Source: the loss of Hyp (Ermolov et al., CVPR 2022) with class labels, on the hyperboloid.
    """
    same = classes[:, None] == classes[None, :]
    positive = same & ~torch.eye(len(classes), dtype=torch.bool, device=classes.device)
    logits = -distances / temperature
    lowest = torch.finfo(logits.dtype).min / 4
    negatives = torch.logsumexp(logits.masked_fill(same, lowest), dim=1, keepdim=True)
    terms = (torch.logaddexp(logits, negatives) - logits) * positive
    per_anchor = terms.sum(1) / positive.sum(1).clamp_min(1)
    usable = positive.any(1) & (~same).any(1)
    return (per_anchor * usable).sum() / usable.sum().clamp_min(1)
