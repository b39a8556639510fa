"""Snapshots: of one moment under a fast writer, whole or refused, inside their folder, switched at a stroke."""

import hashlib
import io
import json
import logging
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from hyperbolic.checkpoint import save_checkpoint
from hyperbolic.models.config import ModelConfig
from hyperbolic.models.lhier import Encoder
from index.backup import create_snapshot, read_manifest, restore_snapshot, verify_snapshot
from index.build import verify_collection
from index.catalogue import Catalogue, Item
from index.collection import Collection, list_collections
from index.errors import (
    CatalogueError,
    CollectionExistsError,
    CollectionNameError,
    CollectionNotFoundError,
    ModelMismatchError,
    SnapshotError,
)
from index.hierarchy import Hierarchy
from index.plan import Plan, read_request, write_request
from index.snapshot_cli import snapshot
from index.snapshot_file import Manifest, Member, write_snapshot

logger = logging.getLogger(__name__)

MODEL: dict[str, Any] = {"embedding_dim": 4, "c": 0.5, "model_hash": "abc"}


@pytest.fixture
def collection(tmp_path: Path, items: list[Item]) -> Iterator[Collection]:
    root = tmp_path / "photos"
    root.mkdir()
    with Collection.create(tmp_path / "store", **MODEL, image_root=root, checkpoint=tmp_path / "run") as collection:
        write_request(collection.folder, Plan(requested="ivf", requested_nlist=2).request())
        collection.upsert(items)
        collection.rebuild()
        tree = Hierarchy.from_catalogue(collection.catalogue)
        tree.save(collection.folder / "hierarchy")
        tree.set_name(tree.ids[0], "everything")
        collection.delete(["item-0"])
        yield collection


@pytest.fixture
def taken(collection: Collection, tmp_path: Path) -> Path:
    return create_snapshot(tmp_path / "store", out=tmp_path / "taken.tar").path


def content(collection: Collection) -> dict[str, tuple[bytes, tuple[str, ...], str, str | None, int, int]]:
    return {
        item.id: (item.space.tobytes(), item.labels, str(item.metadata), item.image, item.row, item.sequence)
        for item in collection.items(limit=100_000)
    }


def run(*arguments: object) -> Result:
    return CliRunner().invoke(snapshot, [str(argument) for argument in arguments])


def repacked(path: Path, out: Path, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]) -> Path:
    """The same tar with other members."""
    with tarfile.open(path) as archive:
        members = [(member, archive.extractfile(member).read()) for member in archive]
    change(members)
    with tarfile.open(out, "w") as archive:
        for member, data in members:
            member.size = len(data) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(data))
    return out


def test_everything_comes_back(collection: Collection, taken: Path, items: list[Item], tmp_path: Path) -> None:
    manifest = read_manifest(taken)
    assert (manifest.collection, manifest.count, manifest.sequence, manifest.model_hash) == ("default", 19, 2, "abc")
    assert verify_snapshot(taken) == manifest
    with restore_snapshot(taken, tmp_path / "other") as restored:
        assert content(restored) == content(collection)
        assert restored.sequence == collection.sequence == 2
        assert restored.generation == collection.generation  # no index was built
        assert (restored.image_root, restored.checkpoint) == (collection.image_root, collection.checkpoint)
        assert read_request(restored.folder) == read_request(collection.folder)
        for query in items[:5]:
            found = [(hit.item.id, hit.distance) for hit in restored.search(query.space, 19, exact=True)]
            assert found == [(hit.item.id, hit.distance) for hit in collection.search(query.space, 19, exact=True)]
        tree = Hierarchy.load(restored.folder / "hierarchy", restored.catalogue)
        assert tree.names == {tree.ids[0]: "everything"}
        assert len(tree) == 19
        restored.upsert([Item("new", items[0].space)])
    assert all(check.ok for check in verify_collection(tmp_path / "other"))


