"""Jobs over HTTP: imports of photos and points, embedding folders to fetch, cancelling, trying again, events."""

import gzip
import io
import json
import struct
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from hyperbolic.embedder import Embedder
from hyperbolic.images import read_image
from index.embeddings import read_manifest, read_parts
from service.collections import Collections
from service.engine import Engine
from service.jobs.points import LONGEST_LINE, read_lines, read_rows
from service.server import running_server

from .job_requests import JOBS, failures, ids, lines_of, photo, start, tarred, wait, zipped


@pytest.fixture
def c(fresh: httpx.Client) -> httpx.Client:
    """A client of a server that has the empty collection "c"."""
    fresh.put("/v1/collections/c").raise_for_status()
    return fresh


def leftovers(store: Path) -> list[str]:
    return sorted(path.name for path in (store / "jobs").iterdir()) if (store / "jobs").is_dir() else []


@pytest.mark.parametrize("packed", [zipped, tarred, lambda members: gzip.compress(tarred(members))])
def test_import_of_an_archive_with_bad_photos(c: httpx.Client, embedder: Embedder, tmp_path: Path, packed: Any) -> None:
    good = {"Fruit/Apple/a.png": photo(1), "Fruit/Pear/b.png": photo(2), "top.png": photo(3)}
    bad = {"Fruit/Apple/text.png": b"no image at all", "Fruit/empty.png": b"", "Veg/cut.png": photo(4)[:300]}
    job = start(c, "import", packed({**good, **bad, "Fruit/notes.txt": b"-", "Fruit/.hidden.png": photo(5)}))
    ended = wait(c, job)
    assert ended["state"] == "done", ended
    assert (ended["done"], ended["failed"], ended["total"], ended["progress"]) == (3, 3, 6, 1.0)
    assert failures(c, job) == {
        "Fruit/Apple/text.png": "unsupported_format",
        "Fruit/empty.png": "empty_file",
        "Veg/cut.png": "undecodable_image",
    }
    assert sorted(ids(c)) == sorted(good)
    item = c.get("/v1/collections/c/items/Fruit/Apple/a.png").json()
    assert item["path"] == ["Fruit", "Apple"]
    assert c.get("/v1/collections/c/items/Fruit/Apple/a.png/image").content == good["Fruit/Apple/a.png"]
    hit = c.post("/v1/collections/c/search", files={"file": good["top.png"]}, data={"limit": "1"}).json()["hits"][0]
    assert hit["id"] == "top.png"
    assert hit["distance"] < 1e-3  # the same photo, the same encoder
    gone_soon(tmp_path / "store")  # the upload, with the job


def test_points_as_json_lines(c: httpx.Client, engine: Engine) -> None:
    d = engine.model.embedding_dim
    points = [
        {"id": f"p/{i}", "embedding": [0.01 * i] * d, "labels": ["A", str(i % 2)], "metadata": {"i": i}}
        for i in range(5)
    ]
    bad = [
        {"id": "short", "embedding": [0.0] * (d - 1)},
        {"id": "huge", "embedding": [1e300] * d},
        {"id": "far", "embedding": [1e20] * d},
        {"id": "typo", "embedding": [0.0] * d, "label": []},
        {"id": "", "embedding": [0.0] * d},
    ]
    data = lines_of(points) + b"\n" + lines_of(bad) + b'{"id": "nan", "embedding": [NaN]}\nnot json\n'
    ended = wait(c, job := start(c, "import", data))
    assert (ended["state"], ended["done"], ended["failed"]) == ("done", 5, 7)
    assert ids(c) == [f"p/{i}" for i in range(5)]
    item = c.get("/v1/collections/c/items/p/3").json()
    assert (item["path"], item["metadata"]) == (["A", "1"], {"i": 3})
    told = failures(c, job)
    assert told.pop("short") == told.pop("huge") == told.pop("far") == "invalid_point"
    assert set(told.values()) == {"invalid_request"}
    assert len(told) == 4


