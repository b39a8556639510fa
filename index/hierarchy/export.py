"""A tree as text that other programs read: Newick, nested JSON, GraphML.

Lengths of branches are half the difference in height of their ends, as in a UPGMA phylogeny: photos have height 0, and
the way between two of them is as long as the height of the deepest node that holds both, the mean distance at which
average linkage merged its branches.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from index.hierarchy.selection import majority_label

if TYPE_CHECKING:
    from index.hierarchy.tree import Hierarchy

FORMATS = ("newick", "json", "graphml")
FORMAT_VERSION = 1
GRAPHML = "http://graphml.graphdrawing.org/xmlns"
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_PLAIN_NEWICK = re.compile(r"[^\s()\[\]{}/\\,;:='\"_]+")


def newick(hierarchy: "Hierarchy", photos: Mapping[int, str] | None = None) -> str:
    """The tree in Newick format, ending in a semicolon and a line break.

    A node is called by its name, else by the label that most of its items share, else by its id. With `photos`, row ->
    id, the items that nodes hold directly are leaves as well. Whatever is not a plain word is quoted, quotes doubled.
    """
    parts: list[str] = [""] * len(hierarchy.ids)
    for node in range(len(hierarchy.ids) - 1, -1, -1):  # children before parents
        inside = [parts[child] for child in hierarchy.children(node)]
        if photos is not None:
            length = _length(float(hierarchy.heights[node]), 0.0)
            inside += [f"{_quoted(photos[row])}:{length}" for row in hierarchy.members(node, own=True).tolist()]
        parent = int(hierarchy.parents[node])
        length = f":{_length(float(hierarchy.heights[parent]), float(hierarchy.heights[node]))}" if parent >= 0 else ""
        text = (
            hierarchy.names.get(hierarchy.ids[node]) or (majority_label(hierarchy, node) or (hierarchy.ids[node],))[-1]
        )
        parts[node] = (f"({','.join(inside)})" if inside else "") + _quoted(text) + length
    return f"{parts[0]};\n"


def _length(parent: float, child: float) -> str:
    # An attached item may raise a node's height above its parent's old one; a length is never below 0.
    return f"{max(parent - child, 0.0) / 2:.6g}"


def _quoted(text: str) -> str:
    return text if _PLAIN_NEWICK.fullmatch(text) else "'" + " ".join(text.split()).replace("'", "''") + "'"


def nested(hierarchy: "Hierarchy", photos: Mapping[int, str] | None = None) -> dict[str, Any]:
    """The tree as nested dictionaries for JSON: what the tree is of, and its root with its children within.

    With `photos`, row -> id, each node has the ids of the items it holds directly.
    """
    nodes: list[dict[str, Any]] = []
    for node in range(len(hierarchy.ids)):
        content = _attributes(hierarchy, node)
        if photos is not None:
            content["items"] = [photos[row] for row in hierarchy.members(node, own=True).tolist()]
        nodes.append(content | {"children": []})
        if node:
            nodes[hierarchy.parents[node]]["children"].append(nodes[node])
    return {
        "format_version": FORMAT_VERSION,
        "model_hash": hierarchy.model_hash,
        "c": hierarchy.c,
        "items": len(hierarchy.rows),
        "nodes": len(hierarchy.ids),
        "root": nodes[0],
    }


def graphml(hierarchy: "Hierarchy", photos: Mapping[int, str] | None = None) -> str:
    """The tree as a directed graph in GraphML, edges from parents to children with their length.

    With `photos`, row -> id, each item is a node too, with kind "photo"; its XML id is "photo:" and the item's id.
    """
    root = ElementTree.Element(f"{{{GRAPHML}}}graphml")
    keys = {
        "kind": "string",
        "name": "string",
        "label": "string",
        "size": "long",
        "radius": "double",
        "height": "double",
    }
    for name, kind in keys.items():
        _element(root, "key", {"id": name, "for": "node", "attr.name": name, "attr.type": kind})
    _element(root, "key", {"id": "length", "for": "edge", "attr.name": "length", "attr.type": "double"})
    graph = _element(root, "graph", {"id": "hierarchy", "edgedefault": "directed"})
    for node, id_ in enumerate(hierarchy.ids):
        attributes = _attributes(hierarchy, node)
        attributes["label"] = "/".join(attributes["label"])
        _graph_node(graph, id_, {"kind": "branch"} | {key: attributes[key] for key in keys if key != "kind"})
    for node in range(len(hierarchy.ids)):
        height = float(hierarchy.heights[node])
        if node:
            parent = int(hierarchy.parents[node])
            _edge(graph, hierarchy.ids[parent], hierarchy.ids[node], _length(float(hierarchy.heights[parent]), height))
        if photos is not None:
            for row in hierarchy.members(node, own=True).tolist():
                _graph_node(graph, f"photo:{photos[row]}", {"kind": "photo", "name": photos[row], "size": 1})
                _edge(graph, hierarchy.ids[node], f"photo:{photos[row]}", _length(height, 0.0))
    ElementTree.register_namespace("", GRAPHML)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _attributes(hierarchy: "Hierarchy", node: int) -> dict[str, Any]:
    return {
        "id": hierarchy.ids[node],
        "name": hierarchy.names.get(hierarchy.ids[node]),
        "label": list(majority_label(hierarchy, node)),
        "size": int(hierarchy.sizes[node]),
        "radius": float(hierarchy.radii[node]),
        "height": float(hierarchy.heights[node]),
    }


def _graph_node(graph: ElementTree.Element, id_: str, values: Mapping[str, Any]) -> None:
    node = _element(graph, "node", {"id": id_})
    for key, value in values.items():
        if value not in {None, ""}:
            _element(node, "data", {"key": key}).text = _NOT_XML.sub("\ufffd", str(value))


def _edge(graph: ElementTree.Element, source: str, target: str, length: str) -> None:
    edge = _element(graph, "edge", {"source": source, "target": target})
    _element(edge, "data", {"key": "length"}).text = length


def _element(parent: ElementTree.Element, tag: str, attributes: Mapping[str, str]) -> ElementTree.Element:
    clean = {key: _NOT_XML.sub("\ufffd", value) for key, value in attributes.items()}
    return ElementTree.SubElement(parent, f"{{{GRAPHML}}}{tag}", clean)
