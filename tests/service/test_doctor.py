"""``lhier doctor``: a sound service passes; each thing that is broken is found, named, and told what to do."""

import json
import shutil
import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from index.collection import Collection
from service.cli import doctor
from service.operation.doctor import Finding, examine
from service.settings import Settings

from .conftest import INFERENCE, Trip


def _files(store: Path) -> list[tuple[Path, int]]:
    """Every file and its size, but for what SQLite keeps beside a database while it is open."""
    found = (path for path in store.rglob("*") if path.is_file() and not path.name.endswith(("-shm", "-wal")))
    return sorted((path, path.stat().st_size) for path in found)


@pytest.fixture
def store(trip: Trip, tmp_path: Path) -> Path:
    return shutil.copytree(trip.store, tmp_path / "store")


@pytest.fixture
def look(trip: Trip, store: Path) -> Callable[..., dict[str, Finding]]:
    """The findings by check, those that are not ok before those that are."""

    def look(deep: bool = False, **changes: Any) -> dict[str, Finding]:
        settings = Settings(
            **{"checkpoint": trip.checkpoint, "store": store, "port": 0, "inference": INFERENCE, **changes}
        )
        found = list(examine(settings, deep=deep))
        return {each.check: each for each in sorted(found, key=lambda finding: finding.verdict != "ok")}

    return look


def test_a_sound_service(trip: Trip, store: Path) -> None:
    before = _files(store)
    options = [
        "--checkpoint",
        str(trip.checkpoint),
        "--store",
        str(store),
        "--port",
        "0",
        "--runtime",
        "torch",
        "--deep",
    ]
    done = CliRunner().invoke(doctor, options)
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert all(line.startswith("ok ") for line in lines), done.output
    collection = "collection default"
    for check in (
        *("python", "packages", "faiss", "checkpoint", "runtime", "store", "disk", "port", "keys"),
        *(collection, f"{collection}: index", f"{collection}: photos", f"{collection}: catalogue"),
    ):
        assert any(line.startswith(f"ok   {check}: ") for line in lines), check
    assert "24 items" in done.output
    assert _files(store) == before


def test_json_and_exit_code(trip: Trip, store: Path) -> None:
    options = [
        "--checkpoint",
        str(trip.checkpoint),
        "--store",
        str(store),
        "--port",
        "0",
        "--runtime",
        "torch",
        "--json",
    ]
    told = json.loads(CliRunner().invoke(doctor, options).output)
    assert told["ok"] is True
    assert {"check", "verdict", "detail", "action"} == set(told["checks"][0])
    shutil.rmtree(store)
    failed = CliRunner().invoke(doctor, options)
    assert failed.exit_code == 1
    assert json.loads(failed.output)["ok"] is False
    assert CliRunner().invoke(doctor, ["--store", str(store)]).exit_code == 2


def test_another_runtime_is_compared_with_torch(look: Callable[..., dict[str, Finding]]) -> None:
    found = look(inference={"runtime": "openvino"})["runtime"]
    assert found.verdict == "ok"
    assert "openvino" in found.detail


def test_broken_parts_are_found(
    look: Callable[..., dict[str, Finding]], trip: Trip, store: Path, tmp_path: Path,
    make_checkpoint: Callable[[Path, int], Path],
) -> None:  # fmt: skip
    folder = store / "collections" / "default"

    assert look(checkpoint=tmp_path)["checkpoint"].verdict == "FAIL"
    other = look(checkpoint=make_checkpoint(tmp_path / "other", 2))["collection default"]
    assert (other.verdict, "embed it again" in other.action) == ("FAIL", True)
    assert look(collections=["birds"])["collection birds"].verdict == "FAIL"

    with Collection.open(store) as collection:
        photo = collection.image_path(collection.items(limit=1)[0])
    assert photo is not None
    hidden = photo.rename(photo.with_suffix(".away"))
    try:
        lost = look()["collection default: photos"]
        assert (lost.verdict, lost.detail.startswith("1 of 24")) == ("warn", True)
        assert "--image-root" in lost.action
    finally:
        hidden.rename(photo)

    generations = sorted((folder / "generations").iterdir())
    for file in (folder / "generations").rglob("*"):
        if file.is_file() and file.stat().st_size > 100:
            file.write_bytes(file.read_bytes()[:-20])
    found = look()["collection default: index"]
    assert (found.verdict, "lhier index rebuild" in found.action) == ("warn", True)
    assert sorted((folder / "generations").iterdir()) == generations  # none set aside: the doctor changes nothing

    with sqlite3.connect(folder / "catalogue.sqlite") as connection:
        connection.execute("UPDATE items SET space = zeroblob(64) WHERE row = 3")
    connection.close()
    assert look()["collection default"].verdict == "ok"  # which only a deep look finds
    deep = look(deep=True)["collection default: catalogue"]
    assert (deep.verdict, "restore" in deep.action) == ("FAIL", True)

    (folder / "catalogue.sqlite").write_bytes(b"x" * 5000)
    assert look()["collection default"].verdict == "FAIL"


def test_surroundings(look: Callable[..., dict[str, Finding]]) -> None:
    assert look(quotas={"free_disk_bytes": 10**18})["disk"].verdict == "FAIL"
    assert look(quotas={"store_bytes": 1000})["quota"].verdict == "warn"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert look(port=taken.getsockname()[1])["port"].verdict == "warn"
    for auth, verdict in (
        ({}, "ok"),
        ({"read_key": "12345678"}, "ok"),
        ({"write_key": "12345678"}, "warn"),
        ({"read_key": "12345678", "write_key": "12345678"}, "warn"),
        ({"read_key": "12345678", "write_key": "87654321"}, "ok"),
        ({"read_key": "12345678", "former_read_keys": ["abcdefgh"]}, "warn"),
    ):
        assert look(auth=auth)["keys"].verdict == verdict
    assert look(host="0.0.0.0", auth={"allow_anonymous": True})["keys"].verdict == "warn"  # noqa: S104
