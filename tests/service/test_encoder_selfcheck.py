"""SelfCheck: passes with the model that made the points, fails with another, and never waits behind load."""

import dataclasses
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from unittest import mock

import pytest

from index.collection import Collection
from service.collections import Collections
from service.encoder import process, selfcheck
from service.encoder.selfcheck import SCENE_BOUND, SelfCheck
from service.encoder.supervisor import Encoder
from service.engine import Engine
from service.settings import InferenceSettings

from .conftest import Trip, draw, encoded
from .test_encoder_lives import COMMAND


@pytest.fixture
def another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Encoder]:
    """An encoder of another model that claims to be the one of the collections: 3 numbers a photo, up to 255."""
    monkeypatch.setattr(process, "COMMAND", COMMAND)
    (tmp_path / "model").write_text("mean")
    with closing(Encoder(tmp_path / "model", InferenceSettings())) as encoder:
        yield encoder


def test_a_stored_photo_has_its_point(engine: Engine) -> None:
    check = engine.self_check.run()
    assert check.ok, check
    assert engine.self_check.result() is check
    assert check.distance is not None
    assert check.bound is not None
    assert check.distance <= 1e-3 < check.bound
    assert "stored photo" in check.detail


def test_a_point_beyond_the_bound_is_no_pass(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoder answers with the point of another photo: as another model would."""
    submit = engine.encoder.check
    monkeypatch.setattr(engine.encoder, "check", lambda _: submit(encoded(draw(4321, (300, 40)))))
    check = SelfCheck(engine.encoder, engine.collections).run()
    assert check.distance is not None
    assert check.distance > 0.05
    assert not check.ok, check


def test_without_a_stored_photo_a_scene_is_compared_with_itself(engine: Engine, trip: Trip, tmp_path: Path) -> None:
    shutil.copytree(trip.store, tmp_path / "store")
    with Collection.open(tmp_path / "store") as collection:
        collection.delete(list(trip.ids))
    with closing(Collections(tmp_path / "store", engine.model.model_hash)) as collections:
        check = SelfCheck(engine.encoder, collections)
        for _ in range(2):
            found = check.run()
            assert found.ok, found
            assert found.distance is not None
            assert found.distance <= 1e-4
            assert found.bound == SCENE_BOUND
            assert "drawn scene" in found.detail


def test_an_encoder_that_fails_is_told_and_forgiven(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    check = SelfCheck(engine.encoder, engine.collections)
    assert not check.result().ok
    assert "not been checked" in check.result().detail
    monkeypatch.setattr(selfcheck, "ANSWER_S", 0.0)
    assert not check.run().ok
    assert "does not answer" in check.result().detail
    monkeypatch.undo()
    assert check.run().ok
    assert check.result().ok


def test_an_old_result_is_none(engine: Engine) -> None:
    check = SelfCheck(engine.encoder, engine.collections)
    assert check.run().ok
    check._last = dataclasses.replace(check.result(), at=time.monotonic() - selfcheck.STALE_S - 1)
    assert not check.result().ok
    assert "last checked" in check.result().detail


def test_it_repeats_until_closed_whatever_happens(engine: Engine) -> None:
    check = SelfCheck(engine.encoder, engine.collections, interval_s=0.01)
    with mock.patch.object(
        check, "_compare", side_effect=[check.run(), OSError("odd"), *[check.run()] * 500]
    ) as compare:
        check.start()
        end = time.monotonic() + 20
        while compare.call_count < 4:
            assert time.monotonic() < end
            time.sleep(0.01)
        assert check.result().ok
        check.close()
        calls = compare.call_count
        time.sleep(0.05)
        assert compare.call_count == calls


def test_load_does_not_hold_it_up(another: Encoder, tmp_path: Path) -> None:
    """500 photos wait, each 0.2 s of decoding: the check is answered long before them."""
    with closing(Collections(tmp_path / "store", "mean")) as collections:
        check = SelfCheck(another, collections)
        waiting = [another.submit(b"slow") for _ in range(500)]
        assert check.run().ok
        assert another.state().waiting_urgent > 400
        for future in waiting:
            future.cancel()
