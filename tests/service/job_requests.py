"""Starting jobs and waiting for them, as the tests of jobs and snapshots do."""

import io
import json
import tarfile
import time
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from .conftest import draw, encoded

JOBS = "/v1/collections/c/jobs"


def photo(seed: int) -> bytes:
    """A small photo, different for each seed."""
    return encoded(draw(seed, (40, 30)))


def zipped(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def lines_of(points: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(point).encode() + b"\n" for point in points)


def start(
    client: httpx.Client, kind: str, data: bytes | None = None, url: str = JOBS, **options: Any
) -> dict[str, Any]:
    """A job, as the answer 202 has it."""
    if data is None:
        response = client.post(JOBS, json={"kind": kind, **options})
    else:
        response = client.post(JOBS, data={"kind": kind}, files={"file": ("upload", data)})
    assert response.status_code == 202, response.text
    job = response.json()
    assert response.headers["location"] == f"/v1/jobs/{job['id']}"
    return dict(job)


def wait(
    client: httpx.Client,
    job: Mapping[str, Any],
    until: Callable[[dict[str, Any]], bool] | None = None,
    seconds: float = 60,
) -> dict[str, Any]:
    """The job once it has ended, or once ``until`` holds."""
    deadline = time.monotonic() + seconds
    while True:
        found = client.get(f"/v1/jobs/{job['id']}").raise_for_status().json()
        if found["state"] in {"done", "failed", "cancelled"} or (until is not None and until(found)):
            return dict(found)
        assert time.monotonic() < deadline, found
        time.sleep(0.02)


def failures(client: httpx.Client, job: Mapping[str, Any]) -> dict[str, str]:
    """Code by item."""
    response = client.get(f"/v1/jobs/{job['id']}/errors").raise_for_status()
    assert response.headers["content-type"] == "application/jsonl"
    return {each["item"]: each["code"] for each in map(json.loads, response.text.splitlines())}


def ids(client: httpx.Client, collection: str = "c") -> list[str]:
    """Of every item, in stored order."""
    page = client.post(f"/v1/collections/{collection}/items/scroll", json={"limit": 1000}).raise_for_status().json()
    return [item["id"] for item in page["items"]]
