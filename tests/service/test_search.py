"""POST /v1/search: photos, items and points, as JSON and multipart, against float64 brute force."""

import base64
import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from hyperbolic.embedder import Embedder
from hyperbolic.images import read_image
from service.engine import Engine

from .conftest import AWKWARD, NUM_ITEMS, draw, encoded

Nearest = Callable[[np.ndarray, int], list[tuple[str, float]]]
PHOTO = encoded(draw(1000))


def check(answer: dict[str, Any], expected: list[tuple[str, float]], bound: float) -> None:
    """Ids in order and distances within ``bound``; a NaN fails."""
    assert [hit["id"] for hit in answer["hits"]] == [item_id for item_id, _ in expected]
    for hit, (_, distance) in zip(answer["hits"], expected, strict=True):
        assert abs(hit["distance"] - distance) <= bound
        assert hit["score"] == pytest.approx(1 / (1 + hit["distance"]), abs=1e-12)
    assert answer["exact"] is True


def test_photo_as_multipart_equals_brute_force(client: httpx.Client, embedder: Embedder, nearest: Nearest) -> None:
    for seed in range(1000, 1020):
        photo = encoded(draw(seed))
        answer = client.post("/v1/search", files={"file": ("a.png", photo)}, data={"limit": "5"}).json()
        point = embedder.embed([read_image(photo)])[0]
        check(answer, nearest(point, 5), 1e-5)
        radius = math.asinh(math.sqrt(embedder.c) * float(np.linalg.norm(point.astype(np.float64))))
        assert answer["query"] == {"radius": pytest.approx(radius / math.sqrt(embedder.c), abs=1e-5)}


def test_curl_line_of_the_documentation(server: str, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(encoded(draw(7), "JPEG"))
    done = subprocess.run(
        ["curl", "-sS", "-F", f"file=@{tmp_path}/photo.jpg", "-F", "limit=5", f"{server}/v1/search"],
        capture_output=True,
        check=True,
    )
    assert len(json.loads(done.stdout)["hits"]) == 5


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,", "data:;base64,"])
def test_photo_as_json_equals_multipart(client: httpx.Client, prefix: str) -> None:
    image = prefix + base64.b64encode(PHOTO).decode()
    as_json = client.post("/v1/search", json={"query": {"image": image}}).json()
    as_form = client.post("/v1/search", files={"file": PHOTO}).json()
    assert len(as_json["hits"]) == 10
    assert as_json == as_form


@pytest.mark.parametrize("item_id", [*AWKWARD, "Animal/Kind-0/000.png"])
def test_item_finds_the_others(client: httpx.Client, engine: Engine, nearest: Nearest, item_id: str) -> None:
    answer = client.post("/v1/search", json={"query": {"item_id": item_id}, "limit": 1000}).json()
    point = engine.item(engine.collection(), item_id).space
    expected = [hit for hit in nearest(point, NUM_ITEMS) if hit[0] != item_id]
    assert len(expected) == NUM_ITEMS - 1
    check(answer, expected, 1e-9)


def test_point_and_named_collection(client: httpx.Client, engine: Engine, nearest: Nearest) -> None:
    point = engine.item(engine.collection(), "Fruit").space
    body = {"query": {"embedding": [float(value) for value in point]}, "limit": 7}
    answer = client.post("/v1/collections/default/search", json=body).json()
    check(answer, nearest(point, 7), 1e-9)
    assert answer["hits"][0]["id"] == "Fruit"
    assert answer["hits"][0]["distance"] <= 1e-6


def test_max_distance_drops_the_far_ones(client: httpx.Client, engine: Engine, nearest: Nearest) -> None:
    everything = nearest(engine.item(engine.collection(), "Fruit").space, NUM_ITEMS)
    between = (everything[4][1] + everything[5][1]) / 2
    query = {"query": {"item_id": "Fruit"}, "limit": 1000}
    answer = client.post("/v1/search", json={**query, "max_distance": between}).json()
    assert [hit["id"] for hit in answer["hits"]] == [item_id for item_id, _ in everything[1:5]]
    assert client.post("/v1/search", json={**query, "max_distance": 0}).json()["hits"] == []


def test_include_chooses_the_fields(client: httpx.Client) -> None:
    query = {"query": {"item_id": "Fruit"}, "limit": 3}
    default = client.post("/v1/search", json=query).json()["hits"][0]
    assert set(default) == {"id", "distance", "score", "path", "metadata"}
    bare = client.post("/v1/search", json={**query, "include": []}).json()["hits"][0]
    assert set(bare) == {"id", "distance", "score"}
    for hit in client.post("/v1/search", json={**query, "limit": 30, "include": ["thumbnail"]}).json()["hits"]:
        assert set(hit) == {"id", "distance", "score", "thumbnail"}
        assert client.get(hit["thumbnail"]).headers["content-type"] == "image/jpeg"
    form = client.post("/v1/search", files={"file": PHOTO}, data={"include": "path, thumbnail", "limit": "1"}).json()
    assert set(form["hits"][0]) == {"id", "distance", "score", "path", "thumbnail"}


def test_steps_are_timed(client: httpx.Client) -> None:
    timing = client.post("/v1/search", files={"file": PHOTO}).headers["server-timing"]
    steps = dict(part.split(";dur=") for part in timing.split(", "))
    assert set(steps) == {"queue", "decode", "embed", "search", "total"}
    assert 0 < float(steps["embed"]) <= float(steps["total"])
