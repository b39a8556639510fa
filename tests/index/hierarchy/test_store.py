"""Trees on disk: whole or refused, names that outlive rebuilds, and catalogues that went on."""

import json

import numpy as np
import pytest

from index.catalogue import Catalogue, Item
from index.errors import ModelMismatchError, StoreError
from index.files import sha256
from index.hierarchy import Hierarchy
from index.hierarchy.fitting import fit
from index.hierarchy.store import HierarchyError

C = 0.7
FILES = ("manifest.json", "nodes.npz", "items.npz", "labels.json")


@pytest.fixture
def saved(hierarchy, tmp_path):
    hierarchy.save(tmp_path / "hierarchy")
    return tmp_path / "hierarchy"


@pytest.fixture
def catalogue(forest, tmp_path):
    space, _, labels = forest
    with Catalogue.create(tmp_path / "catalogue.sqlite", embedding_dim=16, c=C, model_hash="fa4e00000001") as opened:
        opened.upsert([Item(f"{i}.jpg", space[i], labels[i]) for i in range(500)])
        yield opened


def same(a, b):
    for name in ("c", "embedding_dim", "model_hash", "sequence", "ids", "names", "changed"):
        assert getattr(a, name) == getattr(b, name), name
    for name in ("parents", "heights", "rows", "owners", "item_space", "sizes", "depths"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name
    assert np.allclose(a.radii, b.radii, rtol=1e-9)
    assert np.allclose(a.space, b.space, rtol=1e-6)
    assert list(a.nodes()) == [*b.nodes()] or np.allclose(a.radii, b.radii, rtol=1e-9)


def test_what_is_saved_is_loaded(hierarchy, saved, forest):
    space, rows, _ = forest
    loaded = Hierarchy.load(saved, (rows, space))
    same(hierarchy, loaded)
    for mine, theirs in zip(hierarchy.nodes(), loaded.nodes(), strict=True):
        assert (mine.id, mine.labels, mine.exemplars, mine.name) == (
            theirs.id, theirs.labels, theirs.exemplars, theirs.name
        )  # fmt: skip
    assert not list(saved.glob(".*"))


def test_points_come_from_elsewhere_in_any_order(saved, forest, hierarchy):
    space, rows, _ = forest
    order = np.random.default_rng(0).permutation(600)
    same(hierarchy, Hierarchy.load(saved, (rows[order], space[order])))
    with pytest.raises(HierarchyError, match="points were not given: rows"):
        Hierarchy.load(saved, (rows[:-1], space[:-1]))
    with pytest.raises(HierarchyError, match="needs space parts of shape"):
        Hierarchy.load(saved, (rows, space[:, :3]))


def test_the_fit_goes_with_the_tree(hierarchy, saved, forest):
    space, rows, _ = forest
    assert Hierarchy.load(saved, (rows, space)).fit is None
    hierarchy.fit = fit(hierarchy)
    hierarchy.save(saved)
    assert Hierarchy.load(saved, (rows, space)).fit == hierarchy.fit
    path = saved / "tree" / "fit.json"
    path.write_text(path.read_text().replace("1", "2", 1))
    with pytest.raises(HierarchyError, match=r"fit\.json is damaged"):
        Hierarchy.load(saved, (rows, space))


def test_an_empty_tree(tmp_path):
    Hierarchy.build(np.zeros((0, 3), np.float32), [], C).save(tmp_path / "h")
    assert len(Hierarchy.load(tmp_path / "h", (np.zeros(0), np.zeros((0, 3))))) == 0


@pytest.mark.parametrize("how", ["flipped", "truncated", "emptied", "removed"])
@pytest.mark.parametrize("file", FILES)
def test_damage_is_told_and_never_a_crash(saved, forest, damage, file, how):
    space, rows, _ = forest
    damage(saved / "tree" / file, how)
    with pytest.raises(StoreError, match="lhier hierarchy build"):
        Hierarchy.load(saved, (rows, space))


def test_every_cut_of_the_manifest_is_told(saved, forest):
    space, rows, _ = forest
    text = (saved / "tree" / "manifest.json").read_text()
    for end in range(0, len(text) - 2, 7):
        (saved / "tree" / "manifest.json").write_text(text[:end])
        with pytest.raises(HierarchyError):
            Hierarchy.load(saved, (rows, space))


@pytest.mark.parametrize(
    ("key", "value"),
    [("format_version", 99), ("nodes", 3), ("items", 3), ("c", "flat"), ("files", {}), ("files", None),
     ("files", {"../names.json": "0"}), ("sequence", None), ("embedding_dim", 7), ("changed", [])],
)  # fmt: skip
def test_a_manifest_that_lies_is_told(saved, forest, key, value):
    space, rows, _ = forest
    manifest = json.loads((saved / "tree" / "manifest.json").read_text())
    (saved / "tree" / "manifest.json").write_text(json.dumps(manifest | {key: value}))
    with pytest.raises(HierarchyError):
        Hierarchy.load(saved, (rows, space))


@pytest.mark.parametrize(
    ("array", "wrong"),
    [("parents", [-1, 0, 0, 1]), ("parents", [-1, 2, 1]), ("parents", [0, 0]), ("parents", []), ("parents", "objects")],
)
def test_nodes_that_are_no_tree_are_told(saved, forest, array, wrong):
    """Even with a hash that is right."""
    space, rows, _ = forest
    path = saved / "tree" / "nodes.npz"
    with np.load(path) as nodes:
        arrays = dict(nodes)
    if wrong == "objects":
        arrays[array] = np.array([{"a": 1}], dtype=object)
    else:
        arrays |= {array: np.array(wrong), "ids": arrays["ids"][: len(wrong)], "heights": np.zeros(len(wrong))}
    np.savez(path, **arrays)
    manifest = json.loads((saved / "tree" / "manifest.json").read_text())
    manifest["files"]["nodes.npz"], manifest["nodes"] = sha256(path), len(wrong)
    (saved / "tree" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(HierarchyError, match=r"inconsistent|cannot be read"):
        Hierarchy.load(saved, (rows, space))


def test_a_missing_folder_is_told(tmp_path, forest):
    space, rows, _ = forest
    with pytest.raises(HierarchyError, match="holds no whole tree"):
        Hierarchy.load(tmp_path / "nowhere", (rows, space))


def test_names_are_durable(hierarchy, saved, forest):
    space, rows, _ = forest
    node = hierarchy.ids[2]
    hierarchy.set_name(node, "Äpfel")
    assert Hierarchy.load(saved, (rows, space)).node(node).name == "Äpfel"
    # Another process names another node; neither name is lost.
    other = Hierarchy.load(saved, (rows, space))
    hierarchy.set_name(hierarchy.ids[4], "later")
    other.set_name(other.ids[5], "elsewhere")
    assert set(Hierarchy.load(saved, (rows, space)).names.values()) == {"Äpfel", "later", "elsewhere"}
    other.set_name(node, None)
    assert Hierarchy.load(saved, (rows, space)).node(node).name is None


def test_names_outlive_a_rebuild_on_disk(hierarchy, saved, forest):
    space, rows, _ = forest
    node = next(node for node in hierarchy.nodes() if node.size == 12)
    hierarchy.set_name(node.id, "a kind")
    again = Hierarchy.build(space[3:], rows[3:], C, previous=Hierarchy.load(saved, (rows, space)))
    again.save(saved)
    loaded = Hierarchy.load(saved, (rows, space))
    assert loaded.node(node.id).name == "a kind"
    # A tree that knows nothing of its predecessor takes no name away either.
    Hierarchy.build(space, rows, C).save(saved)
    assert Hierarchy.load(saved, (rows, space)).names[node.id] == "a kind"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"names": 3}', '{"format_version": 1, "names": {"a": 5}}'])
def test_damaged_names_are_told(hierarchy, saved, forest, text):
    space, rows, _ = forest
    hierarchy.set_name(hierarchy.ids[2], "Apples")
    (saved / "names.json").write_text(text)
    with pytest.raises(StoreError, match="restore it from a backup"):
        Hierarchy.load(saved, (rows, space))
    with pytest.raises(StoreError, match="restore it from a backup"):
        hierarchy.set_name(hierarchy.ids[2], "Pears")


def test_a_save_that_fails_leaves_the_old_tree(hierarchy, saved, forest, monkeypatch):
    space, rows, _ = forest
    ids = list(hierarchy.ids)
    monkeypatch.setattr(np, "savez", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        Hierarchy.build(space[:50], rows[:50], C).save(saved)
    monkeypatch.undo()
    assert Hierarchy.load(saved, (rows, space)).ids == ids


def test_from_a_catalogue_and_back(catalogue, tmp_path, forest):
    _, _, labels = forest
    tree = Hierarchy.from_catalogue(catalogue)
    assert (len(tree), tree.sequence, tree.model_hash, tree.c) == (500, 1, "fa4e00000001", C)
    assert sum(tree.root.labels[0].values()) == 500
    assert Hierarchy.from_catalogue(catalogue, with_labels=False).root.labels == ()
    tree.save(tmp_path / "h")
    same(tree, Hierarchy.load(tmp_path / "h", catalogue))
    row = int(tree.rows[7])
    assert tree.labels(tree.owner_of(row))[1][labels[7]] >= 1


def go_on(catalogue, forest):
    """New items, deleted items, an item whose photo was replaced, and one that went and came again."""
    space, _, labels = forest
    catalogue.upsert([Item(f"{i}.jpg", space[i], labels[i]) for i in range(500, 560)])
    catalogue.delete([f"{i}.jpg" for i in range(20, 50)])
    catalogue.upsert([Item("0.jpg", space[590], labels[590]), Item("30.jpg", space[30], labels[30])])


def expected_rows(catalogue):
    changes = catalogue.changes()
    return dict(zip(changes.rows.tolist(), changes.space, strict=True))


@pytest.mark.parametrize("reloaded", [False, True])
def test_a_catalogue_that_went_on(catalogue, forest, tmp_path, reloaded):
    _, _, labels = forest
    tree = Hierarchy.from_catalogue(catalogue)
    tree.save(tmp_path / "h")
    go_on(catalogue, forest)
    if reloaded:
        tree = Hierarchy.load(tmp_path / "h", catalogue)
    else:
        assert tree.sync(catalogue) == 60 + 30 + 2
    truth = expected_rows(catalogue)
    assert tree.rows.tolist() == sorted(truth)
    assert all(np.array_equal(tree.item_space[i], truth[row]) for i, row in enumerate(tree.rows.tolist()))
    assert tree.sequence == catalogue.sequence == 4
    assert tree.sync(catalogue) == 0
    fresh = Hierarchy.from_catalogue(catalogue)
    assert tree.root.labels == fresh.root.labels
    assert tree.radii[0] == pytest.approx(min(fresh.radii[0], tree.radii.min()), rel=1e-6)
    moved = tree.owner_of(catalogue.get("0.jpg").row)
    assert labels[590][:1] in tree.labels(moved)[0]
    tree.save(tmp_path / "h")
    same(tree, Hierarchy.load(tmp_path / "h", catalogue))


def test_a_tree_of_another_collection_is_refused(catalogue, tmp_path, forest):
    space, _, labels = forest
    tree = Hierarchy.from_catalogue(catalogue)
    tree.save(tmp_path / "h")
    options = {"embedding_dim": 16, "c": C, "model_hash": "fa4e00000001"}
    for number, (change, told) in enumerate(
        [({}, "at write 1, its catalogue only at 0"), ({"c": 0.8}, "has c"), ({"model_hash": "0"}, "has model_hash")]
    ):
        with Catalogue.create(tmp_path / f"{number}.sqlite", **{**options, **change}) as other:
            with pytest.raises(HierarchyError, match=told):
                Hierarchy.load(tmp_path / "h", other)
            if "model_hash" in change:
                with pytest.raises(ModelMismatchError):
                    tree.sync(other)
    with Catalogue.create(tmp_path / "fewer.sqlite", **options) as other:
        other.upsert([Item("a", space[0], labels[0])])
        with pytest.raises(HierarchyError, match="never had"):
            Hierarchy.load(tmp_path / "h", other)


@pytest.mark.parametrize("file", ["nodes.npz", "items.npz"])
def test_what_would_grow_when_it_is_read_is_refused(saved, forest, file):
    path = saved / "tree" / file
    with np.load(path) as arrays:
        kept = dict(arrays)
    np.savez_compressed(path, **kept, more=np.zeros(1_000_000))  # a thousandth of its size in the file
    manifest = json.loads((saved / "tree" / "manifest.json").read_text())
    manifest["files"][file] = sha256(path)
    (saved / "tree" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(HierarchyError, match="compressed"):
        Hierarchy.load(saved, forest)
