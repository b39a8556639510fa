"""The commands as a user types them."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from lhier.cli import COMMANDS, main
from training.recipe import Recipe, dump_recipe


def test_help_answers_at_once_and_lists_every_command() -> None:
    times = []
    for _ in range(3):
        started = time.perf_counter()
        result = subprocess.run(
            [sys.executable, "-m", "lhier.cli", "--help"], capture_output=True, text=True, check=True
        )
        times.append(time.perf_counter() - started)
    assert all(f"  {name} " in result.stdout for name in COMMANDS)
    loaded = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "lhier.cli", "--help"], capture_output=True, text=True, check=True
    ).stderr
    assert not any(f" {heavy}\n" in loaded for heavy in ("torch", "faiss", "numpy", "fastapi", "timm"))
    assert min(times) < 1.0  # 0.05 s on the development machine; the imports above are the real guard


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_teaches_with_an_example(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert "lhier " in result.output


def test_train_then_evaluate(tiny: Recipe, tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(dump_recipe(tiny))
    run = tmp_path / "run"
    command = ["train", str(recipe), "--out", str(run), "--cache", str(tmp_path / "cache"), "--set", "seed=3"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert f"next: lhier evaluate {run}" in result.output
    again = CliRunner().invoke(main, command)
    assert again.exit_code == 1
    assert "already holds a run" in again.output
    figures = CliRunner().invoke(main, ["evaluate", str(run), "--json", "--cache", str(tmp_path / "cache")])
    assert figures.exit_code == 0, figures.output
    answer = json.loads(figures.stdout)
    for key in ("recall_at_1", "map_at_r", "coarse_map_at_r", "recall_at_1_cosine", "lca_height"):
        assert 0 <= answer[key] <= 3
    assert (answer["seed"], answer["recipe"], answer["selection"]) == (3, "tiny", "last")
    table = CliRunner().invoke(main, ["evaluate", str(run)])
    assert f"{answer['map_at_r']:.4f}" in table.output


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train", "grocery-lhier-128", "--out", "x", "--set", "optimiser.lrr=1"], 1, "did you mean 'lr'"),
        (["train", "grocery-lhier-128", "--out", "x"], 1, "--set data.root=DIR"),
        (["train", "grocery-lhier-128"], 2, "Missing option '--out'"),
        (["evaluate", "nowhere"], 1, "nowhere holds no run"),
        (["trian"], 2, "No such command"),
        (["data", "verify", "nowhere"], 1, "expected a folder of photos"),
        (["data", "specimens", "x", "--species", "1"], 2, "1 is not in the range"),
    ],
)
def test_wrong_use_is_explained(
    arguments: list[str], code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == code, result.output
    assert message in result.output
    assert not list(tmp_path.iterdir())


def test_verify_names_bad_photos(photo_folder: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["data", "verify", str(photo_folder), "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"photos": 36, "classes": 6, "single_photo_classes": [], "faults": []}
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "bad.jpg").write_bytes(b"")
    result = CliRunner().invoke(main, ["data", "verify", str(tmp_path)])
    assert result.exit_code == 1
    assert "unreadable: a/bad.jpg [empty_file]" in result.output


def test_specimens_command_draws_and_repeats(tmp_path: Path) -> None:
    command = [
        "data",
        "specimens",
        str(tmp_path / "s"),
        "--species",
        "4",
        "--images",
        "2",
        "--size",
        "48",
        "--workers",
        "1",
    ]
    for _ in range(2):
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "s" / "images").rglob("*.jpg"))) == 8
    other = CliRunner().invoke(main, [*command[:-2], "--workers", "1", "--seed", "5"])
    assert other.exit_code == 1