def test_embedded_archive_can_be_built_and_imported(
    c: httpx.Client, embedder: Embedder, engine: Engine, tmp_path: Path
) -> None:
    photos = {f"Kind-{i % 2}/{i}.png": photo(i) for i in range(5)}
    job = start(c, "embed", zipped({**photos, "bad.png": b"x"}))
    ended = wait(c, job)
    assert (ended["state"], ended["done"], ended["failed"], ended["total"]) == ("done", 5, 1, 6)
    assert failures(c, job) == {"bad.png": "unsupported_format"}
    assert ended["result"] == f"/v1/jobs/{job['id']}/result"
    result = c.get(ended["result"]).raise_for_status()
    with tarfile.open(fileobj=io.BytesIO(result.content)) as archive:
        archive.extractall(tmp_path / "out", filter="data")
    folder = tmp_path / "out" / "points"
    manifest = read_manifest(folder)
    assert (manifest.model_hash, manifest.count, manifest.failed) == (engine.model.model_hash, 5, 1)
    assert str(tmp_path) not in (folder / "manifest.json").read_text()  # nothing of the server's own places
    items = [item for part in read_parts(folder, manifest) for item in part]
    assert [(item.id, item.labels) for item in items] == [(name, (name.split("/")[0],)) for name in photos]
    expected = embedder.embed([read_image(data) for data in photos.values()])
    np.testing.assert_allclose(np.stack([item.space for item in items]), expected, rtol=1e-5, atol=1e-3)  # of hundreds
    part = (folder / manifest.parts[0].file).read_bytes()
    assert c.get(ended["result"], headers={"Range": "bytes=512-1023"}).content == result.content[512:1024]
    assert wait(c, start(c, "import", part))["done"] == 5
    assert sorted(ids(c)) == sorted(photos)


def test_parquet_of_another_model_is_refused(c: httpx.Client, engine: Engine) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    space = pa.FixedSizeListArray.from_arrays(
        pa.array(np.zeros(engine.model.embedding_dim, np.float32)), engine.model.embedding_dim
    )
    table = pa.table({"id": ["a"], "space": space}).replace_schema_metadata({"lhier.model_hash": "another"})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    ended = wait(c, start(c, "import", buffer.getvalue()))
    assert ended["state"] == "failed"
    assert "another" in ended["reason"]
    assert ids(c) == []


