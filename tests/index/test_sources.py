"""Every kind of source gives the points of the same photos; what is wrong with one is said."""

import csv
import io
import json
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hyperbolic.images import find_images, read_image
from index import places
from index.build import build_collection
from index.embed import embed_photos
from index.embeddings import read_manifest
from index.errors import EmbeddingsError
from index.ray_engine import RayError, ray_engine
from index.sources import open_source


@pytest.fixture
def memory() -> Iterator[Any]:
    """fsspec's file system in memory, empty before and after."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def readable(photos: Path) -> list[str]:
    return [path.relative_to(photos).as_posix() for path in find_images(photos) if path.name[:2].isdigit()]


def embedded(source: str, out: Path, embedder: Any, **options: Any) -> list[dict[str, Any]]:
    embed_photos(embedder, open_source(source, **options), out, checkpoint=out, part_size=5)
    return [row for part in read_manifest(out).parts for row in pq.read_table(out / part.file).to_pylist()]


def tar_of(photos: Path, target: Path, names: list[str], extra: dict[str, bytes] | None = None) -> None:
    with tarfile.open(target, "w") as tar:
        for name in names:
            tar.add(photos / name, arcname=f"./{name}")
        for name, content in (extra or {}).items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize(
    "kind", ["folder", "file://", "memory://", "csv", "parquet", "tar", "memory tar", "memory csv"]
)
def test_the_same_photos_from_every_kind_of_source(
    kind: str, photos: Path, tmp_path: Path, fake_embedder: Any, memory: Any
) -> None:
    names = [path.relative_to(photos).as_posix() for path in find_images(photos)]
    (photos / ".hidden").mkdir()
    (photos / ".hidden" / "x.png").write_bytes((photos / names[-1]).read_bytes())
    if kind.startswith("memory"):
        memory.put(str(photos), "/bucket/photos", recursive=True)
    source, image_root = str(photos), photos
    if kind == "file://":
        source = f"file://{photos}"
    elif kind == "memory://":
        source = "memory://bucket/photos"
    elif kind in ("csv", "memory csv"):
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerows([["path", "price"], *([name, "1"] for name in names)])
        (photos / "list.csv").write_text(text.getvalue(), encoding="utf-8-sig")
        source = str(photos / "list.csv")
        if kind == "memory csv":
            memory.put(source, "/bucket/photos/list.csv")
            source = "memory://bucket/photos/list.csv"
    elif kind == "parquet":
        pq.write_table(pa.table({"path": names}), tmp_path / "list.parquet")
        source = str(tmp_path / "list.parquet")
    elif kind.endswith("tar"):
        tar_of(photos, tmp_path / "photos.tar", [*names, "notes.txt"])
        source = str(tmp_path / "photos.tar")
        if kind == "memory tar":
            memory.put(source, "/bucket/photos.tar")
            source = "memory://bucket/photos.tar"
    options = {"root": str(photos)} if kind == "parquet" else {}
    rows = embedded(source, tmp_path / "points", fake_embedder, **options)
    assert [row["path"] for row in rows] == readable(photos)
    for row in rows:
        assert row["id"] == row["path"]
        assert row["labels"] == row["path"].split("/")[:-1]
        expected = fake_embedder.embed([read_image(photos / row["path"])])[0]
        assert np.array_equal(np.array(row["space"], np.float32), expected)
    failures = [json.loads(line) for line in (tmp_path / "points" / "failures.jsonl").read_text().splitlines()]
    assert sorted((failure["path"], failure["code"]) for failure in failures) == [
        ("empty.png", "empty_file"),
        ("fruit/broken.jpg", "unsupported_format"),
    ]
    here = kind in ("folder", "file://", "csv", "parquet")
    assert read_manifest(tmp_path / "points").image_root == (image_root if here else None)
    # Known again: nothing is read a second time.
    fake_embedder.seen.clear()
    assert embedded(source, tmp_path / "points", fake_embedder, **options) == rows
    assert fake_embedder.seen == []
    # Wherever the photos were, a collection finds them in the folder that it is given.
    with build_collection(tmp_path / "points", tmp_path / "store", image_root=photos) as collection:
        item = collection.item(rows[0]["id"])
        assert item is not None
        assert collection.image_path(item) == photos / rows[0]["path"]


def test_a_photo_that_changed_behind_a_url_is_embedded_again(
    photos: Path, tmp_path: Path, fake_embedder: Any, memory: Any
) -> None:
    memory.put(str(photos), "/bucket", recursive=True)
    before = embedded("memory://bucket", tmp_path / "points", fake_embedder)
    changed = before[-1]["path"]
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9), (4, 5, 6)).save(buffer, "PNG")
    memory.pipe_file(f"/bucket/{changed}", buffer.getvalue())
    after = embedded("memory://bucket", tmp_path / "points", fake_embedder)
    assert [old["id"] for old, new in zip(before, after, strict=True) if old != new] == [changed]


def test_ids_and_labels_of_a_list(photos: Path, tmp_path: Path, fake_embedder: Any, memory: Any) -> None:
    first, second, third = readable(photos)[:3]
    memory.put(str(photos / third), "/elsewhere/c.png")
    table = {
        "path": [first, second, "memory://elsewhere/c.png"],
        "id": ["one", None, "three"],
        "labels": [["Fruit", "Red apple"], [], None],
    }
    pq.write_table(pa.table(table), photos / "list.parquet")
    rows = embedded(str(photos / "list.parquet"), tmp_path / "a", fake_embedder)
    found = [(row["id"], row["path"], row["labels"]) for row in rows]
    assert found == [
        ("one", first, ["Fruit", "Red apple"]),
        (second, second, []),
        ("three", "memory://elsewhere/c.png", ["elsewhere"]),
    ]
    with build_collection(tmp_path / "a", tmp_path / "store") as collection:
        item = collection.item("three")
        assert item is not None
        assert collection.image_path(item) is None
    (photos / "list.csv").write_text(f"id,labels,path\none,Fruit/Red apple,{first}\n")
    (row,) = embedded(str(photos / "list.csv"), tmp_path / "b", fake_embedder)
    assert (row["id"], row["labels"]) == ("one", ["Fruit", "Red apple"])


def test_samples_of_webdataset_archives(photos: Path, tmp_path: Path, fake_embedder: Any) -> None:
    names = readable(photos)
    picture = (photos / names[0]).read_bytes()
    extra = {
        "a/0001.png": picture, "a/0001.json": b'{"labels": ["Fruit", "Apple"]}', "a/0001.cls": b"7",
        "0002.left.png": picture, "0002.cls": b"12\n",
        "0003.png": picture, "0003.json": b'{"label": "pear"}',
        "b/0004.png": picture, "b/0004.json": b"[broken", "._0005.png": picture,
    }  # fmt: skip
    tar_of(photos, tmp_path / "shard-0.tar", [], extra)
    rows = embedded(str(tmp_path / "shard-0.tar"), tmp_path / "one", fake_embedder)
    assert [(row["id"], row["labels"]) for row in rows] == [
        ("a/0001.png", ["Fruit", "Apple"]),
        ("0002.left.png", ["12"]),
        ("0003.png", ["pear"]),
        ("b/0004.png", ["b"]),
    ]
    tar_of(photos, tmp_path / "shard-1.tar", [], extra)
    both = embedded(str(tmp_path / "shard-*.tar"), tmp_path / "two", fake_embedder)
    assert [row["id"] for row in both][3:5] == ["shard-0/b/0004.png", "shard-1/a/0001.png"]
    assert both[4]["labels"] == ["Fruit", "Apple"]
    with pytest.raises(EmbeddingsError, match="no archive is named"):
        open_source(str(tmp_path / "none-*.tar"))


def test_an_archive_that_announces_more_than_it_has(photos: Path, tmp_path: Path, fake_embedder: Any) -> None:
    picture = (photos / readable(photos)[0]).read_bytes()
    huge, whole = tarfile.TarInfo("huge.png"), tarfile.TarInfo("whole.png")
    huge.size = whole.size = len(picture)
    huge.pax_headers = {"GNU.sparse.map": f"0,{len(picture)}", "GNU.sparse.size": str(1 << 60)}
    with tarfile.open(tmp_path / "sparse.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for member in (huge, whole):
            tar.addfile(member, io.BytesIO(picture))
    source = open_source(str(tmp_path / "sparse.tar"))
    report = embed_photos(fake_embedder, source, tmp_path / "out", checkpoint=tmp_path)
    assert [(failure["path"], failure["code"]) for failure in report.failures] == [("huge.png", "unreadable_file")]
    assert report.count == 1
    header, backwards = tarfile.TarInfo("header"), tarfile.TarInfo("backwards.png")
    header.type, header.size, backwards.size = tarfile.XHDTYPE, 1 << 40, -512
    start = tarfile.TarInfo("start.txt").tobuf()
    for member in (header, backwards):
        path = tmp_path / f"{member.name}.tar"
        path.write_bytes(start + member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
        with pytest.raises(EmbeddingsError, match="cannot be read as a tar archive"):
            open_source(str(path)).photos()


def test_what_is_wrong_with_a_source_is_said(photos: Path, tmp_path: Path, memory: Any) -> None:
    first = readable(photos)[0]

    def refused(content: str | bytes, name: str, match: str) -> None:
        data = content if isinstance(content, bytes) else content.encode()
        (photos / name).write_bytes(data)
        with pytest.raises(EmbeddingsError, match=match):
            open_source(str(photos / name)).photos()

    refused("file\nx.png\n", "a.csv", "expected one named path")
    refused("path\n../x.png\n", "b.csv", r"row 1: expected a path below")
    refused("path\n/etc/passwd\n", "c.csv", r"row 1: expected a path below")
    refused("path,id\nx.png,1\ny.png,1\n", "d.csv", "row 2: the id '1' is taken")
    refused(b"\xff\xfe", "e.csv", "cannot be read as a list")
    refused(b"PAR1", "f.parquet", "cannot be read as a list")
    refused(b"no tar" * 200, "g.tar", "cannot be read as a tar")
    tar_of(photos, tmp_path / "twice.tar", [first, first])
    with pytest.raises(EmbeddingsError, match="twice"):
        open_source(str(tmp_path / "twice.tar")).photos()
    tar_of(photos, tmp_path / "out.tar", [], {"../x.png": b"x"})
    with pytest.raises(EmbeddingsError, match="expected a path below"):
        open_source(str(tmp_path / "out.tar")).photos()
    (tmp_path / "cut.tar").write_bytes((tmp_path / "twice.tar").read_bytes()[:700])
    with pytest.raises(EmbeddingsError, match="cannot be read as a tar"):
        open_source(str(tmp_path / "cut.tar")).photos()
    with pytest.raises(EmbeddingsError, match=r"compressed.*unpack"):
        open_source("photos.tar.gz")
    with pytest.raises(EmbeddingsError, match="cannot be opened"):
        open_source("nosuchscheme://bucket/photos")
    with pytest.raises(EmbeddingsError, match="goes with a folder"):
        open_source("photos.tar", listed=["a.png"])
    with pytest.raises(EmbeddingsError, match="goes with a list"):
        open_source(str(photos), root="/x")


def test_a_connection_that_fails_is_tried_again(
    photos: Path, tmp_path: Path, fake_embedder: Any, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.put(str(photos), "/bucket", recursive=True)
    fetch, failed = type(memory).cat_file, set()

    def flaky(self: Any, path: str, *arguments: Any, **options: Any) -> bytes:
        if path not in failed or "pear" in path:
            failed.add(path)
            raise ConnectionError("reset")
        return fetch(self, path, *arguments, **options)

    monkeypatch.setattr(type(memory), "cat_file", flaky)
    waits: list[float] = []
    monkeypatch.setattr(places.time, "sleep", waits.append)
    rows = embedded("memory://bucket", tmp_path / "points", fake_embedder)
    assert [row["path"] for row in rows] == [name for name in readable(photos) if "pear" not in name]
    failures = [json.loads(line) for line in (tmp_path / "points" / "failures.jsonl").read_text().splitlines()]
    assert {failure["code"] for failure in failures if "pear" in failure["path"]} == {"unreadable_file"}
    assert 0.5 in waits
    assert 2.0 in waits
    monkeypatch.undo()
    assert len(embedded("memory://bucket", tmp_path / "points", fake_embedder)) == 12


def test_ray_refuses_what_only_this_process_can_read(
    fake_embedder: Any, tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    with pytest.raises(RayError, match="in this process alone"):
        ray_engine(fake_embedder, tmp_path, open_source("memory://bucket"))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RayError, match=r"pip install 'lhier\[ray\]'"):
        ray_engine(fake_embedder, tmp_path, open_source(str(tmp_path)))
