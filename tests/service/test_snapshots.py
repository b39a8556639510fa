"""Snapshots over HTTP: taken under writes, fetched whole and in ranges, sent back, restored; hostile ones refused."""

import base64
import hashlib
import io
import json
import shutil
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from index.backup import create_snapshot
from index.collection import Collection
from index.files import make_folder
from index.snapshot_file import read_manifest
from service.collections import Collections
from service.engine import Engine
from service.server import running_server
from service.settings import Settings
from service.snapshots import Snapshots

from .job_requests import ids, photo, start, tarred, wait

SNAPSHOTS = "/v1/collections/c/snapshots"
UPLOAD = f"{SNAPSHOTS}/upload"
TAR = {"Content-Type": "application/x-tar"}


@pytest.fixture
def c(fresh: httpx.Client, engine: Engine) -> httpx.Client:
    """A client of a server whose collection "c" has ten points."""
    fresh.put("/v1/collections/c").raise_for_status()
    write(fresh, engine, range(10))
    return fresh


def write(client: httpx.Client, engine: Engine, numbers: range) -> None:
    d = engine.model.embedding_dim
    items = [{"id": f"p{n}", "embedding": [0.001 * n] * d, "metadata": {"n": n}} for n in numbers]
    client.put("/v1/collections/c/items", json={"items": items}).raise_for_status()


def take(client: httpx.Client) -> dict[str, Any]:
    """A snapshot, as the listing has it."""
    response = client.post(SNAPSHOTS)
    assert response.status_code == 202, response.text
    ended = wait(client, response.json())
    assert ended["state"] == "done", ended
    listed = client.get(SNAPSHOTS).raise_for_status().json()["snapshots"]
    (found,) = [each for each in listed if ended["result"].endswith(f"/{each['name']}")]
    return dict(found)


def test_round_trip(c: httpx.Client, engine: Engine) -> None:
    stored = take(c)
    assert (stored["count"], stored["fault"], stored["model_hash"]) == (10, None, engine.model.model_hash)
    fetched = c.get(f"{SNAPSHOTS}/{stored['name']}").raise_for_status()
    digest = hashlib.sha256(fetched.content)
    assert (len(fetched.content), digest.hexdigest()) == (stored["size"], stored["sha256"])
    assert fetched.headers["etag"] == f'"{stored["sha256"]}"'
    assert fetched.headers["repr-digest"] == f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
    write(c, engine, range(5, 30))
    response = c.put(UPLOAD, params={"checksum": stored["sha256"]}, content=fetched.content, headers=TAR)
    assert response.status_code == 202, response.text
    assert wait(c, response.json())["state"] == "done"
    assert ids(c) == [f"p{n}" for n in range(10)]
    write(c, engine, range(10, 12))  # the restored collection takes writes
    assert ids(c) == [f"p{n}" for n in range(12)]
    response = c.post(f"{SNAPSHOTS}/{stored['name']}/restore")
    assert wait(c, response.json())["state"] == "done"
    assert ids(c) == [f"p{n}" for n in range(10)]
    assert len(c.get(SNAPSHOTS).json()["snapshots"]) == 2  # the one that was sent is kept as well
    assert c.delete(f"{SNAPSHOTS}/{stored['name']}").status_code == 204
    assert c.get(f"{SNAPSHOTS}/{stored['name']}").json()["code"] == "snapshot_not_found"


def test_ranges(c: httpx.Client) -> None:
    stored = take(c)
    url = f"{SNAPSHOTS}/{stored['name']}"
    whole = c.get(url).content
    part = c.get(url, headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, whole[100:200])
    assert part.headers["content-range"] == f"bytes 100-199/{len(whole)}"
    rest = c.get(url, headers={"Range": "bytes=200-", "If-Range": part.headers["etag"]})
    assert (rest.status_code, rest.content) == (206, whole[200:])
    assert c.get(url, headers={"Range": "bytes=200-", "If-Range": '"another"'}).content == whole
    assert c.get(url, headers={"If-None-Match": part.headers["etag"]}).status_code == 304
    for wrong in (f"bytes={len(whole)}-", "bytes=x", "lines=1-2", "bytes=5-2"):
        refused = c.get(url, headers={"Range": wrong})
        assert refused.status_code == 416, wrong
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.headers["content-range"] == f"bytes */{len(whole)}"


