"""benchmarks/search.py runs with tiny sets, measures itself right, and its chapter tells what it found."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.chapters import search as chapter
from benchmarks.search_sets import clusters, lift, parse, queries_of, recall, recursive_tree, truth_of

PROJECT = Path(__file__).resolve().parents[2]


def test_a_tiny_run_measures_every_engine_that_is_there(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.search", "--sets", "tree", "r8.3x100:1500x8", "--count", "2000",
               "--dim", "12", "--queries", "40", "--repeats", "1", "--out", str(tmp_path),
               "--engines", "flat", "ivf", "ivf_exact", "ivf_sq8", "faiss_ip", "faiss_l2", "faiss_ivf",
               "float64"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, check=False, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.glob("search_*.json")
    result = json.loads(path.read_text(encoding="utf-8"))
    rows = [row for row in result["rows"] if row["part"] == "search"]
    assert [(row["set"], row["count"], row["dim"]) for row in rows[:: len(rows) // 2]] == [
        ("tree", 2000, 12), ("r8.3x100:1500x8", 1500, 8)
    ]  # fmt: skip
    found = {(row["set"][0], row["engine"]): row["recall_at_10"] for row in rows}
    for name in "tr":
        assert found[name, "flat"] == found[name, "ivf_exact"] == found[name, "float64"] == 1.0
    assert found["r", "faiss_ip"] < 0.5  # what float32 does at radius 8.3
    radius = [row for row in result["rows"] if row["part"] == "radius"]
    assert len(radius) == 6
    assert all(row["missed"] == row["spurious"] == 0 for row in radius)
    ids = np.load(path.with_name(f"{path.stem}_ids.npz"))
    assert ids["tree/flat"].shape == (40, 10)
    text = chapter.tables(result)
    assert "| tree, recall, flat | >= 1 | 1.0000 | reached |" in text
    assert "**r8.3x100:1500x8**, 1,500 x 8" in text
    refused = subprocess.run(command, check=False, cwd=PROJECT, env={**environment, "OMP_NUM_THREADS": "2"},
                             capture_output=True, text=True, timeout=300)  # fmt: skip
    assert refused.returncode == 2
    assert "OMP_NUM_THREADS=1" in refused.stderr


def test_sets_lie_where_they_say() -> None:
    tree = recursive_tree(3000, 16)
    radii = np.arcsinh(np.linalg.norm(tree.astype(np.float64), axis=1))
    assert radii.min() == 0
    assert 3 < radii.max() < 8
    leaves = clusters(1000, 16, 8.3, 100)
    assert np.arcsinh(np.linalg.norm(leaves.astype(np.float64), axis=1)) == pytest.approx(8.3, abs=0.3)
    points = lift(tree)
    np.testing.assert_allclose(points[:, 0] ** 2 - (points[:, 1:] ** 2).sum(1), 1, atol=1e-9)
    for name in ("grid", "r8", "tree:5", "tree:x64"):
        with pytest.raises(ValueError, match="expected a"):
            parse(name, 10, 4)


def test_recall_counts_what_is_as_near_as_the_tenth() -> None:
    space = recursive_tree(500, 8)
    queries = queries_of(space, 30)
    truth, kth = truth_of(queries, space, 10)
    assert recall(truth, queries, space, kth) == 1.0
    half = truth.copy()
    half[:, 5:] = -1
    assert recall(half, queries, space, kth) == 0.5
    assert recall(np.repeat(truth[:, :1], 10, axis=1), queries, space, kth) == pytest.approx(0.1)
    far = np.argsort(-np.linalg.norm(space, axis=1))[:10]
    assert recall(np.tile(far, (30, 1)), queries, space, kth) < 0.1
