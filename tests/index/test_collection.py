"""A collection is searched, written, killed, damaged and opened again, and still gives the right answers."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from index.catalogue import Catalogue, Item
from index.collection import Collection, list_collections
from index.errors import (
    CatalogueError,
    CollectionExistsError,
    CollectionNameError,
    CollectionNotFoundError,
    ImageReferenceError,
    ModelMismatchError,
    PointError,
)

MODEL = {"embedding_dim": 4, "c": 0.5, "model_hash": "abc"}


@pytest.fixture
def collection(tmp_path: Path, items: list[Item]) -> Collection:
    with Collection.create(tmp_path / "store", **MODEL) as collection:
        collection.upsert(items)
        yield collection


def nearest(items: list[Item], brute_force: Callable, query: np.ndarray) -> list[str]:
    points = np.stack([item.space for item in items])
    return [items[n].id for n in np.argsort(brute_force(query[None], points, 0.5)[0], kind="stable")]


def ids(collection: Collection, query: np.ndarray, k: int = 20) -> list[str]:
    return [hit.item.id for hit in collection.search(query, k)]


def generations(collection: Collection) -> list[Path]:
    return sorted((collection.folder / "generations").iterdir())


def test_search(collection: Collection, items: list[Item], brute_force: Callable) -> None:
    query = np.array([0.3, -0.2, 1.0, 0.0], dtype=np.float32)
    expected = nearest(items, brute_force, query)
    hits = collection.search(query, 5)
    assert [hit.item.id for hit in hits] == expected[:5]
    assert all(hit.exact for hit in hits)
    distances = brute_force(query[None], np.stack([hit.item.space for hit in hits]), 0.5)[0]
    np.testing.assert_allclose([hit.distance for hit in hits], distances, rtol=1e-12)
    assert hits[0].item.labels[0] == "a"
    assert len(collection.search(query, 50)) == 20
    assert [hit.item.id for hit in collection.range_search(query, distances[3] * (1 + 1e-12))] == expected[:4]
    both = collection.search_batch(np.stack([query, items[7].space]), 3)
    assert [hit.item.id for hit in both[0]] == expected[:3]
    assert (both[1][0].item.id, both[1][0].distance) == ("item-7", 0.0)
    rows = [collection.item(id_).row for id_ in expected[10:]]
    assert [hit.item.id for hit in collection.search(query, 3, allowed=rows)] == expected[10:13]
    with pytest.raises(PointError, match="shape"):
        collection.search(query[:3], 3)


def test_writes_are_seen_at_once_and_after_opening_again(
    collection: Collection, items: list[Item], brute_force: Callable, tmp_path: Path
) -> None:
    query = items[3].space
    first = collection.generation
    assert collection.delete(["item-3", "item-5", "nobody"]) == 2
    collection.upsert([replace(items[4], space=items[3].space), Item("new", items[5].space)])
    now = [item for item in items if item.id not in ("item-3", "item-4", "item-5")]
    now += [replace(items[4], space=items[3].space), Item("new", items[5].space)]
    expected = nearest(now, brute_force, query)
    assert ids(collection, query) == expected
    assert collection.count == 19
    with Collection.open(tmp_path / "store", model_hash="abc") as again:
        assert again.generation == first  # the writes since were replayed
        assert again.sequence == collection.sequence
        assert ids(again, query) == expected
        name = again.snapshot()
    with Collection.open(tmp_path / "store") as last:
        assert last.generation == name != first
        assert ids(last, query) == expected
        assert last.rebuild() != name
        assert ids(last, query) == expected
        assert len(generations(last)) == 2


def test_writes_of_another_process_are_seen_by_the_next_search(
    collection: Collection, items: list[Item], tmp_path: Path
) -> None:
    with Collection.open(tmp_path / "store") as other:
        other.upsert([Item("elsewhere", np.full(4, 9, np.float32))])
        assert ids(collection, np.full(4, 9), 1) == ["elsewhere"]
        collection.delete(["elsewhere"])
        assert "elsewhere" not in ids(other, np.full(4, 9))


def test_a_write_while_it_is_opened_does_not_have_the_index_built_anew(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    collection.snapshot()
    count = Catalogue.count
    written = []

    def write_and_count(catalogue: Catalogue) -> int:
        if catalogue is not collection.catalogue and not written:
            written.append("between")
            collection.upsert([Item("between", np.full(4, 9, np.float32))])
        return count(catalogue)

    monkeypatch.setattr(Catalogue, "count", write_and_count)
    with Collection.open(tmp_path / "store") as other:
        assert (written, len(other.index), other.sequence) == (["between"], 21, collection.sequence)
    assert "event=index_rebuilt" not in caplog.text


@pytest.mark.parametrize("how", ["flipped", "truncated", "emptied", "removed"])
@pytest.mark.parametrize(
    "file", ["manifest.json", "index/index.json", "index/index.faiss", "index/ids.npy", "index/space.npy"]
)
def test_a_damaged_generation_is_set_aside_and_rebuilt(
    how: str,
    file: str,
    collection: Collection,
    items: list[Item],
    damage: Callable,
    tmp_path: Path,
    brute_force: Callable,
) -> None:
    far = [replace(item, space=item.space * 100) for item in items]  # so far out that space.npy is there
    collection.upsert(far)
    for old in generations(collection)[:-1]:
        old.rename(tmp_path / old.name)
    collection.rebuild()
    (only,) = [path for path in generations(collection) if path.name == collection.generation]
    for other in generations(collection):
        if other != only:
            other.rename(tmp_path / other.name)
    collection.close()
    damage(only / file, how)

    with Collection.open(tmp_path / "store") as again:
        assert ids(again, far[2].space) == nearest(far, brute_force, far[2].space)
        harmless = file == "manifest.json" and how == "flipped" and again.generation == only.name
        if not harmless:  # a flip in the manifest's time of creation changes nothing that matters
            names = [path.name for path in generations(again)]
            assert f"bad-{only.name}" in names
            assert again.generation in names
            assert again.generation != only.name
    with Collection.open(tmp_path / "store") as settled:
        assert settled.generation == again.generation
        assert ids(settled, far[2].space) == nearest(far, brute_force, far[2].space)


def test_the_older_generation_serves_when_the_newer_is_damaged(
    collection: Collection, items: list[Item], damage: Callable, tmp_path: Path
) -> None:
    older = collection.snapshot()
    collection.delete(["item-0"])
    newer = collection.snapshot()
    collection.close()
    damage(collection.folder / "generations" / newer / "index" / "index.faiss", "flipped")
    with Collection.open(tmp_path / "store") as again:
        assert again.generation == older
        assert "item-0" not in ids(again, items[0].space)


def test_a_generation_ahead_of_its_catalogue_is_not_trusted(
    collection: Collection, items: list[Item], tmp_path: Path
) -> None:
    """A catalogue put back from a backup meets the generations of the lost future."""
    backup = tmp_path / "backup.sqlite"
    collection.catalogue._connection.execute("VACUUM INTO ?", (str(backup),))
    collection.delete([item.id for item in items[:10]])
    collection.snapshot()
    collection.snapshot()
    collection.close()
    backup.replace(collection.folder / "catalogue.sqlite")
    with Collection.open(tmp_path / "store") as again:
        assert sorted(ids(again, items[0].space)) == sorted(item.id for item in items)


def test_a_store_that_cannot_keep_generations_still_opens(
    collection: Collection, items: list[Item], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection.close()
    for path in generations(collection):
        path.rename(tmp_path / path.name)

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("index.collection.write_generation", full)
    with Collection.open(tmp_path / "store") as again:
        assert ids(again, items[0].space, 1) == ["item-0"]


READER = """
import os, sys
import faiss
from pathlib import Path
from index.collection import Collection

