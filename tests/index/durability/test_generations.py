"""Saved indexes: any change to a file of one is noticed, and nothing is given its name before it is on the disk."""

import os
import re
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index import files, plan
from index.backup import create_snapshot, restore_snapshot
from index.catalogue import Item
from index.collection import Collection
from index.errors import SnapshotError
from index.hierarchy import Hierarchy
from index.lorentz_index import LorentzIndex
from index.plan import Plan, write_request
from index.snapshot import KEEP, list_generations, read_generation

MODEL = {"embedding_dim": 4, "c": 0.5, "model_hash": "abc"}


@pytest.fixture
def collection(tmp_path: Path, items: list[Item]) -> Iterator[Collection]:
    with Collection.create(tmp_path / "store", **MODEL) as collection:
        collection.upsert(items)
        yield collection


def only_generation(collection: Collection) -> Path:
    path = collection.folder / "generations" / collection.generation
    for other in list_generations(path.parent):
        if other != path:
            files.shutil.rmtree(other)
    return path


@pytest.mark.parametrize("kind", ["ivf", "ivf_sq8"])  # flat: test_collection.py
def test_every_file_of_every_kind_damaged_in_every_way(
    kind: str, collection: Collection, items: list[Item], damage: Callable, brute_force: Callable, tmp_path: Path
) -> None:
    write_request(collection.folder, Plan(requested=kind, requested_nlist=2).request())  # type: ignore[arg-type]
    collection.rebuild()
    assert collection.index.kind == kind
    collection.upsert([Item(items[0].id, items[0].space * 3)])
    points = np.stack([items[0].space * 3, *(item.space for item in items[1:])])
    names = sorted(path.relative_to(only_generation(collection)) for path in only_generation(collection).rglob("*.*"))
    assert len(names) >= 4
    collection.close()
    for name in names:
        for how in ("truncated", "flipped", "emptied", "removed"):
            with Collection.open(tmp_path / "store") as opened:
                generation = only_generation(opened)
            damage(generation / name, how)
            with Collection.open(tmp_path / "store") as opened:
                where = f"{name} {how}"
                harmless = name.name == "manifest.json" and how == "flipped" and opened.generation == generation.name
                assert harmless or not generation.exists(), where
                assert harmless or (generation.parent / f"bad-{generation.name}").exists(), where
                query = items[3].space + 0.1
                hits = opened.search(query, 20, exact=True)
                truth = brute_force(query[None], points, 0.5)[0]
                assert [hit.item.id for hit in hits] == [items[n].id for n in np.argsort(truth)], where
    assert len(list((tmp_path / "store").rglob("bad-*"))) <= KEEP  # they do not fill the disk


