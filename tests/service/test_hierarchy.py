"""The tree over HTTP: plumbing against Answers called directly, and facts that hold of any tree."""

import base64
import math
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from hyperbolic.embedder import Embedder
from hyperbolic.images import read_image
from index.catalogue import Catalogue
from index.collection import Collection
from index.hierarchy.answers import Answers
from index.hierarchy.tree import Hierarchy
from service.collections import Collections
from service.engine import Engine
from service.server import running_server
from service.settings import Settings

from .conftest import INFERENCE, Trip, draw, encoded
from .grove import COUNT, build_tree, distance, plant, points

PHOTO, OTHER = encoded(draw(1000)), encoded(draw(1001))
GROVE = "/v1/collections/grove/hierarchy"
DEFAULT = "/v1/collections/default/hierarchy"


@dataclass
class Grove:
    """A server over a copy of the store with a second collection, "grove", both with trees."""

    http: httpx.Client
    store: Path
    tree: Hierarchy
    answers: Answers
    space: dict[str, np.ndarray]
    rows: dict[int, str]
    c: float

    def get(self, path: str, status: int = 200, **params: Any) -> Any:
        response = self.http.get(path, params=params)
        assert response.status_code == status, response.text
        return response.json()

    def post(self, path: str, status: int = 200, **options: Any) -> Any:
        response = self.http.post(path, **options)
        assert response.status_code == status, response.text
        return response.json()

    def everything(self) -> list[dict[str, Any]]:
        nodes: list[dict[str, Any]] = self.get(f"{GROVE}/nodes", depth=32, limit=2000)["nodes"]
        return nodes


