"""Uploaded photos: on the disk before the write, gone with the last item, and never half there after a kill."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hyperbolic.images import ImageError
from index.catalogue import Item
from index.collection import Collection
from index.errors import CatalogueError, ImageReferenceError, PointError
from index.uploads import Uploads, is_upload, reference_of, uploads_folder

JPEG, PNG, TIFF = b"\xff\xd8\xff one", b"\x89PNG two", b"II*\0 three"


def item(item_id: str, image: str | None = None) -> Item:
    return Item(item_id, np.zeros(2, np.float32), image=image)


@pytest.fixture
def collection(tmp_path: Path) -> Iterator[Collection]:
    with Collection.create(tmp_path / "store", embedding_dim=2, c=1.0, model_hash="m") as collection:
        yield collection


def kept(store: Path) -> list[str]:
    """Names of all files of uploads, sorted, marks and leftovers included."""
    return sorted(path.name for path in (store / "uploads").rglob("*") if path.is_file())


def bytes_of(collection: Collection, item_id: str) -> bytes:
    found = collection.item(item_id)
    assert found is not None
    path = collection.image_path(found)
    assert path is not None
    return path.read_bytes()


def test_photos_are_named_by_what_is_in_them(collection: Collection, tmp_path: Path) -> None:
    collection.put([item("../../a"), item("b"), item("c")], {"../../a": JPEG, "b": PNG, "c": PNG})
    names = {f"{hashlib.sha256(data).hexdigest()}.{end}" for data, end in ((JPEG, "jpg"), (PNG, "png"))}
    assert kept(tmp_path / "store") == sorted(names)
    assert bytes_of(collection, "../../a") == JPEG
    assert bytes_of(collection, "b") == bytes_of(collection, "c") == PNG
    with pytest.raises(ImageError):
        reference_of(b"<html>")


@pytest.mark.parametrize(
    "image", ["upload:../../secret.jpg", "upload:" + "a" * 64, f"upload:{'a' * 64}.html", f"upload:{'A' * 64}.jpg"]
)
def test_what_looks_like_a_reference_is_none(collection: Collection, image: str) -> None:
    assert not is_upload(image)
    with pytest.raises(ImageReferenceError):
        collection.uploads.path(image)


def test_a_photo_goes_with_its_last_item(collection: Collection, tmp_path: Path) -> None:
    store = tmp_path / "store"
    collection.put([item("a"), item("b")], {"a": JPEG, "b": JPEG})
    collection.delete(["a"])
    assert bytes_of(collection, "b") == JPEG
    collection.put([item("b")], {"b": JPEG})  # the same again
    assert bytes_of(collection, "b") == JPEG
    assert len(kept(store)) == 1
    collection.put([item("b")], {"b": PNG})
    assert bytes_of(collection, "b") == PNG
    assert len(kept(store)) == 1
    collection.upsert([item("b")])
    assert kept(store) == []
    collection.upsert([item("x", reference_of(TIFF))])
    with pytest.raises(ImageReferenceError):
        bytes_of(collection, "x")


def test_a_refused_write_leaves_nothing_and_takes_nothing(collection: Collection, tmp_path: Path) -> None:
    collection.put([item("a")], {"a": JPEG})
    bad = Item("bad", np.full(2, np.nan, np.float32))
    with pytest.raises(PointError):
        collection.put([item("a"), bad], {"a": PNG})
    assert bytes_of(collection, "a") == JPEG
    assert len(kept(tmp_path / "store")) == 1


def test_a_collection_that_was_replaced_does_not_touch_the_photos_of_its_successor(tmp_path: Path) -> None:
    store = tmp_path / "store"
    former = Collection.create(store, embedding_dim=2, c=1.0, model_hash="m")
    former.put([item("a")], {"a": JPEG})
    former.folder.rename(tmp_path / "former")
    with Collection.create(store, embedding_dim=2, c=1.0, model_hash="m") as successor:
        successor.put([item("b")], {"b": JPEG})
        with pytest.raises(CatalogueError):
            former.delete(["a"])
        with pytest.raises(CatalogueError):
            former.put([item("a")], {"a": PNG})
        assert bytes_of(successor, "b") == JPEG
    former.close()
    with Collection.open(store) as successor:
        assert bytes_of(successor, "b") == JPEG
    assert len(kept(store)) == 1


def test_many_writers_of_the_same_few_photos(collection: Collection, tmp_path: Path) -> None:
    """Each thread writes and deletes items of its own; in the end each photo is there exactly if an item has it."""
    photos = [JPEG + bytes([number]) for number in range(3)]
    failures: list[BaseException] = []

    def write(thread: int) -> None:
        rng = np.random.default_rng(thread)
        try:
            for _ in range(15):
                mine = f"{thread}-{rng.integers(3)}"
                if rng.random() < 0.5:
                    collection.delete([mine])
                else:
                    photo = photos[rng.integers(3)]
                    collection.put([item(mine)], {mine: photo})
                    assert bytes_of(collection, mine) == photo
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    wanted = {each.image.removeprefix("upload:") for each in collection.items() if each.image is not None}
    assert kept(tmp_path / "store") == sorted(wanted)


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
import index.uploads, index.catalogue
from index.catalogue import Item
from index.collection import Collection

def dies(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def item(item_id):
    return Item(item_id, np.zeros(2, np.float32))

with Collection.open(Path(sys.argv[1])) as collection:
    {victim} = dies
    {deed}
"""
OLD, NEW = b"\xff\xd8\xff old", b"\xff\xd8\xff new"
PUT = "collection.put([item('a'), item('b')], {'a': b'\\xff\\xd8\\xff new', 'b': b'\\xff\\xd8\\xff new'})"


