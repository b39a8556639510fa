"""Writing items over HTTP: each is judged by itself, or all together; what is acknowledged is there and is found."""

import base64
import errno
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from PIL import Image

from hyperbolic.embedder import Embedder
from hyperbolic.images import read_image
from service.collections import Collections
from service.engine import Engine
from service.problems import Problem
from service.server import running_server
from service.settings import Settings

from .conftest import AWKWARD, draw, encoded

ITEMS = "/v1/collections/shoes/items"
DIM = 16


@pytest.fixture
def shoes(fresh: httpx.Client) -> httpx.Client:
    """A server with an empty collection "shoes"."""
    assert fresh.put("/v1/collections/shoes").status_code == 201
    return fresh


def as_base64(image: bytes) -> str:
    return base64.b64encode(image).decode()


def point(seed: int) -> list[float]:
    return [float(value) for value in np.random.default_rng(seed).normal(size=DIM).astype(np.float32)]


def put(client: httpx.Client, items: list[dict[str, Any]], **more: Any) -> httpx.Response:
    return client.put(ITEMS, json={"items": items, **more})


def uploads(tmp_path: Path) -> list[str]:
    """The names of the photos that are kept; nothing else may be left over."""
    folder = tmp_path / "store/uploads/shoes"
    assert list((folder / "pending").iterdir()) == []
    return sorted(path.name for path in (folder / "photos").rglob("*") if path.is_file())


def test_photos_points_and_what_they_are_found_by(shoes: httpx.Client, embedder: Embedder, tmp_path: Path) -> None:
    photo = encoded(draw(1))
    answer = put(
        shoes,
        [
            {"id": "a", "image": as_base64(photo), "labels": ["Fruit", "Apple"], "metadata": {"price": 1.5}},
            {"id": "b", "image": f"data:image/png;base64,{as_base64(encoded(draw(2)))}"},
            {"id": "c", "embedding": point(0)},
        ],
    )
    assert answer.status_code == 200
    assert answer.json() == {"written": 3, "failed": 0, "results": [{"id": each, "status": 201} for each in "abc"]}
    item = shoes.get(f"{ITEMS}/a").json()
    assert (item["path"], item["metadata"]) == (["Fruit", "Apple"], {"price": 1.5})
    assert shoes.get(item["image"]).content == photo
    assert shoes.get(item["image"]).headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(shoes.get(item["thumbnail"]).content)).size == (80, 60)
    assert "image" not in shoes.get(f"{ITEMS}/c").json()
    space = embedder.embed([read_image(photo)])[0]
    found = shoes.post(
        "/v1/collections/shoes/search", json={"query": {"embedding": space.astype(float).tolist()}, "limit": 1}
    )
    assert found.json()["hits"][0]["id"] == "a"
    assert found.json()["hits"][0]["distance"] < 1e-5
    assert put(shoes, [{"id": "c", "embedding": point(1)}]).json()["results"] == [{"id": "c", "status": 200}]
    assert len(uploads(tmp_path)) == 2


def test_curl_with_one_photo_or_with_several(shoes: httpx.Client) -> None:
    one = {"id": "sku-1", "labels": '["Fruit","Apple"]', "metadata": '{"n": 1}'}
    answer = shoes.put(ITEMS, files={"file": ("../../etc/passwd", encoded(draw(1)))}, data=one)
    assert answer.json()["results"] == [{"id": "sku-1", "status": 201}]
    assert shoes.get(f"{ITEMS}/sku-1").json()["path"] == ["Fruit", "Apple"]
    items = [{"id": "x", "file": "2.png"}, {"id": "y"}, {"id": "z", "file": "none.png"}]
    files = [("file", (f"{n}.png", encoded(draw(n)))) for n in (1, 2)]
    answer = shoes.put(ITEMS, files=files, data={"items": json.dumps(items)})
    assert answer.status_code == 207
    assert [each["status"] for each in answer.json()["results"]] == [201, 201, 422]
    assert answer.json()["results"][2]["error"]["code"] == "photo_missing"
    assert shoes.get(f"{ITEMS}/x/image").content == encoded(draw(2))
    assert shoes.get(f"{ITEMS}/y/image").content == encoded(draw(1))


