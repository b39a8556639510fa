"""Collections over HTTP: created once, refused with other settings, gone with everything in them."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from index.collection import Collection, list_collections
from index.metadata import MetadataSchema, index_statements
from index.uploads import Uploads, uploads_folder
from service.collections import Collections
from service.engine import Engine
from service.server import running_server
from service.settings import Settings

from .conftest import draw, encoded

SHOES = "/v1/collections/shoes"
SETTINGS = {"kind": "ivf", "memory": 10**9, "schema": {"fields": {"sku": "string"}, "required": ["sku"]}}


def test_a_collection_from_first_to_last(fresh: httpx.Client, engine: Engine, tmp_path: Path) -> None:
    assert fresh.get("/v1/collections").json() == {"collections": []}
    assert fresh.get(SHOES).status_code == 404
    created = fresh.put(SHOES, json=SETTINGS)
    assert created.status_code == 201
    answer = created.json()
    assert answer == fresh.get(SHOES).json()
    assert (answer["count"], answer["sequence"], answer["tree"]) == (0, 0, False)
    assert answer["model_hash"] == engine.model.model_hash
    assert answer["index"]["requested"] == "ivf"
    assert answer["index"]["kind"] == "flat"  # there are no points to learn lists from
    assert answer["schema"] == SETTINGS["schema"]
    assert fresh.get("/v1/collections").json()["collections"] == [{"name": "shoes", "count": 0, "fault": None}]
    assert fresh.delete(SHOES).status_code == 204
    assert fresh.delete(SHOES).json()["code"] == "collection_not_found"
    assert list_collections(tmp_path / "store") == []
    assert fresh.put(SHOES).json()["schema"] == {"fields": {}, "required": []}  # nothing of the former one


def test_a_broken_collection_is_listed_as_such(fresh: httpx.Client, tmp_path: Path) -> None:
    for name in ("whole", "broken"):
        fresh.put(f"/v1/collections/{name}")
    (tmp_path / "store/collections/broken/catalogue.sqlite").write_bytes(b"no catalogue" * 1000)
    listed = fresh.get("/v1/collections").json()["collections"]
    assert [(each["name"], each["count"]) for each in listed] == [("whole", 0), ("broken", None)]
    assert listed[1]["fault"] is not None
    assert str(tmp_path) not in str(listed)
    assert fresh.get("/v1/collections/broken").status_code == 503
    assert fresh.put("/v1/collections/broken").status_code == 503
    assert fresh.delete("/v1/collections/broken").status_code == 204
    assert [each["name"] for each in fresh.get("/v1/collections").json()["collections"]] == ["whole"]


def test_asking_again_changes_nothing(fresh: httpx.Client) -> None:
    assert fresh.put(SHOES, json=SETTINGS).status_code == 201
    assert fresh.put(SHOES, json=SETTINGS).status_code == 200
    for other in ({}, {**SETTINGS, "kind": "flat"}, {**SETTINGS, "memory": None}, {**SETTINGS, "schema": {}}):
        refused = fresh.put(SHOES, json=other)
        assert (refused.status_code, refused.json()["code"]) == (409, "collection_exists")
    assert fresh.get(SHOES).json()["schema"] == SETTINGS["schema"]


@pytest.mark.parametrize(
    "given",
    [
        {"kind": "hnsw"},
        {"memory": 0},
        {"kinds": "flat"},
        {"schema": {"fields": {"a b": "string"}}},
        {"schema": {"fields": {"a": "text"}}},
        {"schema": {"fields": {"a": "string"}, "required": ["b"]}},
        {"schema": {"fields": {f"f{i}": "string" for i in range(65)}}},
        [],
    ],
)
def test_wrong_settings_are_refused(fresh: httpx.Client, given: object) -> None:
    assert fresh.put(SHOES, json=given).status_code == 422
    assert fresh.get(SHOES).status_code == 404


@pytest.mark.parametrize("name", ["Shoes", "..", "a%2Fb", "-a", "a" * 65, "%00", "ä"])
def test_names_are_plain(fresh: httpx.Client, tmp_path: Path, name: str) -> None:
    assert 400 <= fresh.put(f"/v1/collections/{name}").status_code < 500
    assert list_collections(tmp_path / "store") == []


def test_there_may_be_so_many(engine: Engine, with_settings: Callable[..., Settings], tmp_path: Path) -> None:
    registry = Collections(tmp_path, engine.model.model_hash)
    settings = with_settings(store=tmp_path, quotas={"collections": 1})
    with running_server(settings, Engine(engine.encoder, registry)) as url:
        assert httpx.put(f"{url}/v1/collections/a").status_code == 201
        refused = httpx.put(f"{url}/v1/collections/b")
        assert (refused.status_code, refused.json()["code"]) == (507, "too_many_collections")
        assert httpx.put(f"{url}/v1/collections/a").status_code == 200
    registry.close()


def test_one_that_is_not_served_is_in_the_way(
    engine: Engine, with_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    store, model = tmp_path / "store", engine.model
    for name in ("hats", "shoes"):
        Collection.create(
            store, name, embedding_dim=model.embedding_dim, c=model.c, model_hash=model.model_hash
        ).close()
    registry = Collections(store, model.model_hash, ["hats"])
    with (
        running_server(with_settings(store=store), Engine(engine.encoder, registry)) as url,
        httpx.Client(base_url=url) as client,
    ):
        assert client.get(SHOES).status_code == 404
        refused = client.put(SHOES)
        assert (refused.status_code, refused.json()["code"]) == (409, "collection_exists")
        assert "not served here" in refused.json()["detail"]
    registry.close()


def test_deleting_takes_the_photos_along_and_leaves_other_collections(fresh: httpx.Client, tmp_path: Path) -> None:
    for name in ("a", "b"):
        fresh.put(f"/v1/collections/{name}")
        form = {"files": {"file": ("x.png", encoded(draw(1)))}, "data": {"id": "x"}}
        assert fresh.put(f"/v1/collections/{name}/items", **form).json()["results"] == [{"id": "x", "status": 201}]
    assert fresh.delete("/v1/collections/a").status_code == 204
    assert [path.name for path in (tmp_path / "store/uploads").iterdir()] == ["b"]
    assert fresh.get("/v1/collections/b/items/x/image").content == encoded(draw(1))
    assert fresh.get("/v1/collections/a/items/x").json()["code"] == "collection_not_found"


def test_what_a_deletion_cut_short_left_is_deleted_at_the_next_start(engine: Engine, tmp_path: Path) -> None:
    with Collection.create(tmp_path, "kept", embedding_dim=2, c=1.0, model_hash="m") as kept:
        uploads_folder(kept.folder).mkdir(parents=True)
        gone = uploads_folder(kept.folder.with_name("gone"))
        (gone / "pending").mkdir(parents=True)
    moving = uploads_folder(kept.folder.with_name("moving"))
    (moving / "pending").mkdir(parents=True)
    (tmp_path / "collections" / ".moving.0123abcd.lhier-old").mkdir()
    Collections(tmp_path, "m").close()
    assert uploads_folder(kept.folder).exists()
    assert not gone.exists()
    assert moving.exists() == (tmp_path / "collections" / "moving").exists()


CREATE = """
import os, signal, sys
from pathlib import Path
import index.files, index.collection
from index.metadata import MetadataSchema
from index.plan import Plan
from service.collections import Collections

