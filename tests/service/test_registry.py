"""The registry of collections: what one is busy with holds up no other, and the last to open opens the latest."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from index.catalogue import Catalogue
from index.collection import Collection
from index.errors import CatalogueError, ImageReferenceError
from index.lorentz_index import LorentzIndex
from index.metadata import MetadataSchema
from service.collections import Collections

SOON = 5.0


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Collections]:
    registry = Collections(tmp_path, "m")
    for name in ("a", "b"):
        registry.create(name, embedding_dim=2, c=1.0, request={"kind": "flat"}, schema=MetadataSchema())
    yield registry
    registry.close()


@contextmanager
def in_thread(work: Callable[[], object]) -> Iterator[threading.Thread]:
    """``work`` in another thread, which ends with the block."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    yield thread
    thread.join(SOON)
    assert not thread.is_alive()


def ends_soon(work: Callable[[], object]) -> bool:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(SOON / 2)
    return not thread.is_alive()


def use(registry: Collections, name: str) -> None:
    with registry.use(name, opening=False):
        pass


@pytest.mark.parametrize("leased", [False, True])
def test_deleting_during_a_rebuild_holds_nobody_up(
    registry: Collections, monkeypatch: pytest.MonkeyPatch, leased: bool
) -> None:
    collection, building, go_on = registry.get("a"), threading.Event(), threading.Event()
    build = collection._rebuilding._build

    def slow() -> str:
        building.set()
        go_on.wait()
        return build()

    monkeypatch.setattr(collection._rebuilding, "_build", slow)
    collection._rebuilding.start("test")
    assert building.wait(SOON)
    try:
        if leased:
            with registry.use("a"):
                assert ends_soon(lambda: registry.delete("a"))
        else:
            assert ends_soon(lambda: registry.delete("a"))
        assert ends_soon(lambda: use(registry, "b"))
    finally:
        go_on.set()
    assert collection._rebuilding.wait(SOON)
    assert not collection.folder.exists()  # else the name could not be used again


def test_what_a_rebuild_reads_before_its_collection_goes_does_not_come_back(
    registry: Collections, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = registry.get("a")
    build = LorentzIndex.build

    def deleted_meanwhile(*given: Any, **asked: Any) -> LorentzIndex:
        registry.delete("a")
        return build(*given, **asked)

    monkeypatch.setattr("index.collection.LorentzIndex.build", deleted_meanwhile)
    with registry.use("a"), pytest.raises(CatalogueError):
        collection.rebuild()
    assert not collection.folder.exists()


def test_looking_whether_a_collection_is_sound_holds_nobody_up(
    registry: Collections, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, looking, go_on = threading.Event(), threading.Event(), threading.Event()
    catalogue = registry.get("a").catalogue
    look = type(catalogue).require_current

    def copying() -> None:  # as Catalogue.copy_to holds it, for as long as the copy takes
        with catalogue._lock:
            busy.set()
            go_on.wait(2 * SOON)

    def looked(self: Catalogue) -> None:
        looking.set()
        look(self)

    monkeypatch.setattr(Catalogue, "require_current", looked)
    with in_thread(copying):
        assert busy.wait(SOON)
        registry.suspect("a")
        with in_thread(lambda: registry.reopen("a")):
            try:
                assert looking.wait(SOON)
                assert ends_soon(lambda: use(registry, "b"))
            finally:
                go_on.set()
    assert registry.get("a").catalogue is catalogue


def test_a_photo_that_is_gone_says_nothing_of_its_collection(registry: Collections) -> None:
    with pytest.raises(ImageReferenceError), registry.use("a"):
        raise ImageReferenceError("gone")
    assert not registry.needs_opening("a")
    with pytest.raises(CatalogueError), registry.use("a"):
        raise CatalogueError("damaged")
    assert registry.needs_opening("a")


def test_an_opening_that_fails_late_does_not_close_what_was_restored(
    tmp_path: Path, registry: Collections, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go_on = threading.Event(), threading.Event()
    openings: list[tuple[Any, ...]] = []
    whole = Collection.open

    def slow_at_first(*given: Any, **asked: Any) -> Collection:
        openings.append(given)
        if len(openings) == 1:
            began.set()
            go_on.wait(SOON)
            raise CatalogueError("it was damaged when this opening began")
        return whole(*given, **asked)

    def restored() -> Collection:
        restored_now.set()
        return whole(tmp_path, "a")

    restored_now = threading.Event()
    monkeypatch.setattr(Collection, "open", slow_at_first)
    entry = registry._entries["a"]
    with in_thread(lambda: registry._try_to_open(entry)):
        assert began.wait(SOON)
        with in_thread(lambda: registry.replace("a", restored)):
            assert restored_now.wait(SOON)
            deadline = time.monotonic() + 0.5
            while len(openings) < 2 and time.monotonic() < deadline:  # where the two do not wait for each other
                time.sleep(0.01)
            go_on.set()
    assert [state.fault for state in registry.states()] == [None, None]
    use(registry, "a")
