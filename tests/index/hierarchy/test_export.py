"""Exported trees, read again by programs that share nothing with ours: a Newick reader of 30 lines, json, networkx."""

import io
import json
from typing import Any

import networkx
import numpy as np
import pytest

from index.hierarchy import Hierarchy
from index.hierarchy.export import graphml, nested, newick

AWKWARD = "O'Brien's (best): a_b, [c]; \"d\" é 苹果"


@pytest.fixture(scope="module")
def tree(grow_tree: Any) -> Hierarchy:
    space = grow_tree(radius=3.0, cluster=8, count=240, dim=6)
    labels = [("all", f"class {row // 40}", f"kind_{row // 8}") for row in range(240)]
    hierarchy = Hierarchy.build(space, np.arange(100, 340), 1.0, labels=labels, model_hash="fa4e00000001")
    hierarchy.set_name(hierarchy.ids[1], AWKWARD)
    return hierarchy


@pytest.fixture(scope="module")
def photos(tree: Hierarchy) -> dict[int, str]:
    return {row: f"a folder/it's {row}.jpg" for row in tree.rows.tolist()}


def read_newick(text: str) -> dict[str, Any]:
    """Newick as its grammar says: subtree = [( subtree , ... )] [label] [: length], ended by a semicolon."""
    at = 0

    def label() -> str:
        nonlocal at
        if text[at] != "'":
            start = at
            while text[at] not in ":,();":
                at += 1
            assert not set(text[start:at]) & set(" '[]_")
            return text[start:at]
        parts = []
        while text[at] == "'":
            end = text.index("'", at + 1)
            parts.append(text[at + 1 : end])
            at = end + 1
        return "'".join(parts)

    def subtree() -> dict[str, Any]:
        nonlocal at
        children = []
        if text[at] == "(":
            while text[at] in "(,":
                at += 1
                children.append(subtree())
            assert text[at] == ")"
            at += 1
        name, length = label(), None
        if text[at] == ":":
            end = min(place for mark in ",);" if (place := text.find(mark, at)) > 0)
            length, at = float(text[at + 1 : end]), end
        return {"name": name, "length": length, "children": children}

    root = subtree()
    assert text[at:] == ";\n"
    return root


def depth_first(node: dict[str, Any]) -> list[dict[str, Any]]:
    return [node, *(below for child in node["children"] for below in depth_first(child))]


def test_newick(tree: Hierarchy) -> None:
    nodes = depth_first(read_newick(newick(tree)))
    assert len(nodes) == len(tree.ids)
    assert nodes[1]["name"] == AWKWARD
    assert nodes[0]["length"] is None
    for index, node in enumerate(nodes):  # both depth first
        assert len(node["children"]) == len(tree.children(index))
        if index:
            expected = (tree.heights[tree.parents[index]] - tree.heights[index]) / 2
            assert node["length"] == pytest.approx(expected, rel=1e-5, abs=1e-9)
    named = {node["name"] for node in nodes}
    assert any(name.startswith("kind_") for name in named)
    assert "all" not in {node["name"] for node in nodes[1:]}


def test_newick_with_photos_has_the_trees_distances(tree: Hierarchy, photos: dict[int, str]) -> None:
    root = read_newick(newick(tree, photos))
    leaves: dict[str, list[tuple[int, float]]] = {}

    def walk(node: dict[str, Any], way: list[tuple[int, float]]) -> None:
        here = [*way, (id(node), node["length"] or 0.0)]
        if not node["children"]:
            leaves[node["name"]] = here
        for child in node["children"]:
            walk(child, here)

    walk(root, [])
    assert set(leaves) == set(photos.values())
    rng = np.random.default_rng(0)
    for first, second in rng.choice(tree.rows, (100, 2)).tolist():
        a, b = leaves[photos[first]], leaves[photos[second]]
        shared = {node for node, _ in a} & {node for node, _ in b}
        length = sum(step for node, step in a + b if node not in shared)
        common = next(node for node in tree.ancestors(tree.owner_of(first)) if second in tree.members(node))
        expected = 0.0 if first == second else tree.heights[common]
        assert length == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_json(tree: Hierarchy, photos: dict[int, str]) -> None:
    content = json.loads(json.dumps(nested(tree, photos), allow_nan=False))
    assert (content["model_hash"], content["c"], content["items"]) == ("fa4e00000001", 1.0, 240)
    nodes = depth_first(content["root"])
    assert [node["id"] for node in nodes] == tree.ids
    assert nodes[1]["name"] == AWKWARD
    assert sorted(item for node in nodes for item in node["items"]) == sorted(photos.values())
    for index, node in enumerate(nodes):
        assert (node["size"], node["radius"], node["height"]) == (
            tree.sizes[index],
            tree.radii[index],
            tree.heights[index],
        )
        below = [item for inner in depth_first(node) for item in inner["items"]]
        assert len(below) == node["size"]
    assert "items" not in nested(tree)["root"]
    assert next(node["label"] for node in nodes if node["label"][1:2] == ["class 0"])[:2] == ["all", "class 0"]


def test_graphml(tree: Hierarchy, photos: dict[int, str]) -> None:
    graph = networkx.read_graphml(io.BytesIO(graphml(tree).encode()))
    assert networkx.is_arborescence(graph)
    assert set(graph.nodes) == set(tree.ids)
    assert graph.nodes[tree.ids[1]]["name"] == AWKWARD
    for index, node_id in enumerate(tree.ids):
        assert graph.nodes[node_id]["size"] == tree.sizes[index]
        assert graph.nodes[node_id]["radius"] == tree.radii[index]
        assert set(graph.successors(node_id)) == {tree.ids[child] for child in tree.children(index)}

    whole = networkx.read_graphml(io.BytesIO(graphml(tree, photos).encode()))
    assert networkx.is_arborescence(whole)
    leaves = [node for node in whole if whole.nodes[node]["kind"] == "photo"]
    assert sorted(whole.nodes[leaf]["name"] for leaf in leaves) == sorted(photos.values())
    row = int(tree.rows[7])
    way = networkx.shortest_path_length(whole, tree.ids[0], f"photo:{photos[row]}", weight="length")
    assert way == pytest.approx(tree.heights[0] / 2, rel=1e-4)


def test_what_xml_cannot_hold_is_replaced(tree: Hierarchy) -> None:
    photos = {row: f"{row}\x01\x00.jpg" for row in tree.rows.tolist()}
    graph = networkx.read_graphml(io.BytesIO(graphml(tree, photos).encode()))
    assert len(graph) == len(tree.ids) + 240
    assert f"photo:{tree.rows[0]}\ufffd\ufffd.jpg" in graph


def test_an_empty_tree() -> None:
    hierarchy = Hierarchy.build(np.zeros((0, 3)), [], 1.0)
    assert depth_first(read_newick(newick(hierarchy, {})))[0]["name"] == hierarchy.ids[0]
    assert nested(hierarchy, {})["root"]["items"] == []
    assert list(networkx.read_graphml(io.BytesIO(graphml(hierarchy).encode())).nodes) == hierarchy.ids
