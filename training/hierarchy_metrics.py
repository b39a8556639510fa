"""How good a hierarchy's answers are: paths that stop when unsure, their probabilities, and what it does not know.

Label paths are rows of class numbers, most general level first, as :func:`training.metrics.label_indices` makes them;
-1 marks the levels below the point where a predicted path stopped. All figures are fractions.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

STOPPED = -1


@dataclass(frozen=True)
class PathFigures:
    """Of paths that may stop early."""

    path_accuracy: float
    """Paths without a wrong level as far as they go; one that stops at the root says nothing wrong."""
    full_path_accuracy: float
    """Paths that go all the way down and are right on every level."""
    level_accuracy: tuple[float, ...]
    """Of the paths that reach a level, those that are right on it; NaN where none does."""
    level_coverage: tuple[float, ...]
    """Paths that reach a level."""
    stopped_at_root: float
    """Paths that name no level at all."""
    right_levels: float
    """Mean over the paths of the share of levels that are given and right."""


def path_figures(
    predicted: Int[NDArray[np.int64], "n levels"], true: Int[NDArray[np.int64], "n levels"]
) -> PathFigures:
    """Accuracy and coverage of predicted label paths, (n, levels) each. Raises ``ValueError`` for a path with a gap.

    A level counts as right only where all levels above are. Source: the definitions of :class:`PathFigures`; accuracy
    with coverage as in selective classification (El-Yaniv & Wiener, 2010).
    """
    predicted, true = np.asarray(predicted), np.asarray(true)
    if predicted.shape != true.shape or predicted.ndim != 2 or len(true) == 0:
        raise ValueError(f"expected paths of one shape (n, levels), got {predicted.shape} and {true.shape}")
    given = predicted != STOPPED
    if (given[:, 1:] & ~given[:, :-1]).any():
        raise ValueError(f"a predicted path goes on below a level where it stopped ({STOPPED})")
    right = np.cumprod(predicted == true, axis=1).astype(bool) & given
    reached = given.sum(0)
    return PathFigures(
        path_accuracy=float((right == given).all(1).mean()),
        full_path_accuracy=float(right[:, -1].mean()),
        level_accuracy=tuple(
            float(r / g) if g else float("nan") for r, g in zip(right.sum(0).tolist(), reached.tolist(), strict=True)
        ),
        level_coverage=tuple((reached / len(true)).tolist()),
        stopped_at_root=float((~given[:, 0]).mean()),
        right_levels=float(right.mean()),
    )


def accuracy_coverage_curve(
    confidence: Float[NDArray[np.float64], " n"], right: Bool[NDArray[np.bool_], " n"]
) -> tuple[Float[NDArray[np.float64], " n"], Float[NDArray[np.float64], " n"]]:
    """Coverage k/n and the accuracy among the k answers of greatest confidence, k = 1 ... n.

    Among equal confidences every order is equally likely, and the expected accuracy is given. Source: El-Yaniv &
    Wiener, "On the foundations of noise-free selective classification", 2010.
    """
    confidence, right = _pair(confidence, right)
    order = np.argsort(-confidence, kind="stable")
    _, first, number = np.unique(-confidence[order], return_index=True, return_counts=True)
    # Within a run of equals each counts as the run's mean.
    expected = np.repeat(np.add.reduceat(right[order].astype(np.float64), first) / number, number)
    places = np.arange(1, len(right) + 1)
    return places / len(right), np.cumsum(expected) / places


def accuracy_coverage_area(confidence: Float[NDArray[np.float64], " n"], right: Bool[NDArray[np.bool_], " n"]) -> float:
    """Area under the accuracy-coverage curve: its mean over the coverages 1/n ... 1. Greater is better.

    1 - AURC, the area under the risk-coverage curve. Source: Geifman, Uziel & El-Yaniv, "Bias-reduced uncertainty
    estimation for deep neural classifiers", 2019.
    """
    return float(accuracy_coverage_curve(confidence, right)[1].mean())


def expected_calibration_error(
    probability: Float[NDArray[np.float64], " n"], right: Bool[NDArray[np.bool_], " n"], bins: int = 15
) -> float:
    """Sum over bins of (share of answers in it) |accuracy - mean probability|, 0 where probabilities keep their word.

    ``bins`` intervals (0, 1/bins], ... of equal width, 0 in the first. Biased upwards for few answers: 300 with
    perfectly calibrated, evenly spread probabilities give .07 on average, 2,485 give .025 (test_hierarchy_metrics.py).
    Source: Naeini et al., 2015; Guo et al., "On calibration of modern neural networks", 2017.
    """
    probability, right = _pair(probability, right)
    if probability.min() < 0 or probability.max() > 1 + 1e-6:
        raise ValueError(f"expected probabilities, got values from {probability.min()} to {probability.max()}")
    bin_of = np.clip(np.ceil(probability * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.bincount(bin_of, weights=right - probability, minlength=bins)
    return float(np.abs(gaps).sum() / len(right))


@dataclass(frozen=True)
class AncestorLevelFigures:
    """Of common ancestors named for pairs (or sets) of images, against the level that their labels share."""

    exact: float
    too_general: float
    too_specific: float
    mean_difference: float
    """Mean absolute difference, in levels."""


def common_ancestor_level_figures(
    predicted: Int[NDArray[np.int64], " pairs"], true: Int[NDArray[np.int64], " pairs"]
) -> AncestorLevelFigures:
    """Compare levels (0: only the root is common), see :func:`training.dendrogram_metrics.common_levels`."""
    if np.ndim(true) != 1 or len(true) == 0 or np.shape(predicted) != np.shape(true):
        raise ValueError(f"expected equally many levels, got {np.shape(predicted)} and {np.shape(true)}")
    difference = np.asarray(predicted).astype(np.int64) - np.asarray(true).astype(np.int64)
    return AncestorLevelFigures(
        exact=float((difference == 0).mean()),
        too_general=float((difference < 0).mean()),
        too_specific=float((difference > 0).mean()),
        mean_difference=float(np.abs(difference).mean()),
    )


def node_order_violations(
    parents: Int[NDArray[np.int64], " nodes"], radii: Float[NDArray[np.float64], " nodes"]
) -> int:
    """Number of nodes that lie nearer the origin than their parent; the root's parent is -1."""
    parents, radii = np.asarray(parents), np.asarray(radii)
    if parents.shape != radii.shape:
        raise ValueError(f"expected a parent and a radius of each node, got {parents.shape} and {radii.shape}")
    child = np.flatnonzero(parents >= 0)
    return int((radii[parents[child]] > radii[child]).sum())


