"""Search over HTTP beyond one page: cursors, filters, groups, batches, and what the tree adds."""

import base64
import json
import shutil
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from index.collection import Collection
from service.hierarchy.tree import ServedTree
from service.schemas.search import BatchAnswer, SearchAnswer
from service.settings import Settings

from .conftest import INFERENCE, NUM_ITEMS, Trip, draw, encoded

PHOTO = encoded(draw(1000))
IMAGE = "data:image/png;base64," + base64.b64encode(PHOTO).decode()
ANIMALS = {"must": [{"path": "Animal"}]}


def ok(response: httpx.Response) -> dict[str, Any]:
    """The answer, which must be what the schema says, no field more or less."""
    assert response.status_code == 200, response.text
    SearchAnswer.model_validate_json(response.content, strict=True, extra="forbid")
    found: dict[str, Any] = response.json()
    return found


def ids(answer: dict[str, Any]) -> list[str]:
    return [hit["id"] for hit in answer["hits"]]


def test_a_photo_is_paged_through_without_being_sent_again(client: httpx.Client) -> None:
    whole = ids(ok(client.post("/v1/search", files={"file": PHOTO}, data={"limit": "1000"})))
    assert len(whole) == NUM_ITEMS
    answer = ok(client.post("/v1/search", files={"file": PHOTO}, data={"limit": "7"}))
    found = ids(answer)
    while answer["next_cursor"] is not None:
        response = client.post("/v1/search", json={"cursor": answer["next_cursor"], "limit": 7})
        assert "embed" not in response.headers["server-timing"]
        answer = ok(response)
        found += ids(answer)
    assert found == whole


def test_a_cursor_with_its_query_in_every_form(client: httpx.Client) -> None:
    first = ok(client.post("/v1/search", json={"query": {"image": IMAGE}, "limit": 4, "filter": ANIMALS}))
    cursor = first["next_cursor"]
    options = {"limit": "4", "filter": json.dumps(ANIMALS), "cursor": cursor}
    answers = [
        ok(
            client.post("/v1/search", json={"query": {"image": IMAGE}, "limit": 4, "filter": ANIMALS, "cursor": cursor})
        ),
        ok(client.post("/v1/search", json={"limit": 4, "filter": ANIMALS, "cursor": cursor})),
        ok(client.post("/v1/search", files={"file": PHOTO}, data=options)),
        ok(client.post("/v1/search", files={name: (None, text) for name, text in options.items()})),
    ]
    assert all(answer == answers[0] for answer in answers)
    assert not set(ids(answers[0])) & set(ids(first))
    other = encoded(draw(1001))
    for response in (
        client.post("/v1/search", files={"file": other}, data=options),
        client.post(
            "/v1/search", json={"query": {"item_id": "Fruit"}, "limit": 4, "filter": ANIMALS, "cursor": cursor}
        ),
        client.post("/v1/search", json={"limit": 4, "cursor": cursor}),
    ):
        assert (response.status_code, response.json()["code"]) == (422, "cursor_mismatch")


def test_a_write_makes_the_cursor_stale(disposable: str, trip: Trip) -> None:
    with httpx.Client(base_url=disposable, timeout=30) as client:
        answer = ok(client.post("/v1/search", json={"query": {"item_id": "Fruit"}, "limit": 3}))
        gone = client.delete("/v1/collections/default/items/scroll")
        assert gone.status_code in (200, 204)
        response = client.post("/v1/search", json={"cursor": answer["next_cursor"]})
        assert (response.status_code, response.json()["code"]) == (410, "stale_cursor")
        assert "without a cursor" in response.json()["detail"]


def test_filters_and_groups_over_http(client: httpx.Client) -> None:
    def found(**options: Any) -> dict[str, Any]:
        return ok(client.post("/v1/search", json={"query": {"item_id": "Fruit"}, "limit": 1000, **options}))

    everything = found()["hits"]
    animals = [hit["id"] for hit in everything if hit["path"][:1] == ["Animal"]]
    assert ids(found(filter=ANIMALS)) == animals
    low = [hit["id"] for hit in everything if hit["metadata"]["number"] < 9]
    assert ids(found(filter={"must": [{"key": "number", "range": {"lt": 9}}]})) == low
    form = client.post(
        "/v1/search",
        files={"file": PHOTO},
        data={"filter": '{"must":[{"key":"number","match":[3,4]}]}', "exact": "true"},
    )
    assert {hit["metadata"]["number"] for hit in ok(form)["hits"]} == {3, 4}
    groups = found(group_level=2)["hits"]
    assert all(hit["group"] == hit["path"][:2] for hit in groups)
    kinds = [tuple(hit["path"][:2]) for hit in everything if len(hit["path"]) > 1]
    assert [tuple(hit["group"]) for hit in groups] == list(dict.fromkeys(kinds))


