"""Search by photo over HTTP, beside its limit and a peer: rate and latency at 1, 4, 16 and 64 clients.

    python -m benchmarks.serving [--checkpoint RUN] [--seconds 10] [--rounds 3] [--out FOLDER]

The collection has 50,000 points: those of the photos, and others about them. The same JPEGs go to

- ``service``: `lhier serve` as it comes, in a process of its own;
- ``bare``: the encoder and the index in one process without HTTP, decoding in threads, in batches of as many photos as
  there would be clients (16 at most), with 1 and 2 threads for the encoder, of which the faster counts: the limit;
- ``LitServe``: the same encoder in torch, a flat FAISS index and batches up to 16, as LitServe's guide has it; and with
  the encoder run by parts of four photos, which is our own trick and is quicker on CPUs.

All of them take turns in each round, the others stopped meanwhile (some poll when idle); medians of the rounds count.
The clients are threads of this process.
"""

import argparse
import itertools
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image

from benchmarks.common import PROJECT, write_result
from benchmarks.embed import load
from benchmarks.load_client import PERCENTILES, SMALL, closed_loop, jpegs, photo_request
from hyperbolic.checkpoint import save_checkpoint
from hyperbolic.embedder import Embedder
from hyperbolic.images import find_images, read_image
from index.catalogue import Item
from index.collection import Collection
from index.plan import Plan, write_request

PHOTOS = PROJECT.parent / "shared" / "data" / "grocery" / "test"
CLIENTS = (1, 4, 16, 64)
LARGE = (4000, 3000)
START_S = 300.0
# Threads that spin while they wait take the cores from the other systems, idle as these are.
PASSIVE = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
MAX_BATCH = 16

Row = dict[str, Any]


def build_store(folder: Path, embedder: Embedder, photos: Sequence[Path], count: int) -> np.ndarray:
    """A collection of ``count`` points: the photos', and others scattered about them; returns the points."""
    rng = np.random.default_rng(0)
    _, known = embedder.embed_files(photos)
    spread = 0.3 * np.linalg.norm(known, axis=1).mean() / np.sqrt(known.shape[1])
    around = known[rng.integers(len(known), size=count - len(known))]
    points = np.concatenate([known, around + rng.normal(0, spread, around.shape)]).astype(np.float32)
    request = Plan(requested="auto").request()
    with Collection.create(
        folder, embedding_dim=embedder.embedding_dim, c=embedder.c, model_hash=embedder.model_hash
    ) as collection:
        write_request(collection.folder, request)
        for start in range(0, count, 10_000):
            collection.upsert(
                [
                    Item(f"item-{row}", points[row], ("group", f"{row % 100}"), {"number": row})
                    for row in range(start, min(start + 10_000, count))
                ]
            )
        collection.rebuild()
    return points


def signal_tree(pid: int, number: signal.Signals) -> list[psutil.Process]:
    """Send a signal to a process and everything that it started; all of them, none where it has ended."""
    try:
        process = psutil.Process(pid)
        tree = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
    for each in tree:
        with suppress(psutil.NoSuchProcess):
            each.send_signal(number)
    return tree


@contextmanager
def running(command: Sequence[str], url: str, ready: str, log: Path) -> Iterator[int]:
    """A server for as long as the block lasts, by its process id; it is there once ``ready`` answers."""
    with log.open("ab") as output:
        process = subprocess.Popen([sys.executable, *command], cwd=PROJECT, stdout=output, stderr=output, env=PASSIVE)
    try:
        deadline = time.monotonic() + START_S
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{' '.join(command[:2])} did not start:\n{log.read_text()[-2000:]}")
            try:
                with urllib.request.urlopen(f"{url}{ready}", timeout=5):  # noqa: S310 - our own address
                    break
            except OSError:
                time.sleep(0.2)
        yield process.pid
    finally:
        started = signal_tree(process.pid, signal.SIGCONT)
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for each in psutil.wait_procs(started, timeout=2)[1]:  # LitServe leaves its workers behind, and they poll
            each.kill()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@dataclass(frozen=True, slots=True)
class System:
    """What is measured: a process, and the call that asks it, by size of the photos, clients and seconds."""

    pid: int
    ask: Callable[[str, int, float], Row]


