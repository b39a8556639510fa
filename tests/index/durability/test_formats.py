"""Stores of other formats: an old one is opened, a newer one is refused with what to do, or built anew by itself.

store-format-1.tar.xz was written by the program as it stood at commit fa5575f: catalogue 1, generation 1, index 1.
"""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from index.backup import create_snapshot, restore_snapshot
from index.build import verify_collection
from index.catalogue import Catalogue, Item
from index.collection import Collection
from index.errors import CatalogueError
from index.files import sha256

OLD = Path(__file__).with_name("store-format-1.tar.xz")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    with tarfile.open(OLD) as archive:
        archive.extractall(tmp_path / "old", filter="data")
    return tmp_path / "old"


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_store_of_the_first_format_is_opened_searched_and_written(
    old: Path, tmp_path: Path, brute_force: Callable
) -> None:
    (generation,) = (old / "collections" / "default" / "generations").iterdir()
    assert json.loads((generation / "index" / "index.json").read_text())["format_version"] == 1
    with Collection.open(old) as collection:
        assert collection.generation == generation.name  # read, not built anew
        assert (collection.count, collection.sequence, collection.c, collection.model_hash) == (29, 3, 0.5, "abc")
        items = collection.items(limit=100)
        assert [item.id for item in items] == [f"item-{n}" for n in range(30) if n != 3]
        item = collection.item("item-21")
        assert (item.labels, item.metadata, item.image) == (("a", "b0"), {"n": 21}, "a/21.jpg")
        points = np.stack([item.space for item in items])
        for query in points[::7]:
            nearest = np.argsort(brute_force(query[None], points, 0.5)[0])[:5]
            assert [hit.item.id for hit in collection.search(query, 5)] == [items[n].id for n in nearest]
        collection.upsert([Item("new", points[0] * 2)])
        assert collection.snapshot() != generation.name
    assert all(check.ok for check in verify_collection(old))
    with restore_snapshot(create_snapshot(old, out=tmp_path).path, tmp_path / "store") as restored:
        assert restored.count == 30


@pytest.mark.parametrize("version", [0, 2, 99])
def test_a_catalogue_of_another_format_is_refused_with_what_to_do(version: int, old: Path) -> None:
    path = old / "collections" / "default" / "catalogue.sqlite"
    with Catalogue.open(path) as catalogue:
        catalogue._connection.execute("UPDATE meta SET value = ? WHERE key = 'format_version'", (str(version),))
    said = rf"catalogue format {version}, this version of lhier reads 1: .*lhier index build --replace"
    with pytest.raises(CatalogueError, match=said):
        Collection.open(old)


@pytest.mark.parametrize("file", ["manifest.json", "index/index.json"])
def test_an_index_of_another_format_is_built_anew_by_itself(file: str, old: Path) -> None:
    (generation,) = (old / "collections" / "default" / "generations").iterdir()
    edit(generation / file, format_version=99)
    if file != "manifest.json":
        files = {path.relative_to(generation).as_posix(): sha256(path) for path in generation.glob("index/*")}
        edit(generation / "manifest.json", files=files)
    with Collection.open(old) as collection:
        assert collection.generation != generation.name
        assert len(collection.index) == collection.count == 29
    assert (generation.parent / f"bad-{generation.name}").is_dir()
