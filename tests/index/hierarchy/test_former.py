"""Ids and names of nodes when the collection under the tree is built anew."""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

import index.files
from index.build import build_collection
from index.catalogue import Catalogue
from index.collection import Collection
from index.embeddings import Manifest, write_part
from index.hierarchy import Hierarchy
from index.hierarchy.former import read_former
from index.hierarchy.store import HierarchyError, read_names
from index.sources import Photo

Place = Callable[..., Path]
CLUSTERS, EACH = 20, 8


@pytest.fixture(scope="module")
def points(grow_tree: Callable[..., np.ndarray]) -> np.ndarray:
    return grow_tree(4.0, EACH, count=CLUSTERS * EACH, dim=6, c=1.0, scatter=0.1)


@pytest.fixture
def embeddings(points: np.ndarray, tmp_path: Path) -> Place:
    """Writes an embedding folder of some photos, in the order given, by model 1 or by another, with spaces to match.

    Photo 500 is like photo 20.
    """

    def write(photos: Iterable[int], model: int = 1) -> Path:
        numbers = list(photos)
        folder = tmp_path / f"points-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        space, c = points[[20 if number == 500 else number for number in numbers]], 1.0
        if model > 1:  # more dimensions, another curvature, and photos that lie a little elsewhere
            rng = np.random.default_rng(model)
            turned = np.linalg.qr(rng.normal(size=(9, 9)))[0][:6]
            c = 0.25
            space = (space @ turned * rng.normal(1, 0.002, (len(numbers), 1)) / np.sqrt(c)).astype(np.float32)
        paths = [f"{number}.jpg" for number in numbers]
        photo_list = [Photo(path, path, (), "") for path in paths]
        digest, rows = write_part(folder / "part-00000.parquet", photo_list, space, {})
        manifest = Manifest(
            format_version=2, model_hash=f"fa4e0000000{model}", checkpoint="run", embedding_dim=space.shape[1], c=c,
            image_root=None, photos_sha256="", count=rows, failed=0,
            parts=[{"file": "part-00000.parquet", "sha256": digest, "rows": rows}],
        )  # fmt: skip
        (folder / "manifest.json").write_text(manifest.model_dump_json())
        return folder

    return write


@pytest.fixture
def store(embeddings: Place, tmp_path: Path) -> Path:
    """A collection of all photos by model 1, with a tree, two of whose nodes have names."""
    store = tmp_path / "store"
    build_collection(embeddings(range(CLUSTERS * EACH)), store).close()
    tree = grow(store)
    tree.set_name(node_of(store, tree, range(EACH)), "Boskoop")
    tree.set_name(tree.ids[0], "Fruit")
    return store


def home(store: Path) -> Path:
    return store / "collections" / "default" / "hierarchy"


def grow(store: Path, *, inherit: bool = False) -> Hierarchy:
    with Catalogue.open(home(store).parent / "catalogue.sqlite") as catalogue:
        previous = read_former(home(store), catalogue) if inherit else None
        tree = Hierarchy.from_catalogue(catalogue, previous=previous)
    tree.save(home(store))
    return tree


def members(store: Path, tree: Hierarchy) -> dict[str, set[str]]:
    """Photos under each node, by their ids."""
    with Catalogue.open(home(store).parent / "catalogue.sqlite") as catalogue:
        names = {item.row: item.id for item in catalogue.items(limit=1000)}
    return {id_: {names[row] for row in tree.members(index).tolist()} for index, id_ in enumerate(tree.ids)}


def node_of(store: Path, tree: Hierarchy, photos: Iterable[int]) -> str:
    wanted = {f"{number}.jpg" for number in photos}
    (found,) = (id_ for id_, held in members(store, tree).items() if held == wanted)
    return found


def test_the_same_photos_by_another_model_keep_ids_and_names(store: Path, embeddings: Place) -> None:
    with Catalogue.open(home(store).parent / "catalogue.sqlite") as catalogue:
        before = Hierarchy.load(home(store), catalogue)
    held = members(store, before)
    order = np.random.default_rng(0).permutation(CLUSTERS * EACH)  # so that no photo has its row by chance
    build_collection(embeddings(order, model=2), store, replace=True).close()
    assert not (home(store) / "tree").exists()
    after = grow(store, inherit=True)
    assert after.model_hash == "fa4e00000002"
    assert len(before.ids) > CLUSTERS
    kept = {id_: now for id_, now in members(store, after).items() if id_ in held}
    assert len(kept) >= 0.8 * len(after.ids)
    assert all(len(now & held[id_]) >= 0.5 * len(now | held[id_]) for id_, now in kept.items())
    assert after.node(node_of(store, after, range(EACH))).name == "Boskoop"
    assert after.root.name == "Fruit"
    assert not (home(store) / "former").exists()
    with Catalogue.open(home(store).parent / "catalogue.sqlite") as catalogue:
        assert Hierarchy.load(home(store), catalogue).names == before.names


def test_photos_that_went_and_came_do_not_count(store: Path, embeddings: Place) -> None:
    """Three of the named eight go, and four clusters; the tree was behind its catalogue, too."""
    with Collection.open(store) as collection:
        collection.delete(["9.jpg"])
    build_collection(embeddings([*range(10, 128), 500, *range(3, 10)]), store, replace=True).close()
    with Catalogue.open(home(store).parent / "catalogue.sqlite") as catalogue:
        known = [item.id for item in catalogue.get_rows(read_former(home(store), catalogue).rows) if item]
    assert known == [f"{number}.jpg" for number in [*range(10, 128), *range(3, 9)]]
    after = grow(store, inherit=True)
    assert after.node(node_of(store, after, range(3, EACH))).name == "Boskoop"
    assert after.root.name == "Fruit"


