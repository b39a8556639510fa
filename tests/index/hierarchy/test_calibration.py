"""What is fitted, against data whose truth is known and against searches written out."""

import json
from dataclasses import replace

import numpy as np
import pytest

from index.errors import PointError, SnapshotError
from index.hierarchy import Hierarchy
from index.hierarchy.answers import Answers
from index.hierarchy.calibration import Fit, Platt, Threshold, path_probabilities, precision_at
from index.hierarchy.fitting import fit, fit_temperature, own_items, photos
from index.hierarchy.posterior import Posterior

C, DIM = 0.7, 4


def sample(count, seed):
    """Points of 24 kinds in 6 families that overlap, so that no classifier can be sure: (points, label paths)."""
    rng = np.random.default_rng(seed)
    shape = np.random.default_rng(99)
    families = shape.normal(0, 1.6, (6, DIM))
    kinds = np.repeat(families, 4, axis=0) + shape.normal(0, 0.8, (24, DIM))
    kind = rng.integers(0, 24, count)
    space = kinds[kind] + rng.normal(0, 0.75, (count, DIM))
    return space.astype(np.float32), [(f"family-{k // 4}", f"kind-{k}") for k in kind.tolist()]


@pytest.fixture(scope="module")
def blurred():
    """A tree over 1,000 of these, fitted on 400 others."""
    space, labels = sample(1000, seed=0)
    tree = Hierarchy.build(space, np.arange(1000), C, labels=labels)
    tree.fit = fit(tree, *sample(400, seed=1))
    return tree


def calibration_error(probabilities, right, bins=15):
    """Expected calibration error over bins of equal width (Guo et al. 2017)."""
    place = np.minimum((probabilities * bins).astype(int), bins - 1)
    return sum(
        (place == b).mean() * abs(probabilities[place == b].mean() - right[place == b].mean()) for b in np.unique(place)
    )


def test_probabilities_hold_on_photos_never_seen(blurred):
    """Labels per level, and nodes on the way down, on 3,000 further photos; their own masses do not."""
    space, labels = sample(3000, seed=2)
    answers = Answers(blurred)
    ways, asked = answers.ways(space), photos(answers.posterior, space, labels)
    assert 0.5 < (ways.labels[:, 1] == asked.labels[:, 1]).mean() < 0.95
    for level in range(2):
        right = ways.labels[:, level] == asked.labels[:, level]
        assert calibration_error(ways.label_probabilities[:, level], right) < 0.05
    right = np.take_along_axis(asked.nodes.toarray(), np.maximum(ways.nodes, 0), axis=1)
    there = ways.nodes[:, 1:] >= 0
    assert there.sum() > 5000
    assert calibration_error(ways.node_probabilities[:, 1:][there], right[:, 1:][there]) < 0.05


def test_theta_gives_about_the_precision_wished_for(blurred):
    space, labels = sample(3000, seed=3)
    found = fit(blurred, *sample(400, seed=1), precision=0.85)
    answers = Answers(blurred, found)
    known = photos(answers.posterior, space, labels)
    right = [
        path.labels[0].label == labels[query][: len(path.labels)]
        for query, path in enumerate(answers.paths(space))
        if path.labels
    ]
    assert found.label_threshold.precision >= 0.85
    assert found.label_threshold.answered == pytest.approx(len(right) / len(space), abs=0.05)
    assert np.mean(right) == pytest.approx(found.label_threshold.precision, abs=0.05)
    nodes = known.nodes.toarray()
    precise = [nodes[query, path.nodes[0].node] for query, path in enumerate(answers.paths(space)) if path.nodes[1:]]
    assert found.node_threshold.precision >= 0.85
    assert np.mean(precise) == pytest.approx(found.node_threshold.precision, abs=0.05)


def test_temperature_minimises_the_negative_log_likelihood(blurred):
    space, labels = sample(300, seed=4)
    posterior = Posterior.of(blurred)
    found = fit_temperature(posterior, photos(posterior, space, labels))

    def loss(temperature):
        masses = posterior.masses(space, temperature).labels
        own = [masses[query, posterior.labels.names.index(label)] for query, label in enumerate(labels)]
        return -np.log(np.array(own) + 1e-6).mean()

    assert loss(found) <= min(loss(temperature) for temperature in np.geomspace(0.01, 3, 60)) + 1e-4