BAD: list[dict[str, Any]] = [
    {"filter": {"must": [{"key": "a", "match": None}]}},
    {"filter": {"must": [{"key": "a"}]}},
    {"filter": {"must": [{"key": "a", "match": 1, "exists": True}]}},
    {"filter": {"must": [{"key": 'a"b', "match": 1}]}},
    {"filter": {"must": [{"key": "a..b", "match": 1}]}},
    {"filter": {"must": [{"key": "a", "range": {}}]}},
    {"filter": {"must": [{"key": "a", "range": {"gt": 1, "lt": "b"}}]}},
    {"filter": {"must": [{"key": "a", "in": []}]}},
    {"filter": {"must": [{"key": "a", "in": list(range(1001))}]}},
    {"filter": {"must": [{"id": "x"}] * 65}},
    {"filter": {"must": [{"id": "x"}] * 33, "should": [{"must_not": [{"id": "x"}] * 32}]}},
    {"filter": {"must": [{"must": [{"must": [{"must": [{"must": [{"must": []}]}]}]}]}]}},
    {"filter": {"what": []}},
    {"group_by": "a", "group_level": 1},
    {"group_level": 0},
    {"group_by": ""},
    {"cursor": "not one!"},
    {"cursor": "bm90IG9uZQ"},
    {"exact": 1},
    {"include": ["everything"]},
]


@pytest.mark.parametrize("options", BAD)
def test_bad_options_are_named(client: httpx.Client, options: dict[str, Any]) -> None:
    response = client.post("/v1/search", json={"query": {"item_id": "Fruit"}, **options})
    assert response.status_code == 422, response.text
    body = response.json()
    assert body["code"] in ("invalid_request", "invalid_cursor")
    if body["code"] == "invalid_request":
        assert (
            any(entry["pointer"].startswith(f"/{next(iter(options))}") for entry in body["errors"]) or len(options) > 1
        )


def test_what_is_deep_or_many_is_bounded_not_refused(client: httpx.Client) -> None:
    deep: dict[str, Any] = {"must": [{"id": "Fruit/image"}]}
    for _ in range(4):
        deep = {"should": [deep]}
    assert ids(ok(client.post("/v1/search", json={"query": {"item_id": "Fruit"}, "filter": deep}))) == ["Fruit/image"]
    wide = {"should": [{"key": "number", "in": [*range(900), True, "x"]}] * 64}
    assert len(ids(ok(client.post("/v1/search", json={"query": {"item_id": "Fruit"}, "filter": wide})))) == 10


def test_urls_are_off(client: httpx.Client) -> None:
    response = client.post("/v1/search", json={"query": {"url": "https://example.org/a.jpg"}})
    assert (response.status_code, response.json()["code"]) == (403, "urls_disabled")


def batch(client: httpx.Client, **given: Any) -> list[dict[str, Any]]:
    response = client.post("/v1/collections/default/search/batch", **given)
    assert response.status_code == 200, response.text
    BatchAnswer.model_validate_json(response.content, strict=True, extra="forbid")
    found: list[dict[str, Any]] = response.json()["results"]
    return found


def test_a_batch_answers_each_search_as_alone(client: httpx.Client) -> None:
    broken = base64.b64encode(PHOTO[:200]).decode()
    searches: list[dict[str, Any]] = [
        {"query": {"image": IMAGE}, "limit": 3},
        {"query": {"item_id": "Fruit"}, "limit": 3},
        {"query": {"item_id": "nobody"}},
        {"query": {"image": broken}},
        {"query": {"item_id": "Fruit"}, "limit": 5, "filter": ANIMALS, "include": ["thumbnail"]},
        {"query": {"item_id": "Fruit"}, "group_level": 1},
        {"query": {"embedding": [0.0] * 16}, "limit": 3},
        {"query": {"embedding": [0.0]}},
        {"query": {"url": "https://example.org/a.jpg"}},
        {"limit": 5},
        {"query": {"item_id": "Fruit"}, "limit": 0},
        {"query": {"item_id": "Fruit"}, "filter": {"must": [{"node": "none"}]}},
    ]
    results = batch(client, json={"searches": searches})
    assert [result["status"] for result in results] == [200, 200, 404, 422, 200, 200, 200, 422, 403, 422, 422, 404]
    for search, result in zip(searches, results, strict=True):
        alone = client.post("/v1/collections/default/search", json=search)
        assert alone.status_code == result["status"]
        if result["status"] == 200:
            assert result["answer"] == alone.json()
            continue
        ours, theirs = result["problem"], alone.json()
        assert (ours["code"], ours["status"]) == (theirs["code"], theirs["status"])
        # In the batch it is told in which search the field stood.
        assert ours["detail"].endswith(theirs["detail"].removeprefix("body: ").removeprefix("limit: "))