def test_rows_go_on_where_they_left_off(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({
        "id": [f"p{i}" for i in range(25)],
        "embedding": [[float(i)] * 4 for i in range(25)],
        "metadata": [json.dumps({"i": i}) if i % 2 else None for i in range(25)],
    })  # fmt: skip
    pq.write_table(table, tmp_path / "points", row_group_size=10)
    for position in (0, 1, 9, 10, 11, 24, 25):
        rest = [point.item for point in read_rows(tmp_path / "points", 4, position)]
        assert [item and item.id for item in rest] == [f"p{i}" for i in range(position, 25)]
        assert [item and item.metadata for item in rest] == [{"i": i} if i % 2 else {} for i in range(position, 25)]


LINE = json.dumps({"id": "after", "embedding": [0.0] * 16}).encode()


def test_reading_goes_on_where_it_left_off(tmp_path: Path) -> None:
    """From every position that was given out, exactly the rest comes; a line without end costs itself alone."""
    points = [{"id": f"p{i}", "embedding": [float(i)] * 16} for i in range(20)]
    path = tmp_path / "points"
    endless = b'{"id": "' + b"x" * (LONGEST_LINE + 7) + b'"}\n'
    path.write_bytes(b"\xef\xbb\xbf" + lines_of(points[:10]) + b"\n" + endless + lines_of(points[10:]) + LINE)
    whole = list(read_lines(path, 16))
    assert [point.item.id for point in whole if point.item] == [*(f"p{i}" for i in range(20)), "after"]
    assert [point.failure.code for point in whole if point.failure] == ["invalid_request"]
    for number, point in enumerate(whole, 1):
        rest = list(read_lines(path, 16, point.position))
        assert [each.position for each in rest] == [each.position for each in whole[number:]]


def hostile_link() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("link.png")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
        member = tarfile.TarInfo("good.png")
        member.size = len(photo(1))
        archive.addfile(member, io.BytesIO(photo(1)))
    return buffer.getvalue()


def hostile_zip_link() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo("link.png")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
        archive.writestr("good.png", photo(1))
    return buffer.getvalue()


@pytest.mark.parametrize("data", [hostile_link(), hostile_zip_link()], ids=["tar", "zip"])
def test_links_in_archives_lead_nowhere(c: httpx.Client, data: bytes) -> None:
    ended = wait(c, start(c, "import", data))
    assert (ended["state"], ended["total"]) == ("done", 1)
    assert ids(c) == ["good.png"]


@pytest.mark.parametrize("name", ["../../evil.png", "/etc/evil.png", "a/../../evil.png"])
@pytest.mark.parametrize("packed", [zipped, tarred])
def test_names_that_lead_out_of_an_archive(c: httpx.Client, tmp_path: Path, packed: Any, name: str) -> None:
    ended = wait(c, start(c, "import", packed({"good.png": photo(1), name: photo(2)})))
    assert ended["state"] == "failed"
    assert "evil.png" in ended["reason"]
    assert str(tmp_path) not in ended["reason"]
    assert ids(c) == []
    assert not list(tmp_path.rglob("evil*"))


def lying_zip(announced: int) -> bytes:
    """A member that unpacks to 64 MiB of zeros, whatever its header says."""
    data = bytearray(zipped({"bomb.png": bytes(64 * 2**20), "good.png": photo(1)}))
    at = data.index(b"PK\1\2")
    data[at + 24 : at + 28] = struct.pack("<L", announced)
    return bytes(data)


@pytest.mark.parametrize("announced", [64 * 2**20, 1000])
def test_zip_bomb_costs_its_own_photo_only(c: httpx.Client, announced: int) -> None:
    ended = wait(c, job := start(c, "import", lying_zip(announced)))
    assert (ended["state"], ended["done"], ended["failed"]) == ("done", 1, 1)
    assert failures(c, job)["bomb.png"] in {"image_too_large", "unreadable_file", "unsupported_format"}
    assert ids(c) == ["good.png"]


def test_zip_that_announces_too_many_files(c: httpx.Client) -> None:
    data = bytearray(zipped({"good.png": photo(1)}))
    at = data.rindex(b"PK\5\6")
    data[at + 12 : at + 16] = struct.pack("<L", 2**32 - 2)  # bytes of the directory
    ended = wait(c, start(c, "import", bytes(data)))
    assert ended["state"] == "failed"
    assert ids(c) == []


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("import", b""),
        ("import", b"GIF89a"),
        ("import", b"\x7fELF" * 200),
        ("embed", b'{"id": "a"}\n'),
        ("embed", b"PAR1"),
    ],
)
def test_files_that_no_job_takes(c: httpx.Client, tmp_path: Path, kind: str, data: bytes) -> None:
    response = c.post(JOBS, data={"kind": kind}, files={"file": ("upload", data)})
    assert response.status_code == 415, response.text
    assert response.json()["code"] == "unsupported_content"
    assert c.get("/v1/jobs").json()["jobs"] == []
    gone_soon(tmp_path / "store")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        ({"kind": "rebuild"}, 422),
        ({"kind": "import", "shoe": "1"}, 422),
        ({}, 422),
        ({"kind": "import", "x": "y"}, 422),
    ],
)
def test_bad_fields_beside_a_file(c: httpx.Client, tmp_path: Path, data: dict[str, str], status: int) -> None:
    response = c.post(JOBS, data=data, files={"file": ("upload", zipped({"a.png": photo(1)}))})
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
    gone_soon(tmp_path / "store")


def gone_soon(store: Path) -> None:
    deadline = time.monotonic() + 5
    while leftovers(store):
        assert time.monotonic() < deadline, leftovers(store)
        time.sleep(0.02)


