"""Kill a process before and after each fsync and each rename, or let that call fail, and see what is left.

    LD_PRELOAD=faults.so python tests/index/durability/faults.py WORK [--share 1.0] [--only NAME]

Each operation that changes a store is run once to count its calls (SQLite's own among them: faults.c is preloaded),
then once for each call and each of: killed before it, killed after it, EIO from it. After every one the store must open
and hold the old state or the new one, with searches that agree with brute force, and the operation done again must give
the new state. Prints a JSON object; exit code 1 where anything was a mix. The suite runs a part (test_faults.py).
"""

import argparse
import ctypes
import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from oracle import DIM, MODEL, C, State, made, searches_that_differ, state_of

from index.backup import create_snapshot, restore_snapshot, verify_snapshot
from index.build import build_collection
from index.collection import Collection, collection_folder, list_collections
from index.embeddings import FORMAT_VERSION, Manifest, Part, write_part
from index.errors import StoreError
from index.files import write_json
from index.hierarchy import Hierarchy
from index.hierarchy.store import read_names, rename
from index.sources import Photo

MODES = ("before", "after", "error")


def base(work: Path) -> Path:
    """A store with a collection of 60 items in two generations, a tree and a name; beside it a snapshot and points."""
    store = work / "base" / "store"
    with Collection.create(store, embedding_dim=DIM, c=C, model_hash=MODEL) as collection:
        collection.upsert([made(f"other-{n}", n) for n in range(40)])
        create_snapshot(store, out=work / "base" / "snapshot.tar")
        collection.upsert([made(f"item-{n}", n) for n in range(60)])
        collection.delete([f"other-{n}" for n in range(40)])
        collection.snapshot()
        tree = Hierarchy.from_catalogue(collection.catalogue)
        tree.save(collection.folder / "hierarchy")
        rename(collection.folder / "hierarchy", {}, tree.ids[0], "everything")
        collection.upsert([made("late", 7)])
    points = work / "base" / "points"
    points.mkdir()
    items = [made(f"photo-{n}.jpg", n) for n in range(50)]
    photos = [Photo(item.id, item.id, item.labels, "") for item in items]
    digest, rows = write_part(points / "part-00000.parquet", photos, np.stack([item.space for item in items]), {})
    manifest = Manifest(
        format_version=FORMAT_VERSION, model_hash=MODEL, checkpoint="runs/a", embedding_dim=DIM, c=C, image_root=None,
        photos_sha256="", count=50, failed=0, parts=[Part(file="part-00000.parquet", sha256=digest, rows=rows)],
    )  # fmt: skip
    write_json(points / "manifest.json", manifest.model_dump(mode="json"))
    return work / "base"


def open_and(change: Callable[[Collection], object]) -> Callable[[Path], object]:
    """An operation on the open collection."""

    def operation(root: Path) -> None:
        with Collection.open(root / "store") as collection:
            change(collection)

    return operation


def save_tree(root: Path) -> None:
    """The tree, brought up to the catalogue and saved over the old one."""
    with Collection.open(root / "store") as collection:
        folder = collection.folder / "hierarchy"
        Hierarchy.load(folder, collection.catalogue).save(folder)


def name_node(root: Path) -> None:
    """Another name for the root of the tree."""
    folder = collection_folder(root / "store", "default") / "hierarchy"
    names = read_names(folder)
    rename(folder, names, next(iter(names)), "all")


OPERATIONS: dict[str, Callable[[Path], object]] = {
    "upsert": open_and(lambda it: it.upsert([made(f"item-{n}", 1000 + n) for n in range(50, 70)])),
    "delete": open_and(lambda it: it.delete([f"item-{n}" for n in range(20)])),
    "save": open_and(lambda it: it.snapshot()),
    "rebuild": open_and(lambda it: it.rebuild()),
    "create": lambda root: Collection.create(root / "store", "new", embedding_dim=DIM, c=C, model_hash=MODEL).close(),
    "replace": lambda root: build_collection(root / "points", root / "store", replace=True).close(),
    "take a snapshot": lambda root: create_snapshot(root / "store", out=root / "taken.tar"),
    "restore beside": lambda root: restore_snapshot(root / "snapshot.tar", root / "store", "new").close(),
    "restore over": lambda root: restore_snapshot(root / "snapshot.tar", root / "store", replace=True).close(),
    "save the tree": save_tree,
    "name a node": name_node,
}
# What exchanges two folders is also tried as on a file system that cannot.
EXCHANGED = ("replace", "restore over", "save the tree")