def test_a_batch_of_photos_as_a_form(client: httpx.Client) -> None:
    photos = [encoded(draw(seed)) for seed in range(2000, 2006)]
    files = [("file", ("a.png", photo)) for photo in [*photos[:3], b"no photo", *photos[3:]]]
    results = batch(client, files=files, data={"limit": "4"})
    assert [result["status"] for result in results] == [200] * 3 + [415] + [200] * 3
    answers = [result["answer"] for result in results if result["status"] == 200]
    for photo, answer in zip(photos, answers, strict=True):
        alone = ok(client.post("/v1/search", files={"file": photo}, data={"limit": "4"}))
        assert ids(answer) == ids(alone)
        np.testing.assert_allclose(
            [h["distance"] for h in answer["hits"]], [h["distance"] for h in alone["hits"]], atol=1e-5
        )


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"searches": []}, 422),
        ({"searches": [{"query": {"item_id": "Fruit"}}] * 33}, 422),
        ({"searches": "x"}, 422),
        ({}, 422),
        ({"searches": [], "other": 1}, 422),
    ],
)
def test_what_is_no_batch_is_refused_as_a_whole(client: httpx.Client, body: dict[str, Any], status: int) -> None:
    response = client.post("/v1/collections/default/search/batch", json=body)
    assert response.status_code == status
    assert client.post("/v1/collections/default/search/batch", content=b"{").status_code == 415
    headers = {"Content-Type": "application/json"}
    assert client.post("/v1/collections/default/search/batch", content=b"{", headers=headers).status_code == 400


@pytest.fixture(scope="module")
def with_tree(trip: Trip, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    from service.server import running_server

    store = shutil.copytree(trip.store, tmp_path_factory.mktemp("tree") / "store")
    with Collection.open(store) as collection:
        ServedTree(collection).build(lambda _: None, max_children=4, min_size=2)
    settings = Settings(checkpoint=trip.checkpoint, store=store, port=0, inference=INFERENCE)
    with running_server(settings) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


def test_without_a_tree_there_is_no_specificity(client: httpx.Client) -> None:
    answer = ok(client.post("/v1/search", json={"query": {"item_id": "Fruit"}, "include": ["specificity"]}))
    assert answer["query"] | {"radius": 0} == {"radius": 0, "specificity": None, "path": None}
    assert all(hit["specificity"] is None for hit in answer["hits"])
    for asked in ({"query": {"node_id": "x"}}, {"query": {"item_id": "Fruit"}, "filter": {"must": [{"node": "x"}]}}):
        response = client.post("/v1/search", json=asked)
        assert (response.status_code, response.json()["code"]) == (404, "tree_not_found")


def test_with_a_tree_hits_and_query_are_told_how_specific(with_tree: httpx.Client) -> None:
    path = "/v1/collections/default/hierarchy/ancestors"
    told = with_tree.post(path, json={"query": {"item_id": "Fruit"}}).json()  # and the tree is in memory
    asked = {"query": {"item_id": "Fruit"}, "limit": 3, "include": ["specificity", "path"]}
    answer = ok(with_tree.post("/v1/search", json=asked))
    assert answer["query"]["path"] == told
    assert answer["query"]["specificity"] == told["specificity"]
    for hit in answer["hits"]:
        alone = with_tree.post(path, json={"query": {"item_id": hit["id"]}}).json()
        assert hit["specificity"] == pytest.approx(alone["specificity"], rel=1e-4)
    assert "specificity" not in ok(with_tree.post("/v1/search", json=asked | {"include": []}))["query"]


def test_with_a_tree_nodes_can_be_asked_and_filtered_by(with_tree: httpx.Client) -> None:
    listed = with_tree.get("/v1/collections/default/hierarchy/nodes?depth=2").json()["nodes"]
    assert len(listed) > 2
    for node in listed:
        members = with_tree.get(f"/v1/collections/default/hierarchy/nodes/{node['id']}/items?limit=1000").json()[
            "items"
        ]
        asked = {"query": {"node_id": node["id"]}, "limit": 1000, "filter": {"must": [{"node": node["id"]}]}}
        answer = ok(with_tree.post("/v1/search", json=asked))
        assert sorted(ids(answer)) == sorted(item["id"] for item in members)
        assert len(members) == node["size"]
    response = with_tree.post("/v1/search", json={"query": {"node_id": "no such node"}})
    assert (response.status_code, response.json()["code"]) == (404, "node_not_found")