@pytest.fixture(scope="module")
def grove_store(trip: Trip, embedder: Embedder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = shutil.copytree(trip.store, tmp_path_factory.mktemp("grove") / "store")
    folder = plant(store, "grove", dim=embedder.embedding_dim, c=embedder.c, model_hash=embedder.model_hash)
    build_tree(folder)
    build_tree(store / "collections" / "default", min_size=2)
    return store


@pytest.fixture(scope="module")
def serve(trip: Trip, engine: Engine) -> Callable[[Path], Any]:
    """A server over another store; the encoder's process is the one there is, which takes a while to start."""

    @contextmanager
    def server(store: Path) -> Iterator[str]:
        collections = Collections(store, engine.model.model_hash)
        collections.open_all()
        settings = Settings(checkpoint=trip.checkpoint, store=store, port=0, inference=INFERENCE)
        with closing(collections), running_server(settings, Engine(engine.encoder, collections)) as url:
            yield url

    return server


@pytest.fixture(scope="module")
def grove(grove_store: Path, serve: Callable[[Path], Any]) -> Iterator[Grove]:
    folder = grove_store / "collections" / "grove"
    with Catalogue.open(folder / "catalogue.sqlite") as catalogue:
        tree = Hierarchy.load(folder / "hierarchy", catalogue)
        items = catalogue.items(limit=1000)
    with serve(grove_store) as url, httpx.Client(base_url=url, timeout=30) as http:
        yield Grove(
            http,
            grove_store,
            tree,
            Answers(tree),
            {item.id: item.space for item in items},
            {item.row: item.id for item in items},
            tree.c,
        )


def test_nodes_are_the_tree(grove: Grove) -> None:
    answer = grove.get(f"{GROVE}/nodes", depth=32, limit=2000)
    assert answer["tree"]["items"] == COUNT
    assert answer["tree"]["nodes"] == len(answer["nodes"]) == len(grove.tree.ids) > 20
    assert answer["tree"]["changed"] == 0
    assert answer["tree"]["fitted_on"] == f"leave-one-out: {COUNT} items"
    nodes = {node["id"]: node for node in answer["nodes"]}
    assert set(nodes) == set(grove.tree.ids)
    assert answer["nodes"][0]["parent"] is None
    assert answer["nodes"][0]["size"] == COUNT
    assert not any(node["cut"] for node in nodes.values())
    held = 0
    for node in nodes.values():
        children = [child for child in nodes.values() if child["parent"] == node["id"]]
        assert node["num_children"] == len(children)
        own = grove.get(f"{GROVE}/nodes/{node['id']}")["own_items"]
        assert node["size"] == own + sum(child["size"] for child in children)
        held += own
        for child in children:
            assert child["depth"] == node["depth"] + 1
            assert child["radius"] >= node["radius"]
            assert child["height"] <= node["height"]
    assert held == COUNT
    assert answer["tree"]["depth"] == max(node["depth"] for node in nodes.values())


def test_lists_of_nodes_are_bounded_and_say_so(grove: Grove) -> None:
    root, *children = grove.get(f"{GROVE}/nodes")["nodes"]
    assert len(children) == root["num_children"] >= 2
    assert not root["cut"]
    assert [child["cut"] for child in children] == [child["num_children"] > 0 for child in children]
    assert any(child["cut"] for child in children)
    sizes = [child["size"] for child in children]
    assert sizes == sorted(sizes, reverse=True)
    (alone,) = grove.get(f"{GROVE}/nodes", depth=0)["nodes"]
    assert alone["cut"]
    few = grove.get(f"{GROVE}/nodes", depth=3, limit=2)["nodes"]
    assert [node["id"] for node in few] == [root["id"], children[0]["id"]]
    assert few[0]["cut"]
    below = grove.get(f"{GROVE}/nodes", parent=children[0]["id"])["nodes"]
    assert below[0]["id"] == children[0]["id"]
    assert {node["parent"] for node in below[1:]} == {children[0]["id"]}


def test_node_tells_where_it_is_and_what_it_holds(grove: Grove) -> None:
    nodes = {node["id"]: node for node in grove.everything()}
    labels = {item_id: (f"family-{item_id[1]}", f"kind-{item_id.split('/')[1][1:]}") for item_id in grove.space}
    for node_id in grove.tree.ids[:: len(grove.tree.ids) // 12]:
        node = grove.get(f"{GROVE}/nodes/{node_id}")
        way, above = [], node["parent"]
        while above is not None:
            way.append(above)
            above = nodes[above]["parent"]
        assert [link["id"] for link in node["ancestors"]] == way
        assert {child["id"] for child in node["children"]} == {
            other["id"] for other in nodes.values() if other["parent"] == node_id
        }
        members = [grove.rows[row] for row in grove.tree.members(grove.tree.index_of(node_id)).tolist()]
        counted: dict[tuple[str, ...], int] = {}
        for member in members:
            for depth in (1, 2):
                prefix = labels[member][:depth]
                counted[prefix] = counted.get(prefix, 0) + 1
        told = {tuple(each["label"]): each["count"] for level in node["labels"] for each in level}
        assert told == {label: counted[label] for label in told}
        assert all(len(level) == min(12, sum(len(label) == depth for label in counted))
                   for depth, level in enumerate(node["labels"], 1))  # fmt: skip
        assert 1 <= len(node["exemplars"]) <= 5
        assert {exemplar["id"] for exemplar in node["exemplars"]} <= set(members)
        if node["label"]:
            assert node["label_share"] == pytest.approx(counted[tuple(node["label"])] / len(members))
            assert node["label_share"] >= 0.6
            assert node["title"].removeprefix("mostly ") == node["label"][-1]
        else:
            assert node["title"] in {"everything", f"like {node['exemplars'][0]['id']}"}


def test_exemplars_have_thumbnails(grove: Grove) -> None:
    root = grove.get(f"{DEFAULT}/nodes/{grove.get(f'{DEFAULT}/nodes')['nodes'][0]['id']}")
    for exemplar in root["exemplars"]:
        assert grove.http.get(exemplar["thumbnail"]).headers["content-type"] == "image/jpeg"
    bare = grove.get(f"{GROVE}/nodes")["nodes"][0]
    assert {exemplar["thumbnail"] for exemplar in bare["exemplars"]} == {None}


@pytest.mark.parametrize("order", ["stored", "nearest"])
def test_items_of_a_node_page_by_page(grove: Grove, order: str) -> None:
    for index in (0, grove.tree.children(0)[0]):
        path = f"{GROVE}/nodes/{grove.tree.ids[index]}/items"
        found: list[dict[str, Any]] = []
        cursor = None
        while True:
            page = grove.get(path, order=order, limit=7, **({"cursor": cursor} if cursor else {}))
            found += page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                break
            assert len(page["items"]) == 7
        members = [grove.rows[row] for row in grove.tree.members(index).tolist()]
        assert len(found) == len(members) == page["total"]
        assert {item["id"] for item in found} == set(members)
        centre = grove.tree.space[index]
        for item in found:
            assert abs(item["distance"] - distance(grove.space[item["id"]], centre, grove.c)) <= 1e-6
        if order == "nearest":
            assert [item["distance"] for item in found] == sorted(item["distance"] for item in found)
        else:
            written = sorted(members, key=lambda item_id: item_id.rpartition("/")[2])
            assert [item["id"] for item in found] == written


def test_cursors_of_something_else_are_refused(grove: Grove) -> None:
    path = f"{GROVE}/nodes/{grove.tree.ids[0]}/items"
    cursor = grove.get(path, limit=5)["next_cursor"]
    assert grove.get(path, 422, limit=5, order="nearest", cursor=cursor)["code"] == "invalid_cursor"
    for bad in ("x", "AAAA", "\N{SNOWMAN}", cursor + "A", base64.urlsafe_b64encode(b"stored:nan:-3").decode()):
        assert grove.get(path, 422, cursor=bad)["code"] == "invalid_cursor"


def test_path_is_that_of_the_tree(grove: Grove) -> None:
    stopped = 0
    for item_id, space in list(grove.space.items())[::9]:
        answer = grove.post(f"{GROVE}/ancestors", json={"query": {"item_id": item_id}})
        expected = grove.answers.path(space)
        assert [step["id"] for step in answer["nodes"]] == [step.id for step in expected.nodes]
        told = [step["probability"] for step in answer["nodes"]]
        assert told == pytest.approx([step.probability for step in expected.nodes], abs=1e-9)
        assert told == sorted(told)
        assert answer["nodes"][-1]["id"] == grove.tree.ids[0]
        assert told[-1] == 1
        assert [step["depth"] for step in answer["nodes"]] == list(range(len(told)))[::-1]
        assert [step["label"] for step in answer["labels"]] == [list(step.label) for step in expected.labels]
        if answer["stopped_at"] is None:
            assert answer["next"] is None
        else:
            stopped += 1
            assert answer["stopped_at"] == answer["nodes"][0]["id"]
            assert answer["next"]["depth"] == answer["nodes"][0]["depth"] + 1
            assert answer["next"]["probability"] <= told[0]
        radius = math.asinh(math.sqrt(grove.c) * float(np.linalg.norm(space.astype(np.float64)))) / math.sqrt(grove.c)
        assert answer["radius"] == pytest.approx(radius, abs=1e-6)
        assert answer["specificity"] == pytest.approx(expected.specificity, abs=1e-9)
        assert 0 <= answer["in_distribution"] <= 1
    # A point between two families belongs to neither: the path stops at the top.
    apart = list(grove.space.values())
    middle = ((apart[0] + apart[-1]) / 2).tolist()
    answer = grove.post(f"{GROVE}/ancestors", json={"query": {"embedding": middle}})
    assert answer["in_distribution"] <= 0.05


def test_photo_as_form_equals_json_and_the_tree(grove: Grove, embedder: Embedder) -> None:
    as_form = grove.post(f"{DEFAULT}/ancestors", files={"file": ("a.png", PHOTO)})
    as_json = grove.post(f"{DEFAULT}/ancestors", json={"query": {"image": base64.b64encode(PHOTO).decode()}})
    assert as_form == as_json
    folder = grove.store / "collections" / "default"
    with Catalogue.open(folder / "catalogue.sqlite") as catalogue:
        answers = Answers(Hierarchy.load(folder / "hierarchy", catalogue))
    expected = answers.path(embedder.embed([read_image(PHOTO)])[0])
    assert [step["id"] for step in as_form["nodes"]] == [step.id for step in expected.nodes]
    assert as_form["specificity"] == pytest.approx(expected.specificity, abs=1e-4)


def test_node_is_a_query(grove: Grove) -> None:
    leaf = next(node for node in grove.everything() if node["num_children"] == 0)
    answer = grove.post(f"{GROVE}/ancestors", json={"query": {"node_id": leaf["id"]}})
    assert answer["radius"] == pytest.approx(leaf["radius"], abs=1e-5)
    assert grove.post(f"{GROVE}/ancestors", 404, json={"query": {"node_id": "none"}})["code"] == "node_not_found"


def test_common_ancestor(grove: Grove) -> None:
    ids = list(grove.space)
    for wanted in ([ids[0], ids[1]], [ids[0], ids[20]], [ids[0], ids[-1]], ids[::5]):
        answer = grove.post(f"{GROVE}/common-ancestor", json={"queries": [{"item_id": each} for each in wanted]})
        space = np.stack([grove.space[each] for each in wanted])
        expected = grove.answers.common_ancestor(space)
        assert answer["node"]["id"] == expected.node.id
        assert answer["probability"] == pytest.approx(expected.probability, abs=1e-9)
        assert [step["label"] for step in answer["labels"]] == [list(step.label) for step in expected.labels]
        # The Lorentz centroid, written out: sum of lifted points over its Lorentzian length.
        lifted = np.concatenate([np.sqrt(1 / grove.c + (space.astype(np.float64) ** 2).sum(1))[:, None], space], axis=1)
        total = lifted.sum(axis=0)
        centre = total[1:] / math.sqrt(grove.c * (total[0] ** 2 - total[1:] @ total[1:]))
        assert np.abs(np.array(answer["centre"]["embedding"]) - centre).max() <= 1e-5
        radius = math.asinh(math.sqrt(grove.c) * float(np.linalg.norm(centre))) / math.sqrt(grove.c)
        assert answer["centre"]["radius"] == pytest.approx(radius, abs=1e-5)
    same = grove.post(f"{GROVE}/common-ancestor", json={"queries": [{"item_id": each} for each in ids[:2]]})
    other = grove.post(f"{GROVE}/common-ancestor", json={"queries": [{"item_id": ids[0]}, {"item_id": ids[-1]}]})
    assert same["node"]["depth"] > other["node"]["depth"] == 0
    assert same["labels"][0]["label"] == ["family-0", "kind-0"]


def test_common_ancestor_of_photos(grove: Grove) -> None:
    photos = [("file", ("a.png", PHOTO)), ("file", ("b.png", OTHER))]
    as_form = grove.post(f"{DEFAULT}/common-ancestor", files=photos)
    images = [{"image": base64.b64encode(photo).decode()} for photo in (PHOTO, OTHER)]
    as_json = grove.post(f"{DEFAULT}/common-ancestor", json={"queries": images})
    assert as_form["node"] == as_json["node"]
    assert as_form["centre"]["radius"] == pytest.approx(as_json["centre"]["radius"], abs=1e-6)
    assert grove.post(f"{DEFAULT}/common-ancestor", 422, files=photos[:1])["code"] == "invalid_request"
    bad = grove.post(f"{DEFAULT}/common-ancestor", 415, files=[photos[0], ("file", ("c.png", b"no photo"))])
    assert bad["detail"].startswith("query 2 of 2: ")
    one = {"queries": [{"item_id": "Fruit"}]}
    assert grove.post(f"{DEFAULT}/common-ancestor", 422, json=one)["errors"][0]["pointer"] == "/queries"
    many = {"queries": one["queries"] * 33}
    assert grove.post(f"{DEFAULT}/common-ancestor", 422, json=many)["errors"][0]["pointer"] == "/queries"


def test_zoom_goes_up_and_down_the_path(grove: Grove) -> None:
    item_id = next(iter(grove.space))
    here = grove.post(f"{GROVE}/zoom", json={"query": {"item_id": item_id}, "levels": 0})
    path = grove.post(f"{GROVE}/ancestors", json={"query": {"item_id": item_id}})
    assert here["node"]["id"] == path["nodes"][0]["id"]
    for levels in range(1, len(path["nodes"]) + 3):
        answer = grove.post(f"{GROVE}/zoom", json={"query": {"item_id": item_id}, "levels": levels, "limit": 12})
        step = path["nodes"][min(levels, len(path["nodes"]) - 1)]
        assert answer["node"]["id"] == step["id"]
        assert answer["node"]["probability"] == pytest.approx(step["probability"], abs=1e-9)
        members = [grove.rows[row] for row in grove.tree.members(grove.tree.index_of(step["id"])).tolist()]
        nearest = sorted((distance(grove.space[each], grove.space[item_id], grove.c), each) for each in members)[:12]
        assert [item["id"] for item in answer["items"]] == [each for _, each in nearest]
        assert [item["distance"] for item in answer["items"]] == pytest.approx([d for d, _ in nearest], abs=1e-6)
        children = grove.tree.children(grove.tree.index_of(step["id"]))
        assert {branch["id"] for branch in answer["branches"]} == {grove.tree.ids[child] for child in children}
    assert answer["node"]["parent"] is None
    lowest = grove.post(f"{GROVE}/zoom", json={"query": {"item_id": item_id}, "levels": -64})
    assert lowest["branches"] == []
    up = grove.post(f"{DEFAULT}/zoom", files={"file": PHOTO}, data={"levels": "64", "limit": "3"})
    assert up["node"]["parent"] is None
    assert len(up["items"]) == 3
    assert grove.post(f"{DEFAULT}/zoom", 422, files={"file": PHOTO}, data={"levels": "65"})["code"] == "invalid_request"


def test_traverse_goes_along_the_geodesic(grove: Grove) -> None:
    ids = list(grove.space)
    start, end = grove.space[ids[0]], grove.space[ids[-1]]
    body = {"query": {"item_id": ids[0]}, "to": {"item_id": ids[-1]}, "steps": 3, "limit": 4}
    answer = grove.post(f"{GROVE}/traverse", json=body)
    length = distance(start, end, grove.c)
    assert answer["length"] == pytest.approx(length, abs=1e-6)
    assert [step["distance"] for step in answer["steps"]] == pytest.approx([0, length / 2, length], abs=1e-6)
    # The geodesic midpoint is the sum of both points over its Lorentzian length.
    lifted = [np.concatenate([[np.sqrt(1 / grove.c + p @ p)], p]) for p in (start.astype(float), end.astype(float))]
    total = lifted[0] + lifted[1]
    middle = total[1:] / math.sqrt(grove.c * (total[0] ** 2 - total[1:] @ total[1:]))
    assert distance(start, middle, grove.c) == pytest.approx(length / 2, abs=1e-6)
    radius = math.asinh(math.sqrt(grove.c) * float(np.linalg.norm(middle))) / math.sqrt(grove.c)
    assert answer["steps"][1]["radius"] == pytest.approx(radius, abs=1e-5)
    nearest = sorted((distance(space, middle, grove.c), item_id) for item_id, space in grove.space.items())[:4]
    assert [item["id"] for item in answer["steps"][1]["items"]] == [item_id for _, item_id in nearest]
    assert answer["steps"][0]["items"][0]["id"] == ids[0]
    assert answer["steps"][2]["items"][0]["id"] == ids[-1]

    inwards = grove.post(f"{GROVE}/traverse", json={"query": {"item_id": ids[0]}, "steps": 6})
    radii = [step["radius"] for step in inwards["steps"]]
    assert radii == pytest.approx([radii[0] * (5 - step) / 5 for step in range(6)], abs=1e-5)
    assert inwards["length"] == pytest.approx(radii[0], abs=1e-6)
    for step in inwards["steps"]:
        assert step["node"]["id"] in grove.tree.ids

    two = grove.post(f"{DEFAULT}/traverse", files=[("file", PHOTO), ("file", OTHER)], data={"steps": "2"})
    one = grove.post(f"{DEFAULT}/traverse", files=[("file", PHOTO)], data={"steps": "2"})
    assert len(two["steps"]) == len(one["steps"]) == 2
    assert two["steps"][0]["radius"] == pytest.approx(one["steps"][0]["radius"], abs=1e-6)
    assert one["steps"][1]["radius"] == pytest.approx(0, abs=1e-9)
    assert two["steps"][1]["radius"] > 0.01
    assert grove.post(f"{DEFAULT}/traverse", 422, data={"steps": "2"}, files={"x": ("", b"")})["code"]


def test_projection_lies_inside_the_disk(grove: Grove) -> None:
    answer = grove.get(f"{GROVE}/projection", nodes=2000, items=60)
    nodes = {node["id"]: node for node in answer["nodes"]}
    assert set(nodes) == set(grove.tree.ids)
    assert (answer["of_nodes"], answer["of_items"]) == (len(nodes), COUNT)
    assert len(answer["items"]) == 60
    assert len({item["id"] for item in answer["items"]}) == 60
    root = answer["nodes"][0]
    assert (root["x"], root["y"], root["parent"], root["branch"]) == (0, 0, None, None)
    seen: set[str] = set()
    for node in answer["nodes"]:
        assert node["parent"] is None or node["parent"] in seen
        seen.add(node["id"])
    everything = [*answer["nodes"][1:], *answer["items"]]
    from_centre = [math.hypot(each["x"], each["y"]) for each in everything]
    assert max(from_centre) < 1
    assert min(from_centre) > 0
    # Farther out is more specific, without exception.
    by_radius = [r for _, r in sorted(zip((each["radius"] for each in everything), from_centre, strict=True))]
    assert all(b >= a - 1e-12 for a, b in pairwise(by_radius))
    for item in answer["items"]:
        row = next(row for row, item_id in grove.rows.items() if item_id == item["id"])
        assert item["parent"] == grove.tree.ids[grove.tree.owner_of(row)]
    groups = {each["branch"] for each in everything} - {None}
    assert groups == set(range(len(groups)))
    assert len(groups) >= 2
    assert grove.get(f"{GROVE}/projection", nodes=2000, items=60) == answer


def test_projection_of_a_part(grove: Grove) -> None:
    few = grove.get(f"{GROVE}/projection", nodes=9, items=0)
    assert 2 <= len(few["nodes"]) <= 9
    assert few["items"] == []
    branch = few["nodes"][1]
    part = grove.get(f"{GROVE}/projection", node=branch["id"], nodes=5, items=1000)
    assert part["nodes"][0]["id"] == branch["id"]
    assert part["of_items"] == branch["size"] == len(part["items"])
    index = grove.tree.index_of(branch["id"])
    assert {node["id"] for node in part["nodes"]} <= set(grove.tree.ids[index : grove.tree.end(index)])
    for item in part["items"]:  # each hangs on a drawn node that holds it
        holder = grove.tree.index_of(item["parent"])
        row = next(row for row, item_id in grove.rows.items() if item_id == item["id"])
        assert row in grove.tree.members(holder)
    assert grove.get(f"{GROVE}/projection", 422, nodes=2001)["code"] == "invalid_request"
    assert grove.get(f"{GROVE}/projection", 422, items=5001)["code"] == "invalid_request"
    assert grove.get(f"{GROVE}/projection", 404, node="none")["code"] == "node_not_found"


def test_a_name_survives_a_restart_and_a_rebuild(grove_store: Path, serve: Callable[[Path], Any],
                                                 tmp_path: Path) -> None:  # fmt: skip
    store = shutil.copytree(grove_store, tmp_path / "store")
    with serve(store) as url, httpx.Client(base_url=url, timeout=30) as http:
        node = http.get(f"{GROVE}/nodes").json()["nodes"][1]
        named = http.patch(f"{GROVE}/nodes/{node['id']}", json={"name": "  Citrüs fruit "}).json()
        assert (named["name"], named["title"]) == ("Citrüs fruit", "Citrüs fruit")
        assert http.get(f"{GROVE}/nodes").json()["nodes"][1]["title"] == "Citrüs fruit"
        drawn = http.get(f"{GROVE}/projection").json()["nodes"]
        assert [each["title"] for each in drawn if each["id"] == node["id"]] == ["Citrüs fruit"]
        for bad in ("", "   ", "a\nb", "x" * 201, 7, ["a"]):
            assert http.patch(f"{GROVE}/nodes/{node['id']}", json={"name": bad}).status_code == 422
        assert http.patch(f"{GROVE}/nodes/{node['id']}", json={}).status_code == 422
        assert http.patch(f"{GROVE}/nodes/none", json={"name": "a"}).json()["code"] == "node_not_found"
    with serve(store) as url, httpx.Client(base_url=url, timeout=30) as http:
        assert http.get(f"{GROVE}/nodes/{node['id']}").json()["name"] == "Citrüs fruit"
        build_tree(store / "collections" / "grove", max_children=5, min_size=3)
        rebuilt = http.get(f"{GROVE}/nodes", params={"depth": 32, "limit": 2000}).json()
        assert rebuilt["tree"]["nodes"] == len(rebuilt["nodes"])
        assert [each["name"] for each in rebuilt["nodes"] if each["name"]] == ["Citrüs fruit"]
        gone = http.patch(f"{GROVE}/nodes/{node['id']}", json={"name": None}).json()
        assert (gone["name"], gone["title"]) == (None, node["title"])


def test_writes_reach_the_tree(grove_store: Path, serve: Callable[[Path], Any], tmp_path: Path) -> None:
    store = shutil.copytree(grove_store, tmp_path / "store")
    space = points(16)
    with serve(store) as url, httpx.Client(base_url=url, timeout=30) as http:
        root = http.get(f"{GROVE}/nodes").json()["nodes"][0]["id"]
        with Collection.open(store, "grove") as collection:
            ids = [item.id for item in collection.items(limit=1000)]
            collection.delete(ids[:100])
        after = http.get(f"{GROVE}/nodes").json()
        assert (after["tree"]["items"], after["tree"]["changed"]) == (COUNT - 100, 100)
        left = http.get(f"{GROVE}/nodes/{root}/items", params={"limit": 1000}).json()
        assert {item["id"] for item in left["items"]} == set(ids[100:])
        near = http.post(f"{GROVE}/zoom", json={"query": {"embedding": space[0].tolist()}, "levels": 64, "limit": 1000})
        assert {item["id"] for item in near.json()["items"]} == set(ids[100:])
        for left_over in (1, 0):
            with Collection.open(store, "grove") as collection:
                collection.delete(ids[: COUNT - left_over])
            answer = http.get(f"{GROVE}/nodes").json()
            assert answer["tree"]["items"] == left_over
            assert http.get(f"{GROVE}/projection").status_code == 200
            asked = http.post(f"{GROVE}/ancestors", json={"query": {"embedding": space[0].tolist()}})
            assert asked.status_code == (200 if left_over else 409)
        assert asked.json()["code"] == "tree_not_fitted"


def test_what_is_wrong_is_told(grove_store: Path, serve: Callable[[Path], Any], embedder: Embedder,
                               tmp_path: Path) -> None:  # fmt: skip
    store = shutil.copytree(grove_store, tmp_path / "store")
    about = {"dim": embedder.embedding_dim, "c": embedder.c, "model_hash": embedder.model_hash}
    plant(store, "bare", **about)
    single = plant(store, "single", **about)
    with Collection.open(store, "single") as collection:
        collection.delete([item.id for item in collection.items(limit=1000)][1:])
    build_tree(single)
    damaged = store / "collections" / "grove" / "hierarchy" / "tree" / "nodes.npz"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1])
    query = {"query": {"embedding": points(embedder.embedding_dim)[0].tolist()}}
    with serve(store) as url, httpx.Client(base_url=url, timeout=30) as http:
        for path, send in (
            ("nodes", http.get),
            ("nodes/x", http.get),
            ("nodes/x/items", http.get),
            ("projection", http.get),
            *((name, lambda url: http.post(url, json=query)) for name in ("ancestors", "zoom", "traverse")),
        ):
            none = send(f"/v1/collections/bare/hierarchy/{path}")
            assert (none.status_code, none.json()["code"]) == (404, "tree_not_found")
            assert "hierarchy build" in none.json()["detail"]
            broken = send(f"{GROVE}/{path}")
            assert (broken.status_code, broken.json()["code"]) == (503, "tree_unavailable")
            assert str(store) not in broken.text
        assert http.post("/v1/collections/grove/search", json=query).status_code == 200
        assert http.get("/v1/collections/single/hierarchy/nodes").json()["tree"]["fitted_on"] is None
        unfitted = http.post("/v1/collections/single/hierarchy/ancestors", json=query)
        assert (unfitted.status_code, unfitted.json()["code"]) == (409, "tree_not_fitted")
        build_tree(store / "collections" / "grove")  # seen at once, not after a while
        assert http.post(f"{GROVE}/ancestors", json=query).status_code == 200