def content(root: Path) -> tuple[dict[str, object], list[str]]:
    """What a store holds, to be compared, and what is wrong with it whatever it holds."""
    found: dict[str, object] = {}
    wrong: list[str] = []
    for name in list_collections(root / "store"):
        with Collection.open(root / "store", name) as collection:
            state: State = state_of(collection)
            wrong += collection.catalogue.faults() + searches_that_differ(collection, state, searches=1)
            found[name] = state
            folder = collection.folder / "hierarchy"
            if (folder / "former").exists():  # built anew: the next tree will take the names over
                found[f"{name}'s former tree"] = read_names(folder / "former")
            elif folder.exists():
                tree = Hierarchy.load(folder, collection.catalogue)
                at = json.loads((folder / "tree" / "manifest.json").read_text())["sequence"]
                found[f"{name}'s tree"] = (at, sorted(tree.rows.tolist()), read_names(folder))
    if (taken := root / "taken.tar").exists():
        found["snapshot"] = verify_snapshot(taken).count
    return found, wrong


def run(shim: ctypes.CDLL, operation: Callable[[Path], object], root: Path, at: int, mode: str, exchange: bool) -> int:
    """The operation in a fork whose call number `at` goes wrong: its exit code; for `at` 0, how many calls it made."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            shim.faults_arm(at, MODES.index(mode), int(exchange))
            operation(root)
        except BaseException as error:
            os.write(writer, repr(error).encode()[:200])
            os._exit(3)
        os.write(writer, str(shim.faults_counted()).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        told = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if at:
        return code
    assert code == 0, told
    return int(told)


def tried(
    shim: ctypes.CDLL, work: Path, name: str, exchange: bool, share: float, rng: random.Random
) -> dict[str, object]:
    """Every call of one operation, or a share of them, gone wrong in every way."""
    operation, root, start = OPERATIONS[name], work / "run", work / "base"

    def fresh() -> None:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(start, root)

    fresh()
    old, wrong = content(root)
    fresh()
    calls = run(shim, operation, root, 0, "before", exchange)
    new, faults = content(root)
    wrong += faults
    outcome = {"old": 0, "new": 0}
    points = [(at, mode) for at in range(1, calls + 1) for mode in MODES]
    for at, mode in sorted(rng.sample(points, max(1, round(share * len(points))))):
        fresh()
        where = f"{name}, {'' if exchange else 'without exchange, '}call {at} of {calls}, {mode}"
        code = run(shim, operation, root, at, mode, exchange)
        if mode != "error" and code != -signal.SIGKILL:
            wrong.append(f"{where}: it was not killed (exit code {code})")
        try:
            found, faults = content(root)
            wrong += [f"{where}: {fault}" for fault in faults]
            if found == new:
                outcome["new"] += 1
            elif found == old:
                outcome["old"] += 1
            else:
                wrong.append(f"{where}: neither the old state nor the new one")
            if mode == "error" and code == 0 and found != new:
                wrong.append(f"{where}: it reported success")
            try:
                operation(root)
            except StoreError:  # where it was done before
                if found != new:
                    raise
            if content(root) != (new, []):
                wrong.append(f"{where}: done again, it gave another state")
        except Exception as error:
            wrong.append(f"{where}: {type(error).__name__}: {error}")
    return {"calls": calls, "tried": sum(outcome.values()), **outcome, "wrong": wrong}


def main() -> int:
    """All operations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="an empty folder")
    parser.add_argument("--share", type=float, default=1.0, help="of all calls and ways")
    parser.add_argument("--only", choices=list(OPERATIONS))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    shim = ctypes.CDLL(None)
    if not hasattr(shim, "faults_arm"):
        parser.error("compile faults.c (cc -shared -fPIC -o faults.so faults.c -ldl) and set LD_PRELOAD to it")
    base(arguments.work)
    rng, report = random.Random(arguments.seed), {}
    for name in [arguments.only] if arguments.only else OPERATIONS:
        for exchange in (True, False) if name in EXCHANGED else (True,):
            title = name if exchange else f"{name}, without exchange"
            report[title] = tried(shim, arguments.work, name, exchange, arguments.share, rng)
    wrong = [fault for found in report.values() for fault in found.pop("wrong")]
    print(json.dumps({"operations": report, "wrong": wrong[:40], "wrong_in_all": len(wrong)}))  # noqa: T201
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