@pytest.mark.parametrize(
    ("data", "count"),
    [
        ({}, 1),  # no id
        ({"id": "a"}, 0),
        ({"id": "a"}, 2),
        ({"id": "a", "labels": "Fruit"}, 1),
        ({"id": "a", "labels": '["x", 1]'}, 1),
        ({"id": "a", "metadata": "[]"}, 1),
        ({"id": "a", "metadata": '{"a": NaN}'}, 1),
        ({"id": "a", "items": "[]"}, 1),
        ({"items": '[{"id": "a"}]'}, 2),
        ({"items": "[" * 5000}, 1),
        ({"id": "a", "other": "x"}, 1),
    ],
)
def test_forms_that_are_not_as_described(shoes: httpx.Client, data: dict[str, str], count: int) -> None:
    files = [("file", (f"{n}.png", encoded(draw(n)))) for n in range(count)] or [("nothing", ("", b""))]
    answer = shoes.put(ITEMS, files=files, data=data)
    if (data, count) == ({"id": "a"}, 0):
        assert answer.status_code == 422
    assert answer.status_code == 422
    assert shoes.post(f"{ITEMS}/count").json() == {"count": 0}


BAD: list[tuple[dict[str, Any], int, str]] = [
    ({"image": as_base64(b"no photo")}, 415, "unsupported_format"),
    ({"image": as_base64(encoded(draw(1))[:300])}, 422, "undecodable_image"),
    ({"image": ""}, 422, "empty_file"),
    ({"image": "***"}, 422, "invalid_base64"),
    ({"embedding": [1.0]}, 422, "wrong_dimension"),
    ({"embedding": [1e300] * DIM}, 422, "invalid_point"),
    ({"url": "http://example.com/a.png"}, 403, "urls_disabled"),
]


def test_a_bad_item_fails_none_beside_it(shoes: httpx.Client, embedder: Embedder, tmp_path: Path) -> None:
    good = {"id": "good", "image": as_base64(encoded(draw(5)))}
    answer = put(shoes, [*({"id": str(n), **bad} for n, (bad, _, _) in enumerate(BAD)), good, good])
    assert answer.status_code == 207
    assert (answer.json()["written"], answer.json()["failed"]) == (1, len(BAD) + 1)
    results = answer.json()["results"]
    for result, (_, status, code) in zip(results, BAD, strict=False):
        assert (result["status"], result["error"]["code"]) == (status, code)
    assert results[-2] == {"id": "good", "status": 201}
    assert (results[-1]["status"], results[-1]["error"]["code"]) == (422, "duplicate_id")
    assert shoes.post(f"{ITEMS}/count").json() == {"count": 1}
    space = embedder.embed([read_image(encoded(draw(5)))])[0]
    hits = shoes.post("/v1/collections/shoes/search", json={"query": {"embedding": space.astype(float).tolist()}})
    assert hits.json()["hits"][0]["distance"] < 1e-5
    assert len(uploads(tmp_path)) == 1


@pytest.mark.parametrize(("bad", "status", "code"), BAD, ids=[code for _, _, code in BAD])
def test_atomic_means_all_or_none(
    shoes: httpx.Client, tmp_path: Path, bad: dict[str, Any], status: int, code: str
) -> None:
    assert put(shoes, [{"id": "old", "image": as_base64(encoded(draw(3)))}]).status_code == 200
    items = [{"id": "new", "image": as_base64(encoded(draw(4)))}, {"id": "old", "embedding": point(0)}]
    refused = shoes.put(ITEMS, params={"atomic": "true"}, json={"items": [*items, {"id": "bad", **bad}]})
    assert (refused.status_code, refused.json()["code"]) == (422, "items_refused")
    (error,) = refused.json()["errors"]
    assert (error["pointer"], error["id"], error["status"], error["code"]) == ("/items/2", "bad", status, code)
    assert shoes.post(f"{ITEMS}/count").json() == {"count": 1}
    assert shoes.get(f"{ITEMS}/old/image").content == encoded(draw(3))
    assert len(uploads(tmp_path)) == 1
    accepted = shoes.put(ITEMS, params={"atomic": "true"}, json={"items": items})
    assert [each["status"] for each in accepted.json()["results"]] == [201, 200]
    assert uploads(tmp_path) != []


def test_points_of_another_model(shoes: httpx.Client, engine: Engine) -> None:
    item = {"id": "a", "embedding": point(0)}
    refused = put(shoes, [item], model_hash="0" * 12)
    assert (refused.status_code, refused.json()["code"]) == (409, "model_mismatch")
    assert put(shoes, [item], model_hash=engine.model.model_hash).status_code == 200


def nested(depth: int) -> Any:
    return {"a": nested(depth - 1)} if depth else 1


