"""Each benchmark runs with tiny parameters and writes what it should; plot.py draws from results alone."""

import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- written by plot.py: begin -->", "<!-- written by plot.py: end -->"


def run(script: str, *arguments: object) -> str:
    """A benchmark's output, run as its README says."""
    command = [sys.executable, "-m", f"benchmarks.{script}", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, check=False, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one tiny result of each benchmark of this test."""
    folder = tmp_path_factory.mktemp("results")
    tiny = ["--batches", 40, "--proxies", 64, "--dim", 8, "--repeats", 2, "--optimiser-repeats", 3]
    run("training_step", "--out", folder, *tiny)
    run("evaluation", "--out", folder, "--photos", 400, "--classes", 80, "--dim", 8, "--threads", 1)
    return folder


def result_of(folder: Path, what: str) -> dict[str, Any]:
    (path,) = folder.glob(f"{what}_*.json")
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    assert re.fullmatch(rf"{what}_[a-z0-9-]+_\d{{4}}-\d\d-\d\dT\d{{6}}_([0-9a-f]{{7}}|unknown)\.json", path.name), (
        path.name
    )
    assert result["what"] == what
    assert result["commit"] in path.name
    assert result["machine"]["name"] in path.name
    assert result["versions"]["torch"]
    return result


def test_training_step_measures_every_peer_and_quotes_ratios(results: Path) -> None:
    result = result_of(results, "training_step")
    rows = {row["name"]: row for row in result["rows"]}
    assert set(rows) >= {
        *(f"{kind}, {count}" for kind in ("LHIER", "loop-mined") for count in ("50+50", "6+3")),
        "RiemannianAdamW",
        "RiemannianAdamW, learned c",
        "geoopt RiemannianAdam",
        "torch AdamW",
    }
    for row in rows.values():
        assert 0 < row["min_s"] <= row["median_s"] <= row["max_s"]
        assert row["ratio"] == pytest.approx(row["median_s"] / rows[row["of"]]["median_s"])


def test_loop_mined_reference_is_the_same_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """In expectation: the two draw their triplets and ancestors from different generators."""
    monkeypatch.syspath_prepend(PROJECT)
    import numpy as np
    import torch

    from benchmarks.training_step import loss_steps

    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    calls = loss_steps(40, 64, 8, (40, 40))
    ours, loop = (sum(float(call()) for _ in range(15)) / 15 for call in calls.values())  # type: ignore[arg-type]
    assert ours == pytest.approx(loop, rel=0.05)
    assert ours > 0.01


def test_evaluation_tells_time_memory_and_figures(results: Path) -> None:
    result = result_of(results, "evaluation")
    assert [row["ranking"] for row in result["rows"]] == ["geodesic", "cosine"]
    for row in result["rows"]:
        assert 0 < row["seconds"] < 60
        assert 5e7 < row["peak_bytes_before"] <= row["peak_bytes"] < 4e9
        assert 0 < row["recall_at_1"] <= row["recall_at_10"] <= row["recall_at_100"] <= 1
        assert row["queries"] == 400


def test_a_result_is_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(PROJECT)
    from benchmarks.common import write_result

    monkeypatch.setenv("LHIER_COMMIT", "0123456789")
    path = write_result("something", tmp_path / "one.json", {"a": 1}, [{"b": 2.0}])
    content = json.loads(path.read_text(encoding="utf-8"))
    assert (content["parameters"], content["rows"], content["commit"]) == ({"a": 1}, [{"b": 2.0}], "0123456")
    with pytest.raises(FileExistsError):
        write_result("something", path, {}, [])
    with pytest.raises(ValueError, match="Out of range float"):
        write_result("something", tmp_path / "two.json", {}, [{"b": float("nan")}])


def test_a_result_names_no_host_and_no_path(results: Path) -> None:
    import socket

    text = "".join(path.read_text(encoding="utf-8") for path in results.glob("*.json"))
    assert socket.gethostname() not in text
    assert str(Path.home()) + "/" not in text
    assert str(PROJECT) not in text


def test_encoder_reports_speed_agreement_and_what_is_missing(tmp_path: Path) -> None:
    run("encoder", "--out", tmp_path, "--backbones", "test_vit", "--batches", "1,2", "--seconds", 0.01)
    rows = result_of(tmp_path, "encoder")["rows"]
    speed = {(row["runtime"], row["batch"]): row["images_per_s"] for row in rows if row["part"] == "speed"}
    agreement = {row["runtime"]: row for row in rows if row["part"] == "agreement"}
    skipped = {row["runtime"]: row["reason"] for row in rows if row["part"] == "skipped"}
    assert len(agreement) + len(skipped) == 6
    assert set(speed) == {(runtime, batch) for runtime in agreement for batch in (1, 2)}
    assert all(rate > 0 for rate in speed.values())
    assert all(reason for reason in skipped.values())
    for runtime, row in agreement.items():
        assert row["cosine_min"] >= (0.95 if "bfloat16" in runtime else 0.999), (
            runtime
        )  # a random ViT magnifies rounding
    assert agreement["torch float32"]["relative_error"] == 0.0


def test_embed_measures_the_job_beside_its_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(PROJECT)
    from PIL import Image

    from benchmarks.chapters import embed

    for number in range(12):
        Image.effect_noise((90, 80), 50 + number).convert("RGB").save(tmp_path / f"{number:02d}.jpg")
    tiny = ["--count", 12, "--rounds", 1, "--batch-size", 4, "--backbone", "test_efficientnet", "--photos", tmp_path]
    run("embed", "--out", tmp_path / "results", *tiny)
    result = result_of(tmp_path / "results", "embed")
    parts = {part: [row for row in result["rows"] if row["part"] == part] for part in ("rate", "agreement", "draft")}
    rates = {row["runtime"]: row for row in parts["rate"]}
    assert {"torch float32", "torch float32, plain"} <= set(rates)
    for name, row in rates.items():
        assert row["bare_per_s"] > 0
        if "job_per_s" in row:
            assert row["job_share"] == pytest.approx(row["job_per_s"] / row["bare_per_s"]), name  # of one round
    assert all(row["farthest"] <= 1e-3 for row in parts["agreement"] if "bfloat16" not in row["runtime"])
    assert all(row["mean_levels"] <= 8 for row in parts["draft"])  # noise, not photos
    table = embed.tables(result)
    assert f"{rates['torch float32']['job_per_s']:.1f}" in table
    assert "Draft decoding" in table


def metric_learning_result(folder: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"method": "raw features", "dim": 1280, "protocol": "P2", "seed": 0, "recall_at_1": 0.575, "map_at_r": 0.259}
    ]
    for method, map_at_r in (("HIER", 0.50), ("default", 0.54)):
        for seed, offset in enumerate((-0.01, 0.0, 0.01)):
            figures = {"recall_at_1": 0.7, "map_at_r": map_at_r + offset, "coarse_map_at_r": 0.4}
            rows.append({"method": method, "dim": 128, "protocol": "P2", "seed": seed, **figures})
    content = {
        "what": "metric_learning",
        "date": "2026-01-01T00:00:00+00:00",
        "commit": "abcdef0",
        "modified": False,
        "machine": {"name": "a-2c", "cpu": "A", "cores": 2, "memory_gb": 8},
        "versions": {"torch": "2"},
        "parameters": {"threads": 2},
        "rows": rows,
    }
    (folder / "metric_learning_a-2c_2026-01-01T000000_abcdef0.json").write_text(json.dumps(content))
    for row in rows:
        row["map_at_r"] = 0.111
    content["date"] = "2025-01-01T00:00:00+00:00"  # older: not shown
    (folder / "metric_learning_a-2c_2025-01-01T000000_abcdef0.json").write_text(json.dumps(content))


def test_plot_draws_and_writes_the_tables_from_results_alone(results: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    shutil.copytree(results, folder)
    metric_learning_result(folder)
    (folder / "unknown_a_b_c.json").write_text('{"what": "unknown"}')
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold 12345\n{END}\nafter\n", encoding="utf-8")
    arguments = ("--results", folder, "--readme", readme, "--pictures", tmp_path / "pictures")
    run("plot", *arguments)
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old 12345" not in text
    assert "| default | 70.0 ± 0.0 | 54.0 ± 1.0 | 40.0 ± 0.0 |" in text
    assert "| P2 128-d, default against HIER, MAP@R | +3.0 | +4.0 | reached |" in text
    assert "| P2 128-d, default against HIER, R@1 | +0.5 | +0.0 | **missed** |" in text
    assert "2025-01-01" not in text
    assert "| 11.1 ± 0.0 |" not in text  # the older result; a time may well be 11.1
    evaluation = result_of(folder, "evaluation")["rows"][0]
    assert f"| geodesic | {evaluation['seconds']:.1f} |" in text
    pictures = sorted((tmp_path / "pictures").glob("*.svg"))
    assert [picture.name.startswith(what) for picture, what in zip(pictures, ("metric", "training"), strict=True)]
    for picture in pictures:
        assert ET.parse(picture).getroot().tag.endswith("svg")  # noqa: S314 - our own file
        assert f"({picture.relative_to(tmp_path).as_posix()})" in text
    before = [picture.read_bytes() for picture in pictures]
    run("plot", *arguments)
    assert readme.read_text(encoding="utf-8") == text
    assert [picture.read_bytes() for picture in pictures] == before


def test_the_readme_holds_what_plot_would_write(tmp_path: Path) -> None:
    """No number of benchmarks/README.md is typed by hand."""
    readme = tmp_path / "benchmarks" / "README.md"
    readme.parent.mkdir()
    committed = (PROJECT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    readme.write_text(committed, encoding="utf-8")
    (readme.parent / "results").mkdir()
    for result in (PROJECT / "benchmarks" / "results").glob("*.json"):
        shutil.copy(result, readme.parent / "results")
    run("plot", "--results", readme.parent / "results", "--readme", readme, "--pictures", readme.parent / "pictures")
    assert readme.read_text(encoding="utf-8") == committed
