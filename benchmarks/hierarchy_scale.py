"""A tree over many items: how long it takes to build, how much memory, and what an attached or removed item costs.

    python -m benchmarks.hierarchy_scale [--out FOLDER] [--items 10000 --items 100000]

The points are a random recursive tree on the hyperboloid: four levels of geodesic steps, leaves of 20 items near the
given radius. Each size runs in a process of its own, whose peak memory is that of points and tree together, with the
interpreter; `before_mb` is that before the tree is built, `points_mb` what the points alone take. Items are attached
one at a time (`attach_ms`) and 256 at a time (`attach_batch_ms`, per item); `right_owner` is how many of them came to
a node whose items are mostly of their leaf; `right_owner_built` is the same of items that the tree was built with.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.common import peak_bytes, reset_peak, write_result

LEAF, LATER = 20, 500
Float64 = npt.NDArray[np.float64]


def lift(space: Float64) -> Float64:
    """Points over space parts, c = 1."""
    return np.concatenate([np.sqrt(1 + np.square(space).sum(axis=1, keepdims=True)), space], axis=1)


def step(points: Float64, length: float | Float64, rng: np.random.Generator) -> Float64:
    """A geodesic step from each point, in a direction drawn evenly."""
    direction = rng.normal(size=(len(points), points.shape[1] - 1))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    along = (points[:, 1:] * direction).sum(axis=1, keepdims=True)
    tangent = direction + along / (1 + points[:, :1]) * points[:, 1:]
    return lift(np.cosh(length) * points[:, 1:] + np.sinh(length) * tangent)


def points(items: int, dim: int, radius: float, seed: int) -> npt.NDArray[np.float32]:
    """Space parts (items, dim): leaves of 20 items on a tree of four levels."""
    rng = np.random.default_rng(seed)
    leaves = -(-items // LEAF)
    branching = int(np.ceil(leaves ** (1 / 4)))
    level = lift(np.zeros((1, dim)))
    for _ in range(4):
        level = step(np.repeat(level, branching, axis=0), radius / 4, rng)
    level = level[np.sort(rng.permutation(len(level))[:leaves])]
    members = np.repeat(level, LEAF, axis=0)[:items]
    return step(members, rng.normal(0.4, 0.1, size=(items, 1)), rng)[:, 1:].astype(np.float32)


def run(items: int, dim: int, radius: float, seed: int) -> dict[str, Any]:
    """One row: a tree over `items` points built, saved, loaded, grown and shrunk."""
    from index.hierarchy import Hierarchy

    space = points(items + LATER, dim, radius, seed)
    rng = np.random.default_rng(seed + 1)
    # Those that come later have the last rows, as a catalogue gives them out.
    order = rng.permutation(len(space))
    space, leaf_of = space[order], order // LEAF
    rows = np.arange(len(space))
    late = rows >= items
    reset_peak()  # making the points took more
    before = peak_bytes() / 2**20
    start = time.perf_counter()
    tree = Hierarchy.build(space[~late], rows[~late], 1.0)
    row: dict[str, Any] = {
        "items": items, "embedding_dim": dim, "radius": radius, "seed": seed,
        "build_s": time.perf_counter() - start, "peak_mb": peak_bytes() / 2**20, "before_mb": before,
        "points_mb": space.nbytes / 2**20, "nodes": len(tree.ids), "depth": int(tree.depths.max()),
        "children_most": max(len(tree.children(node)) for node in range(len(tree.ids))),
    }  # fmt: skip
    sample = rng.choice(rows[~late], LATER, replace=False).tolist()
    row["right_owner_built"] = float(
        np.mean([right(tree, tree.owner_of(int(item)), int(item), leaf_of) for item in sample])
    )
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        tree.save(Path(folder))
        row["save_s"] = time.perf_counter() - start
        start = time.perf_counter()
        Hierarchy.load(Path(folder), (rows[~late], space[~late]))
        row["load_s"] = time.perf_counter() - start
    singly, together = np.array_split(rows[late], 2)
    tree.members(0)
    owners = []
    start = time.perf_counter()
    for item in singly.tolist():
        owners += tree.attach(space[item : item + 1], [item]).tolist()
    row["attach_ms"] = (time.perf_counter() - start) / len(singly) * 1e3
    start = time.perf_counter()
    owners += tree.attach(space[together], together).tolist()
    row["attach_batch_ms"] = (time.perf_counter() - start) / len(together) * 1e3
    pairs = zip(owners, rows[late].tolist(), strict=True)
    row["right_owner"] = float(np.mean([right(tree, owner, item, leaf_of) for owner, item in pairs]))
    start = time.perf_counter()
    for item in singly.tolist():
        tree.remove([item])
    row["remove_ms"] = (time.perf_counter() - start) / len(singly) * 1e3
    start = time.perf_counter()
    tree.remove(together)
    row["remove_batch_ms"] = (time.perf_counter() - start) / len(together) * 1e3
    row["order_violations"] = int(np.count_nonzero(tree.radii[1:] < tree.radii[tree.parents[1:]]))
    start = time.perf_counter()
    for node in range(len(tree.ids)):
        tree.members(node)
    row["members_us"] = (time.perf_counter() - start) / len(tree.ids) * 1e6
    start = time.perf_counter()
    root = tree.root
    row["root_ms"] = (time.perf_counter() - start) * 1e3
    assert root.size == items
    return row


def right(tree: Any, owner: int, item: int, leaf_of: npt.NDArray[np.int64]) -> bool:
    """Whether most other members of a node are of the item's leaf."""
    members = tree.members(owner)
    members = members[members != item]
    return bool(len(members)) and float(np.mean(leaf_of[members] == leaf_of[item])) > 0.5


def main() -> None:
    """Run each size in a process of its own, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder or .json file for the result [benchmarks/results]")
    parser.add_argument("--items", type=int, action="append", help="may be given several times [10000, 100000]")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--radius", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--row", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = options.items or [10_000, 100_000]
    if options.row:
        print(json.dumps(run(sizes[0], options.dim, options.radius, options.seed)))
        return
    rows = []
    for items in sizes:
        command = [sys.executable, "-m", "benchmarks.hierarchy_scale", "--row", "--items", str(items)]
        command += ["--dim", str(options.dim), "--radius", str(options.radius), "--seed", str(options.seed)]
        told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        rows.append(json.loads(told))
        print(json.dumps(rows[-1]))
    threads = int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0))))
    parameters = {"threads": threads, "leaf": LEAF, "attached": LATER}
    print(write_result("hierarchy_scale", options.out, parameters, rows))


if __name__ == "__main__":
    main()