class Bare:
    """Decoding, encoder and index in one process, without HTTP."""

    def __init__(self, checkpoint: Path, store: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        self.threads = threads
        self.embedder = Embedder.load(checkpoint, runtime="openvino", batch_size=MAX_BATCH)
        self.collection = Collection.open(store, model_hash=self.embedder.model_hash)
        for size in range(1, MAX_BATCH + 1):  # a size seen first takes longer
            side = self.embedder.image_size
            self.embedder.run(np.zeros((size, 3, side, side), np.float32))

    def read(self, photo: bytes) -> Image.Image:
        """Decoded as the service does: large JPEGs at a fraction of their size."""
        return read_image(photo, draft_side=self.embedder.preprocessing.draft_side)

    def one_by_one(self, photos: Sequence[bytes], seconds: float) -> Row:
        """Each photo decoded, embedded and searched before the next."""
        took: list[float] = []
        started = time.perf_counter()
        for photo in itertools.cycle(photos):
            before = time.perf_counter()
            if before - started > seconds:
                break
            tensor = self.embedder.preprocessing(self.read(photo))
            self.collection.search(self.embedder.embed_tensors(tensor[None])[0], 10)
            took.append(time.perf_counter() - before)
        row: Row = {"answered": len(took), "rate_per_s": len(took) / (time.perf_counter() - started)}
        return row | {f"p{p}_ms": 1e3 * float(np.percentile(took, p)) for p in PERCENTILES}

    def batches(self, photos: Sequence[bytes], size: int, seconds: float) -> Row:
        """Batches of ``size``, the next ones decoded in threads meanwhile."""
        started = time.perf_counter()

        def coming() -> Iterator[list[bytes]]:
            endless = itertools.cycle(photos)
            while time.perf_counter() - started < seconds:
                yield list(itertools.islice(endless, size))

        done = 0
        for batch in self.embedder.decoded(coming(), self.read):
            self.collection.search_batch(self.embedder.embed_tensors(batch.images), 10)
            done += len(batch.kept)
        return {"answered": done, "rate_per_s": done / (time.perf_counter() - started)}

    def measure(self, photos: Sequence[bytes], clients: int, seconds: float) -> Row:
        """As quick as it goes with so many photos at hand."""
        if clients == 1:
            return self.one_by_one(photos, seconds)
        return self.batches(photos, min(clients, MAX_BATCH), seconds)


def run_bare(arguments: Sequence[str]) -> None:
    """Entry of the processes that measure ``bare``: lines of "size clients seconds" in, rows out."""
    import json

    checkpoint, store, threads, folder = arguments
    bare = Bare(Path(checkpoint), Path(store), int(threads))
    print("ready", flush=True)
    for line in sys.stdin:
        size, clients, seconds = line.split()
        photos = [path.read_bytes() for path in sorted(Path(folder, size).iterdir())]
        print(json.dumps(bare.measure(photos, int(clients), float(seconds))), flush=True)


def bare_process(checkpoint: Path, store: Path, threads: int, folder: Path) -> "subprocess.Popen[str]":
    """A process that measures ``bare`` when it is told to."""
    command = [sys.executable, "-m", "benchmarks.serving", "--bare", *map(str, (checkpoint, store, threads, folder))]
    process = subprocess.Popen(
        command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=PASSIVE
    )
    assert process.stdout is not None
    if process.stdout.readline().strip() != "ready":
        raise SystemExit("the bare loop did not start")
    return process


def ask_bare(process: "subprocess.Popen[str]", size: str, clients: int, seconds: float) -> Row:
    """One measurement."""
    import json

    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{size} {clients} {seconds}\n")
    process.stdin.flush()
    row: Row = json.loads(process.stdout.readline())
    return row


def systems(
    stack: ExitStack, checkpoint: Path, store: Path, points: Path, photos: Path, work: Path, threads: int
) -> dict[str, System]:
    """Every system, started and stopped (SIGSTOP)."""
    found: dict[str, System] = {}
    files = {folder.name: [path.read_bytes() for path in sorted(folder.iterdir())] for folder in photos.iterdir()}

    def over_http(url: str, path: str) -> Callable[[str, int, float], Row]:
        requests = {size: [photo_request(url, path, photo) for photo in some] for size, some in files.items()}
        return lambda size, clients, seconds: closed_loop(url, requests[size], clients, seconds).summary()

    url = f"http://127.0.0.1:{(port := free_port())}"
    command = ["-m", "lhier.cli", "serve", "--checkpoint", str(checkpoint), "--store", str(store), "--port", str(port)]
    pid = stack.enter_context(running([*command, "--log-level", "warning"], url, "/readyz", work / "service.log"))
    found["service"] = System(pid, over_http(url, "/v1/search"))
    for count in (1, 2):
        process = bare_process(checkpoint, store, count, photos)
        stack.callback(process.kill)
        found[f"bare, {count} threads"] = System(process.pid, partial(ask_bare, process))
    for name, extra in (("LitServe", []), ("LitServe, encoder by fours", ["--sliced"])):
        url = f"http://127.0.0.1:{(port := free_port())}"
        command = ["-m", "benchmarks.serving_litserve", str(checkpoint), str(points), str(port)]
        command += ["--threads", str(threads), *extra]
        pid = stack.enter_context(running(command, url, "/health", work / "litserve.log"))
        found[name] = System(pid, over_http(url, "/predict"))
    for system in found.values():
        signal_tree(system.pid, signal.SIGSTOP)
    return found


def measure(system: System, size: str, clients: int, seconds: float) -> Row:
    """One turn of a system."""
    signal_tree(system.pid, signal.SIGCONT)
    try:
        return system.ask(size, clients, seconds)
    finally:
        signal_tree(system.pid, signal.SIGSTOP)


def median_row(rows: Sequence[Row]) -> Row:
    """The median of each figure."""
    return {key: statistics.median(row[key] for row in rows) for key in rows[0] if all(key in row for row in rows)}


def main() -> None:
    """Measure and write one result file."""
    if sys.argv[1:2] == ["--bare"]:
        run_bare(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder or .json file for the result")
    parser.add_argument("--checkpoint", type=Path, help="a trained run; by default the recipes' backbone")
    parser.add_argument("--photos", type=Path, default=PHOTOS, help="a folder of photos")
    parser.add_argument("--count", type=int, default=50_000, help="points of the collection")
    parser.add_argument("--clients", type=int, nargs="+", default=CLIENTS)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="of LitServe's encoder")
    asked = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        work = Path(folder)
        embedder, weights = load(asked.checkpoint, "tf_efficientnet_lite0", 32)
        checkpoint = asked.checkpoint
        if checkpoint is None:
            checkpoint = work / "checkpoint"
            save_checkpoint(checkpoint, embedder.encoder)
            embedder = Embedder.load(checkpoint, batch_size=32)
        paths = find_images(asked.photos)
        for name, size, count in (("small", SMALL, 64), ("large", LARGE, 8)):
            (work / "photos" / name).mkdir(parents=True)
            for number, photo in enumerate(jpegs(paths, size, count)):
                (work / "photos" / name / f"{number:03}.jpg").write_bytes(photo)
        np.save(work / "points.npy", build_store(work / "store", embedder, paths[:1000], asked.count))
        found = systems(stack, checkpoint, work / "store", work / "points.npy", work / "photos", work, asked.threads)
        for size in ("small", "large"):
            for clients in asked.clients:
                measured: dict[str, list[Row]] = {name: [] for name in found}
                for number in range(asked.rounds + 1):
                    for name, system in found.items():
                        row = measure(system, size, clients, asked.seconds if number else 1.0)
                        if number:  # the first one warms up
                            measured[name].append(row)
                for name, some in measured.items():
                    row = {"system": name, "photos": size, "clients": clients, **median_row(some)}
                    rows.append(row)
                    told = "  ".join(f"{key} {value:.1f}" for key, value in row.items() if isinstance(value, float))
                    print(f"{size:<6} {clients:>3} clients  {name:<28} {told}", flush=True)
    parameters = {
        "backbone": embedder.backbone,
        "weights": weights,
        "count": asked.count,
        "seconds": asked.seconds,
        "rounds": asked.rounds,
        "litserve_threads": asked.threads,
        "small": list(SMALL),
        "large": list(LARGE),
    }
    print("wrote", write_result("serving", asked.out, parameters, rows))


if __name__ == "__main__":
    main()