@dataclass(frozen=True)
class DetectionFigures:
    """Of a score that is to be greater for what is known than for what is not."""

    auroc: float
    """Chance that something known scores higher than something unknown; a tie counts half."""
    fpr95: float
    """Share of the unknown that is taken for known at the threshold that accepts 95 % of the known."""


def detection_figures(
    known: Float[NDArray[np.float64], " n"], unknown: Float[NDArray[np.float64], " m"]
) -> DetectionFigures:
    """AUROC and FPR95 of scores of known (in-distribution) and unknown photos, the former the positive class.

    The threshold of FPR95 is the greatest score that at least 95 % of the known reach. Equal to scikit-learn's
    ``roc_auc_score``, and ``roc_curve`` at its first point with a true positive rate of .95
    (test_hierarchy_metrics.py). Source: Hendrycks & Gimpel, 2017; FPR95: Liang et al. (ODIN), 2018.
    """
    from scipy.stats import rankdata

    known, unknown = np.asarray(known, dtype=np.float64), np.asarray(unknown, dtype=np.float64)
    n, m = len(known), len(unknown)
    if n == 0 or m == 0 or not (np.isfinite(known).all() and np.isfinite(unknown).all()):
        raise ValueError(f"expected finite scores of known and unknown photos, got {n} and {m}")
    ranks = rankdata(np.concatenate([known, unknown]))[:n]
    auroc = (ranks.sum() - n * (n + 1) / 2) / (n * m)
    needed = -(-95 * n // 100)
    threshold = np.sort(known)[n - needed]
    return DetectionFigures(auroc=float(auroc), fpr95=float((unknown >= threshold).mean()))


def _pair(
    confidence: Float[NDArray[np.float64], " n"], right: Bool[NDArray[np.bool_], " n"]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    values, hits = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=bool)
    if values.ndim != 1 or values.shape != hits.shape or len(values) == 0 or np.isnan(values).any():
        raise ValueError(f"expected a number and a verdict for each answer, got {values.shape} and {hits.shape}")
    return values, hits
