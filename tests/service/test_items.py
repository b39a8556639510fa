"""Items, their photos and thumbnails, lists of them; and no way from an id to another file."""

import io
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from PIL import Image

from hyperbolic.images import read_image
from index.catalogue import Item
from index.collection import Collection
from service import thumbnails
from service.collections import Collections
from service.engine import Engine
from service.server import running_server

from .conftest import AWKWARD, Trip, draw, encoded

ITEMS = "/v1/collections/default/items"


@pytest.mark.parametrize("item_id", [*AWKWARD, "Animal/Kind-1/001.png"])
def test_any_id_reaches_its_item_and_photo(client: httpx.Client, trip: Trip, item_id: str) -> None:
    url = f"{ITEMS}/{quote(item_id, safe='')}"
    item = client.get(url).json()
    number = trip.ids.index(item_id)
    assert item["id"] == item_id
    assert item["metadata"] == {"number": number}
    assert item["path"] == item_id.split("/")[:-1]
    assert item["radius"] > 0
    photo = client.get(f"{url}/image")
    assert photo.content == (trip.photos / f"{number:03}.png").read_bytes()
    assert photo.headers["content-type"] == "image/png"
    assert client.get(item["image"]).content == photo.content
    assert client.get(item["thumbnail"]).headers["content-type"] == "image/jpeg"


def test_slashes_may_stand_as_they_are(client: httpx.Client) -> None:
    assert client.get(f"{ITEMS}/Animal/Kind-1/001.png").json()["id"] == "Animal/Kind-1/001.png"
    assert client.get(f"{ITEMS}/Animal/Kind-1/001.png/image").headers["content-type"] == "image/png"
    assert client.get(f"{ITEMS}/Fruit/image").headers["content-type"] == "image/png"  # of "Fruit"
    assert client.get(f"{ITEMS}/Fruit%2Fimage").json()["id"] == "Fruit/image"


@pytest.mark.parametrize(
    "path",
    [
        "..%2f..%2fcheckpoint%2fconfig.json/image",
        "%2e%2e/%2e%2e/etc/passwd/image",
        "..%252f..%252fetc%252fpasswd/image",
        "%2fetc%2fpasswd/image",
        "....//....//etc/passwd/image",
        "000.png/image",  # a file beside the photos, but no id
        "Fruit%00.png/image",
        "%ff%fe/thumbnail",
        "C:%5Cwindows%5Cwin.ini/image",
        "a" * 5000 + "/image",
    ],
)
def test_no_path_is_taken_from_a_request(client: httpx.Client, path: str) -> None:
    response = client.get(httpx.URL(f"{client.base_url}{ITEMS}/{path}"))
    assert response.status_code == 404
    assert response.json()["code"] == "item_not_found"


