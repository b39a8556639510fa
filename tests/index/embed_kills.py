"""Kill an embedding job with SIGKILL at random points, resume it, and compare with a job that nobody disturbed.

    python tests/index/embed_kills.py CHECKPOINT SOURCE WORK [--kills 10] [--seed 0] [--runtime torch] [--part-size 16]

Prints a JSON object; exit code 1 where a row differs, or more than a part was done again for each kill. The suite runs
it with a few kills (test_embed_kills.py). Each run is a fork of this process, which has imported everything and
computed nothing.
"""

import argparse
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from hyperbolic.embedder import Embedder
from index.embed import embed_photos
from index.embeddings import read_manifest
from index.sources import open_source


def start(arguments: argparse.Namespace, out: Path, log: Path, left: int | None = None) -> int:
    """The job in a process of its own, which writes a byte into `log` for each photo that it embeds.

    With `left`, the photos that are left to it, it waits before those that would be the last: a busy machine lets the
    job run on while the process that is to kill it waits.
    """
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        embedder = Embedder.load(arguments.checkpoint, batch_size=arguments.batch_size)
        embedder.use(arguments.runtime)
        run, before, written = embedder.run, embedded(log), os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

        def counted(images: np.ndarray) -> np.ndarray:
            while left is not None and embedded(log) - before + len(images) >= left:
                signal.pause()
            points = run(images)
            os.write(written, b"." * len(images))
            return points

        embedder.run = counted  # type: ignore[assignment]
        source = open_source(arguments.source)
        embed_photos(embedder, source, out, checkpoint=arguments.checkpoint, part_size=arguments.part_size)
        status = 0
    finally:
        os._exit(status)


def finish(child: int) -> int:
    """The exit code of the process, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def ended(child: int) -> bool:
    """Whether the process is done; its exit code stays for :func:`finish`."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def embedded(log: Path) -> int:
    """How many photos were embedded so far, by all runs that wrote into `log`."""
    return log.stat().st_size if log.exists() else 0


def rows(out: Path) -> dict[str, tuple[list[str], bytes]]:
    """id -> labels and the bytes of the point, of every shard."""
    found: dict[str, tuple[list[str], bytes]] = {}
    for part in read_manifest(out).parts:
        for row in pq.read_table(out / part.file).to_pylist():
            assert row["id"] not in found, f"{row['id']} stands twice"
            found[row["id"]] = (row["labels"], np.array(row["space"], np.float32).tobytes())
    return found


def main() -> int:
    """Run both jobs and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("source")
    parser.add_argument("work", type=Path, help="an empty folder")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runtime", default="torch")
    parser.add_argument("--part-size", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=8)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    whole, killed = arguments.work / "whole", arguments.work / "killed"
    log = arguments.work / "whole.log"
    child = start(arguments, whole, log)
    while not embedded(log) and not ended(child):
        time.sleep(0.001)
    begun = time.monotonic()  # loading the encoder, which takes longer than to embed a few photos, does not count
    assert finish(child) == 0
    total, seconds = embedded(log), time.monotonic() - begun
    log = arguments.work / "killed.log"
    # Points spread over the whole job, counted in photos, and within that anywhere up to a batch's time later.
    *points, last = sorted(rng.uniform(0, total) for _ in range(arguments.kills))
    points = [min(point, total - arguments.batch_size) for point in points]  # there they wait; the last one may end
    landed, restarts, kept, redone = 0, 0, 0, []
    for point in [*points, last]:
        before = embedded(log)
        child = start(arguments, killed, log, left=None if restarts == len(points) else total - kept)
        restarts += 1
        while embedded(log) < max(point, before) and not ended(child):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 2 * seconds * arguments.batch_size / total))
        os.kill(child, signal.SIGKILL)
        landed += finish(child) == -signal.SIGKILL
        # What was embedded, but is in no finished part, is what the next run must do again.
        job = killed / "job.jsonl"
        lines = job.read_text(errors="replace").splitlines(keepends=True)[1:] if job.exists() else []
        kept = sum(json.loads(line)["part"]["rows"] for line in lines if line.endswith("\n"))
        if not (killed / "manifest.json").exists():
            redone.append(embedded(log) - sum(redone) - kept)
    assert finish(start(arguments, killed, log)) == 0
    expected, found = rows(whole), rows(killed)
    same_failures = (whole / "failures.jsonl").read_text() == (killed / "failures.jsonl").read_text()
    again = embedded(log) - total
    report = {
        "photos": total,
        "kills": landed,
        "restarts": restarts,
        "rows_that_differ": sum(expected.get(key) != found.get(key) for key in expected.keys() | found.keys()),
        "same_failures": same_failures,
        "embedded_again": again,
        "most_for_one_kill": max(redone, default=0),
        "part_size": arguments.part_size,
    }
    print(json.dumps(report))  # noqa: T201
    sound = not report["rows_that_differ"] and same_failures and report["most_for_one_kill"] <= arguments.part_size
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