def test_the_live_collection_is_switched_or_left(
    collection: Collection, taken: Path, items: list[Item], tmp_path: Path
) -> None:
    store, before = tmp_path / "store", content(collection)
    collection.upsert([Item("later", items[0].space)])
    live = content(collection)
    with pytest.raises(CollectionExistsError, match="--replace"):
        restore_snapshot(taken, store)
    with pytest.raises(SnapshotError, match="damaged: expected sha256"):
        restore_snapshot(taken, store, replace=True, checksum="0" * 64)
    assert content(collection) == live
    with restore_snapshot(taken, store, "beside", image_root=tmp_path) as beside:
        assert content(beside) == before
        assert beside.image_root == tmp_path
    with restore_snapshot(taken, store, replace=True) as restored:
        assert content(restored) == before
        # Who has the old one open searches on, and loses no write in a file that has gone.
        assert len(collection.search(items[0].space, 20, exact=True)) == 20
        for write in (
            lambda: collection.upsert([Item("lost", items[0].space)]),
            lambda: collection.delete(["item-1"]),
            collection.snapshot,
            collection.rebuild,
        ):
            with pytest.raises(CatalogueError, match=r"was replaced or removed.*open the collection again"):
                write()
        restored.upsert([Item("kept", items[0].space)])
    assert list_collections(store) == ["beside", "default"]
    assert sorted(path.name for path in (store / "collections").iterdir()) == ["beside", "default"]
    with Collection.open(store) as again:
        assert again.item("kept") is not None
        assert len(again.index) == 20


def test_a_damaged_collection_is_restored_over(
    collection: Collection, taken: Path, damage: Callable, tmp_path: Path
) -> None:
    expected = content(collection)
    collection.close()
    damage(collection.folder / "catalogue.sqlite", "truncated")
    with pytest.raises(CatalogueError):
        create_snapshot(tmp_path / "store", out=tmp_path / "useless.tar")
    assert not (tmp_path / "useless.tar").exists()
    with restore_snapshot(taken, tmp_path / "store", replace=True) as restored:
        assert content(restored) == expected


def test_another_model_is_refused(collection: Collection, taken: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelMismatchError, match=r"taken\.tar holds points of model abc, but model xyz is loaded"):
        restore_snapshot(taken, tmp_path / "other", model_hash="xyz")
    Collection.create(tmp_path / "other", **(MODEL | {"model_hash": "xyz"})).close()
    with pytest.raises(ModelMismatchError):
        restore_snapshot(taken, tmp_path / "other", replace=True)
    with Collection.open(tmp_path / "other") as untouched:
        assert (untouched.model_hash, untouched.count) == ("xyz", 0)


WRITER = """
import sys, time
from pathlib import Path
import numpy as np
from index.catalogue import Item
from index.collection import Collection

collection, write, begun = Collection.open(Path(sys.argv[1])), 0, time.perf_counter()
print("ready", flush=True)
while not Path(sys.argv[2]).exists():
    # Write n gives all of a group of ten the number n, and takes away the group of write n - 40.
    collection.upsert([Item(f"g{write % 50}-{n}", np.array([write, n, 1, 0], np.float32), (), {"write": write})
                       for n in range(10)])
    if write >= 40:
        collection.delete([f"g{(write - 40) % 50}-{n}" for n in range(10)])
    write += 1
    if write % 100 == 0:
        collection.snapshot()
print(write, time.perf_counter() - begun, collection.sequence, flush=True)
"""


