"""Fit: what turns a tree's masses into probabilities, thresholds and percentiles, and says on what it was fitted."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit

from index.distances import Float64
from index.errors import SnapshotError

FORMAT_VERSION = 1
SMALLEST_THETA = 0.5
FEWEST_ANSWERS = 20  # from which a precision is believed
SLOPE_SPREAD, INTERCEPT_SPREAD = 0.25, 0.05  # scales of the priors of log slope and intercept
SMALLEST = 1e-4  # mass; smaller ones, and those nearer to 1, are all the same to the recalibration


@dataclass(frozen=True, slots=True)
class Platt:
    """p -> sigmoid(slope logit(p) + intercept), slope > 0: the order of masses, and so of nodes on a path, is kept.

    Platt 1999 on the logit of a mass. Fitted by maximum a posteriori with log slope ~ N(0, 0.25^2) and intercept ~
    Cauchy(0, 0.05), so that a few hundred photos move the intercept only if it matters much; without events it is the
    identity. The spreads have about the best held-out likelihood on Grocery's 296 validation photos (5 folds by class,
    3 seeds, normal priors; mean NLL super / coarse / fine without recalibration .039 / .228 / .396, with these spreads
    .035 / .226 / .395, with a free slope and intercept .032 / .229 / .400).
    """

    slope: float = 1.0
    intercept: float = 0.0

    def __call__(self, mass: npt.ArrayLike) -> Float64:
        """Masses in [0, 1] -> probabilities, of any shape."""
        return _sigmoid(self.slope * _logit(np.asarray(mass, dtype=np.float64)) + self.intercept)

    @classmethod
    def fit(cls, masses: npt.ArrayLike, right: npt.ArrayLike) -> Self:
        """From masses (n,) and whether each was right (n,)."""
        x, sign = _logit(np.asarray(masses, dtype=np.float64)), np.where(np.asarray(right, dtype=bool), 1.0, -1.0)

        def loss(parameters: Float64) -> tuple[float, Float64]:
            log_slope, intercept = parameters
            slope = np.exp(log_slope)
            margin = sign * (slope * x + intercept)
            pull = -sign * _sigmoid(-margin)
            value = np.logaddexp(0, -margin).sum() + (log_slope / SLOPE_SPREAD) ** 2 / 2
            value += np.log1p((intercept / INTERCEPT_SPREAD) ** 2)
            by_log_slope = (pull * x).sum() * slope + log_slope / SLOPE_SPREAD**2
            by_intercept = pull.sum() + 2 * intercept / (INTERCEPT_SPREAD**2 + intercept**2)
            return float(value), np.array([by_log_slope, by_intercept])

        # A Cauchy prior may leave two minima, one without an intercept and one with about what the data ask for.
        shares = np.array([np.mean(sign > 0), np.mean(_sigmoid(x))]) if len(x) else np.array([0.5, 0.5])
        asked_for = float(np.subtract(*_logit(shares)))
        starts = ((0.0, 0.0), (0.0, asked_for))
        found = [minimize(loss, np.array(start), jac=True, method="L-BFGS-B") for start in starts]
        log_slope, intercept = min(found, key=lambda result: float(result.fun)).x
        return cls(float(np.exp(log_slope)), float(intercept))


@dataclass(frozen=True, slots=True)
class Threshold:
    """Below what probability a path stops, and what that gave on the data it was fitted on."""

    theta: float
    precision: float
    """Share of the answers that were right; a path that stops at the root is no answer."""
    answered: float
    """Share of the queries that had an answer."""

    @classmethod
    def fit(cls, probabilities: Float64, right: npt.NDArray[np.bool_], wished: float) -> Self:
        """The smallest theta from which on the deepest answers are right in the wished share of cases.

        `probabilities` (q, steps) fall along each way, 0 where it has ended; `right` (q, steps). The answer at theta is
        the last step with a probability >= theta. Theta is at least .5, so that no step is taken that is more likely
        wrong than right, and at least 20 queries must be answered at it; if no such theta reaches the wish, the one of
        the highest precision is taken.
        """
        candidates = np.unique(np.append(probabilities[probabilities >= SMALLEST_THETA], SMALLEST_THETA))
        count, steps = probabilities.shape
        found: list[tuple[float, float, float]] = []
        # Of many candidates a thousand tell enough.
        for theta in candidates[:: max(1, len(candidates) // 1000)].tolist():
            precision, answered = precision_at(probabilities, right, theta)
            if answered * count >= min(FEWEST_ANSWERS, count):
                found.append((theta, precision, answered))
        if not found or not steps:
            return cls(1.0, 1.0, 0.0)
        good = len(found)
        while good > 0 and found[good - 1][1] >= wished:
            good -= 1
        return cls(*(found[good] if good < len(found) else max(found, key=lambda entry: entry[1:])))


def precision_at(probabilities: Float64, right: npt.NDArray[np.bool_], theta: float) -> tuple[float, float]:
    """Share of right answers among the queries answered at theta (1 if there are none), and share answered."""
    last = (probabilities >= max(theta, np.finfo(np.float64).tiny)).sum(axis=1) - 1
    answered = np.flatnonzero(last >= 0)
    if not len(answered):
        return 1.0, 0.0
    return float(right[answered, last[answered]].mean()), len(answered) / len(last)


def path_probabilities(platts: Sequence[Platt], mass: Float64, way: npt.NDArray[np.int64]) -> Float64:
    """Probabilities of a way's steps from their masses (q, steps), falling along it, 0 where it has ended.

    One recalibration per step; the last also for the steps beyond.
    """
    found = np.zeros(mass.shape)
    for step in range(mass.shape[1]):
        platt = platts[min(step, len(platts) - 1)] if platts else Platt()
        found[:, step] = np.where(way[:, step] >= 0, platt(mass[:, step]), 0.0)
    return np.asarray(np.minimum.accumulate(found, axis=1))


Plain = TypeVar("Plain", Platt, Threshold)


@dataclass(frozen=True, slots=True)
class Fit:
    """All that was fitted for one tree, by :func:`index.hierarchy.fitting.fit`; plain numbers, kept as JSON."""

    temperature: float
    """T of the leaf masses softmax(-d / T), in units of length."""
    nodes: Platt
    """Recalibrates how likely a node on a path is right."""
    labels: tuple[Platt, ...]
    """The same for the label of each level, most general first."""
    precision: float
    """The share of right answers that the thetas were chosen for. Where photos come in series or from other places
    than those fitted on, 3 to 7 points fewer must be expected."""
    node_threshold: Threshold
    label_threshold: Threshold
    common_ancestor_mass: float
    """Smallest mass that the common ancestor must have for each of several photos."""
    z0: float
    """2 % quantile of the log density: a photo that is less near to anything than 98 % were goes to the origin."""
    specificities: tuple[float, ...]
    """Quantiles 0, 1/100 .. 1 of specificity on the fitting data."""
    fitted_on: str
    """In words, for people: "validation: 296 photos" or "leave-one-out: 2000 items"."""
    count: int

    @property
    def theta(self) -> float:
        """A path stops at the last node whose probability is at least theta."""
        return self.node_threshold.theta

    def percentile(self, specificity: npt.ArrayLike) -> Float64:
        """Share of the fitting data that was at most as specific: small means unlike anything in the collection."""
        levels = np.linspace(0.0, 1.0, len(self.specificities))
        return np.asarray(np.interp(np.asarray(specificity, dtype=np.float64), self.specificities, levels))

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return {"format_version": FORMAT_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """The inverse of :meth:`to_json`; :class:`SnapshotError` for anything else."""
        version = content.get("format_version")
        if version != FORMAT_VERSION:
            raise SnapshotError(
                f"expected a fit of format {FORMAT_VERSION}, got {version!r}: run 'lhier hierarchy build' again"
            )
        expected = {field.name for field in fields(cls)}
        if expected != content.keys() - {"format_version"}:
            raise SnapshotError(
                f"a fit needs exactly {', '.join(sorted(expected))}, got {', '.join(sorted(content))}: run 'lhier "
                "hierarchy build' again"
            )
        try:
            return cls(
                temperature=_finite(content["temperature"]),
                nodes=_numbers(Platt, content["nodes"]),
                labels=tuple(_numbers(Platt, level) for level in content["labels"]),
                precision=_finite(content["precision"]),
                node_threshold=_numbers(Threshold, content["node_threshold"]),
                label_threshold=_numbers(Threshold, content["label_threshold"]),
                common_ancestor_mass=_finite(content["common_ancestor_mass"]),
                z0=_finite(content["z0"]),
                specificities=tuple(_finite(value) for value in content["specificities"]),
                fitted_on=str(content["fitted_on"]),
                count=int(content["count"]),
            )
        except (TypeError, ValueError, KeyError) as error:
            raise SnapshotError(f"a fit is damaged ({error}): run 'lhier hierarchy build' again") from error


def _logit(mass: Float64) -> Float64:
    clipped = np.clip(mass, SMALLEST, 1 - SMALLEST)
    return np.asarray(np.log(clipped / (1 - clipped)))


def _sigmoid(x: Float64) -> Float64:
    return np.asarray(expit(x))


def _finite(value: Any) -> float:
    number = float(value)
    if not np.isfinite(number):
        raise ValueError(f"expected a finite number, got {number}")
    return number


def _numbers(kind: type[Plain], content: dict[str, Any]) -> Plain:
    if content.keys() != {field.name for field in fields(kind)}:
        raise ValueError(f"a {kind.__name__} with {', '.join(content)}")
    return kind(**{name: _finite(value) for name, value in content.items()})