def test_replaced_twice_before_the_next_tree(store: Path, embeddings: Place) -> None:
    for photos in (reversed(range(CLUSTERS * EACH)), range(2, CLUSTERS * EACH)):
        build_collection(embeddings(photos, model=2), store, replace=True).close()
    after = grow(store, inherit=True)
    assert after.node(node_of(store, after, range(2, EACH))).name == "Boskoop"


def test_names_of_photos_that_are_away_for_a_while_stay_in_the_file(store: Path, embeddings: Place) -> None:
    names = read_names(home(store))
    build_collection(embeddings(range(EACH, CLUSTERS * EACH)), store, replace=True).close()
    assert "Boskoop" not in {node.name for node in grow(store, inherit=True).nodes()}
    assert read_names(home(store)) == names


@pytest.mark.parametrize("what", ["tree/nodes.npz", "tree/items.npz", "tree/manifest.json", "../catalogue.sqlite"])
def test_a_tree_that_cannot_be_read_stops_nothing(
    store: Path, embeddings: Place, damage: Callable[[Path, str], None], caplog: pytest.LogCaptureFixture, what: str
) -> None:
    names = read_names(home(store))
    damage(home(store) / what, "truncated")
    with caplog.at_level(logging.WARNING, logger="index.hierarchy.former"):
        build_collection(embeddings(range(100), model=2), store, replace=True).close()
    assert "event=hierarchy_left_behind" in caplog.text
    assert [path.name for path in home(store).iterdir()] == ["names.json"]
    with Catalogue.open(home(store).parent / "catalogue.sqlite") as catalogue:
        assert catalogue.count() == 100
        with pytest.raises(HierarchyError, match="holds no whole tree"):
            read_former(home(store), catalogue)
    assert not set(grow(store).ids) & names.keys()
    assert read_names(home(store)) == names


def test_what_a_killed_save_left_beside_a_damaged_tree_is_used(
    store: Path, embeddings: Place, damage: Callable[[Path, str], None]
) -> None:
    build_collection(embeddings(range(100)), store, replace=True).close()
    (home(store) / "former").rename(home(store).parent / "kept")
    grow(store)
    (home(store).parent / "kept").rename(home(store) / "former")
    damage(home(store) / "tree" / "nodes.npz", "truncated")
    build_collection(embeddings(range(90), model=2), store, replace=True).close()
    assert grow(store, inherit=True).root.name == "Fruit"


def test_what_else_a_tree_holds_may_be_damaged(
    store: Path, embeddings: Place, damage: Callable[[Path, str], None]
) -> None:
    damage(home(store) / "tree" / "labels.json", "emptied")
    build_collection(embeddings(range(100), model=2), store, replace=True).close()
    assert grow(store, inherit=True).root.name == "Fruit"


def test_names_that_cannot_be_read_come_along_as_they_are(
    store: Path, embeddings: Place, damage: Callable[[Path, str], None]
) -> None:
    whole = (home(store) / "names.json").read_bytes()
    damage(home(store) / "names.json", "truncated")
    build_collection(embeddings(range(100), model=2), store, replace=True).close()
    with pytest.raises(HierarchyError, match="restore it from a backup"):
        grow(store, inherit=True)
    (home(store) / "names.json").write_bytes(whole)
    assert grow(store, inherit=True).root.name == "Fruit"


def test_a_tree_of_another_catalogue_is_left_behind(
    store: Path, embeddings: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """As where somebody copied a catalogue of another model to its place."""
    other = home(store).parent.parent / "other"
    build_collection(embeddings(range(60), model=2), store, "other").close()
    (other / "catalogue.sqlite").replace(home(store).parent / "catalogue.sqlite")
    build_collection(embeddings(range(100), model=2), store, replace=True).close()
    assert "has model_hash fa4e00000001, its catalogue fa4e00000002" in caplog.text
    assert not (home(store) / "former").exists()


def test_a_crash_before_the_swap_leaves_the_old_tree(
    store: Path, embeddings: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in home(store).rglob("*") if path.is_file()}
    seen: list[Path] = []

    def full(path: Path) -> None:
        seen.append(path)
        if path.name == "names.json":
            raise OSError("no space left on device")

    folder = embeddings(range(100), model=2)
    with monkeypatch.context() as patch:
        patch.setattr(index.files, "sync", full)
        with pytest.raises(OSError, match="no space left"):
            build_collection(folder, store, replace=True)
    assert seen[-1].parent.name == "hierarchy"
    assert seen[-1].parent.parent.name.endswith(".lhier-new")
    assert {path: path.read_bytes() for path in home(store).rglob("*") if path.is_file()} == before
    with Catalogue.open(home(store).parent / "catalogue.sqlite") as catalogue:
        assert catalogue.count() == CLUSTERS * EACH
        assert Hierarchy.load(home(store), catalogue).root.name == "Fruit"


def test_a_collection_without_a_tree_leaves_none(embeddings: Place, tmp_path: Path) -> None:
    for _ in range(2):
        build_collection(embeddings(range(20)), tmp_path / "store", replace=True).close()
    assert not home(tmp_path / "store").exists()