def test_items_that_point_outside_or_nowhere(
    tmp_path: Path, trip: Trip, engine: Engine, with_settings: Callable[..., object]
) -> None:
    """A catalogue row is no licence either: links out of the image folder, lost and damaged photos."""
    photos = tmp_path / "photos"
    photos.mkdir()
    (tmp_path / "secret.png").write_bytes(encoded(draw(1)))
    (photos / "link.png").symlink_to(tmp_path / "secret.png")
    (photos / "torn.png").write_bytes(encoded(draw(1))[:200])
    (photos / "page.html").write_text("<script>alert(1)</script>")
    (photos / "drawing.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    names = ("link.png", "lost.png", "torn.png", "page.html", "drawing.svg")
    with Collection.create(
        tmp_path / "store",
        embedding_dim=engine.model.embedding_dim,
        c=engine.model.c,
        model_hash=engine.model.model_hash,
        image_root=photos,
    ) as made:
        point = np.zeros(engine.model.embedding_dim, np.float32)
        made.upsert([*(Item(name, point, image=name) for name in names), Item("bare", point)])
        made.close()
        registry = Collections(tmp_path / "store", engine.model.model_hash)
        with closing(registry), running_server(with_settings(), Engine(engine.encoder, registry)) as url:
            for name in ("link.png", "lost.png"):
                for part in ("image", "thumbnail"):
                    response = httpx.get(f"{url}{ITEMS}/{name}/{part}")
                    assert (response.status_code, response.json()["code"]) == (404, "image_not_found")
                    assert str(tmp_path) not in response.text
            bare = httpx.get(f"{url}{ITEMS}/bare/image")
            assert (bare.status_code, bare.json()["code"]) == (404, "image_not_found")
            assert set(httpx.get(f"{url}{ITEMS}/bare").json()) == {"id", "path", "metadata", "radius"}
            torn = httpx.get(f"{url}{ITEMS}/torn.png/thumbnail")
            assert (torn.status_code, torn.json()["code"]) == (422, "undecodable_image")
            for name in ("page.html", "drawing.svg"):
                shown = httpx.get(f"{url}{ITEMS}/{name}/image")
                assert shown.headers["content-type"] == "application/octet-stream"
                assert shown.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("size", [160, 320, 640])
def test_thumbnail_sizes(client: httpx.Client, trip: Trip, engine: Engine, tmp_path: Path, size: int) -> None:
    answer = client.get(f"{ITEMS}/Fruit/thumbnail?size={size}")
    with Image.open(io.BytesIO(answer.content)) as image:
        assert image.format == "JPEG"
        assert image.size == (80, 60)  # smaller than any thumbnail: never enlarged
    from service.thumbnails import Thumbnails

    draw(1, (1000, 500)).save(tmp_path / "large.png")
    made = Thumbnails(1000).get(tmp_path / "large.png", size)
    with Image.open(io.BytesIO(made.data)) as image:
        assert image.size == (size, size // 2)


def test_photos_are_cached_by_tag(client: httpx.Client) -> None:
    for part in ("image", "thumbnail", "thumbnail?size=160"):
        first = client.get(f"{ITEMS}/Fruit/{part}")
        assert first.headers["cache-control"] == "private, max-age=3600"
        again = client.get(f"{ITEMS}/Fruit/{part}", headers={"If-None-Match": f'"x", W/{first.headers["etag"]}'})
        assert (again.status_code, again.content) == (304, b"")
        assert client.get(f"{ITEMS}/Fruit/{part}", headers={"If-None-Match": '"x"'}).status_code == 200


def test_thumbnail_cache_is_bounded_and_follows_the_file(tmp_path: Path) -> None:
    from service.thumbnails import Thumbnails

    cache = Thumbnails(20_000)
    for seed in range(12):
        draw(seed, (200, 200)).save(tmp_path / f"{seed}.png")
        cache.get(tmp_path / f"{seed}.png", 160)
    assert 0 < sum(len(thumbnail.data) for thumbnail in cache._kept.values()) == cache._bytes <= 20_000
    before = cache.get(tmp_path / "11.png", 160)
    shutil.copy(tmp_path / "3.png", tmp_path / "11.png")
    after = cache.get(tmp_path / "11.png", 160)
    assert before.etag != after.etag
    assert before.data != after.data


def test_head_is_get_without_the_body(client: httpx.Client) -> None:
    for path in (f"{ITEMS}/Fruit/image", "/livez", "/"):
        head, get = client.head(path), client.get(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == get.headers["content-length"]


def test_scroll_visits_every_item_once(client: httpx.Client, trip: Trip) -> None:
    seen: list[str] = []
    asked: dict[str, object] = {"limit": 7}
    while True:
        page = client.post(f"{ITEMS}/scroll", json=asked).json()
        seen += [item["id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        assert len(page["items"]) == 7
        asked["cursor"] = page["next_cursor"]
    assert seen == list(trip.ids)


def test_random_items(client: httpx.Client, trip: Trip) -> None:
    draws = [client.post(f"{ITEMS}/scroll", json={"limit": 8, "order": "random"}).json() for _ in range(12)]
    seen = set()
    for answer in draws:
        ids = [item["id"] for item in answer["items"]]
        assert answer["next_cursor"] is None
        assert 1 <= len(ids) <= 8
        assert len(set(ids)) == len(ids)
        seen |= set(ids)
    assert len(seen) > len(trip.ids) / 2  # 96 draws of 24: fewer than 12 different happens once in 10^15
    everything = client.post(f"{ITEMS}/scroll", json={"limit": 1000, "order": "random"}).json()["items"]
    assert sorted(item["id"] for item in everything) == sorted(trip.ids)


@pytest.mark.parametrize("cursor", ["x", "!!!", "", "cm93Oi0x", "cm93OjE4NDQ2NzQ0MDczNzA5NTUxNjE2", "é", "cm93OsKy"])
def test_made_up_cursors(client: httpx.Client, cursor: str) -> None:
    response = client.post(f"{ITEMS}/scroll", json={"cursor": cursor})
    assert (response.status_code, response.json()["code"]) == (422, "invalid_cursor")
    both = client.post(f"{ITEMS}/scroll", json={"cursor": cursor, "order": "random"})
    assert (both.status_code, both.json()["code"]) == (422, "invalid_request")


def test_info_probes_and_documents(client: httpx.Client, engine: Engine, trip: Trip) -> None:
    info = client.get("/v1/info").json()
    assert info["model_hash"] == engine.model.model_hash == engine.collection().model_hash
    assert (info["backbone"], info["embedding_dim"], info["c"]) == ("test_vit", 16, engine.model.c)
    assert info["limits"]["body_bytes"] == 32 * 2**20
    assert info["limits"]["hits"] == 1000
    assert info["default_collection"] == "default"
    assert [(each["name"], each["count"]) for each in info["collections"]] == [("default", len(trip.ids))]
    for path in ("/livez", "/readyz", "/healthz"):
        assert client.get(path).json()["status"] == "ok"
    for path in ("/", "/docs", "/web/main.js", "/web/style.css"):
        assert client.get(path).headers["content-security-policy"].startswith("default-src 'self'")


def test_every_reference_of_the_openapi_document_resolves(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]

    def references(node: object) -> set[str]:
        if isinstance(node, dict):
            own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
            return own.union(*(references(value) for value in node.values()))
        return set().union(*(references(value) for value in node)) if isinstance(node, list) else set()

    found = references(document)
    assert "#/components/schemas/SearchRequest" in found
    assert {reference.removeprefix("#/components/schemas/") for reference in found} <= set(schemas)
    content = document["paths"]["/v1/search"]["post"]["requestBody"]["content"]
    assert set(content) == {"application/json", "multipart/form-data"}


def test_few_thumbnails_are_made_at_once_and_of_fractions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, sizes, running, most = threading.Lock(), list[tuple[int, int]](), 0, 0
    read = read_image

    def noted(path: Path, **options: Any) -> Image.Image:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        image = read(path, **options)
        time.sleep(0.05)
        with lock:
            running -= 1
            sizes.append(image.size)
        return image

    monkeypatch.setattr(thumbnails, "read_image", noted)
    paths = [tmp_path / f"{number}.jpg" for number in range(3 * thumbnails.AT_ONCE)]
    photo = encoded(draw(1, (1600, 1200)), "JPEG")
    for path in paths:
        path.write_bytes(photo)
    cache = thumbnails.Thumbnails(1_000_000)
    with ThreadPoolExecutor(len(paths)) as pool:
        made = list(pool.map(lambda path: cache.get(path, 160), paths))
    assert most == thumbnails.AT_ONCE
    assert max(width for width, _ in sizes) <= 1600 // 2  # a quarter of the memory, or less
    assert Image.open(io.BytesIO(made[0].data)).size == (160, 120)
