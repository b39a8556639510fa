"""A collection that breaks answers 503 while the others serve, and serves again when it is mended: no restart."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from index.collection import Collection
from service import collections
from service.engine import Engine
from service.server import running_server
from service.settings import Settings

from .conftest import INFERENCE, Trip, draw, encoded

OTHER = "sound"


@pytest.fixture
def store(trip: Trip, tmp_path: Path) -> Path:
    store = shutil.copytree(trip.store, tmp_path / "store")
    shutil.copytree(store / "collections" / "default", store / "collections" / OTHER)
    return store


@pytest.fixture(scope="module")
def encoder_engine(trip: Trip) -> Iterator[Engine]:
    """Its encoder serves all the tests here."""
    with closing(Engine.open(trip.checkpoint, trip.store, inference=INFERENCE)) as engine:
        yield engine


@pytest.fixture
def client(trip: Trip, store: Path, encoder_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    """Of a server over ``store``, which looks again at once at what was broken."""
    monkeypatch.setattr(collections, "RETRY_S", 0.0)
    opened = collections.Collections(store, encoder_engine.model.model_hash)
    opened.open_all()
    engine = Engine(encoder_engine.encoder, opened)
    engine.self_check.start()
    settings = Settings(checkpoint=trip.checkpoint, store=store, port=0, inference=INFERENCE)
    with running_server(settings, engine) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client
    engine.self_check.close()
    opened.close()


def truncate(folder: Path) -> None:
    """The catalogue loses its second half: behind the back of those who have it open, as a failing disk does."""
    catalogue = folder / "catalogue.sqlite"
    half = catalogue.read_bytes()[: catalogue.stat().st_size // 2]
    catalogue.rename(folder / "catalogue.lost")
    catalogue.write_bytes(half)


def remove(folder: Path) -> None:
    shutil.rmtree(folder)


def swap(folder: Path) -> None:
    """Another file stands where the catalogue was."""
    (folder / "catalogue.sqlite").rename(folder / "catalogue.lost")
    (folder / "catalogue.sqlite").write_bytes(b"not SQLite at all " * 500)


def another_model(folder: Path) -> None:
    """Somebody put a collection there that another model embedded."""
    shutil.rmtree(folder)
    Collection.create(folder.parent.parent, folder.name, embedding_dim=16, c=1.0, model_hash="0123456789ab").close()


@pytest.mark.parametrize("breaks", [truncate, remove, swap, another_model])
def test_broken_and_mended(client: httpx.Client, trip: Trip, store: Path, breaks: Callable[[Path], None]) -> None:
    folder = store / "collections" / "default"
    photo = {"file": encoded(draw(1))}

    def search(name: str) -> httpx.Response:
        return client.post(f"/v1/collections/{name}/search", files=photo)

    expected = search("default").json()["hits"]
    assert len(expected) == 10
    breaks(folder)
    item = {"items": [{"id": "lost?", "embedding": [0.1] * 16}]}
    write = client.put("/v1/collections/default/items", json=item)
    assert write.status_code == 503, write.text  # nothing is acknowledged that is not kept
    for _ in range(2):
        for answer in (
            search("default"),
            client.get("/v1/collections/default/items/Fruit"),
            client.post("/v1/collections/default/items/scroll", json={}),
        ):
            assert answer.status_code == 503, answer.text
            assert answer.json()["code"] == "collection_unavailable"
            assert int(answer.headers["retry-after"]) >= 1
            assert str(store) not in answer.text  # where it lies is for the log
    assert search(OTHER).json()["hits"] == expected
    told = {each["name"]: each for each in client.get("/v1/info").json()["collections"]}
    assert told["default"]["fault"]
    assert told[OTHER]["count"] == len(trip.ids)
    ready = client.get("/readyz")
    assert ready.status_code == 200
    assert {each["name"]: each["ready"] for each in ready.json()["collections"]} == {"default": False, OTHER: True}
    assert 'lhier_collection_up{collection="default"} 0.0' in client.get("/metrics").text

    if folder.exists():
        shutil.rmtree(folder)
    shutil.copytree(trip.store / "collections" / "default", folder)
    assert search("default").json()["hits"] == expected
    assert client.put("/v1/collections/default/items", json=item).status_code == 200
    assert 'lhier_collection_up{collection="default"} 1.0' in client.get("/metrics").text
