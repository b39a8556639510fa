"""The commands `embed`, `index` and `search`, as a person types them."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from hyperbolic.checkpoint import save_checkpoint
from hyperbolic.embedder import Embedder
from hyperbolic.models.config import ModelConfig
from hyperbolic.models.lhier import Encoder
from index import terminal
from index.cli import embed, index, search


def run(command: Any, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


@pytest.fixture
def with_fake(fake_embedder: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(Embedder, "load", lambda *_, **__: fake_embedder)
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


@pytest.fixture
def store(with_fake: Path, photos: Path, tmp_path: Path) -> Path:
    assert run(embed, with_fake, photos, "--out", tmp_path / "points").exit_code == 0
    assert run(index, "build", tmp_path / "points", "--store", tmp_path / "store").exit_code == 0
    return tmp_path / "store"


def test_embed(with_fake: Path, photos: Path, tmp_path: Path) -> None:
    result = run(embed, with_fake, photos, "--out", tmp_path / "points")
    assert result.exit_code == 0
    assert "12 photos" in result.stdout
    assert "2 could not be read" in result.stdout
    assert "fruit/broken.jpg" in result.stdout
    assert "14 of 14 photos" in result.stderr
    again = run(embed, with_fake, photos, "--out", tmp_path / "points", "--json")
    answer = json.loads(again.stdout)
    assert (answer["count"], answer["failed"], answer["reused"]) == (12, 2, 12)
    assert len(answer["failures"]) == 2


def test_failures_are_told_once_and_not_without_end(
    with_fake: Path, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(30):
        (photos / f"bad-{number:02d}.jpg").write_bytes(b"no photo")
    result = run(embed, with_fake, photos, "--out", tmp_path / "points", "--shard-size", 7)
    assert result.output.count("bad-00.jpg") == 1
    assert result.output.count("bad-") == 10
    assert "32 could not be read" in result.output
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    lines = (tmp_path / "points" / "failures.jsonl").read_text().splitlines()
    assert len({json.loads(line)["path"] for line in lines}) == len(lines) == 32
    answer = json.loads(run(embed, with_fake, photos, "--out", tmp_path / "points", "--json").stdout)
    assert (answer["failed"], len(answer["failures"])) == (32, 10)


def test_progress_tells_rate_and_time_left(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    with terminal.progress_of("embed") as progress:
        for second, done in ((0, 400), (4, 420), (20, 500), (30, 550), (3700, 1000)):
            now[0] = 100.0 + second
            progress(done, 1000)
    assert capsys.readouterr().err.splitlines() == [
        "embed: 500 of 1000 photos, 5.0 a second, 0:01:40 left",  # 400 were there from before
        "embed: 550 of 1000 photos, 5.0 a second, 0:01:30 left",
        "embed: 1000 of 1000 photos, 0.2 a second",
    ]


def test_photos_that_moved(with_fake: Path, store: Path, photos: Path, tmp_path: Path) -> None:
    photo = next(path for path in photos.rglob("*.png") if path.parent.name == "apple").relative_to(photos)
    (tmp_path / "moved").mkdir()
    moved = photos.rename(tmp_path / "moved" / "photos")
    options = ("--checkpoint", with_fake, "--limit", 1)
    found = run(search, store, moved / photo, *options, "--image-root", moved)
    assert str(moved / photo) in found.stdout
    assert str(moved) not in run(search, store, moved / photo, *options).stdout
    points = ("build", tmp_path / "points", "--store", store, "--collection", "again", "--image-root", moved)
    assert run(index, *points).exit_code == 0
    info = json.loads(run(index, "info", store, "--json").stdout)
    assert [answer["image_root"] for answer in info] == [str(moved), str(photos)]


def test_embed_a_list(with_fake: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("empty.png, 0, 0\n")
    result = run(embed, with_fake, photos, "--out", tmp_path / "points", "--list", tmp_path / "list.txt")
    assert result.exit_code == 1
    assert "none of the 1 photos could be read" in result.stderr


def test_an_interrupted_embed_says_how_to_go_on(
    with_fake: Path, photos: Path, tmp_path: Path, fake_embedder: Any
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    fake_embedder.decoded = interrupt
    result = run(embed, with_fake, photos, "--out", tmp_path / "points")
    assert result.exit_code == 1
    assert "the same command goes on where it stopped" in result.stderr


def test_build_info_verify_rebuild(store: Path, tmp_path: Path) -> None:
    again = run(index, "build", tmp_path / "points", "--store", store)
    assert again.exit_code == 1
    assert "--replace" in again.stderr
    replaced = run(index, "build", tmp_path / "points", "--store", store, "--replace", "--json")
    assert json.loads(replaced.stdout)["count"] == 12
    other = run(index, "build", tmp_path / "points", "--store", store, "--collection", "other")
    assert "12 items -> collection 'other'" in other.stdout
    (store / "collections" / "bad").mkdir()

    info = json.loads(run(index, "info", store, "--json").stdout)
    assert [(answer["name"], answer.get("count")) for answer in info] == [("bad", None), ("default", 12), ("other", 12)]
    assert (info[1]["model_hash"], info[1]["embedding_dim"], info[1]["c"]) == ("fa4e00000001", 3, 0.8)
    assert "expected a catalogue" in info[0]["error"]
    assert "model_hash     fa4e00000001" in run(index, "info", store).stdout

    verified = run(index, "verify", store)
    assert verified.exit_code == 0
    assert "12 items, sound" in verified.stdout
    assert "12 equal all distances in float64" in verified.stdout

    rebuilt = json.loads(run(index, "rebuild", store, "--json").stdout)
    assert rebuilt["count"] == 12
    assert rebuilt["generation"] != info[1]["generation"]
    assert rebuilt["generation"] == json.loads(run(index, "info", store, "--json").stdout)[1]["generation"]


@pytest.mark.parametrize("how", ["flipped", "truncated", "emptied", "removed"])
@pytest.mark.parametrize("file", ["index.faiss", "catalogue.sqlite"])
def test_verify_finds_damage_and_leaves_it_in_place(how: str, file: str, store: Path, damage: Callable) -> None:
    (path,) = store.rglob(file)
    damage(path, how)
    before = sorted(path.relative_to(store) for path in store.rglob("*"))
    result = run(index, "verify", store, "--json")
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert not answer["ok"]
    assert [check for check in answer["checks"] if not check["ok"]]
    assert sorted(path.relative_to(store) for path in store.rglob("*")) == before
    if file == "index.faiss":
        assert "run 'lhier index rebuild'" in run(index, "verify", store).stdout
        assert run(index, "rebuild", store).exit_code == 0
        assert run(index, "verify", store).exit_code == 0


def test_search_with_a_real_checkpoint(photos: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = ModelConfig(backbone="test_efficientnet", embedding_dim=8, image_size=32, curvature=0.7)
    save_checkpoint(tmp_path / "run" / "checkpoint", Encoder(config).eval())
    steps = [
        run(embed, tmp_path / "run", photos, "--out", tmp_path / "points", "--batch-size", 4),
        run(index, "build", tmp_path / "points", "--store", tmp_path / "store"),
        run(index, "verify", tmp_path / "store"),
    ]
    assert [step.exit_code for step in steps] == [0, 0, 0], [step.output for step in steps]
    photo = next(path for path in photos.rglob("*.png") if path.parent.name == "apple")

    answer = json.loads(run(search, tmp_path / "store", photo, "--limit", 5, "--json").stdout)
    embedder = Embedder.load(tmp_path / "run")
    kept, space = embedder.embed_files(sorted(path for path in photos.rglob("*.png") if path.name != "empty.png"))
    points = space.astype(np.float64)
    query = points[kept.index(photo)]
    times = np.sqrt(1 / embedder.c + (points**2).sum(1))
    inner = points @ query - times * np.sqrt(1 / embedder.c + query @ query)
    distances = np.arccosh(np.maximum(1, -embedder.c * inner)) / np.sqrt(embedder.c)
    order = np.argsort(distances)[:5]
    # Batches of other sizes round otherwise in the network: 1e-3 of a distance, and the photo itself near 0.
    np.testing.assert_allclose([hit["distance"] for hit in answer["hits"]], distances[order], atol=2e-3)
    assert answer["hits"][0]["image"] == photo.relative_to(photos).as_posix()
    assert answer["hits"][0]["labels"] == ["fruit", "apple"]
    assert all(hit["exact"] for hit in answer["hits"])

    table = run(search, tmp_path / "store", photo, "--limit", 2).stdout.splitlines()
    assert len(table) == 3
    assert table[0].split() == ["rank", "distance", "label", "path", "file"]
    assert "fruit > apple" in table[1]

    save_checkpoint(tmp_path / "other", Encoder(config).eval())
    refused = run(search, tmp_path / "store", photo, "--checkpoint", tmp_path / "other")
    assert refused.exit_code == 1
    assert "distances between the two mean nothing" in refused.stderr
    broken = run(search, tmp_path / "store", photos / "fruit" / "broken.jpg")
    assert broken.exit_code == 1
    assert "broken.jpg" in broken.stderr
    (tmp_path / "run").rename(tmp_path / "gone")
    lost = run(search, tmp_path / "store", photo)
    assert lost.exit_code == 1
    assert "no checkpoint at" in lost.stderr
    assert "give --checkpoint" in lost.stderr
    assert run(search, tmp_path / "store", photo, "--checkpoint", tmp_path / "gone").exit_code == 0


def test_wrong_use_and_failures_have_their_exit_codes(store: Path, photos: Path, tmp_path: Path) -> None:
    assert run(embed, tmp_path / "nothing", photos, "--out", tmp_path / "x").exit_code == 2
    assert run(embed, photos, photos).exit_code == 2
    assert run(embed, photos, photos, "--out", tmp_path / "x", "--workers", 2).exit_code == 2
    assert run(embed, photos, "nosuchscheme://x", "--out", tmp_path / "x").exit_code == 1
    assert run(index, "build", photos, "--store", tmp_path / "x").exit_code == 1
    assert run(index, "verify", store, "--collection", "nobody").exit_code == 1
    assert run(index, "rebuild", store, "--collection", "../x").exit_code == 1
    assert run(search, store, tmp_path / "nothing.jpg").exit_code == 2
    assert run(search, store, photos / "notes.txt").exit_code == 1


@pytest.mark.parametrize("command", [embed, index, search])
def test_help_teaches_with_an_example(command: Any) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"lhier {command.name}" in result.output
    for name, sub in getattr(command, "commands", {}).items():
        assert f"lhier index {name}" in run(sub, "--help").output
