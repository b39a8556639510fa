"""A disk without room: writes are refused in words, searches go on, and room brings writes back."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from index.backup import create_snapshot, restore_snapshot, verify_snapshot
from index.build import verify_collection
from index.catalogue import Item
from index.collection import Collection
from index.errors import CatalogueError

MODEL = {"embedding_dim": 16, "c": 0.5, "model_hash": "abc"}
FULL = r"No space left|disk is full"
SIZE = 3_000_000  # bytes


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "disk"
    path.mkdir()
    try:
        command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", path]
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("needs the command mount, for a disk that is small enough to fill")
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a small disk: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


def batch(number: int) -> list[Item]:
    rng = np.random.default_rng(number)
    return [Item(f"{number}-{n}", rng.normal(size=16).astype(np.float32), ("a",), {"n": n}) for n in range(50)]


def fill(path: Path) -> None:
    """Take what is left, to the last block."""
    with path.open("ab", buffering=0) as file:
        for size in (100_000, 4096, 1):
            with pytest.raises(OSError, match="No space left"):  # noqa: PT012 - any of them
                while True:
                    file.write(b"x" * size)


def test_a_full_disk_refuses_writes_keeps_searching_and_recovers(disk: Path, brute_force: Callable) -> None:
    store, ballast = disk / "store", disk / "ballast"
    written: dict[str, np.ndarray] = {}

    def searches_are_right(collection: Collection) -> None:
        ids, points = list(written), np.stack(list(written.values()))
        for query in points[:3] * 0.9:
            nearest = np.argsort(brute_force(query[None], points, 0.5)[0])[:10]
            assert [hit.item.id for hit in collection.search(query, 10)] == [ids[n] for n in nearest]
        assert collection.count == len(collection.index) == len(written)

    with Collection.create(store, **MODEL) as collection:
        for number in range(5):
            collection.upsert(batch(number))
            written |= {item.id: item.space for item in batch(number)}
        generation = collection.snapshot()
        taken = create_snapshot(store, out=disk / "taken.tar")
        fill(ballast)
        refused: list[str] = []
        for number in range(5, 400):
            try:
                collection.upsert(batch(number))
            except CatalogueError as error:
                refused.append(str(error))
                if len(refused) == 3:
                    break
            else:  # pages that the log has already
                written |= {item.id: item.space for item in batch(number)}
        assert len(refused) == 3
        assert all("could not be written (database or disk is full): nothing was changed" in text for text in refused)
        searches_are_right(collection)
        for save in (collection.snapshot, collection.rebuild):
            with pytest.raises(OSError, match="No space left"):
                save()
        with pytest.raises((OSError, CatalogueError), match=FULL):
            create_snapshot(store, out=disk / "more.tar")
        with pytest.raises((OSError, CatalogueError), match=FULL):
            restore_snapshot(taken.path, store, "other")
        with pytest.raises((OSError, CatalogueError), match=FULL):
            restore_snapshot(taken.path, store, replace=True)
        assert collection.generation == generation
        searches_are_right(collection)
    assert sorted(path.name for path in disk.iterdir()) == ["ballast", "store", "taken.tar"]
    assert [path.name for path in (store / "collections").iterdir()] == ["default"]

    with Collection.open(store) as again:  # as after a restart that did not help
        assert again.generation == generation
        searches_are_right(again)
        ballast.unlink()
        again.upsert(batch(1000))
        written |= {item.id: item.space for item in batch(1000)}
        assert again.delete(["0-0"]) == 1
        del written["0-0"]
        assert again.snapshot() != generation
        searches_are_right(again)
    assert all(check.ok for check in verify_collection(store))
    verify_snapshot(create_snapshot(store, out=disk).path)


def test_a_full_disk_without_any_index_is_searched_all_the_same(disk: Path, brute_force: Callable) -> None:
    """The index is built in memory, and not kept."""
    store = disk / "store"
    items = [item for number in range(5) for item in batch(number)]
    with Collection.create(store, **MODEL) as collection:
        collection.upsert(items)
        folder = collection.folder / "generations"
    for path in folder.rglob("*.*"):
        path.write_bytes(b"")
    fill(disk / "ballast")
    with Collection.open(store) as again:
        points = np.stack([item.space for item in items])
        nearest = np.argsort(brute_force(points[:1] * 0.9, points, 0.5)[0])[:10]
        assert [hit.item.id for hit in again.search(points[0] * 0.9, 10)] == [items[n].id for n in nearest]
        with pytest.raises(CatalogueError, match="nothing was changed"):
            again.upsert(batch(5))
        (disk / "ballast").unlink()
        again.upsert(batch(5))
    with Collection.open(store) as later:
        assert later.count == len(items) + 50
        assert (folder / later.generation / "manifest.json").is_file()
