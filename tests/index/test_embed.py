"""The embedding job: what it writes, what it skips, and how it goes on after an interruption."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hyperbolic.images import find_images, read_image
from index.build import build_collection, verify_collection
from index.catalogue import Item
from index.embed import embed_photos
from index.embeddings import read_manifest, read_parts
from index.errors import CollectionExistsError, EmbeddingsError, PointError
from index.lorentz_index import LorentzIndex
from index.sources import read_list


def readable(photos: Path) -> list[str]:
    return [path.relative_to(photos).as_posix() for path in find_images(photos) if path.name[:2].isdigit()]


def rows(out: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(out.glob("part-*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_the_folder_it_writes(photos: Path, tmp_path: Path, fake_embedder: Any) -> None:
    out = tmp_path / "points"
    told: list[tuple[int, int]] = []
    report = embed_photos(
        fake_embedder, photos, out, checkpoint=tmp_path, part_size=5, progress=lambda *now: told.append(now)
    )
    assert (report.count, report.reused) == (12, 0)
    assert {(failure["path"], failure["code"]) for failure in report.failures} == {
        ("empty.png", "empty_file"),
        ("fruit/broken.jpg", "unsupported_format"),
    }
    assert told[-1] == (14, 14)
    assert sorted(path.name for path in out.iterdir()) == [
        "failures.jsonl", "manifest.json", "part-00000.parquet", "part-00001.parquet", "part-00002.parquet",
    ]  # fmt: skip
    assert [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()] == report.failures
    schema = pq.read_schema(out / "part-00000.parquet")
    assert schema.names == ["id", "path", "labels", "space"]
    assert schema.field("space").type == pa.list_(pa.float32(), 3)
    assert schema.field("labels").type.value_type == pa.string()
    found = rows(out)
    assert [row["path"] for row in found] == readable(photos)
    for row in found:
        assert row["id"] == row["path"]
        assert row["labels"] == row["path"].split("/")[:-1]
        expected = fake_embedder.embed([read_image(photos / row["path"])])[0]
        assert np.array_equal(np.array(row["space"], np.float32), expected)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["model_hash"] == "fa4e00000001"
    assert (manifest["embedding_dim"], manifest["c"]) == (3, 0.8)
    assert (manifest["count"], manifest["failed"]) == (12, 2)
    assert Path(manifest["image_root"]) == photos
    assert [part["rows"] for part in manifest["parts"]] == [
        len(pq.read_table(out / p["file"])) for p in manifest["parts"]
    ]


class Stop(Exception):
    pass


# The end of the file when the power went: whole, cut within a line, cut within a letter.
@pytest.mark.parametrize("torn", [None, b"", b"\xc3"])
def test_an_interrupted_job_goes_on(torn: bytes | None, photos: Path, tmp_path: Path, fake_embedder: Any) -> None:
    out, whole = tmp_path / "points", tmp_path / "whole"

    def stop(done: int, total: int) -> None:
        if done >= 12:
            raise Stop

    with pytest.raises(Stop):
        embed_photos(fake_embedder, photos, out, checkpoint=tmp_path, part_size=5, progress=stop)
    assert not (out / "manifest.json").exists()
    with pytest.raises(EmbeddingsError, match="run it again with the same arguments"):
        read_manifest(out)
    if torn is not None:
        (out / "job.jsonl").write_bytes((out / "job.jsonl").read_bytes()[:-20] + torn)
    fake_embedder.seen.clear()
    report = embed_photos(fake_embedder, photos, out, checkpoint=tmp_path, part_size=5)
    assert report.reused == (8 if torn is None else 4)
    assert len(fake_embedder.seen) == (4 if torn is None else 9)
    assert len(report.failures) == 2
    embed_photos(fake_embedder, photos, whole, checkpoint=tmp_path, part_size=5)
    assert rows(out) == rows(whole)
    for name in ("manifest.json", "failures.jsonl"):
        assert (out / name).read_text() == (whole / name).read_text()
    again = embed_photos(fake_embedder, photos, out, checkpoint=tmp_path)
    assert (again.count, again.reused, len(again.failures)) == (12, 12, 2)
    assert rows(out) == rows(whole)


def test_a_damaged_part_is_embedded_again(photos: Path, tmp_path: Path, fake_embedder: Any, damage: Callable) -> None:
    out = tmp_path / "points"

    def stop(done: int, total: int) -> None:
        if done >= 12:
            raise Stop

    with pytest.raises(Stop):
        embed_photos(fake_embedder, photos, out, checkpoint=tmp_path, part_size=5, progress=stop)
    damage(out / "part-00000.parquet", "flipped")
    report = embed_photos(fake_embedder, photos, out, checkpoint=tmp_path, part_size=5)
    assert (report.count, report.reused) == (12, 4)
    assert len(rows(out)) == 12


def test_another_job_is_refused(photos: Path, tmp_path: Path, fake_embedder: Any) -> None:
    finished, unfinished, foreign = tmp_path / "a", tmp_path / "b", tmp_path / "c"

    def stop(done: int, total: int) -> None:
        raise Stop

    embed_photos(fake_embedder, photos, finished, checkpoint=tmp_path)
    with pytest.raises(Stop):
        embed_photos(fake_embedder, photos, unfinished, checkpoint=tmp_path, progress=stop)
    foreign.mkdir()
    (foreign / "part-00000.parquet").touch()
    with pytest.raises(EmbeddingsError, match="unknown job"):
        embed_photos(fake_embedder, photos, foreign, checkpoint=tmp_path)
    other_model = type(fake_embedder)()
    other_model.model_hash = "0ther"
    for out in (finished, unfinished):
        with pytest.raises(EmbeddingsError, match="another checkpoint"):
            embed_photos(other_model, photos, out, checkpoint=tmp_path)
        with pytest.raises(EmbeddingsError, match="another source of photos"):
            embed_photos(fake_embedder, photos / "fruit", out, checkpoint=tmp_path)
        with pytest.raises(EmbeddingsError, match="another list of photos"):
            embed_photos(fake_embedder, photos, out, checkpoint=tmp_path, photos=readable(photos)[1:])
    (unfinished / "job.jsonl").write_text("no JSON\n")
    with pytest.raises(EmbeddingsError, match=r"job.jsonl is damaged"):
        embed_photos(fake_embedder, photos, unfinished, checkpoint=tmp_path)


def test_a_folder_without_photos(tmp_path: Path, fake_embedder: Any) -> None:
    with pytest.raises(EmbeddingsError, match="holds no photos"):
        embed_photos(fake_embedder, tmp_path, tmp_path / "out", checkpoint=tmp_path)


def test_a_file_name_that_is_no_unicode_is_reported(photos: Path, tmp_path: Path, fake_embedder: Any) -> None:
    bad = b"caf\xe9.png".decode(errors="surrogateescape")
    try:
        (photos / bad).write_bytes((photos / readable(photos)[0]).read_bytes())
    except OSError:
        pytest.skip("this file system takes Unicode names only")
    report = embed_photos(fake_embedder, photos, tmp_path / "points", checkpoint=tmp_path)
    assert report.count == 12
    assert {"path": "caf\\xe9.png", "code": "file_name"} in [
        {key: failure[key] for key in ("path", "code")} for failure in report.failures
    ]


@pytest.mark.parametrize("name", ["two\u2028lines.jpg", "dots\x85.jpg"])
def test_a_name_with_a_line_separator_does_not_damage_the_job(
    name: str, photos: Path, tmp_path: Path, fake_embedder: Any
) -> None:
    (photos / name).write_bytes(b"no photo")
    out = tmp_path / "points"

    def stop(done: int, total: int) -> None:
        if done == total:
            raise Stop

    with pytest.raises(Stop):
        embed_photos(fake_embedder, photos, out, checkpoint=tmp_path, part_size=5, progress=stop)
    for _ in range(2):  # from the job, then from the manifest
        report = embed_photos(fake_embedder, photos, out, checkpoint=tmp_path, part_size=5)
        assert name in [failure["path"] for failure in report.failures]
    assert report.reused == report.count == 12
    chosen = tmp_path / "chosen.txt"
    chosen.write_text(f"{name}\n", encoding="utf-8")
    assert read_list(chosen, str(photos)) == [name]


def test_points_that_are_not_finite_stop_the_job(photos: Path, tmp_path: Path, fake_embedder: Any) -> None:
    fake_embedder.embed_tensors = lambda images: np.full((len(images), 3), np.nan, np.float32)
    with pytest.raises(PointError, match="finite"):
        embed_photos(fake_embedder, photos, tmp_path / "points", checkpoint=tmp_path)


def test_lists(photos: Path, tmp_path: Path, fake_embedder: Any) -> None:
    first, second = readable(photos)[:2]
    (photos / "a, b.png").write_bytes((photos / first).read_bytes())
    listed = tmp_path / "list.txt"
    listed.write_text(f"{second}, 3, 1\n\n  {first}\n{second}, 4, 4\na, b.png\ngone.png, 0, 0\n")
    names = read_list(listed, photos)
    assert names == [second, first, "a, b.png", "gone.png"]
    report = embed_photos(fake_embedder, photos, tmp_path / "points", checkpoint=tmp_path, photos=names)
    assert [row["id"] for row in rows(tmp_path / "points")] == [second, first, "a, b.png"]
    assert [(failure["path"], failure["code"]) for failure in report.failures] == [("gone.png", "unreadable_file")]
    for bad in ("/etc/passwd", "../x.png", "a/../../x.png"):
        listed.write_text(bad)
        with pytest.raises(EmbeddingsError, match="line 1: expected a path below"):
            read_list(listed, photos)
    listed.write_bytes(b"\xff\xfe")
    with pytest.raises(EmbeddingsError, match="cannot be read"):
        read_list(listed, photos)


@pytest.fixture
def points(photos: Path, tmp_path: Path, fake_embedder: Any) -> Path:
    embed_photos(fake_embedder, photos, tmp_path / "points", checkpoint=tmp_path / "run", part_size=5)
    return tmp_path / "points"


def test_the_collection_built_of_it(points: Path, photos: Path, tmp_path: Path, fake_embedder: Any) -> None:
    with build_collection(points, tmp_path / "store") as collection:
        assert (collection.count, collection.c, collection.embedding_dim) == (12, 0.8, 3)
        assert (collection.model_hash, collection.checkpoint) == ("fa4e00000001", tmp_path / "run")
        for photo in readable(photos):
            item = collection.item(photo)
            assert item is not None
            assert collection.image_path(item) == photos / photo
            assert item.labels == tuple(photo.split("/")[:-1])
            (hit, *_) = collection.search(fake_embedder.embed([read_image(photos / photo)])[0], 1)
            assert hit.distance == 0
        generation = collection.generation
    with pytest.raises(CollectionExistsError, match="--replace"):
        build_collection(points, tmp_path / "store")
    with build_collection(points, tmp_path / "store", replace=True) as replaced:
        assert replaced.generation != generation
        assert replaced.count == 12
    assert [path.name for path in (tmp_path / "store" / "collections").iterdir()] == ["default"]


def test_points_of_the_first_format_are_still_read(points: Path, tmp_path: Path, fake_embedder: Any) -> None:
    manifest = json.loads((points / "manifest.json").read_text())
    for key in ("source", "runtime", "precision", "draft", "part_size"):
        del manifest[key]
    for part in manifest["parts"]:
        del part["failed"], part["fingerprint"]
    (points / "manifest.json").write_text(json.dumps(manifest | {"format_version": 1}))
    with build_collection(points, tmp_path / "store") as collection:
        assert collection.count == 12
    with pytest.raises(EmbeddingsError, match="another format"):
        embed_photos(fake_embedder, Path(manifest["image_root"]), points, checkpoint=tmp_path)
    (points / "manifest.json").write_text(json.dumps(manifest | {"format_version": 3}))
    with pytest.raises(EmbeddingsError, match="has format 3"):
        build_collection(points, tmp_path / "other")


def test_a_build_that_fails_leaves_the_store_as_it_was(points: Path, tmp_path: Path, damage: Callable) -> None:
    build_collection(points, tmp_path / "store").close()
    for how in ("flipped", "truncated", "emptied", "removed"):
        damage(points / "part-00001.parquet", how) if (points / "part-00001.parquet").exists() else None
        with pytest.raises(EmbeddingsError, match=r"damaged|missing"):
            build_collection(points, tmp_path / "store", replace=True)
    (points / "manifest.json").write_text("{}")
    with pytest.raises(EmbeddingsError, match="cannot be read"):
        build_collection(points, tmp_path / "store", "other")
    assert [path.name for path in (tmp_path / "store" / "collections").iterdir()] == ["default"]
    assert all(check.ok for check in verify_collection(tmp_path / "store"))


def test_parts_are_read_as_they_were_written(points: Path) -> None:
    items: Sequence[Item] = [item for part in read_parts(points, read_manifest(points)) for item in part]
    assert len(items) == 12
    assert items[0].space.dtype == np.float32
    assert isinstance(items[0].labels, tuple)


def test_verification_notices_wrong_answers(points: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_collection(points, tmp_path / "store").close()
    right = LorentzIndex.search

    def wrong(self: LorentzIndex, queries: np.ndarray, k: int, **options: Any) -> Any:
        distances, ids, exact = right(self, queries, k, **options)
        return distances, ids[:, ::-1], exact

    monkeypatch.setattr(LorentzIndex, "search", wrong)
    checks = list(verify_collection(tmp_path / "store"))
    assert [check.ok for check in checks] == [True, True, False]
    assert "brute force" in checks[-1].detail