def test_queries_that_cannot_be_are_refused(grove: Grove, engine: Engine) -> None:
    assert grove.get("/v1/collections/none/hierarchy/nodes", 404)["code"] == "collection_not_found"
    assert grove.get(f"{GROVE}/nodes", 404, parent="none")["code"] == "node_not_found"
    assert grove.get(f"{GROVE}/nodes/a%2Fb", 404)["code"] == "node_not_found"
    for params in ({"depth": 33}, {"depth": -1}, {"limit": 0}, {"limit": 2001}, {"parent": ""}):
        assert grove.get(f"{GROVE}/nodes", 422, **params)["code"] == "invalid_request"
    for body, code in (
        ({"query": {"item_id": "none"}}, 404),
        ({"query": {}}, 422),
        ({"query": {"embedding": [0.0]}}, 422),
        ({"query": {"embedding": [1e300] * engine.model.embedding_dim}}, 422),
        ({"query": {"item_id": "Fruit"}, "x": 1}, 422),
        ({}, 422),
    ):
        for name in ("ancestors", "zoom", "traverse"):
            grove.post(f"{DEFAULT}/{name}", code, json=body)
    fruit = {"query": {"item_id": "Fruit"}}
    for extra in ({"steps": 1}, {"steps": 33}, {"limit": 101}, {"steps": 2.5}):
        grove.post(f"{DEFAULT}/traverse", 422, json={**fruit, **extra})
    dim = engine.model.embedding_dim
    too_far, far = ({"query": {"embedding": [number] + [0.0] * (dim - 1)}} for number in (1.01e15, 0.99e15))
    for name in ("ancestors", "zoom", "traverse"):
        assert grove.post(f"{DEFAULT}/{name}", 422, json=too_far)["code"] == "invalid_point"
        answer = grove.http.post(f"{DEFAULT}/{name}", json=far)
        assert answer.status_code == 200
        assert not {"null", "NaN"} & set(re.findall(r'"(?:radius|distance|probability|score)":(\w+)', answer.text))
