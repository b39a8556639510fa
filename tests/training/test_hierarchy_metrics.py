"""Measures of a hierarchy's answers against plain loops, scikit-learn and cases that can be told by hand."""

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve

from training.hierarchy_metrics import (
    accuracy_coverage_area,
    accuracy_coverage_curve,
    common_ancestor_level_figures,
    detection_figures,
    expected_calibration_error,
    node_order_violations,
    path_figures,
)


def test_path_figures_by_hand() -> None:
    true = np.array([[0, 1, 2]] * 6)
    predicted = np.array([[0, 1, 2], [0, 1, -1], [0, 5, -1], [-1, -1, -1], [7, 1, 2], [0, 1, 9]])
    found = path_figures(predicted, true)
    assert found.path_accuracy == pytest.approx(3 / 6)
    assert found.full_path_accuracy == pytest.approx(1 / 6)
    assert found.level_coverage == pytest.approx((5 / 6, 5 / 6, 3 / 6))
    assert found.level_accuracy == pytest.approx((4 / 5, 3 / 5, 1 / 3))  # below a wrong level nothing is right
    assert found.stopped_at_root == pytest.approx(1 / 6)
    assert found.right_levels == pytest.approx((3 + 2 + 1 + 0 + 0 + 2) / 18)


def test_paths_that_all_stop_have_no_accuracy_further_down() -> None:
    found = path_figures(np.array([[0, -1], [1, -1]]), np.array([[0, 3], [0, 3]]))
    assert found.level_accuracy[0] == 0.5
    assert math.isnan(found.level_accuracy[1])
    assert found.path_accuracy == 0.5


@pytest.mark.parametrize(
    ("predicted", "message"),
    [(np.array([[-1, 2]]), "goes on below"), (np.array([[1]]), "of one shape"), (np.zeros((0, 2)), "of one shape")],
)
def test_paths_that_cannot_be_are_refused(predicted: NDArray[np.int64], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        path_figures(predicted, np.zeros((len(predicted), 2), np.int64))


def test_accuracy_coverage_is_its_definition_over_all_orders_of_ties() -> None:
    confidence = np.array([0.9, 0.5, 0.5, 0.5, 0.2, 0.2])
    right = np.array([True, False, True, True, False, True])
    curves = []
    for order in itertools.permutations(range(6)):
        if all(confidence[a] >= confidence[b] for a, b in itertools.pairwise(order)):
            hits = np.cumsum([right[k] for k in order])
            curves.append(hits / np.arange(1, 7))
    assert len(curves) == 12
    coverage, accuracy = accuracy_coverage_curve(confidence, right)
    assert coverage == pytest.approx(np.arange(1, 7) / 6)
    assert accuracy == pytest.approx(np.mean(curves, axis=0))
    assert accuracy_coverage_area(confidence, right) == pytest.approx(np.mean(curves))


def test_area_is_least_for_the_worst_order_and_most_for_the_best() -> None:
    right = np.array([True] * 30 + [False] * 10)
    best, worst = np.arange(40, 0, -1.0), np.arange(40.0)
    none = accuracy_coverage_area(np.zeros(40), right)
    assert accuracy_coverage_area(worst, right) < none < accuracy_coverage_area(best, right)
    assert none == pytest.approx(0.75)
    assert accuracy_coverage_area(best, right) == pytest.approx((30 + sum(30 / k for k in range(31, 41))) / 40)


def test_calibration_error_is_its_formula_bin_by_bin() -> None:
    rng = np.random.default_rng(0)
    probability = np.concatenate([rng.random(500), [0.0, 0.1, 0.2, 1.0]])
    right = rng.random(504) < probability**2
    expected = 0.0
    for k in range(10):
        low, high = k / 10, (k + 1) / 10
        inside = [i for i, p in enumerate(probability) if low < p <= high or (k == 0 and p == 0)]
        if inside:
            gap = np.mean([right[i] for i in inside]) - np.mean([probability[i] for i in inside])
            expected += len(inside) / 504 * abs(gap)
    assert expected_calibration_error(probability, right, bins=10) == pytest.approx(expected, abs=1e-9)
    assert expected > 0.1


def test_calibration_error_of_honest_and_of_boastful_probabilities() -> None:
    rng = np.random.default_rng(1)
    p = rng.random(100_000)
    right = rng.random(100_000) < p
    assert expected_calibration_error(p, right) < 0.01
    assert expected_calibration_error(np.ones(1000), np.arange(1000) < 700) == pytest.approx(0.3)
    # The bias that the docstring speaks of.
    for n, bias in ((300, 0.07), (2485, 0.025)):
        errors = [expected_calibration_error(p[k : k + n], right[k : k + n]) for k in range(0, 95_000, n)]
        assert np.mean(errors) == pytest.approx(bias, rel=0.05)
    with pytest.raises(ValueError, match="expected probabilities"):
        expected_calibration_error(p - 0.5, right)


def test_common_ancestor_levels_by_hand() -> None:
    found = common_ancestor_level_figures(np.array([0, 1, 2, 3, 0]), np.array([0, 2, 2, 1, 1]))
    assert (found.exact, found.too_general, found.too_specific) == pytest.approx((0.4, 0.4, 0.2))
    assert found.mean_difference == pytest.approx((0 + 1 + 0 + 2 + 1) / 5)
    with pytest.raises(ValueError, match="equally many"):
        common_ancestor_level_figures(np.zeros(2), np.zeros(3))


def test_nodes_nearer_the_origin_than_their_parent_are_counted() -> None:
    parents = np.array([-1, 0, 0, 1, 1, 2])
    assert node_order_violations(parents, np.array([0.1, 1.0, 1.0, 1.0, 2.0, 3.0])) == 0
    assert node_order_violations(parents, np.array([1.5, 1.0, 2.0, 0.9, 2.0, 1.9])) == 3
    with pytest.raises(ValueError, match="a parent and a radius"):
        node_order_violations(parents, np.zeros(5))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n", [100, 137])
def test_detection_figures_are_scikit_learns(ties: bool, n: int) -> None:
    rng = np.random.default_rng(n)
    known, unknown = rng.normal(1.0, 1.0, n), rng.normal(0.0, 1.0, 211)
    if ties:
        known, unknown = known.round(1), unknown.round(1)
    truth, scores = np.r_[np.ones(n), np.zeros(211)], np.r_[known, unknown]
    found = detection_figures(known, unknown)
    assert found.auroc == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
    assert found.fpr95 == pytest.approx(false[np.argmax(true >= 0.95 - 1e-12)], abs=1e-12)
    assert 0.6 < found.auroc < 0.9


def test_detection_by_hand() -> None:
    apart = detection_figures(np.array([3.0, 4.0]), np.array([1.0, 2.0]))
    assert (apart.auroc, apart.fpr95) == (1.0, 0.0)
    alike = detection_figures(np.zeros(3), np.zeros(4))
    assert (alike.auroc, alike.fpr95) == (0.5, 1.0)
    with pytest.raises(ValueError, match="finite scores"):
        detection_figures(np.array([1.0, np.nan]), np.array([0.0]))


def test_answers_without_a_confidence_are_refused() -> None:
    with pytest.raises(ValueError, match="a number and a verdict"):
        accuracy_coverage_area(np.array([0.1, np.nan]), np.array([True, False]))
    with pytest.raises(ValueError, match="a number and a verdict"):
        expected_calibration_error(np.zeros(0), np.zeros(0, bool))
