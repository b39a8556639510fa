"""A collection's tree as the commands open it, and how they speak of its nodes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import combining, east_asian_width

import click

if TYPE_CHECKING:
    from index.catalogue import Catalogue
    from index.hierarchy.tree import Hierarchy

SHORTEST_ID = 4  # characters of an id that may stand for it
NEARLY_ALL = 0.95  # share of a node's photos that a label must have to be said without "mostly"
MUCH = 0.2  # share of photos that came or went, from which on a tree should be built anew


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
        tree = Hierarchy.load(folder, catalogue)
        if tree.changed > MUCH * len(tree):
            click.echo(
                f"{tree.changed:,} photos came or went since the tree was built, {len(tree):,} are there now: "
                f"'lhier hierarchy build' makes it anew",
                err=True,
            )
        yield tree, catalogue


def find_node(tree: "Hierarchy", wanted: str) -> int:
    """The number of the node with that id, or with that name, or whose id begins so, if only one does;
    ``ClickException`` otherwise."""
    if wanted in tree.ids:
        return tree.index_of(wanted)
    named = [node for node, id_ in enumerate(tree.ids) if tree.names.get(id_) == wanted]
    if len(named) == 1:
        return named[0]
    if named:
        ids = ", ".join(tree.ids[node] for node in named)
        raise click.ClickException(f"{len(named)} nodes are called {wanted!r}: give one's id ({ids})")
    begun = [node for node, id_ in enumerate(tree.ids) if len(wanted) >= SHORTEST_ID and id_.startswith(wanted)]
    if len(begun) == 1:
        return begun[0]
    if begun:
        raise click.ClickException(f"{len(begun)} ids of nodes begin with {wanted!r}: give more of it")
    raise click.ClickException(f"no node has the id or the name {wanted!r}: 'lhier hierarchy show' lists them")


def printable(text: str) -> str:
    """Text of a folder or file on one line, without what would move a terminal's cursor."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in " ".join(text.split()))


def cells(text: str) -> int:
    """How many columns of a terminal a text takes: two for an East Asian wide letter, none for a combining mark."""
    return sum(0 if combining(letter) else 1 + (east_asian_width(letter) in "WF") for letter in text)


def item_ids(catalogue: "Catalogue", rows: list[int]) -> list[str]:
    """The ids of catalogue rows; of one that was deleted since, its number."""
    return [item.id if item else f"#{row}" for row, item in zip(rows, catalogue.get_rows(rows), strict=True)]


def spoken(tree: "Hierarchy", node: int, catalogue: "Catalogue") -> str:
    """What a person is told a node is: its name, else most items' label, else a photo that it looks like."""
    from index.hierarchy.selection import label_share, majority_label

    if (given := tree.names.get(tree.ids[node])) is not None:
        return given
    if node == 0:
        return "everything"
    if label := majority_label(tree, node):
        return ("" if label_share(tree, node, label) >= NEARLY_ALL else "mostly ") + printable(label[-1])
    return f"like {printable(item_ids(catalogue, list(tree.exemplars(node)[:1]))[0])}"


def described(tree: "Hierarchy", node: int, catalogue: "Catalogue") -> dict[str, Any]:
    """A node for JSON."""
    from index.hierarchy.selection import label_share, majority_label

    view, label = tree.at(node), majority_label(tree, node)
    return {
        "id": view.id,
        "name": view.name,
        "label": list(label),
        "label_share": label_share(tree, node, label),
        "depth": view.depth,
        "size": view.size,
        "radius": view.radius,
        "height": view.height,
        "exemplars": item_ids(catalogue, list(view.exemplars)),
    }