if os.geteuid() == 0:  # root may write anywhere
    os.setuid(65534)
with Collection.open(Path(sys.argv[1])) as collection:
    print([hit.item.id for hit in collection.search(collection.item("item-0").space, 2)])
"""


@pytest.mark.slow
def test_a_store_that_may_not_be_written_to_is_searched(collection: Collection, items: list[Item]) -> None:
    expected = ids(collection, items[0].space, 2)
    collection.close()
    # Not under tmp_path, whose parents only the tests' own user may enter.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        store = Path(folder) / "store"
        shutil.copytree(collection.folder.parent.parent, store)
        every = [store, *store.rglob("*")]
        for path in every:
            path.chmod(0o555 if path.is_dir() else 0o444)
        done = subprocess.run([sys.executable, "-c", READER, store], capture_output=True, text=True, check=False)
        for path in every:
            path.chmod(0o755)
    assert done.stdout.strip() == str(expected), done.stderr


WRITER = """
import sys
import numpy as np
from pathlib import Path
from index.catalogue import Catalogue, Item
from index.collection import Collection

collection = Collection.open(Path(sys.argv[1]))
number = 0
while True:
    batch = [Item(f"w-{number}-{n}", np.array([number, n, 1, 0], dtype=np.float32)) for n in range(5)]
    collection.upsert(batch)
    if number >= 3:
        collection.delete([f"w-{number - 3}-0"])
    if number % 4 == 3:
        collection.snapshot()
    print(number, flush=True)
    number += 1
