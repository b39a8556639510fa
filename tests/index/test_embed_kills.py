"""An embedding job that is killed: by SIGKILL at random points, and before and after each step onto the disk."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from hyperbolic.checkpoint import save_checkpoint
from hyperbolic.models.config import ModelConfig
from hyperbolic.models.lhier import Encoder
from index.embed import embed_photos
from index.embeddings import read_manifest

KILLS = int(os.environ.get("LHIER_EMBED_KILLS", "4"))


def test_sigkill_at_random_points(tmp_path: Path) -> None:
    """The same rows, bit for bit, and no more than a part done again for each kill; with the real encoder."""
    torch.manual_seed(0)
    config = ModelConfig(backbone="test_efficientnet", embedding_dim=8, image_size=96)
    save_checkpoint(tmp_path / "checkpoint", Encoder(config).eval())
    rng = np.random.default_rng(0)
    for number in range(120):
        path = tmp_path / "photos" / f"class-{number % 3}" / f"{number:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        field = rng.uniform(0, 255, (4, 5, 3)).astype(np.uint8)
        Image.fromarray(field).resize((130, 110), Image.Resampling.BICUBIC).save(path)
    (tmp_path / "photos" / "class-1" / "050-broken.jpg").write_bytes(b"\xff\xd8\xff no photo")
    (tmp_path / "work").mkdir()
    script = Path(__file__).with_name("embed_kills.py")
    arguments = [tmp_path / "checkpoint", tmp_path / "photos", tmp_path / "work", "--kills", KILLS]
    done = subprocess.run(
        [sys.executable, script, *map(str, arguments)], check=False, capture_output=True, text=True, timeout=600
    )
    assert done.stdout, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0, report
    assert report["photos"] == 120
    assert report["kills"] >= max(1, KILLS - 1), report  # the last point may lie behind the end
    assert report["rows_that_differ"] == 0
    assert report["most_for_one_kill"] <= report["part_size"] == 16


class PowerCut(BaseException):
    """The process ends here: nothing of ours may catch it."""


STEPS: list[tuple[Any, str]] = [(os, "fsync"), (Path, "replace"), (Path, "unlink")]


def cut(at: int, patch: pytest.MonkeyPatch) -> list[str]:
    """From now on, end the process at step `at` // 2 onto the disk: even numbers before it, odd ones after."""
    seen: list[str] = []

    def wrap(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def step(*arguments: Any, **options: Any) -> Any:
            seen.append(name)
            if len(seen) - 1 == at // 2 and at % 2 == 0:
                raise PowerCut
            result = original(*arguments, **options)
            if len(seen) - 1 == at // 2:
                raise PowerCut
            return result

        patch.setattr(owner, name, step)

    for owner, name in STEPS:
        wrap(owner, name)
    return seen


def content(out: Path) -> tuple[list[dict[str, Any]], str, str]:
    parts = read_manifest(out).parts
    rows = [row for part in parts for row in pq.read_table(out / part.file).to_pylist()]
    return rows, (out / "manifest.json").read_text(), (out / "failures.jsonl").read_text()


@pytest.mark.parametrize("begun", ["new", "changed"])
def test_a_cut_at_every_step_onto_the_disk(
    begun: str, photos: Path, tmp_path: Path, fake_embedder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a new job, and of a finished one in which a photo changed: resumed, always the rows of the undisturbed job."""

    def embed(out: Path) -> None:
        embed_photos(fake_embedder, photos, out, checkpoint=tmp_path, part_size=5)

    def prepared(out: Path) -> Path:
        if begun == "changed":
            os.utime(photos / "empty.png", ns=(1, 1))
            embed(out)
            os.utime(photos / "empty.png", ns=(2, 2))
        return out

    embed(prepared(tmp_path / "whole"))
    expected = content(tmp_path / "whole")
    number = steps = 0
    while True:
        out = prepared(tmp_path / f"cut-{number}")
        with monkeypatch.context() as patch:
            seen = cut(number, patch)
            try:
                embed(out)
            except PowerCut:
                steps += 1
            else:
                break
        if (out / "manifest.json").exists():
            read_manifest(out)  # whole at any time
        embed(out)
        assert content(out) == expected, f"after {seen}"
        assert not [path.name for path in out.iterdir() if path.name.endswith((".writing", "job.jsonl"))], seen
        number += 1
    assert steps == number >= 20
    assert len(seen) == number // 2


@pytest.fixture
def finished(photos: Path, tmp_path: Path, fake_embedder: Any) -> Callable[[], list[str]]:
    """Embeds into one folder, and says which photos it had to read."""

    def embed() -> list[str]:
        fake_embedder.seen.clear()
        embed_photos(fake_embedder, photos, tmp_path / "points", checkpoint=tmp_path, part_size=5)
        return list(fake_embedder.seen)

    assert len(embed()) == 14
    assert embed() == []
    return embed


def test_a_changed_photo_is_embedded_again(
    finished: Callable[[], list[str]], photos: Path, tmp_path: Path, fake_embedder: Any
) -> None:
    before, _, _ = content(tmp_path / "points")
    changed = next(row["path"] for row in before if row["path"].startswith("tools/"))
    Image.new("RGB", (8, 8), (1, 2, 3)).save(photos / changed)
    read = finished()
    assert changed in read
    assert len(read) <= 5
    after, manifest, _ = content(tmp_path / "points")
    different = [old["id"] for old, new in zip(before, after, strict=True) if old != new]
    assert different == [changed]
    assert json.loads(manifest)["count"] == 12
    expected = fake_embedder.embed([Image.new("RGB", (1, 1), (1, 2, 3))])[0]
    assert np.array_equal(next(row["space"] for row in after if row["id"] == changed), expected)
    assert finished() == []


def test_a_repaired_photo_gets_its_row(finished: Callable[[], list[str]], photos: Path, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(photos / "fruit" / "broken.jpg")
    assert "fruit/broken.jpg" in finished()
    rows, manifest, failures = content(tmp_path / "points")
    assert "fruit/broken.jpg" in [row["id"] for row in rows]
    assert [json.loads(line)["path"] for line in failures.splitlines()] == ["empty.png"]
    assert (json.loads(manifest)["count"], json.loads(manifest)["failed"]) == (13, 1)


@pytest.mark.parametrize("how", ["flipped", "truncated", "emptied", "removed"])
def test_a_damaged_part_of_a_finished_job_is_embedded_again(
    how: str, finished: Callable[[], list[str]], tmp_path: Path, damage: Callable[[Path, str], None]
) -> None:
    before = content(tmp_path / "points")
    damage(tmp_path / "points" / "part-00001.parquet", how)
    assert len(finished()) == 5
    assert content(tmp_path / "points") == before


def test_a_file_that_could_not_be_had_is_asked_for_again(photos: Path, tmp_path: Path, fake_embedder: Any) -> None:
    names = ["tools/gone.png", "empty.png"]
    with_gone = {"checkpoint": tmp_path, "photos": names, "part_size": 1}
    assert embed_photos(fake_embedder, photos, tmp_path / "points", **with_gone).count == 0
    fake_embedder.seen.clear()
    embed_photos(fake_embedder, photos, tmp_path / "points", **with_gone)
    assert fake_embedder.seen == ["tools/gone.png"]


def test_two_jobs_in_one_folder_are_refused(photos: Path, tmp_path: Path, fake_embedder: Any) -> None:
    from index.errors import EmbeddingsError

    refused: list[str] = []

    def meanwhile(done: int, total: int) -> None:
        try:
            embed_photos(fake_embedder, photos, tmp_path / "points", checkpoint=tmp_path)
        except EmbeddingsError as error:
            refused.append(str(error))

    report = embed_photos(fake_embedder, photos, tmp_path / "points", checkpoint=tmp_path, progress=meanwhile)
    assert report.count == 12
    assert refused
    assert all("another process is embedding" in text for text in refused)
