"""A real engine over a small drawn collection: a tiny random backbone, a real index, photos on disk."""

import io
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from hyperbolic.checkpoint import save_checkpoint
from hyperbolic.embedder import Embedder
from hyperbolic.images import read_image
from hyperbolic.models.config import ModelConfig
from hyperbolic.models.lhier import Encoder
from index.catalogue import Item
from index.collection import Collection
from service.engine import Engine
from service.settings import InferenceSettings, Settings

NUM_ITEMS = 24
# The runtime that made the collection's points: distances can be compared to the last digits. OpenVINO is tested in
# test_encoder.py.
INFERENCE = InferenceSettings(runtime="torch")
# Ids that a URL can get wrong: slashes, spaces, percent signs, an id that ends like a route, letters beyond ASCII.
AWKWARD = ("Fruit/Äpfel/50% off #1?.png", "Fruit/image", "a%2Fb", "Veg/thumbnail", "Fruit", "scroll")


def draw(seed: int, size: tuple[int, int] = (80, 60)) -> Image.Image:
    """A photo-like drawing: a colour gradient with noise, different for each seed."""
    rng = np.random.default_rng(seed)
    width, height = size
    ramp = np.linspace(0, 1, width)[None, :, None] * rng.uniform(0, 255, 3) + rng.uniform(0, 120, 3)
    noise = rng.normal(0, 20, (height, width, 3))
    return Image.fromarray(np.clip(ramp + noise, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, fmt: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


@dataclass(frozen=True)
class Trip:
    """Where checkpoint, store and photos lie."""

    checkpoint: Path
    store: Path
    photos: Path
    ids: tuple[str, ...]


@pytest.fixture(scope="session")
def make_checkpoint() -> Callable[[Path, int], Path]:
    def make(folder: Path, seed: int) -> Path:
        torch.manual_seed(seed)
        encoder = Encoder(ModelConfig(backbone="test_vit", embedding_dim=16, image_size=160))
        save_checkpoint(folder, encoder)
        return folder

    return make


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: Callable[[Path, int], Path]) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "checkpoint", 1)


@pytest.fixture(scope="session")
def embedder(checkpoint: Path) -> Embedder:
    """The model in this process: the oracle of what the encoder's process answers."""
    return Embedder.load(checkpoint)


@pytest.fixture(scope="session")
def trip(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, embedder: Embedder) -> Trip:
    root = tmp_path_factory.mktemp("trip")
    photos = root / "photos"
    ids = (*AWKWARD, *(f"Animal/Kind-{i % 3}/{i:03}.png" for i in range(NUM_ITEMS - len(AWKWARD))))
    items = []
    for number, item_id in enumerate(ids):
        path = photos / f"{number:03}.png"
        path.parent.mkdir(exist_ok=True)
        draw(number).save(path)
        items.append(
            Item(
                item_id,
                embedder.embed([read_image(path)])[0],
                labels=tuple(item_id.split("/")[:-1]),
                metadata={"number": number},
                image=path.name,
            )
        )
    with Collection.create(
        root / "store",
        embedding_dim=embedder.embedding_dim,
        c=embedder.c,
        model_hash=embedder.model_hash,
        image_root=photos,
    ) as collection:
        collection.upsert(items)
        collection.snapshot()
    return Trip(checkpoint, root / "store", photos, ids)


@pytest.fixture(scope="session")
def engine(trip: Trip) -> Iterator[Engine]:
    engine = Engine.open(trip.checkpoint, trip.store, inference=INFERENCE)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def settings(trip: Trip) -> Settings:
    return Settings(checkpoint=trip.checkpoint, store=trip.store, port=0, inference=INFERENCE)


@pytest.fixture
def with_settings(settings: Settings) -> Callable[..., Settings]:
    """The settings with sections or fields replaced: ``with_settings(limits={"in_flight": 1})``."""

    def change(**changes: Any) -> Settings:
        given = {"checkpoint": settings.checkpoint, "store": settings.store, "port": 0, "inference": INFERENCE}
        return Settings(**{**given, **changes})

    return change


@pytest.fixture(scope="session")
def server(engine: Engine, settings: Settings) -> Iterator[str]:
    from service.server import running_server

    with running_server(settings, engine) as url:
        yield url


@pytest.fixture(scope="module")
def disposable(trip: Trip, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server over a copy of the store, for the tests of one file that change or break things."""
    from service.server import running_server

    store = shutil.copytree(trip.store, tmp_path_factory.mktemp("disposable") / "store")
    with running_server(Settings(checkpoint=trip.checkpoint, store=store, port=0, inference=INFERENCE)) as url:
        yield url


@pytest.fixture
def fresh(engine: Engine, with_settings: Callable[..., Settings], tmp_path: Path) -> Iterator[httpx.Client]:
    """A client of a server over an empty store of its own at ``tmp_path / "store"``."""
    from service.collections import Collections
    from service.server import running_server

    store = tmp_path / "store"
    store.mkdir()
    registry = Collections(store, engine.model.model_hash)
    with (
        running_server(with_settings(store=store), Engine(engine.encoder, registry)) as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        yield client
    registry.close()


@pytest.fixture
def client(server: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server, timeout=30) as client:
        yield client


@pytest.fixture(scope="session")
def nearest(engine: Engine) -> Callable[[np.ndarray, int], list[tuple[str, float]]]:
    """Float64 brute force over the catalogue, by the asinh form: shares no code with the index."""

    def find(space: np.ndarray, limit: int) -> list[tuple[str, float]]:
        c = engine.model.c
        items = engine.collection().items(limit=10_000)
        x, ys = space.astype(np.float64), np.stack([item.space for item in items]).astype(np.float64)
        x_t, y_t = np.sqrt(1 / c + x @ x), np.sqrt(1 / c + (ys**2).sum(1))
        time_difference = ((ys - x) * (ys + x)).sum(1) / (y_t + x_t)
        squared = np.maximum(((ys - x) ** 2).sum(1) - time_difference**2, 0)
        distances = 2 / np.sqrt(c) * np.arcsinh(np.sqrt(c * squared) / 2)
        order = np.argsort(distances, kind="stable")[:limit]
        return [(items[i].id, float(distances[i])) for i in order]

    return find
