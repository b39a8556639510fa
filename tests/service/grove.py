"""A collection whose points grow like a tree, and trees built over collections as ``lhier hierarchy build`` does."""

from pathlib import Path

import numpy as np

from index.catalogue import Catalogue, Item
from index.collection import Collection
from index.hierarchy.fitting import fit
from index.hierarchy.former import predecessor
from index.hierarchy.tree import Hierarchy

FAMILIES, KINDS, EACH = 4, 4, 9
COUNT = FAMILIES * KINDS * EACH


def points(dim: int, seed: int = 0) -> np.ndarray:
    """Space parts (144, dim): 4 families of 4 kinds of 9 items, each nearer its own than the others."""
    rng = np.random.default_rng(seed)
    family = np.repeat(rng.normal(0, 1.0, (FAMILIES, dim)), KINDS * EACH, axis=0)
    kind = np.repeat(rng.normal(0, 0.5, (FAMILIES * KINDS, dim)), EACH, axis=0)
    return (family + kind + rng.normal(0, 0.12, (COUNT, dim))).astype(np.float32)


def items(dim: int) -> list[Item]:
    """The same with ids that hold slashes, and label paths of two levels."""
    found = []
    for number, point in enumerate(points(dim)):
        family, kind = number // (KINDS * EACH), number // EACH
        found.append(Item(f"f{family}/k{kind}/{number:03}", point, labels=(f"family-{family}", f"kind-{kind}")))
    return found


def plant(store: Path, name: str, *, dim: int, c: float, model_hash: str) -> Path:
    """A collection of :func:`items` without a tree; its folder."""
    with Collection.create(store, name, embedding_dim=dim, c=c, model_hash=model_hash) as collection:
        collection.upsert(items(dim))
        return collection.folder


def build_tree(folder: Path, *, min_size: int = 2, max_children: int = 6, seed: int = 0) -> None:
    """A tree over the collection in ``folder``, fitted and saved by another process than the server, as far as it can
    tell."""
    with Catalogue.open(folder / "catalogue.sqlite") as catalogue:
        previous = predecessor(folder / "hierarchy", catalogue, print)
        tree = Hierarchy.from_catalogue(
            catalogue, previous=previous, min_size=min_size, max_children=max_children, seed=seed
        )
        if len(tree) >= 2:
            tree.fit = fit(tree)
        tree.save(folder / "hierarchy")


def distance(x: np.ndarray, y: np.ndarray, c: float) -> float:
    """2 asinh(sqrt(c <x - y, x - y>_L) / 2) / sqrt(c) in float64, for space parts (d,)."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    x_time, y_time = np.sqrt(1 / c + x @ x), np.sqrt(1 / c + y @ y)
    time = ((y - x) @ (y + x)) / (y_time + x_time)
    squared = max((y - x) @ (y - x) - time * time, 0.0)
    return float(2 / np.sqrt(c) * np.arcsinh(np.sqrt(c * squared) / 2))
