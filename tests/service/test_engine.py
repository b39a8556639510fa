"""Engine without HTTP: what it opens, what it refuses, what it finds."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hyperbolic.checkpoint import CheckpointError
from hyperbolic.images import read_image
from index.catalogue import Item
from index.collection import Collection
from index.errors import CollectionNotFoundError, ModelMismatchError
from service.engine import Engine, UnknownCollectionError, UnknownItemError

from .conftest import Trip


def test_stored_photos_find_themselves(engine: Engine, trip: Trip) -> None:
    for number, item_id in enumerate(trip.ids):
        prepared = engine.prepare((trip.photos / f"{number:03}.png").read_bytes())
        found = engine.neighbours(engine.collection(), engine.embed([prepared])[0], 2)
        assert found.hits[0].item.id == item_id
        assert found.hits[0].distance <= 1e-3
        assert found.hits[0].distance < found.hits[1].distance
        assert found.exact
        assert found.generation == engine.collection().generation != ""


def test_a_batch_equals_its_members(engine: Engine, trip: Trip) -> None:
    prepared = [engine.prepare((trip.photos / f"{number:03}.png").read_bytes()) for number in range(8)]
    together = engine.embed(prepared)
    alone = np.concatenate([engine.embed([one]) for one in prepared])
    offline = engine.embedder.embed([read_image(trip.photos / f"{number:03}.png") for number in range(8)])
    assert together.shape == (8, 16)
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(together, offline, rtol=1e-4, atol=1e-5)


def test_the_item_itself_is_left_out(engine: Engine, trip: Trip) -> None:
    collection = engine.collection()
    item = engine.item(collection, "Fruit")
    for limit in (1, 5, len(trip.ids), 1000):
        found = engine.neighbours(collection, item.space, limit, leave_out="Fruit")
        assert len(found.hits) == min(limit, len(trip.ids) - 1)
        assert "Fruit" not in {hit.item.id for hit in found.hits}


def test_unknown_names_say_what_there_is(engine: Engine) -> None:
    with pytest.raises(UnknownCollectionError, match="expected one of default"):
        engine.collection("nowhere")
    with pytest.raises(UnknownItemError, match="'nothing'"):
        engine.item(engine.collection(), "nothing")


def test_a_store_of_another_model_is_refused(
    trip: Trip, tmp_path: Path, make_checkpoint: Callable[[Path, int], Path]
) -> None:
    other = make_checkpoint(tmp_path / "other", 2)
    with pytest.raises(ModelMismatchError, match="lhier index build"):
        Engine.open(other, trip.store)


def test_missing_things_are_named(trip: Trip, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint"):
        Engine.open(tmp_path, trip.store)
    with pytest.raises(CollectionNotFoundError, match="lhier index build"):
        Engine.open(trip.checkpoint, tmp_path)
    with pytest.raises(CollectionNotFoundError, match="'birds'"):
        Engine.open(trip.checkpoint, trip.store, ["birds"])


def test_default_collection(engine: Engine, tmp_path: Path) -> None:
    def create(name: str) -> Collection:
        model = engine.embedder
        return Collection.create(
            tmp_path, name, embedding_dim=model.embedding_dim, c=model.c, model_hash=model.model_hash
        )

    with create("birds") as birds, create("default") as default:
        assert Engine(engine.embedder, [birds, default]).collection() is default
        assert Engine(engine.embedder, [birds]).collection() is birds
        empty = Engine(engine.embedder, [birds])
        assert empty.neighbours(birds, np.zeros(16, np.float32), 10).hits == []
        assert empty.sample(birds, 5) == []
        assert empty.scroll(birds, 5) == ([], None)
    with pytest.raises(ValueError, match="at least one"):
        Engine(engine.embedder, [])


def test_samples_come_from_everywhere_despite_gaps(engine: Engine, tmp_path: Path) -> None:
    """Rows 1..400 with 1..300 deleted: the count says 100, the rows lie above it."""
    model = engine.embedder
    with Collection.create(
        tmp_path, embedding_dim=model.embedding_dim, c=model.c, model_hash=model.model_hash
    ) as collection:
        point = np.zeros(16, np.float32)
        collection.upsert([Item(str(number), point) for number in range(400)])
        collection.delete([str(number) for number in range(300)])
        seen = {item.id for _ in range(60) for item in engine.sample(collection, 10)}
        assert all(300 <= int(item_id) < 400 for item_id in seen)
        assert len({item_id for item_id in seen if int(item_id) >= 390}) >= 5
        assert len({item.id for item in engine.sample(collection, 1000)}) == 100