@pytest.mark.parametrize(
    "item",
    [
        {},
        {"id": ""},
        {"id": "a" * 1025},
        {"id": "a\0b"},
        {"id": 1},
        {"embedding": None},
        {"image": "x"},
        {"labels": "Fruit"},
        {"labels": [""]},
        {"labels": ["x"] * 33},
        {"metadata": []},
        {"metadata": nested(9)},
        {"metadata": {"a": "x" * 17_000}},
        {"metadata": {"a": 2**63}},
        {"path": "/etc/passwd"},
    ],
)
def test_items_that_are_not_as_described(shoes: httpx.Client, item: dict[str, Any]) -> None:
    given = {"id": "a", "embedding": point(0), **item} if item else {}
    refused = put(shoes, [{"id": "fine", "embedding": point(1)}, given])
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
    assert refused.json()["errors"][0]["pointer"].startswith("/items/1")
    assert shoes.post(f"{ITEMS}/count").json() == {"count": 0}


def test_what_just_fits_is_taken(shoes: httpx.Client) -> None:
    metadata = {"deep": nested(7), "least": -(2**63), "text": "\u2028\U0010ffff", "": None}
    item = {"id": "\u00e9" * 1024, "labels": ["x" * 256] * 32, "metadata": metadata, "embedding": point(0)}
    assert put(shoes, [item]).status_code == 200
    assert shoes.get(f"{ITEMS}/{quote(item['id'])}").json()["metadata"] == metadata
    assert put(shoes, [{"id": str(n), "embedding": point(n)} for n in range(1000)]).json()["written"] == 1000
    assert put(shoes, [{"id": str(n), "embedding": point(n)} for n in range(1001)]).status_code == 422
    photos = [{"id": str(n), "image": as_base64(encoded(draw(n, (8, 8))))} for n in range(33)]
    assert put(shoes, photos).json()["code"] == "too_many_images"


def test_metadata_against_the_schema(fresh: httpx.Client) -> None:
    fresh.put("/v1/collections/shoes", json={"schema": {"fields": {"size": "integer"}, "required": ["size"]}})
    items = [
        {"id": str(n), "embedding": point(n), "metadata": each}
        for n, each in enumerate([{"size": 1}, {}, {"size": "1"}])
    ]
    results = put(fresh, items).json()["results"]
    assert [each["status"] for each in results] == [201, 422, 422]
    assert results[1]["error"] == {"code": "invalid_metadata", "detail": "metadata: size: it is required"}


@pytest.mark.parametrize(
    "item_id", [*AWKWARD, "a/b/c", "a/../b", "%2e%2e", "count", "delete", "x\u2028\n", "\U0001f45f"]
)
def test_any_id(shoes: httpx.Client, item_id: str) -> None:
    url = f"{ITEMS}/{quote(item_id, safe='')}"
    assert put(shoes, [{"id": item_id, "image": as_base64(encoded(draw(1)))}]).status_code == 200
    assert shoes.get(url).json()["id"] == item_id
    assert shoes.get(f"{url}/image").content == encoded(draw(1))
    assert shoes.delete(url).status_code == 204
    assert shoes.delete(url).json()["code"] == "item_not_found"
    assert shoes.get(url).status_code == 404


def test_a_photo_goes_with_the_last_item_that_has_it(shoes: httpx.Client, tmp_path: Path) -> None:
    photo = as_base64(encoded(draw(1)))
    put(shoes, [{"id": each, "image": photo} for each in "abcd"])
    assert len(uploads(tmp_path)) == 1
    assert shoes.delete(f"{ITEMS}/a").status_code == 204
    put(shoes, [{"id": "b", "embedding": point(0)}])
    assert len(uploads(tmp_path)) == 1
    assert shoes.post(f"{ITEMS}/delete", json={"ids": ["c", "c", "unknown"]}).json() == {"count": 1}
    assert shoes.get(f"{ITEMS}/d/image").content == encoded(draw(1))
    put(shoes, [{"id": "d", "image": as_base64(encoded(draw(2)))}])
    assert shoes.get(f"{ITEMS}/d/image").content == encoded(draw(2))
    assert len(uploads(tmp_path)) == 1
    assert shoes.delete(f"{ITEMS}/d").status_code == 204
    assert uploads(tmp_path) == []


