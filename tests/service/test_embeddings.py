"""Photos to points over HTTP, in each space and encoding, against the model in this process and mpmath."""

import base64
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
import mpmath
import numpy as np
import pytest

from hyperbolic.embedder import Embedder
from hyperbolic.images import read_image
from index.catalogue import Catalogue
from index.hierarchy.answers import Answers
from index.hierarchy.tree import Hierarchy
from service.collections import Collections
from service.engine import Engine
from service.server import running_server
from service.settings import Settings

from .conftest import Trip, draw, encoded
from .grove import build_tree

PHOTOS = [encoded(draw(seed)) for seed in (50, 51)]


@pytest.fixture
def ask(client: httpx.Client) -> Callable[..., httpx.Response]:
    def post(photos: list[bytes], **options: object) -> httpx.Response:
        images = [base64.b64encode(photo).decode() for photo in photos]
        return client.post("/v1/embeddings", json={"images": images, **options})

    return post


@pytest.fixture(scope="module")
def points(embedder: Embedder) -> np.ndarray:
    return np.stack([embedder.embed([read_image(photo)])[0] for photo in PHOTOS])


def vectors(answer: httpx.Response) -> np.ndarray:
    given = [result["embedding"] for result in answer.json()["results"]]
    if answer.json()["encoding"] == "base64":
        return np.stack([np.frombuffer(base64.b64decode(text), "<f4") for text in given])
    return np.array(given)


@pytest.mark.parametrize("encoding", ["float", "base64"])
@pytest.mark.parametrize("space", ["lorentz", "poincare", "tangent"])
def test_spaces_and_encodings(
    ask: Callable[..., httpx.Response], embedder: Embedder, points: np.ndarray, space: str, encoding: str
) -> None:
    answer = ask(PHOTOS, space=space, encoding=encoding, time=True)
    assert answer.status_code == 200
    assert (answer.json()["space"], answer.json()["model_hash"]) == (space, embedder.model_hash)
    found = vectors(answer)
    with mpmath.workdps(40):
        c = mpmath.mpf(answer.json()["c"])
        for result, told, row in zip(answer.json()["results"], found, points, strict=True):
            x = [mpmath.mpf(float(value)) for value in row]
            square = mpmath.fsum(value**2 for value in x)
            x_time, s = mpmath.sqrt(1 / c + square), mpmath.sqrt(c * square)
            factor = {"lorentz": 1, "poincare": 1 / (1 + mpmath.sqrt(c) * x_time), "tangent": mpmath.asinh(s) / s}[
                space
            ]
            expected = np.array([float(factor * value) for value in x])
            # The photo goes through another batch there, which moves the last digits of the point itself.
            np.testing.assert_allclose(told, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
            assert result["time"] == pytest.approx(float(x_time), rel=1e-5)
            assert result["radius"] == pytest.approx(float(mpmath.asinh(s) / mpmath.sqrt(c)), rel=1e-5)
            if space == "tangent":
                assert np.linalg.norm(told) == pytest.approx(result["radius"], rel=1e-6)


def test_encodings_hold_the_same_numbers(ask: Callable[..., httpx.Response]) -> None:
    as_numbers, as_bytes = vectors(ask(PHOTOS)), vectors(ask(PHOTOS, encoding="base64"))
    np.testing.assert_allclose(as_numbers, as_bytes, rtol=0, atol=1e-6 * np.abs(as_bytes).max())
    assert (as_numbers == as_numbers.astype(np.float32)).all()


def test_an_embedding_is_what_a_search_takes(
    ask: Callable[..., httpx.Response], client: httpx.Client, points: np.ndarray
) -> None:
    photo = encoded(draw(7))  # an item of the collection
    embedding = ask([photo]).json()["results"][0]["embedding"]
    assert "time" not in ask([photo]).json()["results"][0]
    hits = client.post("/v1/search", json={"query": {"embedding": embedding}, "limit": 1}).json()["hits"]
    assert hits[0]["distance"] < 1e-4


def test_a_bad_photo_fails_none_beside_it(ask: Callable[..., httpx.Response], points: np.ndarray) -> None:
    answer = ask([PHOTOS[0], b"", b"no photo", PHOTOS[1][:200], encoded(draw(1, (2, 2))), PHOTOS[1]])
    assert answer.status_code == 207
    results = answer.json()["results"]
    assert [result["status"] for result in results] == [200, 422, 415, 422, 422, 200]
    codes = [result["error"]["code"] for result in results[1:5]]
    assert codes == ["empty_file", "unsupported_format", "undecodable_image", "image_too_small"]
    np.testing.assert_allclose([results[0]["embedding"], results[5]["embedding"]], points, atol=1e-5)


def test_specificity_is_that_of_the_tree(
    trip: Trip,
    engine: Engine,
    embedder: Embedder,
    points: np.ndarray,
    with_settings: Callable[..., Settings],
    tmp_path: Path,
) -> None:
    store = shutil.copytree(trip.store, tmp_path / "store")
    build_tree(store / "collections/default")
    registry = Collections(store, embedder.model_hash)
    with running_server(with_settings(store=store), Engine(engine.encoder, registry)) as url:
        files = [("file", ("x", photo)) for photo in PHOTOS]
        answer = httpx.post(f"{url}/v1/embeddings", files=files, data={"collection": "default"}, timeout=30)
    registry.close()
    with Catalogue.open(store / "collections/default/catalogue.sqlite") as catalogue:
        expected, _ = Answers(Hierarchy.load(store / "collections/default/hierarchy", catalogue)).specificity(points)
    found = [result["specificity"] for result in answer.json()["results"]]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert found[0] != found[1]


def test_forms(client: httpx.Client, points: np.ndarray) -> None:
    files = [("file", ("a", photo)) for photo in PHOTOS]
    answer = client.post("/v1/embeddings", files=files, data={"time": "true", "encoding": "base64"})
    np.testing.assert_allclose(vectors(answer), points, atol=1e-5)
    assert "time" in answer.json()["results"][0]
    assert client.post("/v1/embeddings", files={"x": ("", b"")}).status_code == 422
    assert client.post("/v1/embeddings", files=files, data={"time": "yes please"}).status_code == 422


def test_bounds(ask: Callable[..., httpx.Response]) -> None:
    tiny = encoded(draw(1, (8, 8)))
    assert len(ask([tiny] * 32).json()["results"]) == 32
    assert (ask([tiny] * 33).status_code, ask([tiny] * 33).json()["code"]) == (413, "too_many_images")
    assert ask([]).status_code == 422
    assert ask([tiny], space="euclidean").status_code == 422
    assert ask([tiny], collection="none").json()["code"] == "collection_not_found"
    assert "specificity" not in ask([tiny], collection="default").json()["results"][0]  # it has no tree
