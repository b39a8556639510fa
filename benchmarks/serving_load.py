"""The service under more than it can do: overload, slow clients, and long mixed use.

    python -m benchmarks.serving_load overload --checkpoint RUN --store STORE --photos FOLDER --seconds 60
    python -m benchmarks.serving_load slow --checkpoint RUN --store STORE --photos FOLDER
    python -m benchmarks.serving_load soak --checkpoint RUN --store STORE --photos FOLDER --minutes 30

Each starts ``lhier serve`` on a free port (soak over a copy of the store), asks over raw sockets from this process,
prints its figures, and writes them by the rules of :mod:`benchmarks.common`.
"""

import asyncio
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from benchmarks.common import write_result
from benchmarks.load_client import SMALL, jpegs, photo_request
from hyperbolic.images import find_images

PHOTOS = 64
START_S = 900.0
CLIENTS = 16
OVERLOAD = 4
SLOW_CLIENTS = 200


@dataclass
class Running:
    """A started service."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def resident_bytes(self) -> int:
        """Of the service and its encoder's worker."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        threads = Path(f"/proc/{self.process.pid}/task").iterdir()
        for thread in threads:
            with contextlib.suppress(OSError):
                children += (thread / "children").read_text().split()
        pids = {str(self.process.pid), *children}
        pages = 0
        for pid in pids:
            with contextlib.suppress(OSError):
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def service(checkpoint: Path, store: Path, photos: Path, runtime: str) -> Iterator[Running]:
    """``lhier serve``, stopped with SIGTERM at the end, which must succeed."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        options = ["--checkpoint", checkpoint, "--store", store, "--image-root", photos, "--runtime", runtime]
        command = [sys.executable, "-m", "lhier.cli", "serve", *options, "--port", "0", "--log-level", "warning"]
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT,
                                       env={**os.environ, "PYTHONUNBUFFERED": "1"})  # fmt: skip
        try:
            deadline = time.monotonic() + START_S
            while not (found := re.search(r"Page: http://127\.0\.0\.1:(\d+)/", log.read_text())):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the service did not start:\n{log.read_text()}")
                time.sleep(0.1)
            yield Running(int(found[1]), process, log)
            process.send_signal(signal.SIGTERM)
            if process.wait(60) != 0:
                raise RuntimeError(f"the service ended with {process.returncode}:\n{log.read_text()}")
        finally:
            process.kill()
            process.wait()


def prepared(photos: Path) -> list[bytes]:
    """Searches by 224-pixel JPEGs, as they go over the wire."""
    paths = find_images(photos)
    if not paths:
        raise click.UsageError(f"{photos} holds no photos")
    return [search_by(photo) for photo in jpegs(paths, SMALL, PHOTOS)]


def search_by(photo: bytes) -> bytes:
    """A search by a photo."""
    return photo_request("http://127.0.0.1", "/v1/search", photo, {"limit": "10"})


def request(method: str, path: str, body: bytes = b"", content_type: str = "application/json") -> bytes:
    """A request's bytes."""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Connection:
    """One kept connection to the service, which asks and reads one answer at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, sent: bytes) -> tuple[int, bytes]:
        """Status and body. Raises ``OSError`` and ``asyncio.IncompleteReadError`` where the connection breaks."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        try:
            writer.write(sent)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = re.search(rb"content-length: (\d+)", head)
            body = await reader.readexactly(int(length[1])) if length else b""
        except BaseException:
            self.close()
            raise
        if b"connection: close" in head:
            self.close()
        return int(head[9:12]), body

    def close(self) -> None:
        """Close it."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


@dataclass
class Seen:
    """What came back: seconds by status, and what went wrong on the way."""

    seconds: dict[int, list[float]] = field(default_factory=dict)
    broken: Counter[str] = field(default_factory=Counter)

    async def ask(self, connection: Connection, sent: bytes) -> int | None:
        """One request, counted."""
        started = time.perf_counter()
        try:
            status, _ = await connection.ask(sent)
        except (OSError, asyncio.IncompleteReadError) as error:
            self.broken[type(error).__name__] += 1
            return None
        self.seconds.setdefault(status, []).append(time.perf_counter() - started)
        return status

    def figures(self, status: int, elapsed: float) -> dict[str, float]:
        """count, rate and percentiles in milliseconds of the answers with ``status``."""
        found = sorted(self.seconds.get(status, []))
        if not found:
            return {"count": 0}
        at = {f"p{p}_ms": 1000 * found[min(len(found) - 1, int(p / 100 * len(found)))] for p in (50, 95, 99)}
        return {"count": len(found), "rate": len(found) / elapsed, **at, "max_ms": 1000 * found[-1]}


async def closed_loop(port: int, requests: list[bytes], clients: int, seconds: float) -> Seen:
    """So many clients, each of which asks again when it has its answer."""
    seen, end = Seen(), time.perf_counter() + seconds

    async def client(number: int) -> None:
        connection, rng = Connection(port), random.Random(number)
        while time.perf_counter() < end:
            await seen.ask(connection, rng.choice(requests))
        connection.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    return seen


async def open_loop(port: int, requests: list[bytes], rate: float, seconds: float) -> Seen:
    """Requests at random times, ``rate`` a second, whatever becomes of those before."""
    seen, rng, free, tasks = Seen(), random.Random(0), [], set()

    async def one() -> None:
        connection = free.pop() if free else Connection(port)
        await seen.ask(connection, rng.choice(requests))
        free.append(connection)

    loop = asyncio.get_running_loop()
    at = started = loop.time()
    while at < started + seconds:
        at += rng.expovariate(rate)
        await asyncio.sleep(max(0.0, at - loop.time()))
        task = asyncio.ensure_future(one())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    for connection in free:
        connection.close()
    return seen


async def probing(port: int, until: asyncio.Event) -> Seen:
    """``/readyz``, five times a second."""
    seen, connection = Seen(), Connection(port)
    while not until.is_set():
        await seen.ask(connection, request("GET", "/readyz"))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(until.wait(), 0.2)
    connection.close()
    return seen


async def beside(port: int, work: Awaitable[Seen]) -> tuple[Seen, Seen]:
    """What ``work`` saw, and what the probe saw meanwhile."""
    ended = asyncio.Event()
    probe = asyncio.ensure_future(probing(port, ended))
    try:
        return await work, await _after(ended, probe)
    finally:
        ended.set()


async def _after(ended: asyncio.Event, probe: "asyncio.Future[Seen]") -> Seen:
    ended.set()
    return await probe


def row(what: str, seen: Seen, elapsed: float, status: int = 200) -> dict[str, Any]:
    """A row of the result, printed as well."""
    others = {str(key): len(each) for key, each in sorted(seen.seconds.items()) if key != status}
    told = {
        "what": what,
        "status": status,
        **seen.figures(status, elapsed),
        "others": others,
        "broken": dict(seen.broken),
    }
    click.echo(
        "  ".join(f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in told.items())
    )
    return told


async def warm(port: int, requests: list[bytes]) -> None:
    """Every photo once or twice."""
    await closed_loop(port, requests, 4, 3.0)


@click.group()
def main() -> None:
    """The service under more than it can do."""


def common(command: Callable[..., None]) -> Callable[..., None]:
    """The options that all share."""
    folder = click.Path(exists=True, file_okay=False, path_type=Path)
    for option in (
        click.option("--out", type=click.Path(path_type=Path), help="Folder or file of the result."),
        click.option("--runtime", default="auto", show_default=True),
        click.option(
            "--photos", required=True, type=folder, help="Photos that are searched for, and those of the store."
        ),
        click.option("--store", required=True, type=folder),
        click.option("--checkpoint", required=True, type=folder),
    ):
        command = option(command)
    return command


@main.command()
@common
@click.option(
    "--seconds", default=60.0, show_default=True, help="Of overload; a third of it for what it is compared to."
)
def overload(checkpoint: Path, store: Path, photos: Path, runtime: str, out: Path | None, seconds: float) -> None:
    """Four times the capacity: only 200 and 429, accepted p99 <= 2x that of 16 clients, 429s within 50 ms, ready."""
    requests = prepared(photos)

    async def run(port: int) -> list[dict[str, Any]]:
        await warm(port, requests)
        short = max(5.0, seconds / 3)
        alone, ready = await beside(port, closed_loop(port, requests, CLIENTS, short))
        rows = [row("16 clients alone", alone, short), row("readyz meanwhile", ready, short)]
        rate = OVERLOAD * rows[0]["rate"]
        loaded, ready = await beside(port, open_loop(port, requests, rate, seconds))
        accepted = row("accepted at 4x", loaded, seconds)
        refused = row("refused at 4x", loaded, seconds, 429)
        probed = row("readyz meanwhile", ready, seconds)
        summary = {
            "what": "summary",
            "offered_rate": rate,
            "p99_ratio": accepted["p99_ms"] / rows[0]["p99_ms"],
            "throughput_ratio": accepted["rate"] / rows[0]["rate"],
            "refused_p99_ms": refused.get("p99_ms"),
            "only_200_and_429": set(loaded.seconds) <= {200, 429} and not loaded.broken,
            "always_ready": set(ready.seconds) == {200} and not ready.broken,
        }
        rows += [accepted, refused, probed, summary]
        click.echo(json.dumps(rows[-1]))
        return rows

    with service(checkpoint, store, photos, runtime) as running:
        rows = asyncio.run(run(running.port))
    click.echo(write_result("serving_overload", out, {"seconds": seconds, "runtime": runtime, "side": SMALL[0]}, rows))


@main.command()
@common
@click.option("--seconds", default=20.0, show_default=True, help="Of each kind of slow client.")
def slow(checkpoint: Path, store: Path, photos: Path, runtime: str, out: Path | None, seconds: float) -> None:
    """200 clients that send or read slowly (slowhttptest): p99 of others <= 1.5x of that without them."""
    program = shutil.which("slowhttptest")
    if program is None:
        raise click.ClickException("slowhttptest is not installed: apt-get install slowhttptest")
    requests = prepared(photos)

    async def run(port: int) -> list[dict[str, Any]]:
        url = f"http://127.0.0.1:{port}"
        item = json.loads((await Connection(port).ask(request("POST", "/v1/collections/default/items/scroll",
                                                              b'{"limit": 1}')))[1])["items"][0]["id"]  # fmt: skip
        image = f"{url}/v1/collections/default/items/{quote(item, safe='')}/image"
        kinds = {
            "slow heads": ["-H", "-u", f"{url}/v1/info"],
            "slow bodies": ["-B", "-u", f"{url}/v1/search", "-t", "POST", "-f", "application/json", "-s", "8192"],
            "slow readers": ["-X", "-u", image, "-w", "8", "-y", "16", "-n", "5", "-z", "4", "-k", "20"],
        }
        await warm(port, requests)
        alone = row("4 clients alone", await closed_loop(port, requests, 4, seconds), seconds)
        rows = [alone]
        for kind, options in kinds.items():
            command = [
                program,
                *options,
                "-c",
                str(SLOW_CLIENTS),
                "-r",
                "100",
                "-i",
                "2",
                "-l",
                str(int(seconds) + 8),
                "-p",
                "3",
            ]
            attack = await asyncio.create_subprocess_exec(
                *command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            await asyncio.sleep(4)  # all are connected
            seen, ready = await beside(port, closed_loop(port, requests, 4, seconds))
            with contextlib.suppress(ProcessLookupError):
                attack.terminate()
            await attack.wait()
            found = row(f"4 clients beside {SLOW_CLIENTS} {kind}", seen, seconds)
            ok = set(ready.seconds) == {200} and not ready.broken
            rows.append({**found, "p99_ratio": found["p99_ms"] / alone["p99_ms"], "always_ready": ok})
            click.echo(f"p99_ratio={rows[-1]['p99_ratio']:.3g} always_ready={ok}")
        return rows

    with service(checkpoint, store, photos, runtime) as running:
        rows = asyncio.run(run(running.port))
    parameters = {"seconds": seconds, "runtime": runtime, "slow_clients": SLOW_CLIENTS, "side": SMALL[0]}
    click.echo(write_result("serving_slow_clients", out, parameters, rows))


@main.command()
@common
@click.option("--minutes", default=30.0, show_default=True)
@click.option("--warm-up", default=10.0, show_default=True, help="Minutes before growth counts.")
def soak(
    checkpoint: Path, store: Path, photos: Path, runtime: str, out: Path | None, minutes: float, warm_up: float
) -> None:
    """Mixed use: searches, lists, photos, writes, deletions, bad requests; resident memory by the minute."""
    requests = prepared(photos)
    scroll = request("POST", "/v1/collections/default/items/scroll", b'{"limit": 20, "order": "random"}')

    async def client(port: int, number: int, seen: Seen, end: float) -> None:
        connection, rng = Connection(port), random.Random(number)
        dimension = json.loads((await connection.ask(request("GET", "/v1/info")))[1])["embedding_dim"]
        while time.perf_counter() < end:
            draw = rng.random()
            if draw < 0.6:
                sent = rng.choice(requests)
            elif draw < 0.75:
                sent = scroll
            elif draw < 0.9:
                name = f"soak-{number}-{rng.randrange(100)}"
                item = {"id": name, "embedding": [rng.gauss(0, 1) for _ in range(dimension)]}
                sent = request("PUT", "/v1/collections/default/items", json.dumps({"items": [item]}).encode())
            elif draw < 0.97:
                sent = request("DELETE", f"/v1/collections/default/items/soak-{number}-{rng.randrange(100)}")
            else:
                sent = search_by(rng.randbytes(2000))
            await seen.ask(connection, sent)
        connection.close()

    async def run(running: Running) -> list[dict[str, Any]]:
        await warm(running.port, requests)
        seen, started = Seen(), time.perf_counter()
        end = started + 60 * minutes
        clients = [asyncio.ensure_future(client(running.port, number, seen, end)) for number in range(8)]
        rows = []
        while (now := time.perf_counter()) < end:
            rows.append({"what": "memory", "minute": (now - started) / 60, "resident_bytes": running.resident_bytes()})
            click.echo(f"minute={rows[-1]['minute']:.1f} resident_mb={rows[-1]['resident_bytes'] / 1e6:.1f}")
            await asyncio.sleep(min(60.0, max(0.1, end - now)))
        await asyncio.gather(*clients)
        rows.append({"what": "memory", "minute": minutes, "resident_bytes": running.resident_bytes()})
        rows.append(row("searches and others", seen, 60 * minutes))
        rows.append({"what": "summary", "growth_per_10_minutes": growth(rows, warm_up)})
        click.echo(f"growth_per_10_minutes={rows[-1]['growth_per_10_minutes']}")
        return rows

    with tempfile.TemporaryDirectory() as folder:
        copied = shutil.copytree(store, Path(folder) / "store")
        with service(checkpoint, copied, photos, runtime) as running:
            rows = asyncio.run(run(running))
    click.echo(write_result("serving_soak", out, {"minutes": minutes, "warm_up": warm_up, "runtime": runtime}, rows))


def growth(rows: list[dict[str, Any]], warm_up: float) -> float | None:
    """Slope of resident memory after ``warm_up`` minutes, by least squares, as a share of its mean per 10 minutes;
    None where that are fewer than three measurements."""
    points = [(each["minute"], each["resident_bytes"]) for each in rows if each["what"] == "memory"]
    late = [point for point in points if point[0] >= warm_up]
    if len(late) < 3:
        return None
    mean_x, mean_y = (sum(values) / len(late) for values in zip(*late, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in late)
    return float(10 * sum((x - mean_x) * (y - mean_y) for x, y in late) / spread / mean_y)


if __name__ == "__main__":
    main()