def test_taken_and_restored_under_writes_and_searches(c: httpx.Client, engine: Engine) -> None:
    """Every answer is of the old or of the new state, none fails; a snapshot holds whole writes only."""
    stop, faults = threading.Event(), []
    query = {"query": {"embedding": [0.0] * engine.model.embedding_dim}, "limit": 1000}

    def search() -> None:
        with httpx.Client(base_url=c.base_url, timeout=30) as client:
            while not stop.is_set():
                response = client.post("/v1/collections/c/search", json=query)
                if response.status_code != 200 or len(response.json()["hits"]) % 10:
                    faults.append(response.text[:300])

    def write_tens() -> None:
        with httpx.Client(base_url=c.base_url, timeout=30) as client:
            begin = 10
            while not stop.is_set() and begin < 500:
                write(client, engine, range(begin, begin + 10))
                begin += 10

    threads = [threading.Thread(target=target) for target in (search, search, write_tens)]
    for thread in threads:
        thread.start()
    try:
        stored = [take(c) for _ in range(3)]
        threads[2].join()
        for each in stored:
            assert each["count"] % 10 == 0
            assert wait(c, c.post(f"{SNAPSHOTS}/{each['name']}/restore").json())["state"] == "done"
            assert ids(c) == [f"p{n}" for n in range(each["count"])]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert faults == []


def test_collection_that_is_gone_comes_back(c: httpx.Client) -> None:
    stored = take(c)
    data = c.get(f"{SNAPSHOTS}/{stored['name']}").content
    c.delete("/v1/collections/c").raise_for_status()
    assert c.get(SNAPSHOTS).json()["snapshots"][0]["name"] == stored["name"]
    assert wait(c, c.post(f"{SNAPSHOTS}/{stored['name']}/restore").json())["state"] == "done"
    assert len(ids(c)) == 10
    other = "/v1/collections/d/snapshots/upload"
    assert wait(c, c.post(other, files={"file": ("c.tar", data)}).json())["state"] == "done"
    assert len(ids(c, "d")) == 10
    assert (
        c.put("/v1/collections/No%20name/snapshots/upload", content=data, headers=TAR).json()["code"] == "invalid_name"
    )


def test_photos_are_found_again(c: httpx.Client) -> None:
    wait(c, start(c, "import", tarred({"a.png": photo(1)})))
    stored = take(c)
    assert wait(c, c.post(f"{SNAPSHOTS}/{stored['name']}/restore").json())["state"] == "done"
    assert c.get("/v1/collections/c/items/a.png/image").content == photo(1)


def foreign(tmp_path: Path) -> bytes:
    with Collection.create(tmp_path / "other", "c", embedding_dim=4, c=1.0, model_hash="another"):
        pass
    return create_snapshot(tmp_path / "other", "c", out=tmp_path / "foreign.tar").path.read_bytes()


