"""SIGKILL a writer at random points, again and again, and compare what is left with what it had acknowledged.

    python tests/index/durability/kills.py WORK [--kills 200] [--rows 2000] [--dim 8] [--kind auto] [--seed 0]

The writer upserts, deletes, saves and rebuilds; it notes each write before it begins and after it was acknowledged. It
is killed while it opens the collection (one kill in six), or some time after a random acknowledgement. Prints a JSON
object with the number of kills, writes and seconds that openings took; exit code 1 where a write was lost, invented or
half done, or where a search differs from brute force. The suite runs it with a few kills (test_kills.py).
"""

import argparse
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from oracle import MODEL, C, State, faults_of, held, leftovers, made

from index.collection import Collection
from index.plan import Plan, write_request

BATCH = 20  # writes that a round may reach before it waits to be killed, at most 20 items each


def work(store: Path, log: Path, seed: int, dim: int, count: int) -> None:
    """The writer: `count` items are there already, called 0 ... count - 1."""
    note = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    rng = random.Random(seed)
    with Collection.open(store) as collection:
        os.write(note, b'{"opened": true}\n')
        while True:
            ids = [str(rng.randrange(count + 100)) for _ in range(rng.randint(1, 20))]
            if rng.random() < 0.35:
                os.write(note, json.dumps({"delete": ids}).encode() + b"\n")
                collection.delete(ids)
            else:
                seeds = {id_: rng.randrange(2**31) for id_ in ids}
                os.write(note, json.dumps({"upsert": seeds}).encode() + b"\n")
                collection.upsert([made(id_, number, dim) for id_, number in seeds.items()])
            os.write(note, b'{"acknowledged": true}\n')
            if (chance := rng.random()) < 0.1:
                collection.snapshot()
            elif chance < 0.12:
                collection.rebuild()


def started(*arguments: object) -> int:
    """A fork of this process at work."""
    child = os.fork()
    if child:
        return child
    try:
        work(*arguments)  # type: ignore[arg-type]
    finally:
        os._exit(1)


def replayed(log: Path, state: State, dim: int) -> tuple[State, State, int, bool]:
    """The state that was acknowledged, the one that the last write would make, how many writes, and if one was open."""
    lines = log.read_bytes().split(b"\n")[:-1] if log.exists() else []
    acknowledged, pending, writes = dict(state), dict(state), 0
    for line in map(json.loads, lines):
        if "acknowledged" in line:
            acknowledged, writes = dict(pending), writes + 1
        for id_ in line.get("delete", ()):
            pending.pop(id_, None)
        pending |= {id_: held(made(id_, number, dim)) for id_, number in line.get("upsert", {}).items()}
    return acknowledged, pending, writes, bool(lines) and bool({"upsert", "delete"} & json.loads(lines[-1]).keys())


def wait_for(log: Path, child: int, acknowledged: int) -> None:
    """Until the writer has so many writes acknowledged, or has ended."""
    while not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        if log.exists() and log.read_bytes().count(b'{"acknowledged"') >= acknowledged:
            return
        time.sleep(0.001)


def main() -> int:
    """Kill, open, compare, and go on from there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="an empty folder")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--rows", type=int, default=2000, help="items at the beginning")
    parser.add_argument("--dim", type=int, default=8)
    parser.add_argument("--kind", default="auto", help="of index")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng, store, dim = random.Random(arguments.seed), arguments.work / "store", arguments.dim
    with Collection.create(store, embedding_dim=dim, c=C, model_hash=MODEL) as collection:
        state = {}
        for start in range(0, arguments.rows, 5000):
            items = [made(str(n), n, dim) for n in range(start, min(start + 5000, arguments.rows))]
            collection.upsert(items)
            state |= {item.id: held(item) for item in items}
        write_request(collection.folder, Plan(requested=arguments.kind).request())
        collection.rebuild()
    report = {"kills": 0, "while_opening": 0, "acknowledged": 0, "unacknowledged_kept": 0, "unacknowledged_gone": 0}
    wrong: list[str] = []
    seconds: list[float] = []
    for number in range(arguments.kills):
        log = arguments.work / f"{number}.log"
        child = started(store, log, rng.randrange(2**31), dim, arguments.rows)
        if rng.random() < 1 / 6:
            time.sleep(rng.uniform(0, 2 * (seconds[-1] if seconds else 0.05)))
        else:
            wait_for(log, child, rng.randrange(BATCH))
            time.sleep(rng.expovariate(1 / 0.01))
        os.kill(child, signal.SIGKILL)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != -signal.SIGKILL:
            wrong.append(f"round {number}: the writer ended by itself")
        acknowledged, pending, writes, open_write = replayed(log, state, dim)
        report["kills"] += 1
        report["while_opening"] += not (log.exists() and log.stat().st_size)
        report["acknowledged"] += writes
        begun = time.perf_counter()
        with Collection.open(store) as collection:
            seconds.append(time.perf_counter() - begun)
            wrong_pending = faults_of(collection, pending, seed=number) if open_write else ["no write was open"]
            wrong_before = faults_of(collection, acknowledged, seed=number) if wrong_pending else []
            if open_write:
                report["unacknowledged_kept" if not wrong_pending else "unacknowledged_gone"] += 1
            if wrong_pending and wrong_before:
                wrong += [f"round {number}: {fault}" for fault in (*wrong_before, *wrong_pending)]
            state = acknowledged if wrong_pending else pending
    report |= {
        "rows": len(state),
        "dim": dim,
        "index": arguments.kind,
        "opening_seconds": {"median": round(sorted(seconds)[len(seconds) // 2], 3), "longest": round(max(seconds), 3)},
        "left_by_the_killed": len(leftovers(store)),
        "wrong": wrong[:20],
    }
    print(json.dumps(report))  # noqa: T201
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
