"""Evaluation around the measures: what is left out, and answers that have no value."""

import json
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from lhier.cli import main
from training.data.split import Photo, RetrievalData
from training.evaluate import _assemble
from training.recipe import Recipe, dump_recipe


def test_unreadable_photos_are_named_once_among_many() -> None:
    photos = tuple(Photo(Path(f"{number}.jpg"), ("a", str(number % 500))) for number in range(20_000))
    data = RetrievalData("many", photos, photos[:10_000], photos[10_000:], leave_one_out=False)
    bad = {photos[3], photos[15_000]}

    def embed(wanted: tuple[Photo, ...]) -> tuple[tuple[Photo, ...], torch.Tensor]:
        kept = tuple(photo for photo in wanted if photo not in bad)
        return kept, torch.zeros(len(kept), 2)

    started = time.perf_counter()
    points = _assemble(data, "test", embed)
    assert time.perf_counter() - started < 5.0  # 0.1 s; a set made anew for each photo takes minutes
    assert points.skipped == (Path("3.jpg"), Path("15000.jpg"))
    assert (len(points.query_photos), len(points.gallery_photos)) == (9_999, 9_999)


def test_figures_without_a_value_are_null_in_json(tiny: Recipe, photo_folder: Path, tmp_path: Path) -> None:
    """Queries of a class that the gallery lacks have no recall; JSON has no NaN."""
    rows = []
    for path in sorted(photo_folder.rglob("*.jpg")):
        parts = path.relative_to(photo_folder).parts
        rows.append(f"{'/'.join(parts)},{'/'.join(parts[:2])},{'query' if parts[1] == 'sea' else 'train'}")
    (tmp_path / "table.csv").write_text("path,labels,split\n" + "\n".join(rows) + "\n")
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(dump_recipe(tiny))
    command = ["train", str(recipe), "--out", str(tmp_path / "run"), "--cache", str(tmp_path / "cache")]
    command += ["--set", "data.kind=manifest", "--set", f"data.manifest={tmp_path / 'table.csv'}"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(main, ["evaluate", str(tmp_path / "run"), "--json", "--cache", str(tmp_path / "cache")])
    assert result.exit_code == 0, result.output

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON")

    figures = json.loads(result.stdout, parse_constant=refuse)
    assert figures["recall_at_1"] is None
    assert figures["queries"] == 0
