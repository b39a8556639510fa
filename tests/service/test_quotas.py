"""Quotas and full disks: what does not fit is refused, nothing is lost, and searches go on."""

import errno
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from index.errors import CatalogueError
from service.engine import Engine
from service.operation.disk_full import is_disk_full
from service.operation.quotas import Quotas, folder_bytes, resident_bytes
from service.problems import Problem
from service.server import running_server
from service.settings import QuotaSettings, Settings

from .conftest import INFERENCE, NUM_ITEMS, Trip, draw, encoded


@pytest.fixture
def engines() -> list[Engine]:
    """The engine of ``start``."""
    return []


@pytest.fixture
def start(trip: Trip, tmp_path: Path, engines: list[Engine]) -> Iterator[Callable[..., httpx.Client]]:
    """A server over a copy of the store; ``started(**settings)`` gives a client of it."""
    store = shutil.copytree(trip.store, tmp_path / "store")
    with ExitStack() as stack:
        engine = stack.enter_context(closing(Engine.open(trip.checkpoint, store, inference=INFERENCE)))
        engines.append(engine)

        def started(**changes: Any) -> httpx.Client:
            given = {"checkpoint": trip.checkpoint, "store": store, "port": 0, "inference": INFERENCE}
            url = stack.enter_context(running_server(Settings(**{**given, **changes}), engine))
            return stack.enter_context(httpx.Client(base_url=url, timeout=30))

        yield started


ITEM = {"items": [{"id": "new", "embedding": [0.1] * 16}]}
ITEMS = "/v1/collections/default/items"


def refused(client: httpx.Client) -> str:
    """The code with which a write is refused; reading and deleting must go on."""
    answer = client.put(ITEMS, json=ITEM)
    assert client.post("/v1/search", files={"file": encoded(draw(1))}).status_code == 200
    assert client.post(f"{ITEMS}/delete", json={"ids": ["not there"]}).status_code == 200
    assert client.get("/readyz").status_code == 200
    assert answer.status_code == 507, answer.text
    assert client.get(f"{ITEMS}/new").status_code == 404
    return str(answer.json()["code"])


def test_each_quota(start: Callable[..., httpx.Client]) -> None:
    for quotas in (
        {"store_bytes": 1000},
        {"free_disk_bytes": 10**18},
        {"memory_bytes": 10**6},
        {"items": NUM_ITEMS},
    ):
        client = start(quotas=quotas)
        assert refused(client) == "quota_exceeded"
        assert client.put(f"{ITEMS}", content=b"x" * 10**6, headers={"Content-Type": "image/png"}).status_code == 507
    within = start(quotas={"store_bytes": 10**9, "items": NUM_ITEMS + 1, "memory_bytes": 10**12})
    assert within.put(ITEMS, json=ITEM).status_code == 200
    assert refused_again(within) == "quota_exceeded"
    full = start(quotas={"collections": 1})
    answer = full.put("/v1/collections/another", json={})
    assert (answer.status_code, answer.json()["code"]) == (507, "too_many_collections")


def refused_again(client: httpx.Client) -> str:
    answer = client.put(ITEMS, json={"items": [{"id": "newer", "embedding": [0.1] * 16}]})
    assert answer.status_code == 507
    return str(answer.json()["code"])


def test_what_is_written_counts_until_it_is_measured(engine: Engine, tmp_path: Path) -> None:
    quotas = Quotas(QuotaSettings(store_bytes=folder_bytes(engine.collections.store) + 10_000), engine)
    quotas.require(6000)
    with pytest.raises(Problem, match="bytes that it may") as refusal:
        quotas.require(6000)
    assert refusal.value.status == 507
    quotas.measure_store()  # nothing of it was kept
    quotas.require(6000)


def test_sizes_are_those_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/file").write_bytes(b"x" * 1_234_567)
    (tmp_path / "a/loop").symlink_to(tmp_path)
    told = int(subprocess.check_output(["du", "-s", "--block-size=1", str(tmp_path / "a/b/file")]).split()[0])
    assert told <= folder_bytes(tmp_path) <= told + 8192
    assert resident_bytes(os.getpid()) > 20e6
    assert resident_bytes(2**22 + 1) == 0


def test_errors_of_a_full_disk_are_known() -> None:
    full = sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorcode = sqlite3.SQLITE_FULL
    wrapped = CatalogueError("could not be written")
    wrapped.__cause__ = full
    assert is_disk_full(wrapped)
    assert is_disk_full(OSError(errno.ENOSPC, "full"))
    assert is_disk_full(OSError(errno.EDQUOT, "quota"))
    assert not is_disk_full(OSError(errno.EACCES, "forbidden"))
    assert not is_disk_full(sqlite3.OperationalError("database is locked"))


def test_a_full_disk(start: Callable[..., httpx.Client], engines: list[Engine]) -> None:
    """SQLite itself finds no room: its file may have no further page."""
    client = start()
    connection = engines[0].collection().catalogue._connection
    connection.execute("PRAGMA max_page_count = 1")  # no less than there are
    items = [{"id": f"many-{number}", "embedding": [0.1] * 16, "metadata": {"text": "x" * 900}} for number in range(50)]
    answer = client.put(ITEMS, json={"items": items}, params={"atomic": "true"})
    assert (answer.status_code, answer.json()["code"]) == (507, "disk_full"), answer.text
    assert client.post("/v1/search", files={"file": encoded(draw(1))}).status_code == 200
    assert client.get("/readyz").status_code == 200
    assert client.post(f"{ITEMS}/count", json={}).json()["count"] == NUM_ITEMS
    connection.execute("PRAGMA max_page_count = 4294967294")
    assert client.put(ITEMS, json={"items": items}).status_code == 200
    assert client.post(f"{ITEMS}/count", json={}).json()["count"] == NUM_ITEMS + 50
