"""ServedTree: views that never change, readers beside writers and rebuilds, names, damage."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from index.catalogue import Catalogue, Item
from index.collection import Collection
from index.hierarchy.answers import Answers
from index.hierarchy.store import HierarchyError, read_names
from index.hierarchy.tree import Hierarchy
from service.hierarchy import tree as served
from service.hierarchy.answers import TreeTeller
from service.hierarchy.tree import NoTreeError, ServedTree, TreeUnavailableError
from service.hierarchy.view import NotFittedError, TreeView

from .grove import COUNT, build_tree, items, plant

DIM, C, MODEL = 8, 0.7, "fa4e00000001"
WAIT_S = 20.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = plant(tmp_path / "store", "grove", dim=DIM, c=C, model_hash=MODEL)
    build_tree(folder)
    return folder


@pytest.fixture
def collection(folder: Path) -> Iterator[Collection]:
    with Collection.open(folder.parent.parent, folder.name) as collection:
        yield collection


def new_items(count: int, seed: int) -> list[Item]:
    rng = np.random.default_rng(seed)
    chosen = rng.choice(items(DIM), count)
    return [
        Item(f"new/{seed}/{i}", (item.space + rng.normal(0, 0.05, DIM)).astype(np.float32), labels=item.labels)
        for i, item in enumerate(chosen)
    ]


def digest(view: TreeView) -> str:
    """Of all that a reader can see of a view, names excepted."""
    tree = view.hierarchy
    parts = [tree.rows, tree.owners, tree.item_space, tree.parents, tree.heights, tree.sizes, tree.radii, tree.space]
    text = repr((tree.ids, [tree.labels(node) for node in range(len(tree.ids))], view.sequence))
    return hashlib.sha256(b"".join(part.tobytes() for part in parts) + text.encode()).hexdigest()


def until(true: Callable[[], object], wait_s: float = WAIT_S) -> None:
    deadline = time.monotonic() + wait_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_view_has_the_last_write_and_never_changes(collection: Collection) -> None:
    tree = ServedTree(collection)
    first = tree.view()
    assert tree.view() is first
    assert len(first.hierarchy) == COUNT
    before = digest(first)
    asked = first.hierarchy.item_space[5]
    answered = first.answers.path(asked)
    collection.upsert(new_items(30, 1))
    collection.delete(["f0/k0/000", "f1/k5/047"])
    second = tree.view()
    assert second is not first
    assert len(second.hierarchy) == collection.count == COUNT + 28
    assert second.sequence == collection.catalogue.sequence
    assert second.hierarchy.ids == first.hierarchy.ids
    assert digest(first) == before
    assert first.answers.path(asked) == answered
    # The same as a tree that was loaded now.
    loaded = Hierarchy.load(collection.folder / "hierarchy", collection.catalogue)
    assert np.array_equal(loaded.owners, second.hierarchy.owners)
    assert np.abs(loaded.radii - second.hierarchy.radii).max() <= 1e-6
    for node in range(len(loaded.ids)):
        assert second.hierarchy.labels(node) == loaded.labels(node)


def test_what_was_deleted_since_is_left_out(collection: Collection) -> None:
    view = ServedTree(collection).view()
    gone = set(range(0, COUNT, 2))
    ids = [item.id for item in items(DIM)]
    collection.delete([ids[i] for i in gone])
    teller = TreeTeller(view, collection)
    left = {ids[i] for i in range(COUNT)} - {ids[i] for i in gone}
    assert {item.id for item in teller.members(0, "stored", 1000, None).items} == left
    assert {item.id for item in teller.members(0, "nearest", 1000, None).items} == left
    nodes = teller.below(0, 32, 2000).nodes
    assert {exemplar.id for node in nodes for exemplar in node.exemplars} <= left
    assert {item.id for item in teller.projection(0, 100, 1000).items} == left
    near = view.answers.zoom(view.hierarchy.item_space[0], 64, 1000).items
    assert {item.id for item in teller.near(near)} == left
    collection.delete(ids)
    assert TreeTeller(view, collection).node(0).exemplars == []


def test_readers_go_on_beside_writes_and_rebuilds(collection: Collection) -> None:
    tree = ServedTree(collection)
    stop, errors, reads = threading.Event(), [], [0, 0, 0]

    def read(number: int) -> None:
        rng = np.random.default_rng(number)
        try:
            while not stop.is_set():
                view = tree.view()
                before = digest(view)
                teller = TreeTeller(view, collection)
                hierarchy = view.hierarchy
                node = int(rng.integers(len(hierarchy.ids)))
                path = teller.path(view.answers.path(hierarchy.item_space[int(rng.integers(len(hierarchy)))]))
                told = [step.probability for step in path.nodes]
                assert told == sorted(told)
                assert told[-1] == 1
                listed = teller.below(0, 32, 2000).nodes
                assert len(listed) == len(hierarchy.ids)
                assert listed[0].size == len(hierarchy) == len(hierarchy.members(0))
                assert teller.members(node, "nearest", 5, None).total == hierarchy.sizes[node]
                teller.projection(node, 20, 20)
                view.specificities(hierarchy.rows[:50])
                assert digest(view) == before
                reads[number] += 1
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=read, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for seed in range(8):
        collection.upsert(new_items(10, seed))
        collection.delete([item.id for item in new_items(10, seed)[::2]])
        if seed % 4 == 1:
            build_tree(collection.folder, max_children=3 + seed)
        if seed % 4 == 3:
            tree.build(lambda _: None, min_size=2, max_children=6)
        tree.rename(tree.view().hierarchy.ids[0], f"name {seed}")
        done = list(reads)
        until(lambda done=done: errors or all(a > b for a, b in zip(reads, done, strict=True)))
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors
    last = tree.view()
    assert len(last.hierarchy) == collection.count == COUNT + 40
    assert last.title(0) == "name 7"
    assert read_names(collection.folder / "hierarchy") == {last.hierarchy.ids[0]: "name 7"}


def test_a_long_sync_keeps_no_reader_waiting(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = ServedTree(collection)
    first = tree.view()
    begun, go_on = threading.Event(), threading.Event()
    sync = Hierarchy.sync

    def slow(self: Hierarchy, catalogue: Catalogue) -> int:
        begun.set()
        assert go_on.wait(WAIT_S)
        return sync(self, catalogue)

    monkeypatch.setattr(Hierarchy, "sync", slow)
    monkeypatch.setattr(served, "PATIENCE_S", 0.05)
    collection.upsert(new_items(3, 1))
    started = time.monotonic()
    assert tree.view() is first
    assert time.monotonic() - started < 5
    assert begun.is_set()
    assert tree.glance() is first
    node = first.hierarchy.ids[3]
    tree.rename(node, "Given meanwhile")  # to the old view, and not lost with it
    go_on.set()
    until(lambda: tree.view() is not first)
    assert len(tree.view().hierarchy) == COUNT + 3
    assert tree.view().hierarchy.names == {node: "Given meanwhile"}


def test_searches_alone_start_no_sync_after_sync(collection: Collection) -> None:
    tree = ServedTree(collection)
    assert tree.glance() is None  # which loads it
    until(lambda: tree.glance() is not None and tree._running is None)
    first = tree.glance()
    tree._rest_until = time.monotonic() + 60
    collection.upsert(new_items(1, 1))
    for _ in range(20):
        assert tree.glance() is first
        time.sleep(0.02)
    assert tree.view() is not first  # a question about the tree does


def test_a_tree_built_by_another_process_is_noticed(collection: Collection) -> None:
    tree = ServedTree(collection)
    first = tree.view()
    build_tree(collection.folder, max_children=3)
    second = tree.view()
    assert second is not first
    assert max(len(second.hierarchy.children(node)) for node in range(len(second.hierarchy.ids))) == 3
    other = Hierarchy.load(collection.folder / "hierarchy", collection.catalogue)
    assert other.ids == second.hierarchy.ids
    other.set_name(other.ids[2], "From elsewhere")
    assert tree.view().title(2) == "From elsewhere"


def test_build_does_what_the_command_does(collection: Collection, folder: Path) -> None:
    tree = ServedTree(collection)
    first = tree.view()
    kept = first.hierarchy.ids[1]
    tree.rename(kept, "Kept")
    collection.upsert(new_items(40, 3))
    stages: list[str] = []
    built = tree.build(stages.append, min_size=2, max_children=6)
    assert stages == ["read", "link", "fit", "save", "load"]
    assert len(built.hierarchy) == COUNT + 40
    assert built.hierarchy.changed == 0
    assert built.answers.fit.fitted_on == f"leave-one-out: {COUNT + 40} items"
    assert built.hierarchy.names == {kept: "Kept"}
    assert kept in built.hierarchy.ids
    for bearing in ("link", "fit", "save"):

        def give_up(stage: str, bearing: str = bearing) -> None:
            if stage == bearing:
                raise InterruptedError(stage)

        with pytest.raises(InterruptedError):
            tree.build(give_up)
        assert tree.view() is built
    assert sorted(path.name for path in (folder / "hierarchy").iterdir()) == ["names.json", "tree"]


def test_a_first_tree_is_built(collection: Collection, folder: Path, tmp_path: Path) -> None:
    bare = plant(tmp_path / "other", "bare", dim=DIM, c=C, model_hash=MODEL)
    with Collection.open(bare.parent.parent, bare.name) as other:
        tree = ServedTree(other)
        assert not tree.exists
        assert tree.glance() is None
        with pytest.raises(NoTreeError, match="hierarchy build"):
            tree.view()
        assert len(tree.build(lambda _: None).hierarchy) == COUNT
        assert tree.exists


@pytest.mark.parametrize("file", ["nodes.npz", "items.npz", "fit.json", "manifest.json"])
def test_damage_is_told_and_mended(collection: Collection, folder: Path, file: str) -> None:
    path = folder / "hierarchy" / "tree" / file
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    tree = ServedTree(collection)
    assert tree.exists
    for _ in range(3):
        with pytest.raises(TreeUnavailableError) as raised:
            tree.view()
        assert str(folder) not in str(raised.value)
    assert tree.glance() is None
    assert collection.search(items(DIM)[0].space, 3)
    build_tree(folder)
    view = tree.view()
    assert len(view.hierarchy) == COUNT
    # A later tree that is damaged does not take the one in memory away.
    build_tree(folder)
    path.write_bytes(b"")
    assert tree.view() is view
    assert tree.view() is view


def test_damaged_names_are_not_written_over(collection: Collection, folder: Path) -> None:
    tree = ServedTree(collection)
    node = tree.view().hierarchy.ids[1]
    tree.rename(node, "Kept")
    names = folder / "hierarchy" / "names.json"
    whole = names.read_bytes()
    names.write_bytes(whole[:-5])
    assert tree.view().title(1) == "Kept"
    with pytest.raises(TreeUnavailableError):
        tree.rename(node, "Other")
    with pytest.raises(HierarchyError):
        tree.build(lambda _: None)
    assert names.read_bytes() == whole[:-5]
    names.write_bytes(whole)
    assert tree.rename(node, "Other").title(1) == "Other"


def test_specificities_are_those_of_the_tree(collection: Collection) -> None:
    tree = ServedTree(collection)
    view = tree.view()
    rows = view.hierarchy.rows
    expected, _ = Answers(view.hierarchy).specificity(view.hierarchy.item_space)
    some = view.specificities(rows[[7, 3, 7]])
    assert np.abs(some - expected[[7, 3, 7]]).max() <= 1e-12
    assert np.abs(view.specificities(rows) - expected).max() <= 1e-12
    assert np.isnan(view.specificities([10**9])).tolist() == [True]
    described = view.describe(view.hierarchy.item_space[7])
    assert described.specificity == pytest.approx(expected[7], abs=1e-12)
    assert view.specificity(view.hierarchy.item_space[7]) == pytest.approx(
        (described.specificity, described.in_distribution), abs=1e-12
    )
    collection.delete([item.id for item in items(DIM)])
    assert tree.glance() is None or tree.glance() is view
    with pytest.raises(NotFittedError):
        tree.view().specificities(rows)


def test_a_collection_that_goes_away_leaves_the_view(folder: Path) -> None:
    collection = Collection.open(folder.parent.parent, folder.name)
    tree = ServedTree(collection)
    view = tree.view()
    collection.close()
    assert view.answers.path(view.hierarchy.item_space[0]).nodes
    assert tree.glance() is None  # the catalogue cannot be asked any more
