"""SIGKILL a server under write load, again and again, and compare what is left with what it had acknowledged.

    python -m benchmarks.serving_kills [--kills 50] [--clients 4] [--seed 0] [--out FOLDER]

`lhier serve` runs with a small encoder of random weights. Clients write points, photos (some of them the same) and
overwrite and delete what they wrote; the server is killed some time after a random number of acknowledgements, or (one
kill in six) while it starts. After each kill another one is started on the same store, and asked: every acknowledged
item must be there as it was last acknowledged, its photo the same bytes, and be found at distance 0 by its point or
photo; a request whose answer never came may have been carried out as a whole, or not at all; nothing else may be there.
The encoder's process must have ended with the server. At the end the server is stopped by SIGTERM, and the photos on
the disk must be exactly those of the items. Prints a JSON object; exit code 1 where anything was wrong.
"""

import argparse
import base64
import io
import json
import os
import queue
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import httpx
import numpy as np
import psutil
from PIL import Image

from benchmarks.common import write_result

DIM, IDS, SHARED = 16, 40, 8  # of points; ids of a client; photos that several items have
ITEMS = "/v1/collections/kills/items"
START_S, END_S = 120.0, 20.0
PHOTO_SEARCHES = 8  # after each kill; points are all searched for
NEAR = 1e-3  # distance at which a photo's own item must be found: its point comes from another batch

Held = tuple[Literal["point", "photo"], int]
State = dict[str, Held]


def point(seed: int) -> list[float]:
    """The space part that an item of this seed has."""
    return [float(value) for value in np.random.default_rng(seed).normal(size=DIM).astype(np.float32)]


