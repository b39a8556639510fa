"""`lhier hierarchy` as a person types it, over a store of small photos whose points are their colours."""

import inspect
import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import networkx
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from hyperbolic.embedder import Embedder
from index.cli import embed, index
from index.collection import Collection
from index.hierarchy import Hierarchy
from index.hierarchy.cli import hierarchy
from index.hierarchy.opened import find_node, tree_of
from lhier.cli import main

# Two families of three kinds each, in far corners of the colour cube.
KINDS = {
    "warm/red": (230, 20, 20), "warm/orange": (240, 90, 20), "warm/pink": (240, 30, 100),
    "cold/blue": (10, 60, 230), "cold/cyan": (10, 150, 240), "cold/violet": (70, 10, 240),
}  # fmt: skip


def run(*arguments: object) -> Result:
    return CliRunner().invoke(hierarchy, [str(argument) for argument in arguments])


def answer_of(*arguments: object) -> Any:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def paint(root: Path, each: int, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    for kind, colour in KINDS.items():
        (root / kind).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            shade = np.clip(np.array(colour) + rng.integers(-9, 10, 3), 0, 255)
            Image.new("RGB", (8, 8), tuple(shade.tolist())).save(root / kind / f"{number:02d}.png")


@pytest.fixture
def store(fake_embedder: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A collection of 72 photos, without a tree; `points-val` beside it has 30 others, `run` is the checkpoint."""
    monkeypatch.setattr(Embedder, "load", lambda *_, **__: fake_embedder)
    (tmp_path / "run").mkdir()
    paint(tmp_path / "photos", 12)
    paint(tmp_path / "other", 5, seed=1)
    steps = [
        (embed, [tmp_path / "run", tmp_path / "photos", "--out", tmp_path / "points"]),
        (embed, [tmp_path / "run", tmp_path / "other", "--out", tmp_path / "points-val"]),
        (index, ["build", tmp_path / "points", "--store", tmp_path / "store"]),
    ]
    for command, arguments in steps:
        result = CliRunner().invoke(command, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
    return tmp_path / "store"


@pytest.fixture
def built(store: Path) -> Path:
    assert run("build", store, "--validation", store.parent / "points-val").exit_code == 0
    return store


def named(tree: dict[str, Any], label: list[str]) -> dict[str, Any]:
    """The first node with that majority label, depth first."""
    found = find(tree, lambda node: node["label"] == label)
    assert found is not None
    return found


def find(node: dict[str, Any], wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
    if wanted(node):
        return node
    return next((found for child in node.get("children", []) if (found := find(child, wanted))), None)


def test_build_says_what_was_built_and_fitted(store: Path) -> None:
    first = run("build", store)
    assert first.exit_code == 0
    assert "72 photos -> " in first.stdout
    assert "fitted on leave-one-out: 72 items" in first.stdout
    assert "tree: 72 photos" in first.stderr
    again = answer_of("build", store, "--validation", store.parent / "points-val", "--json")
    assert again["fit"]["fitted_on"] == "validation: 30 photos"
    assert again["kept"] == again["nodes"] > 6
    assert answer_of("build", store, "--ignore-labels", "--max-children", 2, "--json")["items"] == 72


def test_show(built: Path) -> None:
    tree = answer_of("show", built, "--depth", 9, "--json")
    assert (tree["size"], tree["depth"], tree["name"]) == (72, 0, None)
    assert sorted(child["label"] for child in tree["children"]) == [["cold"], ["warm"]]
    for kind in KINDS:
        node = named(tree, kind.split("/"))
        assert node["size"] == 12
        assert all(exemplar.startswith(kind) for exemplar in node["exemplars"])
    shallow = answer_of("show", built, "--depth", 0, "--json")
    assert shallow["num_children"] == 2
    lines = run("show", built, "--depth", 2).stdout.splitlines()
    assert lines[0].split()[:3] == ["everything", "72", "photos"]
    assert sum("─ " in line for line in lines) == len(lines) - 1 >= 8
    assert any("├─ red" in line or "└─ red" in line for line in lines)
    below = run("show", built, named(tree, ["warm"])["id"]).stdout
    assert "warm" in below
    assert "cold" not in below
    assert "blue" not in below


def test_names_survive_a_rebuild_and_find_their_node(built: Path) -> None:
    node = named(answer_of("show", built, "--depth", 9, "--json"), ["cold", "blue"])["id"]
    said = run("rename", built, node, "Deep sea")
    assert said.stdout == f"{node}, 'blue' so far, is 'Deep sea' now\n"
    assert "Deep sea" in run("show", built, "--depth", 9).stdout
    with Collection.open(built) as collection:
        collection.delete(["cold/blue/00.png", "cold/blue/01.png"])
    assert answer_of("build", built, "--json")["kept"] > 6
    found = answer_of("show", built, "Deep sea", "--json")
    assert (found["id"], found["size"]) == (node, 10)
    assert answer_of("rename", built, "Deep sea", "--clear", "--json")["name"] is None
    assert "no node has the id or the name 'Deep sea'" in run("show", built, "Deep sea").stderr


def test_names_survive_another_model(built: Path, fake_embedder: Any) -> None:
    node = named(answer_of("show", built, "--depth", 9, "--json"), ["cold", "blue"])["id"]
    assert run("rename", built, node, "Deep sea").exit_code == 0
    fake_embedder.model_hash, fake_embedder.c = "fa4e00000002", 0.3
    folder = built.parent
    for command, arguments in [
        (embed, [folder / "run", folder / "photos", "--out", folder / "points-2"]),
        (index, ["build", folder / "points-2", "--store", built, "--replace"]),
    ]:
        assert CliRunner().invoke(command, [str(argument) for argument in arguments]).exit_code == 0
    told = run("show", built)
    assert told.exit_code == 1
    assert f"has no tree since it was built anew: run 'lhier hierarchy build {built}'" in told.stderr
    assert answer_of("build", built, "--json")["kept"] > 6
    found = answer_of("show", built, "Deep sea", "--json")
    assert (found["id"], found["size"]) == (node, 12)


def test_a_name_that_is_given_while_the_tree_is_built_stays(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = answer_of("show", built, "--json")["id"]
    assert run("rename", built, top, "Colors").exit_code == 0
    save = Hierarchy.save

    def save_later(tree: Hierarchy, folder: Path) -> None:
        assert run("rename", built, top, "Colours").exit_code == 0
        save(tree, folder)

    monkeypatch.setattr(Hierarchy, "save", save_later)
    assert run("build", built).exit_code == 0
    assert answer_of("show", built, "--json")["name"] == "Colours"


def test_damaged_names_stop_a_rebuild_before_their_ids_are_gone(
    built: Path, damage: Callable[[Path, str], None]
) -> None:
    names = built / "collections" / "default" / "hierarchy" / "names.json"
    assert run("rename", built, answer_of("show", built, "--json")["id"], "Colours").exit_code == 0
    whole = names.read_bytes()
    damage(names, "truncated")
    stopped = run("build", built)
    assert stopped.exit_code == 1
    assert "restore it from a backup" in stopped.stderr
    assert "of no use" not in stopped.stderr
    names.write_bytes(whole)
    assert answer_of("show", built, "Colours", "--json")["size"] == 72


def test_an_id_may_be_shortened_and_a_name_comes_first(built: Path) -> None:
    tree = answer_of("show", built, "--depth", 9, "--json")
    warm, cold = named(tree, ["warm"])["id"], named(tree, ["cold"])["id"]
    assert answer_of("show", built, warm[:6], "--json")["id"] == warm
    assert run("show", built, warm[:3]).exit_code == 1
    assert run("rename", built, cold, warm[:6]).exit_code == 0
    assert answer_of("show", built, warm[:6], "--json")["id"] == cold


def test_ids_that_begin_alike_are_not_guessed(built: Path) -> None:
    with tree_of(built, "default") as (tree, _):
        tree.ids[:] = [f"{number:012x}" for number in range(len(tree.ids))]
        tree.ids[1], tree.ids[2] = "abcd00000000", "abcd11111111"
        with pytest.raises(click.ClickException, match="2 ids of nodes begin with 'abcd': give more of it"):
            find_node(tree, "abcd")
        assert find_node(tree, "abcd1") == 2


def test_names_that_lose_their_node_are_told(built: Path) -> None:
    """The named blue photos go but one."""
    node = named(answer_of("show", built, "--depth", 9, "--json"), ["cold", "blue"])["id"]
    assert run("rename", built, node, "Deep sea").exit_code == 0
    with Collection.open(built) as collection:
        collection.delete([f"cold/blue/{number:02d}.png" for number in range(11)])
    told = run("build", built)
    assert told.exit_code == 0
    assert "1 names have no node any more that holds mostly the same photos: 'Deep sea'" in told.stderr
    assert "Deep sea" not in run("build", built).stderr  # said once


def test_a_tree_that_most_photos_came_after_says_so(built: Path) -> None:
    with Collection.open(built) as collection:
        items = collection.items()
        collection.upsert([replace(item, id=f"new/{item.id}") for item in items[:14]])
        assert run("show", built).stderr == ""
        collection.upsert([replace(item, id=f"new/{item.id}") for item in items[14:20]])
    assert "20 photos came or went since the tree was built, 92 are there now" in run("show", built).stderr


def test_a_node_that_is_not_all_of_one_label_is_mostly_that(built: Path) -> None:
    with Collection.open(built) as collection:
        labels = ("warm", "red\n\x1b[2J赤")
        items = [collection.item(f"warm/red/{number:02d}.png") for number in range(10)]
        collection.upsert([replace(item, labels=labels) for item in items if item])
    shown = run("show", built, "--depth", 9).stdout.splitlines()
    (line,) = (line for line in shown if "mostly red" in line)
    assert "mostly red �[2J赤  " in line
    assert len({line.index(" photos ") + line.count("赤") for line in shown}) == 1  # which is two columns wide
    node = answer_of("show", built, line.split()[-1], "--json")
    assert (node["label"], node["label_share"]) == (list(labels), pytest.approx(1 - 2 / node["size"]))


def test_two_photos_have_no_branches_and_one_no_answers(store: Path) -> None:
    with Collection.open(store) as collection:
        collection.delete([item.id for item in collection.items()][2:])
        assert "no branches: too few photos" in run("build", store).stdout
        (first, second) = (item.id for item in collection.items())
        assert answer_of("common-ancestor", store, first, second, "--json")["probability"] == 1
        assert answer_of("zoom", store, "--item", first, "--levels", -3, "--json")["node"]["depth"] == 0
        collection.delete([second])
    assert run("build", store).exit_code == 0
    alone = run("ancestors", store, "--item", first)
    assert alone.exit_code == 1
    assert "built over fewer than 2 photos" in alone.stderr


def test_an_encoder_of_another_model_is_refused(built: Path, fake_embedder: Any) -> None:
    fake_embedder.model_hash = "fa4e00000002"
    told = run("ancestors", built, built.parent / "other" / "warm" / "pink" / "02.png")
    assert told.exit_code == 1
    assert "holds points of model fa4e00000001, but model fa4e00000002 is loaded" in told.stderr


def test_validation_photos_that_the_collection_has_are_left_out(store: Path) -> None:
    own = run("build", store, "--validation", store.parent / "points")
    assert own.exit_code == 1
    assert "holds no photos to fit to beside those of the collection itself" in own.stderr
    with Collection.open(store) as collection:
        collection.delete([item.id for item in collection.items()][::2])
    told = run("build", store, "--validation", store.parent / "points")
    assert "36 validation photos are left out: the collection has them" in told.stderr
    assert "fitted on validation: 36 photos" in told.stdout


def test_rename_refuses(built: Path) -> None:
    tree = answer_of("show", built, "--depth", 9, "--json")
    one, other = named(tree, ["warm"])["id"], named(tree, ["cold"])["id"]
    assert run("rename", built, one).exit_code == 2
    assert run("rename", built, one, "a", "--clear").exit_code == 2
    empty = run("rename", built, one, " ")
    assert empty.exit_code == 1
    assert "expected a name" in empty.stderr
    assert run("rename", built, one, "twin").exit_code == run("rename", built, other, "twin").exit_code == 0
    both = run("show", built, "twin")
    assert both.exit_code == 1
    assert one in both.stderr
    assert other in both.stderr


def test_ancestors_of_a_photo_and_of_an_item(built: Path) -> None:
    photo = built.parent / "other" / "warm" / "pink" / "02.png"
    path = answer_of("ancestors", built, photo, "--json")
    nodes = path["nodes"]
    assert nodes[-1]["depth"] == 0
    assert [node["depth"] for node in nodes] == list(range(len(nodes)))[::-1]
    assert [node["probability"] for node in nodes] == sorted(node["probability"] for node in nodes)
    assert ["warm", "pink"] in [node["label"] for node in nodes]
    assert path["labels"][0]["label"] == ["warm", "pink"]
    assert 0 <= path["in_distribution"] <= 1
    told = run("ancestors", built, photo).stdout
    assert "probability    photos  radius  node" in told
    assert "label path: warm 0.9" in told or "label path: warm 1.0" in told
    item = answer_of("ancestors", built, "--item", "warm/pink/03.png", "--json")
    assert {node["id"] for node in item["nodes"]} & {node["id"] for node in nodes}

    for wrong, code, why in [
        ([], 2, "expected an IMAGE, or --item"),
        ([photo, "--item", "warm/pink/03.png"], 2, "expected an IMAGE, or --item"),
        (["--item", "nothing"], 1, "'nothing' is neither the id of an item nor an image file"),
        ([built.parent / "points" / "manifest.json"], 1, "manifest.json: "),
    ]:
        result = run("ancestors", built, *wrong)
        assert result.exit_code == code
        assert why in result.stderr


def test_an_unsure_path_stops_and_says_so(store: Path) -> None:
    """Validation photos whose kind is another of their family every other time: paths end at the family."""
    colours = list(KINDS.values())
    for place, kind in enumerate(KINDS):
        (store.parent / "doubtful" / kind).mkdir(parents=True)
        for number in range(10):
            colour = colours[place if number % 2 else place // 3 * 3 + (place + 1) % 3]
            photo = Image.new("RGB", (8, 8), tuple(channel + number // 2 for channel in colour))
            photo.save(store.parent / "doubtful" / kind / f"{number}.png")
    points = store.parent / "points-doubtful"
    CliRunner().invoke(embed, [str(store.parent / "run"), str(store.parent / "doubtful"), "--out", str(points)])
    assert run("build", store, "--validation", points).exit_code == 0
    path = answer_of("ancestors", store, "--item", "warm/red/01.png", "--json")
    assert [node["label"] for node in path["nodes"]] == [["warm"], []]
    assert path["stopped_at"] == path["nodes"][0]["id"]
    assert path["next"]["label"] == ["warm", "red"]
    assert path["nodes"][0]["probability"] > 0.9 > path["next"]["probability"]
    assert [step["label"] for step in path["labels"]] == [["warm"]]
    told = run("ancestors", store, "--item", "warm/red/01.png").stdout
    assert "stopped: 'red' below would be right with probability" in told
    assert "(the last is unsure)" in told


def test_grey_is_like_nothing_in_the_collection(built: Path) -> None:
    Image.new("RGB", (8, 8), (125, 70, 128)).save(built.parent / "grey.png")
    grey = answer_of("ancestors", built, built.parent / "grey.png", "--json")
    sure = answer_of("ancestors", built, "--item", "warm/red/01.png", "--json")
    assert grey["in_distribution"] < 0.05 < sure["in_distribution"]
    assert grey["specificity"] < sure["specificity"]


def test_common_ancestor(built: Path) -> None:
    tree = answer_of("show", built, "--depth", 9, "--json")
    alike = answer_of("common-ancestor", built, "warm/red/00.png", "warm/red/05.png", "--json")
    kind = named(tree, ["warm", "red"])
    assert find(kind, lambda node: node["id"] == alike["node"]["id"]) is not None
    assert alike["labels"][0]["label"] == ["warm", "red"]
    photo = built.parent / "other" / "warm" / "orange" / "01.png"
    family = answer_of("common-ancestor", built, "warm/red/00.png", photo, "warm/pink/01.png", "--json")
    assert family["node"]["id"] == named(tree, ["warm"])["id"]
    everything = answer_of("common-ancestor", built, "warm/red/00.png", "cold/blue/00.png", "--json")
    assert (everything["node"]["id"], everything["depth"], everything["labels"]) == (tree["id"], 0, [])
    assert everything["centre"]["radius"] < alike["centre"]["radius"]
    told = run("common-ancestor", built, "warm/red/00.png", photo).stdout
    assert "warm" in told.splitlines()[0]
    assert "photos that show it: warm/" in told
    alone = run("common-ancestor", built, "warm/red/00.png")
    assert alone.exit_code == 1
    assert "expected 2 to 32 photos" in alone.stderr


def test_zoom(built: Path) -> None:
    photo = built.parent / "other" / "cold" / "cyan" / "00.png"
    nodes = [answer_of("zoom", built, photo, "--levels", levels, "--limit", 72, "--json") for levels in range(4)]
    sizes = [found["node"]["size"] for found in nodes]
    assert sizes == sorted(sizes)
    assert sizes[-1] == 72
    for found in nodes:
        assert len(found["items"]) == found["node"]["size"]
        distances = [item["distance"] for item in found["items"]]
        assert distances == sorted(distances)
    assert {item["id"].split("/")[1] for item in nodes[0]["items"]} == {"cyan"}
    told = run("zoom", built, "--item", "cold/cyan/00.png", "--levels", 9, "--limit", 3).stdout
    assert "  0.0000  cold/cyan/00.png" in told
    assert "its branches:" in told


def test_export(built: Path, tmp_path: Path) -> None:
    said = run("export", built, "--format", "graphml", "--photos", "--out", tmp_path / "tree.graphml")
    nodes = answer_of("build", built, "--json")["nodes"]
    assert said.stdout == f"{nodes} nodes and 72 photos -> {tmp_path / 'tree.graphml'}\n"
    graph = networkx.read_graphml(tmp_path / "tree.graphml")
    assert networkx.is_arborescence(graph)
    assert len(graph) == nodes + 72
    content = json.loads(run("export", built, "--format", "json").stdout)
    assert (content["nodes"], content["items"]) == (nodes, 72)
    newick = run("export", built, "--format", "newick", "--photos").stdout
    assert newick.count("'cold/blue/03.png':") == 1
    assert newick.endswith(";\n")
    assert run("export", built, "--format", "xml").exit_code == 2


def test_picture(built: Path, tmp_path: Path) -> None:
    said = run("picture", built, "--out", tmp_path / "tree.svg", "--title", "Colours")
    assert said.exit_code == 0, said.output
    assert "72 photos · " in said.stdout
    assert "72 photos as dots" in said.stdout
    svg = (tmp_path / "tree.svg").read_text(encoding="utf-8")
    assert "<title>Colours</title>" in svg
    for kind in KINDS:
        assert f"<title>{kind}/03.png</title>" in svg
    assert svg.count("<image") >= 6
    (built.parent / "photos").rename(tmp_path / "moved")
    blind = run("picture", built, "--out", tmp_path / "blind.png", "--nodes", 5)
    assert "photos are not there or cannot be read" in blind.stderr
    seeing = run("picture", built, "--out", tmp_path / "seeing.png", "--nodes", 5, "--image-root", tmp_path / "moved")
    assert seeing.stderr == ""
    with Image.open(io.BytesIO((tmp_path / "seeing.png").read_bytes())) as image:
        assert image.size == (2400, 2400)
    wrong = run("picture", built, "--out", tmp_path / "tree.pdf")
    assert wrong.exit_code == 2
    assert "expected a name ending in .svg or .png, got 'tree.pdf'" in wrong.stderr


def test_items_written_since_the_build_are_in_the_answers(built: Path) -> None:
    with Collection.open(built) as collection:
        collection.delete(["cold/blue/00.png"])
    assert answer_of("show", built, "--json")["size"] == 71


def test_what_is_missing_is_said_plainly(store: Path, tmp_path: Path) -> None:
    for arguments in (["show", store], ["picture", store, "--out", tmp_path / "a.svg"], ["zoom", store, "--item", "a"]):
        result = run(*arguments)
        assert result.exit_code == 1
        assert f"run 'lhier hierarchy build {store}'" in result.stderr
    assert "has no collection 'shoes' (it has: default)" in run("build", store, "--collection", "shoes").stderr
    assert run("show", tmp_path / "nowhere").exit_code == 2


def test_validation_photos_must_fit_the_collection(store: Path, fake_embedder: Any) -> None:
    paint(store.parent / "deeper" / "val", 2)
    points = store.parent / "points-deeper"
    CliRunner().invoke(embed, [str(store.parent / "run"), str(store.parent / "deeper"), "--out", str(points)])
    foreign = run("build", store, "--validation", points)
    assert foreign.exit_code == 1
    assert "theirs are like 'val / cold / blue', the collection's like 'cold / blue'" in foreign.stderr
    fake_embedder.model_hash = "fa4e00000002"
    other = store.parent / "points-other"
    CliRunner().invoke(embed, [str(store.parent / "run"), str(store.parent / "other"), "--out", str(other)])
    refused = run("build", store, "--validation", other)
    assert refused.exit_code == 1
    assert "fa4e00000002" in refused.stderr
    assert not (store / "collections" / "default" / "hierarchy").exists()


def test_a_damaged_tree_is_told_and_can_be_built_anew(built: Path, damage: Callable[[Path, str], None]) -> None:
    damage(built / "collections" / "default" / "hierarchy" / "tree" / "nodes.npz", "flipped")
    result = run("show", built)
    assert result.exit_code == 1
    assert "build it again with 'lhier hierarchy build'" in result.stderr
    again = run("build", built)
    assert again.exit_code == 0
    assert "the former tree is of no use" in again.stderr
    assert run("show", built).exit_code == 0


def test_help_gives_the_defaults_of_the_tree_without_numpy() -> None:
    defaults = inspect.signature(Hierarchy.build).parameters
    said = " ".join(run("build", "--help").stdout.split())
    for option in ("max_children", "min_size"):
        text = said.partition(f"--{option.replace('_', '-')} ")[2].partition("--")[0]
        assert f"[default: {defaults[option].default};" in text
    quick = "import sys, index.hierarchy.cli; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", quick], check=False).returncode == 0


def test_help_lists_the_group() -> None:
    assert "hierarchy" in CliRunner().invoke(main, ["--help"]).stdout
    listed = CliRunner().invoke(main, ["hierarchy", "--help"]).stdout
    for command in ("build", "show", "ancestors", "common-ancestor", "zoom", "rename", "export", "picture"):
        assert f"  {command} " in listed
        assert "lhier hierarchy" in CliRunner().invoke(main, ["hierarchy", command, "--help"]).stdout
