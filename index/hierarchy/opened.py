"""A collection's tree as the commands open it, and how they speak of its nodes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from index.catalogue import Catalogue
    from index.hierarchy.tree import Hierarchy


def hierarchy_folder(store: Path, name: str) -> Path:
    """Where the tree of a collection lies."""
    from index.collection import collection_folder
    from index.hierarchy.store import FOLDER

    return collection_folder(store, name) / FOLDER


@contextmanager
def catalogue_of(store: Path, name: str) -> "Iterator[Catalogue]":
    """The catalogue of a collection that exists; :class:`CollectionNotFoundError` where it does not."""
    from index.catalogue import Catalogue
    from index.collection import collection_folder, list_collections
    from index.errors import CollectionNotFoundError

    folder = collection_folder(store, name)
    if not folder.is_dir():
        known = ", ".join(list_collections(store)) or "none"
        raise CollectionNotFoundError(
            f"the store {store} has no collection {name!r} (it has: {known}): run 'lhier index build'"
        )
    with Catalogue.open(folder / "catalogue.sqlite") as catalogue:
        yield catalogue


@contextmanager
def tree_of(store: Path, name: str) -> "Iterator[tuple[Hierarchy, Catalogue]]":
    """The tree of a collection, brought up to its catalogue's last write, and that catalogue."""
    from index.files import sweep
    from index.hierarchy.store import FORMER, TREE
    from index.hierarchy.tree import Hierarchy

    with catalogue_of(store, name) as catalogue:
        folder = hierarchy_folder(store, name)
        sweep(folder)
        if not (folder / TREE).is_dir():
            at = "" if name == "default" else f" --collection {name}"
            state = "has no tree since it was built anew" if (folder / FORMER).is_dir() else "has no tree yet"
            raise click.ClickException(f"collection {name!r} {state}: run 'lhier hierarchy build {store}{at}'")
        yield Hierarchy.load(folder, catalogue), catalogue


def find_node(tree: "Hierarchy", wanted: str) -> int:
    """The number of the node with that id, or with that name if only one has it; ``ClickException`` otherwise."""
    if wanted in tree.ids:
        return tree.index_of(wanted)
    named = [node for node, id_ in enumerate(tree.ids) if tree.names.get(id_) == wanted]
    if len(named) == 1:
        return named[0]
    if named:
        ids = ", ".join(tree.ids[node] for node in named)
        raise click.ClickException(f"{len(named)} nodes are called {wanted!r}: give one's id ({ids})")
    raise click.ClickException(f"no node has the id or the name {wanted!r}: 'lhier hierarchy show' lists them")


def item_ids(catalogue: "Catalogue", rows: list[int]) -> list[str]:
    """The ids of catalogue rows; of one that was deleted since, its number."""
    return [item.id if item else f"#{row}" for row, item in zip(rows, catalogue.get_rows(rows), strict=True)]


def spoken(tree: "Hierarchy", node: int, catalogue: "Catalogue") -> str:
    """What a person is told a node is: its name, else most items' label, else a photo that it looks like."""
    from index.hierarchy.selection import node_name

    if node == 0:
        return tree.names.get(tree.ids[0], "everything")
    if text := node_name(tree, node):
        return text
    return f"like {item_ids(catalogue, list(tree.exemplars(node)[:1]))[0]}"


def described(tree: "Hierarchy", node: int, catalogue: "Catalogue") -> dict[str, Any]:
    """A node for JSON."""
    from index.hierarchy.selection import majority_label

    view = tree.at(node)
    return {
        "id": view.id,
        "name": view.name,
        "label": list(majority_label(tree, node)),
        "depth": view.depth,
        "size": view.size,
        "radius": view.radius,
        "height": view.height,
        "exemplars": item_ids(catalogue, list(view.exemplars)),
    }
