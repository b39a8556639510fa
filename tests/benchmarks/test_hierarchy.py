"""benchmarks/hierarchy.py measures what it says, on points whose tree is known."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zlib import crc32

import numpy as np
import pytest

from training.data.split import Photo, RetrievalData

pytest.importorskip("matplotlib", reason="the chapters draw with matplotlib")
from benchmarks import hierarchy as benchmark
from benchmarks.chapters import hierarchy as chapter

C = 0.7
SIZES = (2, 2, 3)  # super-classes, coarse and fine classes in each


def photos(each: int, mark: str) -> tuple[Photo, ...]:
    labels = [(f"s{a}", f"s{a}c{b}", f"s{a}c{b}f{f}") for a, b, f in np.ndindex(*SIZES)]
    return tuple(Photo(Path(f"{mark}-{n}.jpg"), path) for path in labels for n in range(each))


class Known(benchmark.Embedding):
    """Points at radius 3 in directions that follow the labels, with noise; the far ones anywhere."""

    def __init__(self, noise: float) -> None:
        self.kind, self.c, self.noise = "lorentz", C, noise

    def __call__(self, photos: Any) -> Any:
        points = []
        for photo in photos:
            rng = np.random.default_rng(crc32(f"{photo.path} {photo.labels}".encode()))
            z = rng.normal(size=24) * self.noise
            for depth, name in enumerate(photo.labels):
                z += np.random.default_rng(sum(map(ord, name)) * 31 + depth).normal(size=24) * (1.0, 0.6, 0.35)[depth]
            points.append(z / np.linalg.norm(z) * np.sinh(3 * np.sqrt(C)) / np.sqrt(C))
        return np.array(points, np.float32), [photo.labels for photo in photos]


def test_a_perfect_embedding_has_a_perfect_tree() -> None:
    found = benchmark.tree_figures(Known(0.01), photos(6, "t"))
    assert [found[f"purity_{level}"] for level in ("fine", "coarse", "super")] == [1.0, 1.0, 1.0]
    assert found["order_violations"] == 0
    assert found["ancestor_radius_spearman"] > 0.9
    noisy = benchmark.tree_figures(Known(1.0), photos(6, "t"))
    assert noisy["purity_fine"] < 0.6


def test_radii_of_nodes_are_those_of_their_members_centroids() -> None:
    embedding = Known(0.3)
    points, _ = embedding(photos(2, "t"))
    merges = embedding.merges(points)
    found = benchmark.node_radii(merges, points, C)
    lifted = np.concatenate([np.sqrt(1 / C + (points.astype(float) ** 2).sum(1))[:, None], points], axis=1)
    members = [[i] for i in range(len(points))]
    for left, right in merges[:, :2].astype(int):
        members.append(members[left] + members[right])
    for node, own in enumerate(members):
        total = lifted[own].sum(0)
        time = total[0] / np.sqrt(C * (total[0] ** 2 - (total[1:] ** 2).sum()))
        assert found[node] <= np.arccosh(np.sqrt(C) * time) / np.sqrt(C) + 1e-9
    assert found[-1] == pytest.approx(np.arccosh(np.sqrt(C) * time) / np.sqrt(C), abs=1e-6)  # the root's own is least


def test_answers_and_unknown_things() -> None:
    embedding = Known(0.4)
    known = photos(8, "train")
    data = RetrievalData("known", known, photos(4, "test"), known, leave_one_out=False)
    far = tuple(Photo(Path(f"far-{n}.jpg"), ("x", f"x{n % 5}", f"xx{n}")) for n in range(40))
    setting = benchmark.Setting("known", data, data.query, photos(4, "val"), far)
    found, answers = benchmark.answer_figures(embedding, setting, setting.seen, setting.validation)
    assert found["accuracy_super"] >= found["accuracy_coarse"] >= found["accuracy_fine"] > 0.5
    assert found["accuracy_nearest"] > 0.5
    assert 0 <= found["ece_fine"] <= 0.3
    assert found["ancestor_level_right"] > 0.6
    unknown = benchmark.unknown_figures(embedding, setting, answers)
    assert unknown["far_auroc_nearest"] > 0.8
    assert 0.3 < unknown["near_auroc_nearest"] < 0.7  # here the near ones are known ones: nothing tells them apart


def test_true_distances_are_met_where_the_tree_is_right() -> None:
    def distance(a: str, b: str) -> float:
        return float(len(a) - len(benchmark_prefix(a, b)))

    def benchmark_prefix(a: str, b: str) -> str:
        return a[: next((i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), len(a))]

    taxonomy: Any = SimpleNamespace(distance=distance)
    good = benchmark.true_tree_figures(Known(0.01), photos(3, "t"), taxonomy)
    bad = benchmark.true_tree_figures(Known(30.0), photos(3, "t"), taxonomy)
    assert good["true_spearman"] > 0.8 > 0.5 > bad["true_spearman"]
    assert good["true_spearman_species"] > 0.8


def test_the_chapter_judges_against_the_same_runs_baseline() -> None:
    rows: list[dict[str, Any]] = []
    for seed in range(2):
        base = {"setting": "grocery", "seed": seed, "order_violations": 0, "stopped_at_root": 0.12}
        rows.append({**base, "method": "PA + SC", "recall_at_1": 0.70, "purity_super": 0.5, "ece_fine": 0.2})
        rows.append(
            {**base, "method": "default", "recall_at_1": 0.71, "purity_super": 0.7, "ece_fine": 0.06}
            | {"stopped_at_root": 0.03, "correct_auroc": 0.8, "correct_auroc_nearest": 0.7}
        )
    text = chapter.tables({"rows": rows})
    assert "| grocery, default against PA + SC, R@1 | at least +0.5 | +1.0 | reached |" in text
    assert "| grocery, default against PA + SC, super purity | at least +25.0 | +20.0 | **missed** |" in text
    assert "| grocery, default, expected calibration error, fine | at most 5.0 | 6.0 | **missed** |" in text
    assert "cut against PA + SC | at least 67 % | 75 % | reached |" in text
    assert "| at least +6.0 | +10.0 | reached |" in text