def test_a_full_disk_is_507_and_changes_nothing(
    shoes: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(shoes, [{"id": "a", "image": as_base64(encoded(draw(1)))}])

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("index.uploads.os.fsync", full)
        refused = put(shoes, [{"id": "a", "image": as_base64(encoded(draw(2)))}])
    assert refused.status_code == 507
    assert shoes.get(f"{ITEMS}/a/image").content == encoded(draw(1))
    assert put(shoes, [{"id": "a", "image": as_base64(encoded(draw(2)))}]).status_code == 200
    assert len(uploads(tmp_path)) == 1


def test_filters_choose_what_is_listed_counted_and_deleted(shoes: httpx.Client) -> None:
    items = [{"id": str(n), "embedding": point(n), "metadata": {"n": n}, "labels": [f"L{n % 2}"]} for n in range(40)]
    assert put(shoes, items).status_code == 200
    small = {"must": [{"key": "n", "range": {"lt": 10}}], "must_not": [{"path": "L1"}]}
    assert shoes.post(f"{ITEMS}/count", json={"filter": small}).json() == {"count": 5}
    assert shoes.post(f"{ITEMS}/count", json={}).json() == {"count": 40}
    seen: list[str] = []
    asked: dict[str, Any] = {"limit": 2, "filter": small}
    while True:
        page = shoes.post(f"{ITEMS}/scroll", json=asked).json()
        seen += [item["id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        asked["cursor"] = page["next_cursor"]
    assert seen == ["0", "2", "4", "6", "8"]
    drawn = shoes.post(f"{ITEMS}/scroll", json={"limit": 3, "order": "random", "filter": small}).json()["items"]
    assert len({item["id"] for item in drawn} & set(seen)) == 3
    assert shoes.post(f"{ITEMS}/delete", json={"filter": small}).json() == {"count": 5}
    assert shoes.post(f"{ITEMS}/scroll", json={"filter": small}).json() == {"items": [], "next_cursor": None}
    assert shoes.post(f"{ITEMS}/count").json() == {"count": 35}
    for wrong in ({}, {"filter": {}}, {"ids": ["1"], "filter": small}, {"ids": []}):
        assert shoes.post(f"{ITEMS}/delete", json=wrong).status_code == 422
    assert shoes.post(f"{ITEMS}/delete", json={"filter": {"must": [{"node": "x"}]}}).status_code == 404
    assert shoes.post(f"{ITEMS}/count").json() == {"count": 35}


def test_photos_by_url_are_fetched_and_kept(
    shoes: httpx.Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []

    async def fetched(url: str, limits: object) -> bytes:
        asked.append(url)
        if url.endswith("gone"):
            raise Problem(422, "url_unreachable", "nobody there")
        return encoded(draw(1))

    monkeypatch.setattr("service.upserts.fetch", fetched)
    urls = ["https://example.com/a.png", "https://example.com/gone"]
    answer = put(shoes, [{"id": url, "url": url} for url in urls])
    assert answer.status_code == 207
    assert answer.json()["results"][0] == {"id": urls[0], "status": 201}
    assert answer.json()["results"][1]["error"] == {"code": "url_unreachable", "detail": "nobody there"}
    assert shoes.get(f"{ITEMS}/{quote(urls[0], safe='')}/image").content == encoded(draw(1))
    assert asked == urls
    assert len(uploads(tmp_path)) == 1


def test_there_may_be_so_many_items(engine: Engine, with_settings: Callable[..., Settings], tmp_path: Path) -> None:
    registry = Collections(tmp_path, engine.model.model_hash)
    with (
        running_server(with_settings(store=tmp_path, quotas={"items": 3}), Engine(engine.encoder, registry)) as url,
        httpx.Client(base_url=url) as client,
    ):
        client.put("/v1/collections/shoes")
        assert put(client, [{"id": str(n), "embedding": point(n)} for n in range(2)]).status_code == 200
        refused = put(client, [{"id": str(n), "embedding": point(n)} for n in range(4)])
        assert (refused.status_code, refused.json()["code"]) == (507, "quota_exceeded")
        assert put(client, [{"id": str(n), "embedding": point(n)} for n in range(3)]).status_code == 200
    registry.close()


def test_photos_of_a_built_collection_live_beside_uploaded_ones(
    disposable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = "/v1/collections/default/items"
    with httpx.Client(base_url=disposable, timeout=30) as client:
        before = client.get(f"{items}/Fruit/image").content
        added = client.put(f"{items}", files={"file": ("x", encoded(draw(90)))}, data={"id": "added"})
        assert added.status_code == 200
        assert client.get(f"{items}/added/image").content == encoded(draw(90))
        assert client.get(f"{items}/Fruit/image").content == before
