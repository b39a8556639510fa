"""`lhier demo` on small folders of one's own photos, through the command, with a few training steps."""

import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import index.faiss_library
import training.recipe
from index.errors import FaissMissingError
from lhier.cli import main
from lhier.demo import _one_per_class
from training.data.split import Photo, RetrievalData
from training.recipe import Recipe

COLOURS = {"red ones/dark": (90, 10, 10), "red ones/it's “light”": (240, 120, 120), "blue": (20, 30, 200)}


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped recipes, on a tiny random backbone, for a few steps."""
    shipped = training.recipe.load_recipe

    def load(source: str, overrides: tuple[str, ...] = ()) -> Recipe:
        tiny = ("weights=none", "model.backbone=test_efficientnet", "model.image_size=32")
        return shipped(source, (*overrides, *tiny, "train.steps=3", "train.views=1"))

    monkeypatch.setattr(training.recipe, "load_recipe", load)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three classes at two depths, two photos each, names with spaces, quotes and umlauts."""
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (tmp_path / "my photos" / name).mkdir(parents=True)
        for number in range(2):
            pixels = np.clip(rng.normal(colour, 20, (40, 50, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "my photos" / name / f'ä "{number}";.png')
    return tmp_path / "my photos"


def demo(photos: Path, out: Path) -> Result:
    return CliRunner().invoke(main, ["demo", "--data", str(photos), "--out", str(out), "--check"])


@pytest.mark.usefixtures("few_steps")
def test_fewer_photos_than_hits_odd_names_and_unreadable_ones(photos: Path, tmp_path: Path) -> None:
    (photos / "blue" / "0 first by name.png").write_bytes(b"")
    result = demo(photos, tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "demo check passed" in result.output
    assert "curl -F 'file=@" in result.output


@pytest.mark.usefixtures("few_steps")
def test_a_second_run_reuses_the_first_and_notices_new_photos(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # As a shell completes it: relative, with a slash at the end.
    arguments = ["demo", "--data", f"{photos.name}/", "--out", "out", "--check"]
    state = Path("out/runs/folder-lhier-128/training_state.pt")
    assert CliRunner().invoke(main, arguments).exit_code == 0
    made = state.stat().st_mtime_ns
    assert CliRunner().invoke(main, arguments).exit_code == 0
    assert state.stat().st_mtime_ns == made
    shutil.copytree(photos / "blue", photos / "another class")
    grown = CliRunner().invoke(main, arguments)
    assert grown.exit_code == 0, grown.output
    assert state.stat().st_mtime_ns > made


def test_it_asks_with_a_readable_photo_of_each_class(photos: Path) -> None:
    paths = sorted(photos.rglob("*.png"))
    paths[0].write_bytes(b"")
    query = tuple(Photo(path, path.relative_to(photos).parts[:-1]) for path in paths)
    chosen = _one_per_class(RetrievalData("d", query, query, query, leave_one_out=True))
    assert [photo.path for photo in chosen] == [paths[1], paths[2], paths[4]]


def test_nothing_of_others_is_replaced(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "points").mkdir(parents=True)
    (tmp_path / "out" / "points" / "precious").write_text("mine")
    result = demo(photos, tmp_path / "out")
    assert result.exit_code == 1
    assert "no earlier demo" in result.output
    assert (tmp_path / "out" / "points" / "precious").read_text() == "mine"


def test_missing_faiss_is_told_before_any_work(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise FaissMissingError

    monkeypatch.setattr(index.faiss_library, "faiss", missing)
    result = demo(photos, tmp_path / "out")
    assert result.exit_code == 1
    assert 'pip install "lhier[cpu]"' in result.output
    assert not (tmp_path / "out").exists()


def test_one_class_is_explained(photos: Path, tmp_path: Path) -> None:
    result = demo(photos / "blue", tmp_path / "out")
    assert result.exit_code == 1
    assert "two or more label folders" in result.output


@pytest.mark.usefixtures("few_steps")
def test_a_taken_port_is_explained(photos: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(
            main, ["demo", "--data", str(photos), "--out", str(tmp_path / "out"), "--port", port]
        )
    assert result.exit_code == 1
    assert "choose another with --port" in result.output