def damaged(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def hostile(data: bytes, name: str, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A snapshot with one more member."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(data)) as old, tarfile.open(fileobj=buffer, mode="w") as new:
        for member in old:
            new.addfile(member, old.extractfile(member))
        extra = tarfile.TarInfo(name)
        extra.type, extra.linkname = kind, "/etc/passwd"
        new.addfile(extra)
    return buffer.getvalue()


def test_what_is_refused_changes_nothing(c: httpx.Client, tmp_path: Path) -> None:
    data = c.get(f"{SNAPSHOTS}/{take(c)['name']}").content
    before = c.get(SNAPSHOTS).json()
    cases = [
        (data, "0" * 64, 422, "checksum_mismatch"),
        (foreign(tmp_path), None, 409, "model_mismatch"),
        (damaged(data), None, 422, "snapshot_damaged"),
        (data[: len(data) // 2], None, 422, "snapshot_damaged"),
        (b"", None, 422, "snapshot_damaged"),
        (b"no tar" * 1000, None, 422, "snapshot_damaged"),
        (hostile(data, "../../evil"), None, 422, "snapshot_damaged"),
        (hostile(data, "generations/../../../evil"), None, 422, "snapshot_damaged"),
        (hostile(data, "/var/evil"), None, 422, "snapshot_damaged"),
        (hostile(data, "hierarchy/names.json", tarfile.SYMTYPE), None, 422, "snapshot_damaged"),
        (data, "xyz", 422, "invalid_request"),
    ]
    for sent, checksum, status, code in cases:
        params = {} if checksum is None else {"checksum": checksum}
        response = c.put(UPLOAD, params=params, content=sent, headers=TAR)
        assert (response.status_code, response.json()["code"]) == (status, code), response.text
        assert str(tmp_path) not in response.text
    assert c.put(UPLOAD, content=data, headers={"Content-Type": "text/plain"}).status_code == 415
    assert c.get(SNAPSHOTS).json() == before
    assert [job["kind"] for job in c.get("/v1/jobs").json()["jobs"]] == ["snapshot"]
    assert len(ids(c)) == 10
    assert not list(tmp_path.rglob("evil*"))
    assert not list((tmp_path / "store" / "snapshots").rglob(".incoming*"))


@pytest.mark.parametrize(
    "name",
    ["..%2f..%2fjobs.sqlite", "%2fetc%2fpasswd", "%2e%2e", "c-20261122T101500000000Z.tar", "x%00y", "a" * 90, "upload"],
)
def test_names_reach_no_other_file(c: httpx.Client, name: str) -> None:
    take(c)
    assert c.get(f"{SNAPSHOTS}/{name}").status_code == 404
    assert c.delete(f"{SNAPSHOTS}/{name}").status_code in {404, 405}
    assert c.post(f"{SNAPSHOTS}/{name}/restore").status_code == 404
    assert c.get("/v1/collections/..%2f..%2fetc/snapshots").status_code == 404
    assert len(c.get(SNAPSHOTS).json()["snapshots"]) == 1


def test_damaged_file_is_listed_as_such(c: httpx.Client, tmp_path: Path) -> None:
    stored = take(c)
    (path,) = (tmp_path / "store").rglob(stored["name"])
    path.write_bytes(b"x" * 2000)
    (listed,) = c.get(SNAPSHOTS).json()["snapshots"]
    assert (listed["size"], listed["count"]) == (2000, None)
    assert listed["fault"]
    response = c.post(f"{SNAPSHOTS}/{stored['name']}/restore")
    assert (response.status_code, response.json()["code"]) == (422, "snapshot_damaged")
    assert len(ids(c)) == 10


def test_kept_snapshot_that_was_changed_is_not_restored(c: httpx.Client, tmp_path: Path) -> None:
    """Its beginning reads well, its checksum does not hold: the job fails, the live collection serves on."""
    stored = take(c)
    (path,) = (tmp_path / "store").rglob(stored["name"])
    path.write_bytes(damaged(path.read_bytes()))
    assert read_manifest(path).count == 10
    ended = wait(c, c.post(f"{SNAPSHOTS}/{stored['name']}/restore").json())
    assert ended["state"] == "failed"
    assert "damaged" in ended["reason"]
    assert str(tmp_path) not in json.dumps(ended)
    assert len(ids(c)) == 10


def test_taken_through_jobs_too(c: httpx.Client) -> None:
    ended = wait(c, start(c, "snapshot"))
    assert c.get(ended["result"]).status_code == 200


def test_what_came_is_deleted_off_the_event_loop(c: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    delete, threads = shutil.rmtree, list[str]()

    def noted(path: Path, **options: Any) -> None:
        threads.append(threading.current_thread().name)
        delete(path, **options)

    monkeypatch.setattr("service.snapshots.shutil.rmtree", noted)
    assert c.put(UPLOAD, content=b"no snapshot", headers=TAR).status_code == 422
    assert threads  # else it does not come by here any more
    assert "server" not in threads  # where the loop of these tests runs


def test_an_upload_that_ends_does_not_take_the_folder_from_one_that_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshots, made = Snapshots(tmp_path), list[Path]()

    def taken_away(folder: Path) -> None:
        make_folder(folder)
        if not made:
            folder.rmdir()
        made.append(folder)

    monkeypatch.setattr("service.snapshots.make_folder", taken_away)
    with snapshots.incoming("c") as folder:
        assert folder.is_dir()
    assert not folder.parent.exists()


def test_no_more_collections_are_restored_than_are_allowed(
    engine: Engine, with_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    registry = Collections(tmp_path, engine.model.model_hash)
    settings = with_settings(store=tmp_path, quotas={"collections": 1})
    with (
        running_server(settings, Engine(engine.encoder, registry)) as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        client.put("/v1/collections/c").raise_for_status()
        stored = take(client)
        file = client.get(f"{SNAPSHOTS}/{stored['name']}").content
        client.delete("/v1/collections/c").raise_for_status()
        client.put("/v1/collections/other").raise_for_status()
        for refused in (
            client.post(f"{SNAPSHOTS}/{stored['name']}/restore"),
            client.put(UPLOAD, content=file, headers=TAR),
        ):
            assert (refused.status_code, refused.json()["code"]) == (507, "too_many_collections")
        client.delete("/v1/collections/other").raise_for_status()
        assert wait(client, client.post(f"{SNAPSHOTS}/{stored['name']}/restore").json())["state"] == "done"
    registry.close()