def dies(*_):
    os.kill(os.getpid(), signal.SIGKILL)

index.collection.{victim} = dies
Collections(Path(sys.argv[1]), "m").create(
    "shoes", embedding_dim=2, c=1.0, request=Plan(requested="flat").request(), schema=MetadataSchema({{"a": "string"}})
)
"""


@pytest.mark.parametrize("victim", ["write_schema", "write_request"])
def test_killed_while_creating_there_is_none(tmp_path: Path, victim: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CREATE.format(victim=victim), tmp_path],
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == -signal.SIGKILL
    registry = Collections(tmp_path, "m")
    assert registry.names() == []
    registry.create("shoes", embedding_dim=2, c=1.0, request={"kind": "flat"}, schema=MetadataSchema())
    assert registry.get("shoes").schema == MetadataSchema()
    registry.close()


def test_declared_fields_have_an_index_that_filters_use(fresh: httpx.Client, tmp_path: Path) -> None:
    from index.filters import Match, where

    fresh.put(SHOES, json={"schema": {"fields": {"sku": "string", "price": "number"}}})
    catalogue = sqlite3.connect(tmp_path / "store/collections/shoes/catalogue.sqlite")
    for field, value in (("sku", "a"), ("price", 3)):
        sql, values = where(Match(field, (value,)))
        plan = str(catalogue.execute(f"EXPLAIN QUERY PLAN SELECT row FROM items WHERE {sql}", values).fetchall())  # noqa: S608
        assert f"metadata_{field}" in plan
    catalogue.close()


@pytest.mark.parametrize(
    ("metadata", "fault"),
    [
        ({}, "s: it is required"),
        ({"s": 1}, "s: expected a string, got 1"),
        ({"s": None}, "s: expected a string, got null"),
        ({"s": "x", "i": 1.0}, "i: expected an integer, got 1.0"),
        ({"s": "x", "i": True}, "i: expected an integer, got true"),
        ({"s": "x", "n": "1"}, 'n: expected a number, got "1"'),
        ({"s": "x", "b": 0}, "b: expected true or false, got 0"),
        ({"s": "x", "i": 1, "n": 1, "b": False, "other": [None]}, None),
        ({"s": "", "n": 1.5}, None),
    ],
)
def test_metadata_schema(metadata: dict[str, object], fault: str | None) -> None:
    schema = MetadataSchema({"s": "string", "i": "integer", "n": "number", "b": "boolean"}, ("s",))
    assert schema.faults(metadata) == ([fault] if fault else [])
    assert MetadataSchema.from_dict(json.loads(json.dumps(schema.as_dict()))) == schema
    assert len(index_statements(schema)) == 4


def test_a_schema_goes_with_the_snapshot(tmp_path: Path) -> None:
    from index.backup import create_snapshot, restore_snapshot
    from index.catalogue import Item
    from index.errors import PointError

    schema = MetadataSchema({"s": "string"}, ("s",))
    with Collection.create(tmp_path / "a", embedding_dim=2, c=1.0, model_hash="m", schema=schema) as made:
        made.put([Item("x", np.zeros(2, np.float32), metadata={"s": "y"})], {"x": encoded(draw(1))})
        with pytest.raises(PointError, match="required"):
            made.upsert([Item("y", np.zeros(2, np.float32))])
        file = create_snapshot(tmp_path / "a", out=tmp_path / "file.tar").path
    with restore_snapshot(file, tmp_path / "b") as restored:
        assert restored.schema == schema
        assert restored.item("x") is not None
    with restore_snapshot(file, tmp_path / "a", replace=True) as restored:
        item = restored.item("x")
        assert item is not None
        path = restored.image_path(item)
        assert path is not None
        assert path.read_bytes() == encoded(draw(1))  # no snapshot has photos, and restoring one leaves them alone
        assert Uploads(uploads_folder(restored.folder)).exist


def test_what_runs_here_is_told_in_spite_of_a_collection_that_just_broke(fresh: httpx.Client, tmp_path: Path) -> None:
    for name in ("whole", "broken"):
        fresh.put(f"/v1/collections/{name}")
    (tmp_path / "store/collections/broken/catalogue.sqlite").write_bytes(b"no catalogue" * 1000)
    told = fresh.get("/v1/info")
    assert told.status_code == 200
    stands = {each["name"]: each.get("fault") for each in told.json()["collections"]}
    assert stands["whole"] is None
    assert stands["broken"] is not None