def test_a_large_collection_whose_index_is_lost_answers_while_its_lists_are_learnt(
    collection: Collection, brute_force: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(plan, "FLAT_UP_TO", 300)
    points = np.random.default_rng(1).normal(size=(600, 4)).astype(np.float32)
    collection.delete([item.id for item in collection.items()])
    write_request(collection.folder, Plan(requested="auto").request())
    collection.upsert([Item(str(n), point) for n, point in enumerate(points)])
    collection.rebuild()
    assert collection.index.kind == "ivf"
    collection.close()
    files.shutil.rmtree(collection.folder / "generations")
    going, build = threading.Event(), LorentzIndex.build

    def slow(*arguments: Any, **options: Any) -> LorentzIndex:
        assert not len(arguments[0]) or going.wait(30)
        return build(*arguments, **options)

    monkeypatch.setattr(LorentzIndex, "build", slow)

    def answers(opened: Collection) -> list[str]:
        return [hit.item.id for hit in opened.search(points[5] * 0.9, 10, exact=True)]

    truth = [str(n) for n in np.argsort(brute_force(points[5:6] * 0.9, points, 0.5)[0])[:10]]
    with Collection.open(tmp_path / "store") as opened:
        assert (opened.index.kind, answers(opened)) == ("flat", truth)
        files.shutil.copytree(tmp_path / "store", tmp_path / "killed")
        going.set()
        assert opened._rebuilding.wait(30)
        assert (opened.index.kind, answers(opened)) == ("ivf", truth)
    # Killed before the lists were learnt, the next process learns them.
    for store in ("store", "killed", "killed"):
        with Collection.open(tmp_path / store) as again:
            assert again._rebuilding.wait(30)
            assert (again.index.kind, answers(again)) == ("ivf", truth)


def test_no_byte_of_a_manifest_changes_what_is_loaded(collection: Collection, items: list[Item]) -> None:
    """The manifest has the hashes of the others, and nothing has its own."""
    collection.upsert([Item(items[0].id, items[0].space * 3)])
    collection.snapshot()
    for _ in range(40):
        collection.upsert([Item(items[0].id, items[0].space * 4)])  # writes that a higher number would hide
    path = only_generation(collection)
    sound = read_generation(path, collection.catalogue)
    manifest = path / "manifest.json"
    data, refused = manifest.read_bytes(), 0
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << (place % 7)
        manifest.write_bytes(changed)
        try:
            found = read_generation(path, collection.catalogue)
        except SnapshotError:
            refused += 1
        else:
            assert (found.sequence, found.index.ids.tolist()) == (sound.sequence, sound.index.ids.tolist()), place
    # What may change unnoticed is white space, and when it was written.
    assert refused > 0.8 * len(re.sub(rb"\s", b"", data)) - 40


@pytest.fixture
def trace(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, object]]:
    """Every sync and rename of this process's own, in order; each renamed thing with what lies in it."""
    seen: list[tuple[str, object]] = []
    fsync, rename, replace, exchange = os.fsync, os.rename, os.replace, files._exchange

    def key(path: Path | int) -> tuple[int, int]:
        status = os.fstat(path) if isinstance(path, int) else path.lstat()
        return status.st_dev, status.st_ino

    def inside(path: Path) -> dict[tuple[int, int], Path]:
        return {key(each): each for each in (path, *(path.rglob("*") if stat.S_ISDIR(path.stat().st_mode) else ()))}

    def synced(descriptor: int) -> None:
        fsync(descriptor)
        seen.append(("sync", key(descriptor)))

    def moved(call: Callable, source: Path, target: Path) -> object:
        seen.append(("rename", inside(Path(source))))
        result = call(source, target)
        seen.append(("renamed", (key(Path(target).parent), Path(target))))
        return result

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", lambda source, target: moved(rename, source, target))
    monkeypatch.setattr(os, "replace", lambda source, target: moved(replace, source, target))
    monkeypatch.setattr(files, "_exchange", lambda source, target: moved(exchange, source, target))
    return seen


@pytest.mark.parametrize("operation", ["save", "rebuild", "create", "tree", "snapshot", "restore"])
def test_names_are_given_to_what_is_on_the_disk(
    operation: str, collection: Collection, trace: list[tuple[str, object]], tmp_path: Path
) -> None:
    """A power cut keeps what was synced only: the files before the rename, the name after it."""
    store = tmp_path / "store"
    tree = Hierarchy.from_catalogue(collection.catalogue)
    create_snapshot(store, out=tmp_path / "before.tar")
    trace.clear()
    if operation == "save":
        collection.snapshot()
    elif operation == "rebuild":
        collection.rebuild()
    elif operation == "create":
        Collection.create(tmp_path / "new" / "store", **MODEL).close()
    elif operation == "tree":
        tree.save(collection.folder / "hierarchy")
        tree.save(collection.folder / "hierarchy")
    elif operation == "snapshot":
        create_snapshot(store, out=tmp_path / "taken.tar")
    else:
        restore_snapshot(tmp_path / "before.tar", store, replace=True).close()
    names = [target for what, (_, target) in (each for each in trace if each[0] == "renamed")]
    assert names
    for number, (what, subject) in enumerate(trace):
        if what == "rename":
            before = {key for step, key in trace[:number] if step == "sync"}
            unsynced = [str(path) for key, path in subject.items() if key not in before]
            assert not unsynced
        elif what == "renamed":
            assert ("sync", subject[0]) in trace[number:], f"{subject[1]} has a name that a power cut may take"