def test_leave_one_out_temperature_without_labels():
    """Items are left out of the mass of the node that holds them."""
    space, _ = sample(400, seed=5)
    tree = Hierarchy.build(space, np.arange(400), C)
    posterior = Posterior.of(tree)
    positions = np.arange(0, 400, 3)
    found = fit_temperature(posterior, own_items(posterior, positions))

    def loss(temperature):
        nodes = posterior.masses(space[positions], temperature, exclude=positions).nodes
        return -np.log(nodes[np.arange(len(positions)), tree.owners[positions]] + 1e-6).mean()

    assert loss(found) <= min(loss(temperature) for temperature in np.geomspace(0.01, 3, 60)) + 1e-4


def test_origin_weight_and_percentiles_are_quantiles_of_the_photos_fitted_on(blurred):
    space, _ = sample(400, seed=1)
    posterior = Posterior.of(blurred)
    log_density, specificity = posterior.specificity(space, blurred.fit.temperature, z0=blurred.fit.z0)
    assert (log_density < blurred.fit.z0).mean() == pytest.approx(0.02, abs=0.0025)
    found = blurred.fit.percentile(specificity)
    expected = [(specificity <= value).mean() for value in specificity]
    assert found == pytest.approx(expected, abs=0.011)
    assert blurred.fit.percentile([specificity.min() - 1, specificity.max() + 1]).tolist() == [0, 1]


def test_common_ancestor_mass_is_the_best_of_its_grid(blurred):
    """By an even choice of pairs of the fitting photos at each true level, no other mass is clearly better."""
    space, labels = sample(400, seed=1)
    posterior = Posterior.of(blurred)
    masses = posterior.masses(space, blurred.fit.temperature).labels
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, 400, (40000, 2))
    level = np.array([sum(a == b for a, b in zip(labels[i], labels[j], strict=True)) for i, j in pairs.tolist()])
    kept = np.concatenate([rng.permutation(np.flatnonzero(level == value))[:1000] for value in range(3)])

    def exact(threshold):
        right = 0
        for place in kept.tolist():
            i, j = pairs[place]
            shared = np.minimum(masses[i], masses[j])
            common = [name for name, mass in zip(posterior.labels.names, shared, strict=True) if mass >= threshold]
            deepest = max(common, key=lambda name: (len(name), shared[posterior.labels.names.index(name)]), default=())
            right += deepest == labels[i][: level[place]]
        return right / len(kept)

    best = max(exact(threshold) for threshold in np.arange(0.05, 0.71, 0.1))
    assert exact(blurred.fit.common_ancestor_mass) >= best - 0.03
    assert exact(0.9) < best - 0.1


def test_recalibration_recovers_a_known_distortion():
    rng = np.random.default_rng(0)
    logits = rng.normal(0.5, 1.5, 20000)
    masses = 1 / (1 + np.exp(-logits))
    right = rng.uniform(size=20000) < 1 / (1 + np.exp(-(0.6 * logits - 0.4)))
    found = Platt.fit(masses, right)
    assert found.slope == pytest.approx(0.6, abs=0.03)
    assert found.intercept == pytest.approx(-0.4, abs=0.06)


def test_recalibration_of_little_or_one_sided_data():
    nothing = Platt.fit([], [])
    assert (nothing.slope, nothing.intercept) == pytest.approx((1, 0), abs=1e-6)
    perfect = Platt.fit(np.full(50, 0.9), np.ones(50, dtype=bool))
    assert 0.92 < perfect(0.9) < 1
    wrong = Platt.fit(np.linspace(0.3, 0.9, 200), np.zeros(200, dtype=bool))
    assert wrong(0.9) < 0.15
    hopeless = Platt.fit(np.linspace(0.1, 0.9, 50), np.linspace(0.1, 0.9, 50) < 0.5)
    assert hopeless.slope > 0
    assert hopeless(0.2) < hopeless(0.8)


def test_probabilities_fall_along_a_way():
    platts = (Platt(1.0, 0.0), Platt(1.0, 3.0))
    way = np.array([[0, 1, 2], [0, 5, -1]])
    found = path_probabilities(platts, np.array([[0.9, 0.8, 0.1], [0.6, 0.6, 0.0]]), way)
    assert found[0] == pytest.approx([0.9, 0.9, 1 / (1 + 9 * np.exp(-3))])
    assert found[1] == pytest.approx([0.6, 0.6, 0])


