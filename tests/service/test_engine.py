"""Engine without HTTP: what it opens, what it refuses, what it finds."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from index.catalogue import Item
from index.collection import Collection
from index.errors import CollectionNotFoundError, ModelMismatchError
from service.collections import Collections, UnknownCollectionError
from service.encoder.supervisor import EncoderStartError
from service.engine import Engine, UnknownItemError

from .conftest import INFERENCE, Trip


def test_stored_photos_find_themselves(engine: Engine, trip: Trip) -> None:
    for number, item_id in enumerate(trip.ids):
        point = engine.encoder.submit((trip.photos / f"{number:03}.png").read_bytes()).result(60)
        nearest, second = engine.collection().search(point, 2)
        assert nearest.item.id == item_id
        assert nearest.distance <= 1e-3
        assert nearest.distance < second.distance
        assert nearest.exact


def test_unknown_names_say_what_there_is(engine: Engine) -> None:
    with pytest.raises(UnknownCollectionError, match="there is: default"):
        engine.collection("nowhere")
    with pytest.raises(UnknownItemError, match="'nothing'"):
        engine.item(engine.collection(), "nothing")


def test_a_store_of_another_model_is_refused(
    trip: Trip, tmp_path: Path, make_checkpoint: Callable[[Path, int], Path]
) -> None:
    other = make_checkpoint(tmp_path / "other", 2)
    with pytest.raises(ModelMismatchError, match="lhier index build"):
        Engine.open(other, trip.store, inference=INFERENCE)


def test_missing_things_are_named(trip: Trip, tmp_path: Path) -> None:
    with pytest.raises(EncoderStartError, match="no checkpoint") as told:
        Engine.open(tmp_path, trip.store)
    assert told.value.error == "CheckpointError"
    with pytest.raises(CollectionNotFoundError, match="'birds'"):
        Engine.open(trip.checkpoint, trip.store, ["birds"], inference=INFERENCE)


def test_default_collection(engine: Engine, tmp_path: Path) -> None:
    def create(name: str) -> None:
        model = engine.model
        Collection.create(
            tmp_path, name, embedding_dim=model.embedding_dim, c=model.c, model_hash=model.model_hash
        ).close()

    create("birds")
    with closing(Collections(tmp_path, engine.model.model_hash)) as collections:
        birds = Engine(engine.encoder, collections).collection()
        assert birds.name == "birds"
        assert birds.search(np.zeros(16, np.float32), 10) == []
        assert engine.sample(birds, 5) == []
        assert engine.scroll(birds, 5) == ([], None)
    create("default")
    with closing(Collections(tmp_path, engine.model.model_hash)) as collections:
        assert Engine(engine.encoder, collections).collection().name == "default"


def test_samples_come_from_everywhere_despite_gaps(engine: Engine, tmp_path: Path) -> None:
    """Rows 1..400 with 1..300 deleted: the count says 100, the rows lie above it."""
    model = engine.model
    with Collection.create(
        tmp_path, embedding_dim=model.embedding_dim, c=model.c, model_hash=model.model_hash
    ) as collection:
        point = np.zeros(16, np.float32)
        collection.upsert([Item(str(number), point) for number in range(400)])
        collection.delete([str(number) for number in range(300)])
        seen = {item.id for _ in range(200) for item in engine.sample(collection, 10)}
        assert all(300 <= int(item_id) < 400 for item_id in seen)
        assert len({item_id for item_id in seen if int(item_id) >= 390}) >= 5
        assert len({item.id for item in engine.sample(collection, 1000)}) == 100
