"""Snapshots from somebody else: what SQLite would run for them, and items no write could have made, are refused."""

import io
import json
import sqlite3
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from index.backup import create_snapshot, restore_snapshot
from index.catalogue import Item
from index.collection import Collection
from index.errors import StoreError
from index.metadata import MetadataSchema
from index.snapshot_file import measured, read_manifest, write_snapshot

Change = Callable[[sqlite3.Connection], object]


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    schema = MetadataSchema({"sku": "string", "price": "number"})
    with Collection.create(tmp_path, "c", embedding_dim=2, c=1.0, model_hash="m", schema=schema) as collection:
        photo = {"photo": b"\xff\xd8\xff"}  # so that there is the index of uploads
        collection.put([Item("photo", np.zeros(2, np.float32), metadata={"sku": "a"})], photo)
        collection.put([Item("point", np.ones(2, np.float32), ("Fruit",), {"price": 1.5})])
    return create_snapshot(tmp_path, "c", out=tmp_path).path


def remade(snapshot: Path, change: Change) -> Path:
    """The snapshot with another catalogue, every checksum right."""
    made = snapshot.with_name("made.tar")
    with tarfile.open(snapshot) as archive:
        files = {entry.name: archive.extractfile(entry).read() for entry in archive}  # type: ignore[union-attr]
    path = snapshot.with_name("made.sqlite")
    path.write_bytes(files["catalogue.sqlite"])
    connection = sqlite3.connect(path)
    change(connection)
    connection.commit()
    connection.close()
    files["catalogue.sqlite"] = path.read_bytes()
    manifest = read_manifest(snapshot)
    opened: dict[str, IO[bytes]] = {name: io.BytesIO(files[name]) for name in manifest.files}
    manifest.files.update({name: measured(file) for name, file in opened.items()})
    write_snapshot(made, manifest, opened, moment=0)
    return made


def item(metadata: str = "{}", labels: str = "[]", space: bytes = bytes(8)) -> Change:
    """A change of one item, its checksum right."""
    parts = b"\0".join(text.encode() for text in ("point", labels, metadata, ""))
    values = (space, labels, metadata, zlib.crc32(space, zlib.crc32(parts)))
    statement = "UPDATE items SET space = ?, labels = ?, metadata = ? , checksum = ? WHERE id = 'point'"
    return lambda connection: connection.execute(statement, values)


def run(*statements: str) -> Change:
    return lambda connection: [connection.execute(statement) for statement in statements]


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i, i FROM n"
RENAMED = "UPDATE sqlite_master SET name = 'sqlite_autoindex_items_2' WHERE type = 'trigger'"


@pytest.mark.parametrize(
    "change",
    [
        run("CREATE TRIGGER undo AFTER INSERT ON items BEGIN DELETE FROM items WHERE row = new.row; END"),
        run(
            "CREATE TRIGGER undo AFTER INSERT ON items BEGIN DELETE FROM items WHERE row = new.row; END",
            "PRAGMA writable_schema = ON",
            RENAMED,
        ),
        run("ALTER TABLE meta RENAME TO other", f"CREATE VIEW meta (key, value) AS {ENDLESS}"),
        run("ALTER TABLE items ADD COLUMN more TEXT"),
        run("CREATE INDEX metadata_sku2 ON items (json_extract(metadata, '$.other'))"),
        run("CREATE VIRTUAL TABLE words USING fts5(word)"),
        run("UPDATE items SET row = -1 WHERE id = 'point'"),
        item(metadata="[1]"),
        item(metadata='{"a": 1e999}'),
        item(labels="5"),
        item(labels="[[1]]"),
        item(space=np.array([np.nan, 0], "<f4").tobytes()),
    ],
)
def test_what_a_catalogue_of_ours_has_not(tmp_path: Path, snapshot: Path, change: Change) -> None:
    hostile = remade(snapshot, change)
    with pytest.raises(StoreError) as refused:
        restore_snapshot(hostile, tmp_path / "other", "c", trusted=False)
    assert "snapshot" in str(refused.value)
    assert not (tmp_path / "other/collections/c").exists()


@pytest.mark.parametrize("change", [run(), item(metadata=json.dumps({"price": 2}), labels='["Fruit", "Pear"]')])
def test_what_it_may_have(tmp_path: Path, snapshot: Path, change: Change) -> None:
    with restore_snapshot(remade(snapshot, change), tmp_path / "other", "c", trusted=False) as restored:
        assert restored.count == 2
        restored.upsert([Item("new", np.zeros(2, np.float32))])
        assert restored.item("new") is not None