@pytest.mark.parametrize(
    ("victim", "deed", "expected"),
    [
        ("index.uploads.os.fsync", PUT, OLD),  # while the photo is written
        ("index.uploads.Uploads._locked", PUT, OLD),  # it lies under a temporary name
        ("index.uploads.Uploads._place", PUT, OLD),
        ("collection.catalogue.put", PUT, OLD),  # it lies in its place, and nothing refers to it
        ("index.uploads.Uploads._settle", PUT, NEW),  # the write is committed, the old photo still there
        ("collection.catalogue.delete", "collection.delete(['a'])", OLD),
        ("index.uploads.Uploads._settle", "collection.delete(['a'])", None),
    ],
    ids=["writing", "written", "noted", "placed", "committed", "deleting", "deleted"],
)
def test_killed_at_any_step_there_is_the_old_or_the_new(
    tmp_path: Path, victim: str, deed: str, expected: bytes | None
) -> None:
    store = tmp_path / "store"
    with Collection.create(store, embedding_dim=2, c=1.0, model_hash="m") as collection:
        collection.put([item("a")], {"a": OLD})
    script = KILLED.format(victim=victim, deed=deed)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script, store], check=False, env=environment)
    assert done.returncode == -signal.SIGKILL
    assert len(kept(store)) > 1  # something was under way
    with Collection.open(store) as collection:
        if expected is None:
            assert collection.item("a") is None
            assert kept(store) == []
        else:
            assert bytes_of(collection, "a") == expected
            assert (collection.item("b") is not None) == (expected == NEW)
            assert kept(store) == [reference_of(expected).removeprefix("upload:")]


def test_what_is_at_work_is_not_cleared_away(collection: Collection, tmp_path: Path) -> None:
    collection.put([item("a")], {"a": JPEG})
    with (
        collection.uploads.change([PNG], set, lambda _: True),
        Collection.open(tmp_path / "store"),  # which would delete the photo that nothing refers to yet
    ):
        assert reference_of(PNG).removeprefix("upload:") in kept(tmp_path / "store")
        collection.uploads.path(reference_of(PNG))
    with collection.uploads._staged(TIFF) as staged:
        collection.uploads.recover(collection.catalogue.refers_to)
        assert staged.exists()


def test_whether_a_photo_is_needed_is_looked_up_in_an_index(collection: Collection) -> None:
    collection.put([item("a")], {"a": JPEG})
    traced: list[str] = []
    collection.catalogue._connection.set_trace_callback(traced.append)
    assert collection.catalogue.refers_to(reference_of(JPEG))
    collection.catalogue._connection.set_trace_callback(None)
    (query,) = traced
    plan = collection.catalogue._connection.execute(f"EXPLAIN QUERY PLAN {query}").fetchall()
    assert "items_by_upload" in str(plan)


def test_deleting_them_all(collection: Collection) -> None:
    Uploads(uploads_folder(collection.folder)).delete()  # there are none
    collection.put([item("a")], {"a": JPEG})
    collection.uploads.delete()
    assert not uploads_folder(collection.folder).exists()
