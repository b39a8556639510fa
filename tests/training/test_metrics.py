"""Measures against pytorch-metric-learning's calculator and against plain loops."""

import pytest
import torch
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from torch import Tensor

from hyperbolic import lorentz
from training import metrics
from training.metrics import cosine_ranking, label_indices, lorentz_ranking, retrieval_metrics

TREE = [
    ("f", "apple", "gala"),
    ("f", "apple", "fuji"),
    ("f", "pear", "anjou"),
    ("v", "leek", "leek"),
    ("p", "milk", "oat"),
]


def sample(n: int, seed: int, d: int = 6) -> tuple[Tensor, list[tuple[str, ...]]]:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, d, generator=generator)
    picks = torch.randint(len(TREE), (n,), generator=generator).tolist()
    centres = torch.randn(len(TREE), d, generator=torch.Generator().manual_seed(99))
    return lorentz.expmap0(z * 0.4 + centres[picks], 1.0)[:, 1:], [TREE[p] for p in picks]


def test_recall_and_map_at_r_equal_pytorch_metric_learning() -> None:
    query, query_paths = sample(60, 0)
    gallery, gallery_paths = sample(150, 1)
    labels = label_indices(query_paths, gallery_paths)
    found = retrieval_metrics(query, labels[:60], gallery, labels[60:], cosine_ranking)
    calculator = AccuracyCalculator(include=("precision_at_1", "mean_average_precision_at_r"), k="max_bin_count")
    for level, prefix in ((2, ""), (1, "coarse_")):
        expected = calculator.get_accuracy(
            torch.nn.functional.normalize(query),
            labels[:60, level],
            torch.nn.functional.normalize(gallery),
            labels[60:, level],
        )
        assert found[f"{prefix}recall_at_1"] == pytest.approx(expected["precision_at_1"], abs=1e-6)
        assert found[f"{prefix}map_at_r"] == pytest.approx(expected["mean_average_precision_at_r"], abs=1e-6)


def test_leave_one_out_equals_pytorch_metric_learning() -> None:
    space, paths = sample(90, 2)
    labels = label_indices(paths)
    found = retrieval_metrics(space, labels, space, labels, cosine_ranking, leave_one_out=True)
    calculator = AccuracyCalculator(include=("precision_at_1", "mean_average_precision_at_r"), k="max_bin_count")
    expected = calculator.get_accuracy(torch.nn.functional.normalize(space), labels[:, -1])
    assert found["recall_at_1"] == pytest.approx(expected["precision_at_1"], abs=1e-6)
    assert found["map_at_r"] == pytest.approx(expected["mean_average_precision_at_r"], abs=1e-6)


def test_chunks_do_not_change_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    space, paths = sample(90, 3)
    labels = label_indices(paths)
    whole = retrieval_metrics(space, labels, space, labels, lorentz_ranking(1.0), leave_one_out=True)
    monkeypatch.setattr(metrics, "CHUNK_ELEMENTS", 90 * 7)
    chunked = retrieval_metrics(space, labels, space, labels, lorentz_ranking(1.0), leave_one_out=True)
    assert chunked == pytest.approx(whole, abs=1e-12)


def agreement(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    shared = 0
    while shared < len(a) and a[: shared + 1] == b[: shared + 1]:
        shared += 1
    return shared


def test_tree_measures_are_their_definition_in_plain_loops() -> None:
    query, query_paths = sample(25, 4)
    gallery, gallery_paths = sample(40, 5)
    labels = label_indices(query_paths, gallery_paths)
    found = retrieval_metrics(query, labels[:25], gallery, labels[25:], lorentz_ranking(1.0))
    lifted_q, lifted_g = (lorentz.lift(x.double(), 1.0) for x in (query, gallery))
    heights, precisions = [], []
    for i in range(25):
        inner = lifted_q[i, 0] * lifted_g[:, 0] - (lifted_q[i, 1:] * lifted_g[:, 1:]).sum(1)
        order = torch.acosh(inner.clamp_min(1)).argsort().tolist()
        heights.append(3 - agreement(query_paths[i], gallery_paths[order[0]]))
        gains = [agreement(query_paths[i], path) / 3 for path in gallery_paths]
        precisions.append(sum(gains[j] for j in order[:10]) / sum(sorted(gains, reverse=True)[:10]))
    assert found["lca_height"] == pytest.approx(sum(heights) / 25, abs=1e-9)
    assert found["hierarchical_precision_at_10"] == pytest.approx(sum(precisions) / 25, abs=1e-9)


def test_a_perfect_embedding_scores_one() -> None:
    paths = [path for path in TREE for _ in range(12)]
    z = torch.eye(len(TREE)).repeat_interleave(12, 0) * 2 + 1e-3 * torch.randn(
        60, 5, generator=torch.Generator().manual_seed(0)
    )
    labels = label_indices(paths)
    space = lorentz.expmap0(z, 1.0)[:, 1:]
    found = retrieval_metrics(space, labels, space, labels, lorentz_ranking(1.0), leave_one_out=True)
    assert (found["recall_at_1"], found["map_at_r"], found["lca_height"]) == (1.0, 1.0, 0.0)
    assert found["hierarchical_precision_at_10"] == 1.0
    assert found["queries"] == 60


def test_queries_without_a_relative_do_not_count() -> None:
    labels = label_indices([("a",), ("b",)], [("a",), ("a",)])
    query, gallery = torch.zeros(2, 3), torch.ones(2, 3)
    found = retrieval_metrics(query, labels[:2], gallery, labels[2:], lorentz_ranking(1.0))
    assert found["queries"] == 1
    assert found["recall_at_1"] == 1.0


def test_nothing_to_rank_is_an_error() -> None:
    labels = label_indices([("a",)])
    with pytest.raises(ValueError, match="expected queries and a gallery"):
        retrieval_metrics(torch.zeros(1, 2), labels, torch.zeros(1, 2), labels, cosine_ranking, leave_one_out=True)


def test_same_leaf_name_under_different_parents_is_a_different_class() -> None:
    labels = label_indices([("a", "x"), ("b", "x"), ("a", "x")])
    assert labels[0].tolist() == labels[2].tolist()
    assert labels[0, 1] != labels[1, 1]


def test_both_ways_to_map_at_r_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few relatives are read off the nearest, many are selected from packed keys."""
    space, paths = sample(200, 6)
    labels = label_indices(paths)
    ranking = lorentz_ranking(1.0)
    selected = retrieval_metrics(space, labels, space, labels, ranking, leave_one_out=True)
    read = retrieval_metrics(space, labels, space, labels, ranking, leave_one_out=True, recall_at=(1, 150))
    for name in ("map_at_r", "coarse_map_at_r", "recall_at_1"):
        assert read[name] == pytest.approx(selected[name], abs=1e-12)
    assert 0.1 < read["map_at_r"] < 0.99


def test_ranking_by_inner_product_is_the_order_of_distances_far_out() -> None:
    z = torch.nn.functional.normalize(torch.randn(40, 8, generator=torch.Generator().manual_seed(1)), dim=-1) * 8.2
    z[20:] = z[:20] + 1e-2 * torch.randn(20, 8, generator=torch.Generator().manual_seed(2))
    space = lorentz.expmap0(z, 1.0)[:, 1:]
    found = lorentz_ranking(1.0)(space)(space).argsort(1)
    lifted = lorentz.lift(space.double(), 1.0)
    expected = lorentz.distance(lifted[:, None], lifted[None], 1.0).argsort(1)
    assert torch.equal(found[:, 1:], expected[:, 1:])
