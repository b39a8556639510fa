"""What a collection takes: bytes on the disk, resident memory and seconds until it is open, for docs/runbook.md.

    python -m benchmarks.store_size [--out FOLDER] [--items 100000 --items 1000000]

The points are hierarchy_scale's random tree; each item has an id and path of 36 characters and two labels. A
collection is built as `lhier index build` builds it, then opened by a process of its own, as the service opens it, and
searched 100 times. `catalogue_bytes` is the SQLite file, `generation_bytes` one saved index, `snapshot_bytes` the file
of `lhier snapshot create`; `open_mb` is what opening and searching added to the process, faiss and numpy loaded.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import write_result
from benchmarks.hierarchy_scale import points

SEARCHES = 100
BATCH = 10_000


def build(store: Path, items: int, dim: int) -> None:
    """A collection "default" of `items` points."""
    from index.catalogue import Item
    from index.collection import Collection, collection_folder
    from index.plan import Plan, write_request

    space = points(items, dim, 5.0, 0)
    with Collection.create(store, embedding_dim=dim, c=1.0, model_hash="0" * 12) as collection:
        write_request(collection_folder(store, "default"), Plan(requested="auto").request())
        for start in range(0, items, BATCH):
            rows = range(start, min(start + BATCH, items))
            names = [f"family-{row // 2000:04d}/genus-{row // 200:05d}/{row:08d}.jpg" for row in rows]
            collection.catalogue.upsert(
                [
                    Item(id=name, space=point, labels=tuple(name.split("/")[:2]), image=name)
                    for name, point in zip(names, space[start : start + BATCH], strict=True)
                ]
            )
        collection.rebuild()


def resident_mb() -> float:
    """Of this process, now; its peak (getrusage) would count what its parent held when it was forked."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def opened(store: Path) -> dict[str, Any]:
    """Of this process: how long opening took, and what it added to the resident memory."""
    from index.collection import Collection
    from index.faiss_library import faiss

    faiss()
    before = resident_mb()
    start = time.perf_counter()
    with Collection.open(store) as collection:
        seconds = time.perf_counter() - start
        queries = collection.items(limit=SEARCHES)
        began = time.perf_counter()
        for item in queries:
            collection.search(item.space, 10)
        search_s = (time.perf_counter() - began) / len(queries)
        return {
            "kind": collection.index.plan.kind,
            "open_s": seconds,
            "open_mb": resident_mb() - before,
            "search_s": search_s,
        }


def run(items: int, dim: int) -> dict[str, Any]:
    """One row."""
    from index.backup import create_snapshot
    from index.collection import collection_folder

    with tempfile.TemporaryDirectory() as name:
        store = Path(name) / "store"
        start = time.perf_counter()
        build(store, items, dim)
        build_s = time.perf_counter() - start
        folder = collection_folder(store, "default")
        generations = sorted(path for path in (folder / "generations").iterdir() if path.is_dir())
        snapshot = create_snapshot(store, out=Path(name) / "snapshot.tar").path
        told = subprocess.run(
            [sys.executable, "-m", "benchmarks.store_size", "--open", str(store)], check=True, stdout=subprocess.PIPE
        )
        return {
            "items": items,
            "embedding_dim": dim,
            "build_s": build_s,
            "catalogue_bytes": sum(path.stat().st_size for path in folder.glob("catalogue.sqlite*")),
            "generation_bytes": sum(path.stat().st_size for path in generations[-1].rglob("*") if path.is_file()),
            "snapshot_bytes": snapshot.stat().st_size,
            **json.loads(told.stdout),
        }


def main() -> None:
    """Build each size, open it in a process of its own, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder or .json file for the result [benchmarks/results]")
    parser.add_argument("--items", type=int, action="append", help="may be given several times [100000, 1000000]")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.open:
        print(json.dumps(opened(options.open)))
        return
    rows = [run(items, options.dim) for items in options.items or (100_000, 1_000_000)]
    print(write_result("store_size", options.out, {"dim": options.dim, "searches": SEARCHES}, rows))


if __name__ == "__main__":
    main()
