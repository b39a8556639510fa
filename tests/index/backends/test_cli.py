"""`lhier backend`: a store's points copied to an engine, searched there, compared with the store."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from index.backends.connect import open_backend
from index.catalogue import Item
from index.collection import Collection
from lhier.cli import main

NAMES = (f"cli_{number}" for number in itertools.count())


@pytest.fixture(params=["file", "milvus", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return (tmp_path / "engine with space").as_uri()
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
def store(tmp_path: Path, items: list[Item]) -> Path:
    with Collection.create(tmp_path / "store", embedding_dim=4, c=0.7, model_hash="fa4e00000001") as collection:
        collection.upsert(items)
    return tmp_path / "store"


def lhier(*arguments: object, url: str | None = None) -> Result:
    environment = {"LHIER_BACKEND": url}
    return CliRunner().invoke(main, ["backend", *map(str, arguments)], env=environment, catch_exceptions=False)


def nearest(items: Sequence[Item], query: np.ndarray, count: int) -> list[str]:
    """By the textbook's distance in float64, which is good so near to the origin."""
    space = np.stack([item.space for item in items]).astype(np.float64)
    times, time = np.sqrt(1 / 0.7 + (space**2).sum(1)), np.sqrt(1 / 0.7 + (query.astype(np.float64) ** 2).sum())
    order = np.argsort(0.7 * (times * time - space @ query))
    return [items[place].id for place in order[:count]]


def test_push_search_verify(store: Path, url: str, items: list[Item]) -> None:
    name = ["--name", next(NAMES)]
    missing = lhier("search", store, "item-3", *name, url=url)
    assert missing.exit_code == 1
    assert "run 'lhier backend push'" in missing.output

    pushed = lhier("push", store, *name, url=url)
    assert pushed.exit_code == 0, pushed.output
    assert "20 points of collection 'default' ->" in pushed.output

    found = lhier("search", store, "item-3", *name, "--limit", 5, "--json", url=url)
    answer = json.loads(found.stdout)
    assert answer["exact"] is True
    assert [hit["id"] for hit in answer["hits"]] == nearest(items, items[3].space, 5)
    assert answer["hits"][0]["distance"] == 0
    assert answer["hits"][0]["labels"] == ["a", "b0"]
    table = lhier("search", store, "item-3", *name, "--limit", 2, url=url).output.splitlines()
    assert table[1].split() == ["1", "0.0000", "a", ">", "b0", "item-3"]
    assert table[-1] == "proven exact"

    with Collection.open(store) as collection:  # the store moves on: the engine lags behind, and verify says so
        collection.delete(["item-3", "item-4"])
        collection.upsert([Item("item-7", np.ones(4, dtype=np.float32)), Item("new", items[3].space)])
    lagging = lhier("verify", store, *name, "--json", url=url)
    assert lagging.exit_code == 1
    assert json.loads(lagging.stdout)["ok"] is False
    assert json.loads(lhier("push", store, *name, "--json", url=url).stdout)["count"] == 19
    verified = lhier("verify", store, *name, "--sample", 30, "--json", url=url)
    assert verified.exit_code == 0
    report = json.loads(verified.stdout)
    assert report["ok"] is True
    assert (report["points"], report["searches"], report["proven"], report["same"]) == (19, 19, 1, 1)
    assert "100.0% proven exact" in lhier("verify", store, *name, url=url).output


def test_other_points_are_not_mixed_in(tmp_path: Path, store: Path, items: list[Item]) -> None:
    url, name = (tmp_path / "engine").as_uri(), ["--name", next(NAMES)]
    assert lhier("push", store, *name, "--to", url).exit_code == 0
    with Collection.create(store, "other", embedding_dim=4, c=0.7, model_hash="0123456789ab") as collection:
        collection.upsert(items[:3])
    for verb in (["push"], ["verify"]):
        refused = lhier(*verb, store, "--collection", "other", *name, "--to", url)
        assert refused.exit_code == 1
        assert "holds points of model fa4e00000001" in refused.output
    with Collection.create(store, "more", embedding_dim=4, c=0.7, model_hash="fa4e00000001") as collection:
        collection.upsert(items[:3])
    mixed = lhier("push", store, "--collection", "more", *name, "--to", url)
    assert mixed.exit_code == 1
    assert "some are of another collection" in mixed.output
    changed = lhier("push", store, *name, "--coordinates", "lorentz", "--to", url)
    assert changed.exit_code == 1
    assert "push with --replace" in changed.output
    assert lhier("push", store, "--collection", "more", *name, "--replace", "--to", url).exit_code == 0
    engine = open_backend(url, name[1])
    assert engine.count == 3
    engine.close()


def test_wrong_use(store: Path, tmp_path: Path) -> None:
    url = (tmp_path / "engine").as_uri()
    assert lhier("push", store).exit_code == 2  # no --to
    assert lhier("push", store, "--to", url).exit_code == 0
    nothing = lhier("search", store, "no such item", "--to", url)
    assert nothing.exit_code == 1
    assert "is no item of collection 'default', nor a file" in nothing.output
    photo = tmp_path / "notes.jpg"
    photo.write_text("no photo")
    assert lhier("search", store, photo, "--to", url).exit_code == 2  # the collection names no checkpoint
    assert "expected the URL of a backend" in lhier("push", store, "--to", "redis://host").output


def test_a_photo_is_embedded(store: Path, tmp_path: Path, items: list[Item], monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    class Encoder:
        model_hash = "fa4e00000001"

        def embed(self, photos: Sequence[Image.Image]) -> np.ndarray:
            return np.stack([items[5].space for _ in photos])

    monkeypatch.setattr("hyperbolic.embedder.Embedder.load", lambda folder: Encoder())
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    url = (tmp_path / "engine").as_uri()
    assert lhier("push", store, "--to", url).exit_code == 0
    answer = lhier("search", store, tmp_path / "photo.png", "--checkpoint", tmp_path, "--json", "--to", url)
    assert json.loads(answer.stdout)["hits"][0]["id"] == "item-5"