@pytest.mark.slow
def test_a_snapshot_under_a_fast_writer_is_of_one_moment(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with Collection.create(store, **MODEL) as collection:
        catalogue = collection.folder / "catalogue.sqlite"
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, store, tmp_path / "stop"],
        stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        snapshots = []
        with Catalogue.open(catalogue) as written:
            for number in range(5):
                time.sleep(0.15)
                deadline = time.monotonic() + 60  # a disk may hold the writer up
                while snapshots and written.sequence <= snapshots[-1].manifest.sequence:
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
                snapshots.append(create_snapshot(store, out=tmp_path / f"{number}.tar"))
    finally:
        (tmp_path / "stop").touch()
        told = process.stdout.read().split()
        process.stdout.close()
        assert process.wait(60) == 0
    writes, seconds, last = int(told[0]), float(told[1]), int(told[2])
    sequences = [created.manifest.sequence for created in snapshots]
    assert sequences == sorted(set(sequences))
    assert sequences[-1] <= last
    logger.info("items_per_second=%.0f transactions_per_second=%.0f", 10 * writes / seconds, last / seconds)
    for created in snapshots:
        assert created.left_out == ()
        with restore_snapshot(created.path, tmp_path / "restored", replace=True) as restored:
            # Writes 1 to 40 are a sequence number each, later ones two: what is there follows from the number alone.
            sequence = restored.sequence
            done = sequence if sequence <= 40 else 40 + (sequence - 40 + 1) // 2
            gone = max(0, (sequence - 40) // 2)
            expected = {f"g{write % 50}-{n}": (write, n) for write in range(gone, done) for n in range(10)}
            items = restored.items(limit=10_000)
            assert {item.id: (item.metadata["write"], int(item.space[1])) for item in items} == expected
            assert all(item.space[0] == item.metadata["write"] for item in items)
            assert len(restored.index) == len(expected)
            hits = restored.search(np.array([done, 3, 1, 0], np.float32), 10, exact=True)
            assert {hit.item.metadata["write"] for hit in hits} <= set(range(gone, done))
        assert all(check.ok for check in verify_collection(tmp_path / "restored", sample=5))


@pytest.mark.parametrize("how", ["truncated", "flipped", "emptied"])
def test_damage_is_refused(how: str, taken: Path, damage: Callable, tmp_path: Path) -> None:
    damage(taken, how)
    with pytest.raises(SnapshotError):
        verify_snapshot(taken)
    with pytest.raises(SnapshotError):
        restore_snapshot(taken, tmp_path / "other")
    assert list_collections(tmp_path / "other") == []
    assert not [path for path in (tmp_path / "other").rglob("*") if path.is_file()]


def test_no_byte_changes_unnoticed(taken: Path, tmp_path: Path) -> None:
    """Flipped one by one, a sample of all bytes: what verifies is the snapshot that was taken."""
    manifest, data = verify_snapshot(taken), taken.read_bytes()
    copy = tmp_path / "copy.tar"
    headers = [offset for offset in range(0, len(data), 512) if data[offset + 257 : offset + 262] == b"ustar"]
    places = {place for offset in headers for place in range(offset, offset + 512, 37)}
    places |= set(np.random.default_rng(0).integers(0, len(data), 150).tolist()) | set(range(512, 1200, 11))
    refused = 0
    for place in places:
        copy.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
        try:
            found = verify_snapshot(copy)
        except SnapshotError:
            refused += 1
        else:
            assert found == manifest  # padding between the members
    assert refused > 0.7 * len(places)
    for length in range(0, len(data) - 10240, 5003):
        copy.write_bytes(data[:length])
        with pytest.raises(SnapshotError):
            verify_snapshot(copy)


def test_hostile_archives_are_refused(taken: Path, tmp_path: Path) -> None:
    inside = tmp_path / "victim"
    inside.mkdir()

    def announced(members: list[tuple[tarfile.TarInfo, bytes]], name: str, data: bytes) -> None:
        """Adds a member that the manifest announces, checksum and all."""
        manifest = Manifest.from_json(members[0][1], taken)
        manifest.files[name] = Member(len(data), hashlib.sha256(data).hexdigest())
        members[0] = (members[0][0], manifest.to_json())
        members.append((tarfile.TarInfo(name), data))

    names = ["../escaped", "/escaped", "generations/../../escaped", "hierarchy/tree/../../../escaped", "escaped",
             "generations/1/index/x/../../../escaped", "hierarchy/.hidden", "generations/1\n/x", "."]  # fmt: skip
    for name in names:
        bad = repacked(taken, tmp_path / "bad.tar", lambda members, name=name: announced(members, name, b"x"))
        with pytest.raises(SnapshotError, match="names a file that no collection has"):
            restore_snapshot(bad, inside / "store")

    def link(kind: bytes) -> Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]:
        def change(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
            place = next(n for n, (member, _) in enumerate(members) if member.name == "index_request.json")
            entry = tarfile.TarInfo("index_request.json")
            entry.type, entry.linkname = kind, "/etc/passwd"
            members[place] = (entry, b"")

        return change

    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE):
        bad = repacked(taken, tmp_path / "bad.tar", link(kind))
        with pytest.raises(SnapshotError, match="does not announce"):
            restore_snapshot(bad, inside / "store")
    for change in (
        lambda members: members.append((tarfile.TarInfo("extra"), b"x")),
        lambda members: members.append(members[1]),
    ):
        with pytest.raises(SnapshotError, match="does not announce"):
            restore_snapshot(repacked(taken, tmp_path / "bad.tar", change), inside / "store")
    with pytest.raises(SnapshotError, match="is missing"):
        restore_snapshot(repacked(taken, tmp_path / "bad.tar", lambda members: members.pop()), inside / "store")
    with pytest.raises(SnapshotError, match=r"begins with manifest\.json"):
        restore_snapshot(repacked(taken, tmp_path / "bad.tar", lambda members: members.pop(0)), inside / "store")
    header = tarfile.TarInfo("header")
    header.type, header.size = tarfile.XHDTYPE, 1 << 40
    (tmp_path / "bad.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(SnapshotError, match="MemoryError"):
        restore_snapshot(tmp_path / "bad.tar", inside / "store")

    def unnamed(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        members[0] = (members[0][0], replace(Manifest.from_json(members[0][1], taken), collection=5).to_json())

    with pytest.raises(SnapshotError, match="expected a string"):
        restore_snapshot(repacked(taken, tmp_path / "bad.tar", unnamed), inside / "store")
    assert not list(tmp_path.rglob("escaped"))
    assert not [path for path in inside.rglob("*") if path.is_file()]


def test_what_somebody_else_made_names_no_place_and_brings_no_index(
    collection: Collection, taken: Path, items: list[Item], tmp_path: Path
) -> None:
    with restore_snapshot(taken, tmp_path / "other", trusted=False) as restored:
        assert (restored.image_root, restored.checkpoint) == (None, None)
        assert restored.generation != collection.generation
        assert len(restored.search(items[0].space, 19, exact=True)) == 19
    place = {"image_root": tmp_path / "photos", "checkpoint": tmp_path / "mine"}
    Collection.create(tmp_path / "third", **MODEL, **place).close()
    with restore_snapshot(taken, tmp_path / "third", replace=True, trusted=False) as restored:
        assert {"image_root": restored.image_root, "checkpoint": restored.checkpoint} == place
        assert restored.count == 19


def test_a_manifest_that_does_not_fit_its_catalogue(taken: Path, tmp_path: Path) -> None:
    for key, value in (("count", 18), ("sequence", 3), ("c", 0.25), ("embedding_dim", 5), ("model_hash", "xyz")):

        def change(members: list[tuple[tarfile.TarInfo, bytes]], key: str = key, value: object = value) -> None:
            content = json.loads(members[0][1])
            fields = {name: content[name] for name in Manifest.__slots__} | {key: value}
            fields["files"] = {name: Member(**entry) for name, entry in content["files"].items()}
            members[0] = (members[0][0], Manifest(**fields).to_json())

        with pytest.raises((SnapshotError, ModelMismatchError), match=key if key != "model_hash" else "model abc"):
            restore_snapshot(repacked(taken, tmp_path / "bad.tar", change), tmp_path / "other")
    assert list_collections(tmp_path / "other") == []


@pytest.mark.parametrize("file", ["index.faiss", "manifest.json", "nodes.npz"])
def test_what_can_be_built_again_is_left_out_when_damaged(
    file: str, collection: Collection, damage: Callable, tmp_path: Path
) -> None:
    for path in list(collection.folder.rglob(file)):
        damage(path, "truncated")
    created = create_snapshot(tmp_path / "store", out=tmp_path)
    assert created.path.parent == tmp_path
    assert len(created.left_out) >= 1
    with restore_snapshot(created.path, tmp_path / "other") as restored:
        assert content(restored) == content(collection)
        assert len(restored.index) == 19


def test_names_that_cannot_be_read_are_not_lost_in_silence(
    collection: Collection, damage: Callable, tmp_path: Path
) -> None:
    damage(collection.folder / "hierarchy" / "names.json", "truncated")
    with pytest.raises(Exception, match=r"names\.json cannot be read"):
        create_snapshot(tmp_path / "store", out=tmp_path / "x.tar")


def test_places_and_names(collection: Collection, taken: Path, tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="exists already"):
        create_snapshot(tmp_path / "store", out=taken)
    with pytest.raises(CollectionNotFoundError, match="default"):
        create_snapshot(tmp_path / "store", "nobody", out=tmp_path)
    with pytest.raises(CollectionNameError):
        restore_snapshot(taken, tmp_path / "other", "../escaped")
    with pytest.raises(FileNotFoundError):
        read_manifest(tmp_path / "nothing.tar")
    with pytest.raises(SnapshotError):
        read_manifest(collection.folder / "catalogue.sqlite")
    assert not list(tmp_path.glob(".*"))


def test_an_image_of_one_moment_however_long_it_takes(
    collection: Collection, items: list[Item], tmp_path: Path
) -> None:
    """A connection that has begun to read keeps its moment; the copy is that one."""
    with Catalogue.open(collection.folder / "catalogue.sqlite") as reader:
        reader._connection.execute("BEGIN")
        assert reader.sequence == 2
        collection.upsert([Item("later", items[0].space)])
        reader.copy_to(tmp_path / "copy.sqlite")
        reader._connection.execute("COMMIT")
    with Catalogue.open(tmp_path / "copy.sqlite") as copy:
        assert (copy.sequence, copy.count(), copy.get("later")) == (2, 19, None)


def test_the_commands(collection: Collection, items: list[Item], tmp_path: Path) -> None:
    store = tmp_path / "store"
    made = json.loads(run("create", store, "--out", tmp_path, "--json").stdout)
    assert (made["count"], made["sequence"], made["left_out"]) == (19, 2, [])
    assert Path(made["path"]).stat().st_size == made["bytes"]
    told = run("create", store, "--out", tmp_path / "named.tar").stdout
    assert "collection 'default': 19 items at write 2, model abc" in told
    assert "sound: collection 'default': 19 items" in run("verify", made["path"], "--sha256", made["sha256"]).stdout
    assert json.loads(run("verify", made["path"], "--json").stdout)["count"] == 19
    assert run("verify", made["path"], "--sha256", "0" * 64).exit_code == 1
    collection.delete(["item-1"])
    refused = run("restore", made["path"], "--store", store)
    assert refused.exit_code == 1
    assert "add --replace" in refused.stderr
    assert "19 items -> collection 'default'" in run("restore", made["path"], "--store", store, "--replace").stdout
    answer = json.loads(
        run("restore", made["path"], "--store", store, "--collection", "b", "--untrusted", "--json").stdout
    )
    assert (answer["name"], answer["count"], answer["sequence"]) == ("b", 19, 2)
    config = ModelConfig(backbone="test_efficientnet", embedding_dim=8, image_size=32, curvature=0.7)
    save_checkpoint(tmp_path / "run" / "checkpoint", Encoder(config).eval())
    foreign = run("restore", made["path"], "--store", store, "--collection", "c", "--checkpoint", tmp_path / "run")
    assert foreign.exit_code == 1
    assert "distances between the two mean nothing" in foreign.stderr
    assert run("restore", made["path"], "--store", store, "--checkpoint", tmp_path / "photos").exit_code == 1
    assert run("verify", tmp_path / "nothing.tar").exit_code == 2
    for command in ("create", "verify", "restore"):
        assert f"lhier snapshot {command}" in run(command, "--help").output


def test_a_format_from_elsewhere_says_what_to_do(tmp_path: Path) -> None:
    files = {"catalogue.sqlite": io.BytesIO(b"x")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("index.snapshot_file.FORMAT_VERSION", 2)
        newer = Manifest("default", "abc", 4, 0.5, 0, 0, "", {"catalogue.sqlite": Member(1, "")})
        write_snapshot(tmp_path / "newer.tar", newer, files, moment=0)
    with pytest.raises(SnapshotError, match=r"snapshot format 2, this version of lhier reads 1: .*snapshot create"):
        verify_snapshot(tmp_path / "newer.tar")