@pytest.mark.parametrize("seed", range(5))
def test_threshold_is_the_smallest_from_which_on_the_wish_is_met(seed):
    rng = np.random.default_rng(seed)
    probabilities = np.sort(rng.uniform(size=(300, 3)))[:, ::-1]
    right = np.logical_and.accumulate(rng.uniform(size=(300, 3)) < probabilities**0.5, axis=1)
    found = Threshold.fit(probabilities, right, 0.9)

    def by_hand(theta):
        answers = []
        for row, truth in zip(probabilities.tolist(), right.tolist(), strict=True):
            sure = [truth[step] for step in range(3) if row[step] >= theta]
            answers += sure[-1:]
        return np.mean(answers), len(answers) / 300

    assert (found.precision, found.answered) == pytest.approx(by_hand(found.theta))
    assert precision_at(probabilities, right, found.theta) == pytest.approx(by_hand(found.theta))
    thetas = [theta for theta in np.unique(probabilities) if theta >= 0.5 and by_hand(theta)[1] * 300 >= 20]
    assert all(by_hand(theta)[0] >= 0.9 for theta in thetas if theta >= found.theta)
    below = [theta for theta in thetas if theta < found.theta]
    assert not below or by_hand(below[-1])[0] < 0.9


def test_threshold_where_the_wish_cannot_be_met():
    found = Threshold.fit(np.full((100, 1), 0.7), np.arange(100)[:, None] < 30, 0.95)
    assert (found.precision, found.answered) == pytest.approx((0.3, 1))
    assert Threshold.fit(np.empty((100, 0)), np.empty((100, 0), dtype=bool), 0.95).answered == 0
    assert precision_at(np.full((4, 1), 0.2), np.ones((4, 1), dtype=bool), 0.5) == (1, 0)


def test_what_it_was_fitted_on_is_said(blurred):
    assert (blurred.fit.fitted_on, blurred.fit.count) == ("validation: 400 photos", 400)
    own = fit(blurred)
    assert (own.fitted_on, own.count) == ("leave-one-out: 1000 items", 1000)
    # Items of the same kind as the photos: leave-one-out finds about the same temperature.
    assert own.temperature == pytest.approx(blurred.fit.temperature, rel=0.2)
    assert fit(blurred, *sample(400, seed=1)) == blurred.fit


def test_photos_whose_label_no_item_has_are_wrong_below_what_is_known(blurred):
    space, labels = sample(400, seed=1)
    strange = [(*label[:1], "never seen") for label in labels]
    found = fit(blurred, space, strange)
    posterior = Posterior.of(blurred)
    asked = photos(posterior, space, strange)
    assert (asked.labels[:, 1] == -1).all()
    assert (asked.labels[:, 0] >= 0).all()
    probabilities = Answers(blurred, found).ways(space).label_probabilities
    assert probabilities[:, 1].max() < 0.35 < probabilities[:, 0].mean()
    nowhere = photos(posterior, space[:1], [("another", "world")])
    assert nowhere.nodes.toarray()[0].tolist() == [1] + [0] * (len(blurred.ids) - 1)
    assert nowhere.kin.nnz == 0


def test_fit_is_kept_with_the_tree(blurred, tmp_path):
    content = json.loads(json.dumps(blurred.fit.to_json(), allow_nan=False))
    assert Fit.from_json(content) == blurred.fit
    unlabelled = Hierarchy.build(sample(200, seed=6)[0], np.arange(200), C)
    unlabelled.fit = fit(unlabelled)
    assert unlabelled.fit.labels == ()
    assert Fit.from_json(json.loads(json.dumps(unlabelled.fit.to_json(), allow_nan=False))) == unlabelled.fit


@pytest.mark.parametrize(
    "change",
    [
        {"format_version": 2},
        {"temperature": "warm"},
        {"z0": float("nan")},
        {"labels": [{"slope": 1.0}]},
        {"nodes": {"slope": 1.0, "intercept": 0.0, "more": 1.0}},
        {"specificities": None},
        {"another": 1},
    ],
)
def test_a_damaged_fit_is_refused(blurred, change):
    with pytest.raises(SnapshotError, match="lhier hierarchy build"):
        Fit.from_json(blurred.fit.to_json() | change)


def test_what_cannot_be_fitted_is_refused(blurred):
    space, labels = sample(20, seed=7)
    with pytest.raises(PointError, match="label path"):
        fit(blurred, space)
    with pytest.raises(PointError, match="label path"):
        fit(Hierarchy.build(space, np.arange(20), C), space, labels)
    with pytest.raises(PointError, match="validation photos, got none"):
        fit(blurred, space[:0], [])
    with pytest.raises(PointError, match="two items"):
        fit(Hierarchy.build(space[:1], [3], C))
    assert fit(Hierarchy.build(space[:2], [3, 4], C)).count == 2


def test_equal_points_can_be_fitted():
    tree = Hierarchy.build(np.zeros((30, DIM)), np.arange(30), C, labels=[("a", "b")] * 30)
    found = fit(tree)
    assert np.isfinite([found.temperature, found.z0, found.theta]).all()
    assert replace(found, count=0) != found