@lru_cache(maxsize=4096)
def photo(seed: int) -> bytes:
    """The JPEG that an item of this seed has."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    coarse.save(buffer, "JPEG")
    return buffer.getvalue()


class Server:
    """A server process over the store."""

    def __init__(self, work: Path) -> None:
        self.log = work / "server.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "lhier.cli", "serve", "--port", "0",
                 "--checkpoint", work / "checkpoint", "--store", work / "store"],
                stdout=log, stderr=subprocess.STDOUT, env=os.environ | {"LHIER_INFERENCE__RUNTIME": "torch"},
            )  # fmt: skip

    def url(self) -> str:
        """Where it listens, as soon as it does."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            if found := re.search(r"Page: (http://\S+)/ ", self.log.read_text()):
                with suppress(httpx.TransportError):
                    if httpx.get(f"{found[1]}/readyz", timeout=5).status_code == httpx.codes.OK:
                        return found[1]
            time.sleep(0.05)
        raise RuntimeError(f"the server did not start: {self.log.read_text()[-2000:]}")

    def kill(self) -> bool:
        """SIGKILL; whether the processes it had started ended as well."""
        started = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait()
        return not psutil.wait_procs(started, timeout=END_S)[1]

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.terminate()
        return self.process.wait(timeout=60)


@dataclass
class Client:
    """One writer with ids of its own. ``pending`` is the state if the request that is under way is carried out."""

    name: str
    rng: random.Random
    state: State = field(default_factory=dict)
    pending: State | None = None
    acknowledged: int = 0
    wrong: list[str] = field(default_factory=list)

    def work(self, url: str, acknowledgements: "queue.SimpleQueue[None]") -> None:
        """Write until the server is gone."""
        with httpx.Client(base_url=url, timeout=60) as http:
            while True:
                after, send = self._next(http)
                self.pending = after
                try:
                    response = send()
                except httpx.TransportError:
                    return
                if response.status_code != httpx.codes.OK:
                    self.wrong.append(f"client {self.name}: {response.status_code} {response.text[:300]}")
                self.state, self.pending = after, None
                self.acknowledged += 1
                acknowledgements.put(None)

    def _next(self, http: httpx.Client) -> tuple[State, Any]:
        rng, chance = self.rng, self.rng.random()
        if chance < 0.2:
            ids = self._ids(10)
            return {id_: held for id_, held in self.state.items() if id_ not in ids}, lambda: http.post(
                f"{ITEMS}/delete", json={"ids": ids}
            )
        kind: Literal["point", "photo"] = "point" if chance < 0.6 else "photo"
        most = 20 if kind == "point" else 3
        new: State = {id_: (kind, self._seed(kind)) for id_ in self._ids(most)}
        if kind == "photo" and len(new) == 1 and rng.random() < 0.5:
            ((id_, (_, seed)),) = new.items()
            form = {"id": id_, "metadata": json.dumps({"seed": seed})}
            return self.state | new, lambda: http.put(ITEMS, data=form, files={"file": (id_, photo(seed))})
        items = [{"id": id_, "metadata": {"seed": seed}, **_source(kind, seed)} for id_, (_, seed) in new.items()]
        return self.state | new, lambda: http.put(ITEMS, json={"items": items})

    def _ids(self, most: int) -> list[str]:
        return [f"{self.name}/{n}" for n in self.rng.sample(range(IDS), self.rng.randint(1, most))]

    def _seed(self, kind: str) -> int:
        return self.rng.randrange(SHARED if kind == "photo" and self.rng.random() < 0.3 else 2**31)


def _source(kind: str, seed: int) -> dict[str, Any]:
    if kind == "point":
        return {"embedding": point(seed)}
    return {"image": base64.b64encode(photo(seed)).decode()}


def everything(http: httpx.Client) -> Iterator[dict[str, Any]]:
    """All items."""
    cursor = None
    while True:
        page = http.post(f"{ITEMS}/scroll", json={"limit": 1000, "cursor": cursor}).json()
        yield from page["items"]
        if (cursor := page["next_cursor"]) is None:
            return


def check(url: str, clients: list[Client], rng: random.Random, report: dict[str, int]) -> list[str]:
    """What is wrong; the clients go on from what is there."""
    wrong: list[str] = []
    with httpx.Client(base_url=url, timeout=60) as http:
        there: State = {
            item["id"]: ("photo" if item.get("image") else "point", item["metadata"]["seed"])
            for item in everything(http)
        }
        for client in clients:
            own = {id_: held for id_, held in there.items() if id_.startswith(f"{client.name}/")}
            if client.pending is not None:
                report["unacknowledged_kept" if own == client.pending else "unacknowledged_gone"] += 1
            if own not in (client.state, client.pending):
                expected = client.state.items() ^ own.items()
                wrong.append(f"client {client.name}: differs in {sorted(expected)[:5]}")
            client.state, client.pending = own, None
        points = [(id_, seed) for id_, (kind, seed) in there.items() if kind == "point"]
        photos = [(id_, seed) for id_, (kind, seed) in there.items() if kind == "photo"]
        for start in range(0, len(points), 32):
            part = points[start : start + 32]
            queries = [{"query": {"embedding": point(seed)}, "limit": 1, "include": []} for _, seed in part]
            answer = http.post("/v1/collections/kills/search/batch", json={"searches": queries}).json()
            for (id_, _), result in zip(part, answer["results"], strict=True):
                hits = result["answer"]["hits"]
                if not hits or hits[0]["id"] != id_ or hits[0]["distance"] > 0:
                    wrong.append(f"{id_} is not found by its point")
        for id_, seed in photos:
            if http.get(f"{ITEMS}/{id_.replace('/', '%2F')}/image").content != photo(seed):
                wrong.append(f"the photo of {id_} is not what was sent")
        for id_, seed in rng.sample(photos, min(PHOTO_SEARCHES, len(photos))):
            asked = {"query": _source("photo", seed), "limit": 1000, "max_distance": NEAR, "include": []}
            hits = http.post("/v1/collections/kills/search", json=asked).json()["hits"]
            if id_ not in {hit["id"] for hit in hits}:
                wrong.append(f"{id_} is not found by its photo")
        report["items_checked"] += len(there)
        report["photos_checked"] += len(photos)
    return wrong


def round_of(server: Server, url: str, clients: list[Client], rng: random.Random) -> bool:
    """Load, then SIGKILL; whether the server's own processes ended as well."""
    acknowledgements: queue.SimpleQueue[None] = queue.SimpleQueue()
    threads = [threading.Thread(target=client.work, args=(url, acknowledgements)) for client in clients]
    for thread in threads:
        thread.start()
    for _ in range(rng.randrange(60)):
        with suppress(queue.Empty):
            acknowledgements.get(timeout=END_S)
    time.sleep(rng.expovariate(1 / 0.02))
    ended = server.kill()
    for thread in threads:
        thread.join()
    return ended


def photos_on_disk(store: Path) -> set[str]:
    """The names of everything that is kept of uploads."""
    return {path.name for path in (store / "uploads").rglob("*") if path.is_file()}


def run(work: Path, kills: int, count: int, seed: int) -> tuple[dict[str, Any], list[str]]:
    """All rounds: the figures, and what was wrong."""
    rng = random.Random(seed)
    make_checkpoint(work / "checkpoint")
    (work / "store").mkdir()
    clients = [Client(str(number), random.Random(f"{seed}-{number}")) for number in range(count)]
    names = ("kills", "while_starting", "unacknowledged_kept", "unacknowledged_gone", "items_checked", "photos_checked")
    report, wrong, seconds = dict.fromkeys(names, 0), [], []
    server = Server(work)
    url = server.url()
    httpx.put(f"{url}/v1/collections/kills").raise_for_status()
    while report["kills"] < kills:
        if not round_of(server, url, clients, rng):
            wrong.append("a process of the server outlived it")
        report["kills"] += 1
        if rng.random() < 1 / 6:
            server = Server(work)
            time.sleep(rng.uniform(0, seconds[-1] if seconds else 1.0))
            server.kill()
            report["kills"] += 1
            report["while_starting"] += 1
        begun = time.perf_counter()
        server = Server(work)
        url = server.url()
        seconds.append(time.perf_counter() - begun)
        wrong += [f"kill {report['kills']}: {fault}" for fault in check(url, clients, rng, report)]
    if code := server.stop():
        wrong.append(f"stopped by SIGTERM, the server exited with {code}")
    wrong += [fault for client in clients for fault in client.wrong]
    expected = {photo(seed) for client in clients for kind, seed in client.state.values() if kind == "photo"}
    if len(found := photos_on_disk(work / "store")) != len(expected):
        wrong.append(f"{len(found)} files of photos are kept, the items have {len(expected)} different ones")
    figures: dict[str, Any] = {
        **report,
        "acknowledged": sum(client.acknowledged for client in clients),
        "items_at_the_end": sum(len(client.state) for client in clients),
        "start_median_s": round(sorted(seconds)[len(seconds) // 2], 2),
        "start_longest_s": round(max(seconds), 2),
        "wrong": len(wrong),
    }
    return figures, wrong


def make_checkpoint(folder: Path) -> None:
    """A small encoder of random weights."""
    import torch

    from hyperbolic.checkpoint import save_checkpoint
    from hyperbolic.models.config import ModelConfig
    from hyperbolic.models.lhier import Encoder

    torch.manual_seed(0)
    save_checkpoint(folder, Encoder(ModelConfig(backbone="test_vit", embedding_dim=DIM, image_size=160)))


def main() -> int:
    """Kill, start, compare, and go on from there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write a result file, into this folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kills-") as work:
        figures, wrong = run(Path(work), arguments.kills, arguments.clients, arguments.seed)
    print(json.dumps({**figures, "faults": wrong[:20]}))
    if arguments.out is not None:
        parameters = {"kills": arguments.kills, "clients": arguments.clients, "seed": arguments.seed}
        write_result("serving_kills", arguments.out, parameters, [figures])
    return 1 if wrong else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the folder goes, and the server with it
    sys.exit(main())