def test_upload_that_breaks_off_leaves_nothing(c: httpx.Client, tmp_path: Path) -> None:
    """Half a form of an announced length; the server says 100 Continue before it comes."""
    import socket

    with socket.create_connection((c.base_url.host, c.base_url.port)) as connection:
        connection.sendall(
            f"POST {JOBS} HTTP/1.1\r\nHost: {c.base_url.host}\r\nContent-Length: 1000000\r\n"
            "Expect: 100-continue\r\nContent-Type: multipart/form-data; boundary=b\r\n\r\n".encode()
        )
        connection.settimeout(10)
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        connection.sendall(
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n' + b"PK\3\4" * 1000
        )
        deadline = time.monotonic() + 5
        while not leftovers(tmp_path / "store"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    gone_soon(tmp_path / "store")
    assert c.get("/v1/jobs").json()["jobs"] == []


def test_no_room(engine: Engine, with_settings: Any, tmp_path: Path) -> None:
    registry = Collections(tmp_path / "store", engine.model.model_hash)
    settings = with_settings(store=tmp_path / "store", quotas={"items": 100})
    with (
        running_server(settings, Engine(engine.encoder, registry)) as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        client.put("/v1/collections/c").raise_for_status()
        ended = wait(client, job := start(client, "import", many(130)))
        assert ended["state"] == "failed"
        assert "100 items" in ended["reason"]
        assert len(ids(client)) == ended["done"] <= 100
        refused = client.post(f"/v1/jobs/{job['id']}/cancel")
        assert refused.status_code == 409
        d = engine.model.embedding_dim
        points = [{"id": f"p{number}", "embedding": [0.0] * d} for number in range(100 - ended["done"])]
        client.put("/v1/collections/c/items", json={"items": points}).raise_for_status()
        response = client.post(JOBS, data={"kind": "import"}, files={"file": ("upload", many(1))})
        assert (response.status_code, response.json()["code"]) == (507, "quota_exceeded")
    assert leftovers(tmp_path / "store") == [job["id"]]  # kept for another try
    registry.close()


def test_unknown_collection_and_broken_bodies(c: httpx.Client) -> None:
    assert c.post("/v1/collections/none/jobs", json={"kind": "rebuild"}).status_code == 404
    assert c.post(JOBS, json={"kind": "import"}).status_code == 422
    assert c.post(JOBS, json={"kind": "rebuild", "min_size": 3}).status_code == 422
    assert c.post(JOBS, content=b"{", headers={"Content-Type": "application/json"}).status_code == 400
    assert c.post(JOBS, content=b"x", headers={"Content-Type": "text/plain"}).status_code == 415
    assert c.get("/v1/jobs/none").json()["code"] == "job_not_found"
    assert c.post("/v1/jobs/none/cancel").status_code == 404


def many(count: int) -> bytes:
    return tarred({f"{number:04}.png": photo(number) for number in range(count)})


def test_cancel_ends_an_import_soon_and_retry_finishes_it(c: httpx.Client) -> None:
    job = start(c, "import", many(400))
    wait(c, job, lambda found: found["done"] > 0)
    begun = time.monotonic()
    c.post(f"/v1/jobs/{job['id']}/cancel").raise_for_status()
    assert time.monotonic() - begun < 4  # it waits for the end, but no longer than 2 s
    cancelled = wait(c, job, seconds=4)  # a batch that a slow disk is taking comes first
    assert cancelled["state"] == "cancelled"
    kept = ids(c)
    assert len(kept) == cancelled["done"] < 400
    time.sleep(0.3)
    assert ids(c) == kept  # nothing comes after
    again = c.post(f"/v1/jobs/{job['id']}/cancel")
    assert (again.status_code, again.json()["code"]) == (409, "job_state")
    assert c.post(f"/v1/jobs/{job['id']}/retry").status_code == 202
    ended = wait(c, job)
    assert (ended["state"], ended["done"], ended["failed"]) == ("done", 400, 0)
    assert sorted(ids(c)) == [f"{number:04}.png" for number in range(400)]
    assert c.post(f"/v1/jobs/{job['id']}/retry").status_code == 409


def test_listed_page_by_page(c: httpx.Client) -> None:
    first = start(c, "import", many(400))
    others = [start(c, "rebuild") for _ in range(3)]
    page = c.get("/v1/jobs", params={"limit": 2}).json()
    assert [job["id"] for job in page["jobs"]] == [others[2]["id"], others[1]["id"]]
    rest = c.get("/v1/jobs", params={"limit": 5, "cursor": page["next_cursor"]}).json()
    assert [job["id"] for job in rest["jobs"]] == [others[0]["id"], first["id"]]
    assert rest["next_cursor"] is None
    assert c.get("/v1/jobs", params={"collection": "other"}).json()["jobs"] == []
    waiting = c.post(f"/v1/jobs/{others[1]['id']}/cancel").json()
    assert waiting["state"] == "cancelled"
    assert [wait(c, job)["state"] for job in (first, *others)] == ["done", "done", "cancelled", "done"]
    states = c.get("/v1/jobs", params={"state": "cancelled"}).json()["jobs"]
    assert [job["id"] for job in states] == [others[1]["id"]]


def events(response: httpx.Response) -> list[dict[str, str]]:
    found: list[dict[str, str]] = [{}]
    for line in response.iter_lines():
        if not line:
            found.append({})
        elif not line.startswith(":"):
            name, _, value = line.partition(": ")
            found[-1][name] = value
    return [event for event in found if event]


def test_events_in_order_and_after_a_reconnect(c: httpx.Client) -> None:
    job = start(c, "import", many(200))
    with c.stream("GET", f"/v1/jobs/{job['id']}/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        told = events(response)
    states = [json.loads(event["data"]) for event in told]
    assert [event["event"] for event in told] == ["progress"] * (len(told) - 1) + ["end"]
    assert [int(event["id"]) for event in told] == sorted({int(event["id"]) for event in told})
    assert [state["done"] for state in states] == sorted(state["done"] for state in states)
    assert len({state["done"] for state in states}) > 2  # it was told on the way
    assert (states[-1]["state"], states[-1]["done"]) == ("done", 200)
    # Whoever comes late, or again, is told how it ended, and no more.
    for known in ({}, {"Last-Event-ID": told[0]["id"]}, {"Last-Event-ID": told[-1]["id"]}):
        with c.stream("GET", f"/v1/jobs/{job['id']}/events", headers=known) as response:
            assert events(response) == told[-1:]
    assert c.get("/v1/jobs/none/events").status_code == 404


def test_streams_of_events_hold_no_place(engine: Engine, with_settings: Any, tmp_path: Path) -> None:
    registry = Collections(tmp_path / "store", engine.model.model_hash)
    settings = with_settings(store=tmp_path / "store", limits={"in_flight": 1, "queued": 0}, jobs={"waiting": 2})
    with (
        running_server(settings, Engine(engine.encoder, registry)) as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        client.put("/v1/collections/c").raise_for_status()
        job = start(client, "import", many(300))
        streams = [client.stream("GET", f"/v1/jobs/{job['id']}/events") for _ in range(3)]
        for stream in streams:
            assert stream.__enter__().status_code == 200
        assert client.get("/v1/info").status_code == 200
        waiting = [start(client, "rebuild") for _ in range(2)]
        refused = client.post(JOBS, json={"kind": "rebuild"})
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_jobs")
        assert int(refused.headers["retry-after"]) > 0
        for each in (*waiting, job):
            client.post(f"/v1/jobs/{each['id']}/cancel").raise_for_status()
        for stream in streams:
            stream.__exit__(None, None, None)
    registry.close()


def test_hierarchy_and_rebuild(c: httpx.Client) -> None:
    wait(c, start(c, "import", many(30)))
    generation = c.get("/v1/collections/c").json()["generation"]
    ended = wait(c, start(c, "rebuild"))
    assert ended["state"] == "done", ended
    assert c.get("/v1/collections/c").json()["generation"] != generation
    ended = wait(c, start(c, "hierarchy", min_size=2, max_children=8))
    assert (ended["state"], ended["done"], ended["total"]) == ("done", 5, 5), ended
    root = c.get("/v1/collections/c/hierarchy/nodes").raise_for_status().json()
    assert "30" in json.dumps(root)


def test_searches_go_before_jobs(c: httpx.Client) -> None:
    """While an import keeps the encoder busy, a search is answered long before the import is done."""
    job = start(c, "import", many(400))
    wait(c, job, lambda found: found["done"] > 0)
    found = c.post("/v1/collections/c/search", files={"file": photo(1)}, data={"limit": "1"})
    assert found.status_code == 200
    assert c.get(f"/v1/jobs/{job['id']}").json()["state"] == "running"
    c.post(f"/v1/jobs/{job['id']}/cancel")


def test_openapi_names_every_status(c: httpx.Client) -> None:
    document = c.get("/openapi.json").json()
    operation = document["paths"]["/v1/collections/{collection}/jobs"]["post"]
    assert set(operation["requestBody"]["content"]) == {"application/json", "multipart/form-data"}
    assert {"202", "404", "415", "429", "507"} <= set(operation["responses"])
