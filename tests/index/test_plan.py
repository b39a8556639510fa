"""Which kind a collection gets and why, drift, rebuilds beside searches, and what the command line shows of it."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from hyperbolic.embedder import Embedder
from index import plan as plans
from index.catalogue import Item
from index.cli import Bytes, embed, index
from index.collection import Collection
from index.errors import SnapshotError
from index.files import sha256
from index.lorentz_index import LorentzIndex
from index.plan import Plan, choose, estimated_bytes, outgrown, read_request, write_request

MODEL = {"embedding_dim": 4, "c": 0.5, "model_hash": "abc"}


@pytest.mark.parametrize(
    ("count", "radius", "memory", "kind", "why"),
    [
        (0, 1.0, None, "flat", "no points"),
        (20_000, 8.0, None, "flat", "about a millisecond"),
        (20_001, 8.0, None, "ivf", "no memory budget"),
        (1_000_000, 13.0, None, "flat", "radius 13.0"),
        (1_000_000, 8.0, 400_000_000, "ivf", "400 MB are allowed"),
        (1_000_000, 8.0, 200_000_000, "ivf_sq8", "which fit"),
        (1_000_000, 8.0, 10_000_000, "ivf_sq8", "more still"),
        (10_000, 8.0, 1_000_000, "ivf_sq8", "1 MB are allowed"),
    ],
)
def test_auto_chooses_by_count_radius_and_memory(
    count: int, radius: float, memory: int | None, kind: str, why: str
) -> None:
    chosen, reason = choose("auto", count, 64, np.full(min(count, 1), radius), memory)
    assert chosen == kind
    assert why in reason


def test_what_is_asked_for_is_built() -> None:
    assert choose("ivf", 5, 64, np.ones(5), None) == ("ivf", "asked for")
    assert choose("flat", 10**6, 64, np.ones(1), 1)[0] == "flat"
    with pytest.raises(ValueError, match="'auto', 'flat', 'ivf', 'ivf_sq8'"):
        choose("hnsw", 5, 64, np.ones(5), None)  # type: ignore[arg-type]
    for name in ("nlist", "nprobe", "memory"):
        with pytest.raises(ValueError, match=f"{name} >= 1"):
            LorentzIndex.build(np.zeros((2, 2)), [0, 1], 1.0, "ivf", **{name: 0})


@pytest.mark.parametrize("kind", ["flat", "ivf", "ivf_sq8"])
def test_estimates_hold_what_is_held(kind: plans.Kind, tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(size=(8000, 32)).astype(np.float32)
    LorentzIndex.build(points, np.arange(8000), 1.0, kind, nprobe=4).save(tmp_path / "index")
    held = LorentzIndex.load(tmp_path / "index").resident_bytes
    assert held == pytest.approx(estimated_bytes(kind, 8000, 32), rel=0.1)


def test_drift() -> None:
    lists = Plan(kind="ivf", requested="auto", count=10_000, imbalance=1.5)
    assert outgrown(lists, 10_000, 10_000, 1.6) is None
    assert "hold 20001" in str(outgrown(lists, 20_001, 20_001, 1.5))
    assert "4000 of 14000 positions are empty" in str(outgrown(lists, 10_000, 14_000, 1.5))
    assert "imbalance went from 1.50 to 3.10" in str(outgrown(lists, 10_000, 10_000, 3.1))
    flat = Plan(kind="flat", requested="auto", count=100)
    assert outgrown(flat, 20_000, 20_000, 1) is None
    assert "built flat" in str(outgrown(flat, 20_001, 20_001, 1))
    assert outgrown(Plan(), 10**6, 10**6, 1) is None  # flat was asked for


def test_points_that_fall_into_one_list_are_noticed(grow_tree: Callable) -> None:
    points = grow_tree(3.0, 100, count=4000, dim=8)
    built = LorentzIndex.build(points, np.arange(4000), 1.0, "ivf")
    assert built.outgrown is None
    built.add(np.repeat(points[:1], 2500, axis=0), np.arange(10_000, 12_500))
    assert "imbalance" in str(built.outgrown)


def test_format_1_still_loads(tmp_path: Path) -> None:
    """A folder as version 0.1 wrote it: by hand, since no code writes it any more."""
    import faiss

    points = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    times = np.sqrt(1 / 0.5 + (points.astype(np.float64) ** 2).sum(1, keepdims=True))
    flat = faiss.IndexFlatIP(5)
    flat.add(np.concatenate([times, points], axis=1).astype(np.float32))
    faiss.write_index(flat, str(tmp_path / "index.faiss"))
    np.save(tmp_path / "ids.npy", np.arange(50) * 3)
    hashes = {name: sha256(tmp_path / name) for name in ("ids.npy", "index.faiss")}
    description = {"format_version": 1, "kind": "flat", "generator": "inner_product", "embedding_dim": 4, "c": 0.5,
                   "count": 50, "files": hashes}  # fmt: skip
    (tmp_path / "index.json").write_text(json.dumps(description))
    loaded = LorentzIndex.load(tmp_path)
    assert (loaded.kind, len(loaded), loaded.plan.reason) == ("flat", 50, "built before there were other kinds")
    assert loaded.search(points[7:8], 1)[1].tolist() == [[21]]
    loaded.add(points[:1] * 2, [1])
    loaded.save(tmp_path / "new")
    assert json.loads((tmp_path / "new" / "index.json").read_text())["format_version"] == 2
    (tmp_path / "index.json").write_text(json.dumps(description | {"format_version": 3}))
    with pytest.raises(SnapshotError, match=r"format 3, this version reads.*lhier index rebuild"):
        LorentzIndex.load(tmp_path)


def test_requests_are_kept(tmp_path: Path) -> None:
    assert read_request(tmp_path)["kind"] == "auto"
    write_request(tmp_path, {"kind": "ivf", "memory": 10, "nlist": None, "nprobe": 3})
    assert read_request(tmp_path) == {"kind": "ivf", "memory": 10, "nlist": None, "nprobe": 3}
    sound = '{"kind": "ivf", "memory": 1, "nlist": 1, "nprobe": 1}'
    broken_numbers = [sound.replace('"nlist": 1', f'"nlist": {value}') for value in ("0", "-1", "1.5", '"1"', "[]")]
    for broken in ("{", "[]", '{"kind": "ivf"}', sound.replace("ivf", "x"), *broken_numbers):
        (tmp_path / "index_request.json").write_text(broken)
        assert read_request(tmp_path)["kind"] == "auto"


def test_a_collection_that_grows_gets_lists_while_it_is_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "FLAT_UP_TO", 300)
    rng = np.random.default_rng(0)
    space = rng.normal(size=(1000, 4)).astype(np.float32)
    items = [Item(f"i{n}", point) for n, point in enumerate(space)]
    going, building = threading.Event(), threading.Event()
    build = LorentzIndex.build

    def slow(*arguments: object, **options: object) -> LorentzIndex:
        building.set()
        assert going.wait(30)
        return build(*arguments, **options)  # type: ignore[arg-type]

    with Collection.create(tmp_path / "store", **MODEL) as collection:
        collection.upsert(items[:200])
        assert collection.index.kind == "flat"
        before = collection.generation
        monkeypatch.setattr(LorentzIndex, "build", slow)
        collection.upsert(items[200:600])
        assert building.wait(30)
        # The rebuild waits: searches and writes do not.
        assert collection.search(space[500], 1)[0].item.id == "i500"
        collection.delete(["i0"])
        collection.upsert(items[600:])
        assert collection.index.kind == "flat"
        going.set()
        assert collection._rebuilding.wait(30)
        assert collection.index.kind == "ivf"
        assert collection.generation != before
        assert len(collection.index) == collection.count == 999
        assert collection.search(space[0], 1, exact=True)[0].item.id != "i0"
        for n in (1, 500, 999):
            (hit,) = collection.search(space[n], 1, exact=True)
            assert (hit.item.id, hit.distance, hit.exact) == (f"i{n}", 0.0, True)
    with Collection.open(tmp_path / "store") as again:
        assert (again.index.kind, len(again.index)) == ("ivf", 999)
        assert again.search(space[999], 1)[0].item.id == "i999"


def test_generations_saved_during_a_rebuild_do_not_cost_it_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = LorentzIndex.build
    space = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    with Collection.create(tmp_path / "store", **MODEL) as collection:
        collection.upsert([Item(f"i{n}", point) for n, point in enumerate(space)])

        def build_slowly(*arguments: object, **options: object) -> LorentzIndex:
            for n in range(2):
                collection.upsert([Item(f"later{n}", space[n] * 2)])
                collection.snapshot()
            return build(*arguments, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(LorentzIndex, "build", build_slowly)
        name = collection.rebuild()
        assert collection.generation == name
        assert len(collection.index) == collection.count == 32


def test_a_rebuild_that_fails_leaves_the_old_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(plans, "FLAT_UP_TO", 30)
    space = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    with Collection.create(tmp_path / "store", **MODEL) as collection:

        def fail(*_: object, **__: object) -> None:
            raise MemoryError("no room")

        monkeypatch.setattr(LorentzIndex, "build", fail)
        collection.upsert([Item(f"i{n}", point) for n, point in enumerate(space)])
        assert collection._rebuilding.wait(30)
        collection.upsert([Item("more", space[0] * 2)])  # does not start another
        assert collection.index.kind == "flat"
        assert collection.search(space[5], 1)[0].item.id == "i5"
    assert caplog.text.count("event=rebuild_failed") == 1


def test_the_command_line_builds_a_kind_and_says_why(
    tmp_path: Path, photos: Path, fake_embedder: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Embedder, "load", lambda *_, **__: fake_embedder)
    (tmp_path / "run").mkdir()
    points, store = tmp_path / "points", tmp_path / "store"

    def run(command: Any, *arguments: object) -> str:
        result = CliRunner().invoke(command, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    run(embed, tmp_path / "run", photos, "--out", points)
    said = run(index, "build", points, "--store", store, "--kind", "ivf", "--nlist", 3, "--nprobe", 2)
    assert "index: ivf (asked for)" in said
    told = json.loads(run(index, "info", store, "--json"))[0]["index"]
    assert (told["kind"], told["reason"], told["lists"], told["nprobe"]) == ("ivf", "asked for", 3, 2)
    assert 0 < told["recall"] <= 1
    shown = run(index, "info", store)
    assert "index kind     ivf" in shown
    assert "index lists    3" in shown
    assert "equal all distances in float64" in run(index, "verify", store)
    run(index, "rebuild", store)
    assert json.loads(run(index, "info", store, "--json"))[0]["index"]["lists"] == 3
    assert "ivf_sq8 (12 points take" in run(index, "build", points, "--store", store, "--replace", "--memory", "100B")
    assert "index: flat (12 points" in run(index, "build", points, "--store", store, "--replace")


def test_sizes() -> None:
    convert = Bytes().convert
    sizes = {"1500": 1500, "800MB": 800_000_000, "4gb": 4 * 10**9, "1.5 K": 1500, "7B": 7}
    assert {text: convert(text, None, None) for text in sizes} == sizes
    for text in ("", "x", "0", "-1MB", "1PB"):
        with pytest.raises(Exception, match="expected a size"):
            convert(text, None, None)