"""


@pytest.mark.parametrize("acknowledged", [1, 9, 30])
def test_a_killed_writer_loses_no_acknowledged_write(acknowledged: int, collection: Collection, tmp_path: Path) -> None:
    collection.close()
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "store")],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    last = -1
    for line in process.stdout:
        last = int(line)
        if last >= acknowledged:
            break
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read().split()
    process.wait(30)
    process.stdout.close()
    last = max([last, *map(int, rest)])
    with Collection.open(tmp_path / "store") as again:
        assert again.catalogue.faults() == []
        assert len(again.index) == again.count
        for number in range(last + 1):
            for n in range(5):
                gone = n == 0 and number <= last - 3
                found = again.item(f"w-{number}-{n}")
                if gone:
                    assert found is None
                    continue
                if found is None:
                    # A delete of the round after the last acknowledged one may have been committed.
                    assert (n, number) == (0, last - 2)
                    continue
                (hit, *_) = again.search(found.space, 1)
                assert (hit.item.id, hit.distance) == (f"w-{number}-{n}", 0.0)
        # Whole writes or none: never a part of five.
        counts = {}
        for item in again.items(limit=1_000_000):
            if item.id.startswith("w-") and not item.id.endswith("-0"):
                number = int(item.id.split("-")[1])
                counts[number] = counts.get(number, 0) + 1
        assert set(counts.values()) == {4}


def test_searches_during_writes_never_see_half_of_one(collection: Collection) -> None:
    stop = threading.Event()
    errors: list[BaseException] = []
    place = np.array([50, 0, 0, 0], dtype=np.float32)

    def write() -> None:
        try:
            while not stop.is_set():
                collection.upsert([Item(f"t-{n}", place + n / 100) for n in range(10)])
                collection.delete([f"t-{n}" for n in range(10)])
        except BaseException as error:
            errors.append(error)

    def read() -> None:
        try:
            for _ in range(60):
                hits = collection.range_search(place, 1.0)
                assert len(hits) in (0, 10)
                assert len(collection.search(place, 12)) == 12
        except BaseException as error:
            errors.append(error)

    writer = threading.Thread(target=write)
    readers = [threading.Thread(target=read) for _ in range(3)]
    for thread in (writer, *readers):
        thread.start()
    for thread in readers:
        thread.join(60)
    stop.set()
    writer.join(60)
    assert not errors


def test_names_and_places(collection: Collection, tmp_path: Path) -> None:
    store = tmp_path / "store"
    Collection.create(store, "shoes", **MODEL).close()
    (store / "collections" / ".half-built").mkdir()
    assert list_collections(store) == ["default", "shoes"]
    assert list_collections(tmp_path / "nothing") == []
    for name in ("", "..", "../x", "a/b", "Upper", "a" * 65, "x\n"):
        with pytest.raises(CollectionNameError, match="collection name"):
            Collection.open(store, name)
    with pytest.raises(CollectionNotFoundError, match=r"no collection 'hats' \(it has: default, shoes\)"):
        Collection.open(store, "hats")
    with pytest.raises(CollectionExistsError, match="already"):
        Collection.create(store, **MODEL)
    with pytest.raises(ModelMismatchError):
        Collection.open(store, model_hash="other")
    with pytest.raises(ModelMismatchError):
        collection.require_model("other")
    (store / "collections" / "shoes" / "catalogue.sqlite").write_bytes(b"garbage" * 1000)
    with pytest.raises(CatalogueError):
        Collection.open(store, "shoes")
    Collection.open(store).close()


def test_images_are_given_out_from_the_image_folder_only(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    (root / "a").mkdir(parents=True)
    (root / "a" / "in.jpg").touch()
    (tmp_path / "secret.jpg").touch()
    (root / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (root / "folder").symlink_to(tmp_path)
    (root / "loop.jpg").symlink_to(root / "loop.jpg")
    point = np.zeros(4, np.float32)
    with Collection.create(tmp_path / "store", **MODEL, image_root=root) as collection:
        assert collection.image_path(Item("x", point, image="a/in.jpg")) == (root / "a" / "in.jpg").resolve()
        assert collection.image_path(Item("x", point)) is None
        outside = ["../secret.jpg", "a/../../secret.jpg", str(tmp_path / "secret.jpg"), "", "a\0b"]
        for image in [*outside, "link.jpg", "folder/secret.jpg", "loop.jpg", "a", "a/gone.jpg"]:
            with pytest.raises(ImageReferenceError):
                collection.image_path(Item("x", point, image=image))
        for image in outside:
            with pytest.raises(PointError, match="below the image folder"):
                collection.upsert([Item("x", point, image=image)])
        collection.upsert([Item("x", point, image="a/in.jpg")])
    root.rename(tmp_path / "moved")
    with Collection.open(tmp_path / "store", image_root=tmp_path / "moved") as moved:
        assert moved.image_path(moved.item("x")) == (tmp_path / "moved" / "a" / "in.jpg").resolve()
    with Collection.create(tmp_path / "store", "bare", **MODEL) as bare:
        assert bare.image_path(Item("x", point, image="a/in.jpg")) is None


def test_radius(collection: Collection) -> None:
    c = 0.5
    space = np.array([3.0, 4.0, 0, 0])
    time = np.sqrt(1 / c + 25)
    assert collection.radius(space) == pytest.approx(np.arccosh(np.sqrt(c) * time) / np.sqrt(c), rel=1e-14)
    assert collection.radius(np.zeros(4)) == 0
