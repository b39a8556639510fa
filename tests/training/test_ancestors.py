"""Where ancestors come from: label paths of every kind of data set, or clusters of what the backbone sees."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import fcluster, ward
from torch import Tensor

from hyperbolic.embedder import Embedder
from training.data.split import load_data
from training.loop import train
from training.losses.objective import Objective
from training.pseudo_path import pseudo_paths
from training.recipe import DataConfig, Recipe, dump_recipe, parse_recipe
from training.report_content import learned_nodes
from training.run_folder import TrainingError
from training.schedule import Schedule

OFFICIAL: dict[str, Any] = runpy.run_path(str(Path(__file__).parent / "official_trees.py"))
photo: Callable[[Path, int], None] = OFFICIAL["photo"]


def changed(recipe: Recipe, **sections: dict[str, Any]) -> Recipe:
    content = recipe.model_dump(mode="json", exclude_none=True)
    for name, values in sections.items():
        content[name] |= values
    return parse_recipe(content, "changed")


def with_pseudo_path(tiny: Recipe, **train: Any) -> Recipe:
    loss = {"path": {"weight": 0.15, "ancestors": "pseudo"}, "cone": {"weight": 0.1, "boundary": 0.4}}
    return changed(tiny, loss=loss, train=train)


def start(recipe: Recipe, folder: Path, run: str = "run", resume: bool = False) -> Path:
    train(recipe, load_data(recipe.data, recipe.seed), folder / run, cache=folder / "cache", resume=resume)
    return folder / run


def folder_tree(root: Path, names: list[str]) -> Path:
    for shade, name in enumerate(names):
        for number in range(4):
            photo(root / name / f"{number}.jpg", shade)
    return root


def ragged(root: Path) -> Path:
    return folder_tree(root, ["a/b/c/d", "a/b/c/e", "a/f", "g"])


def specimens(root: Path) -> Path:
    folder_tree(root / "images", ["o1/f1/g1/s1", "o1/f1/g1/s2", "o1/f2/g2/s3", "o2/f3/g3/s4"])
    (root / "specimens.json").write_text("{}")
    return root


def manifest(root: Path) -> Path:
    folder_tree(root, ["p", "q", "r", "s"])
    labels = {"p": "x/y/p", "q": "x/y/q", "r": "x/z/r", "s": "w/v/s"}
    lines = [f"{name}/{number}.jpg,{path}" for name, path in labels.items() for number in range(4)]
    (root / "list.csv").write_text("path,labels\n" + "\n".join(lines) + "\n")
    return root


def grocery(root: Path) -> Path:
    rows = ["Class Name (str),Class ID (int),Coarse Class Name (str)"]
    lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for number, (top, coarse, fine) in enumerate(
        [("Fruit", "Apple", "Gala"), ("Fruit", "Apple", "Fuji"), ("Fruit", "Kiwi", "Kiwi"), ("Packages", "Milk", "Oat")]
    ):
        rows.append(f"{fine},{number},{coarse}")
        for split, lines in lists.items():
            for index in range(3):
                name = f"{split}/{top}/{coarse}/{fine}/{index}.jpg"
                photo(root / name, number)
                lines.append(f"{name}, {number}, 0")
    (root / "classes.csv").write_text("\n".join(rows) + "\n")
    for split, lines in lists.items():
        (root / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return root


# Of each kind: how it is written, and how many ancestors the training photos have on each level.
KINDS: dict[str, tuple[Callable[[Path], Path], list[int]]] = {
    "folder": (ragged, [2, 3, 3]),  # a/f and g stand for themselves further down
    "specimens": (specimens, [2, 3, 3]),
    "manifest": (manifest, [2, 3]),
    "grocery": (grocery, [2, 3]),
    "sop": (OFFICIAL["sop"], [2]),
    "inshop": (OFFICIAL["inshop"], [2, 3]),
    "cub": (OFFICIAL["cub"], []),
    "cars": (OFFICIAL["cars"], []),
}


@pytest.mark.parametrize(
    ("kind", "geometry"), [*((kind, "lorentz") for kind in KINDS), ("folder", "euclidean"), ("sop", "euclidean")]
)
def test_the_path_term_takes_as_many_levels_as_the_labels_have(
    kind: str, geometry: str, tiny: Recipe, tmp_path: Path
) -> None:
    write, expected = KINDS[kind]
    data = DataConfig(
        kind=kind, root=str(write(tmp_path / "photos")), manifest="list.csv" if kind == "manifest" else ""
    )
    loss = {"pairwise": {"weight": 1.0}, "path": {"weight": 0.3}}
    content = tiny.model_dump(mode="json", exclude_none=True) | {"data": data.model_dump(mode="json"), "loss": loss}
    content["model"]["geometry"] = geometry
    content["train"] |= {"steps": 30, "classes_per_batch": 2, "views": 1}
    recipe = parse_recipe(content, kind)
    run = start(recipe, tmp_path)
    story = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert ("path" in story[-1]) == bool(expected)
    nodes = learned_nodes(run, recipe, Embedder.load(run))
    assert [sum(len(name) == level for name in nodes.ancestors) for level in range(1, len(expected) + 1)] == expected
    assert len(nodes.edges) == sum(expected[1:])
    if expected:
        paths = [sum(row["path"] for row in rows) / 10 for rows in (story[:10], story[-10:])]
        assert paths[1] < 0.9 * paths[0]


def planted(per_group: int = 4, seed: int = 0) -> tuple[Tensor, list[int], list[tuple[int, int]]]:
    """Features of 4 x per_group classes of 5 photos: pairs of classes within groups; with (group, pair) of each."""
    generator = torch.Generator().manual_seed(seed)
    groups, pairs = torch.randn(4, 32, generator=generator), torch.randn(4 * per_group // 2, 32, generator=generator)
    truth = [(k // per_group, k // 2) for k in range(4 * per_group)]
    centres = torch.stack([4 * groups[g] + 1.5 * pairs[p] for g, p in truth])
    centres = centres + 0.2 * torch.randn(centres.shape, generator=generator)
    classes = [k for k in range(len(truth)) for _ in range(5)]
    # Lengths must not matter, only directions.
    lengths = 1 + 4 * torch.rand(len(truth), 1, generator=generator)
    features = ((centres + 0.0) * lengths)[classes] + 0.05 * torch.randn(len(classes), 32, generator=generator)
    return features, classes, truth


def same_partition(a: list[Any], b: list[Any]) -> bool:
    return len(set(zip(a, b, strict=True))) == len(set(a)) == len(set(b))


def test_clusters_are_those_that_were_planted_at_4_and_at_half_as_many_as_classes() -> None:
    features, classes, truth = planted()
    paths = pseudo_paths(features, classes, 16)
    assert {len(path) for path in paths} == {2}
    assert same_partition([path[0] for path in paths], [group for group, _ in truth])
    assert same_partition([path[1] for path in paths], [pair for _, pair in truth])


def test_clusters_are_wards_on_directions_of_class_means_and_nested() -> None:
    features = torch.randn(150, 12, generator=torch.Generator().manual_seed(3))
    classes = [row % 30 for row in range(150)]
    paths = pseudo_paths(features, classes, 30)
    means = np.stack([features[np.arange(150) % 30 == k].double().numpy().mean(0) for k in range(30)])
    tree = ward(means / np.linalg.norm(means, axis=1, keepdims=True))
    for level, size in enumerate((4, 15)):
        assert same_partition([path[level] for path in paths], fcluster(tree, size, "maxclust").tolist())
    assert len(set(paths)) == 15  # nested: the finer cluster decides the coarser


def test_the_order_of_photos_does_not_matter() -> None:
    features, classes, _ = planted(seed=2)
    order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(0))
    assert pseudo_paths(features[order], [classes[row] for row in order], 16) == pseudo_paths(features, classes, 16)


@pytest.mark.parametrize(("k", "sizes"), [(3, []), (4, [2]), (7, [3]), (8, [4]), (10, [4, 5])])
def test_few_classes_have_few_levels(k: int, sizes: list[int]) -> None:
    features = torch.randn(k, 6, generator=torch.Generator().manual_seed(k))
    paths = pseudo_paths(features, list(range(k)), k)
    assert [len({path[: level + 1] for path in paths}) for level in range(len(paths[0]))] == sizes


def test_a_class_without_readable_photos_goes_along() -> None:
    features, classes, _ = planted()
    rows = [row for row, k in enumerate(classes) if k != 5]
    paths = pseudo_paths(features[rows], [classes[row] for row in rows], 16)
    assert len(paths) == 16
    assert paths[5] == paths[0]
    assert len({path[1] for path in paths}) == 7


@pytest.mark.parametrize("frozen", [True, False])
def test_a_pseudo_path_is_recorded_and_resumed_to_the_same_bits(
    frozen: bool, tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = with_pseudo_path(tiny, frozen_backbone=frozen, steps=12, save_every=5)
    whole = start(recipe, tmp_path, "whole")
    ancestors = json.loads((whole / "ancestors.json").read_text())
    classes = json.loads((whole / "classes.json").read_text())
    assert len(ancestors) == len(classes) == 6
    assert len({tuple(names) for names in ancestors}) == 3
    apply = Schedule.apply

    def crash(self: Schedule, optimiser: torch.optim.Optimizer, step: int) -> None:
        if step == 8:
            raise OSError("power cut")
        apply(self, optimiser, step)

    def never(*_: object) -> None:
        raise AssertionError("a resumed run computes no clusters: its backbone is no longer that of the start")

    with monkeypatch.context() as patch:
        patch.setattr(Schedule, "apply", crash)
        with pytest.raises(OSError, match="power cut"):
            start(recipe, tmp_path, "cut")
    with monkeypatch.context() as patch:
        patch.setattr("training.pseudo_path.pseudo_paths", never)
        start(recipe, tmp_path, "cut", resume=True)
    for name in ("metrics.jsonl", "ancestors.json"):
        assert (whole / name).read_text() == (tmp_path / "cut" / name).read_text()
    story = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert {"path", "cone"} <= set(story[0])
    nodes = learned_nodes(whole, recipe, Embedder.load(whole))
    assert [name[0] for name in nodes.ancestors] == ["cluster 1 of 3", "cluster 2 of 3", "cluster 3 of 3"]


def test_a_fine_tuned_run_clusters_what_a_frozen_one_does(tiny: Recipe, tmp_path: Path) -> None:
    texts = [
        (start(with_pseudo_path(tiny, frozen_backbone=frozen, steps=1), tmp_path, f"{frozen}") / "ancestors.json")
        .read_text()
        for frozen in (True, False)
    ]  # fmt: skip
    assert texts[0] == texts[1]


def test_the_euclidean_control_has_a_pseudo_path_too(tiny: Recipe, tmp_path: Path) -> None:
    loss = {"pairwise": {"weight": 1.0}, "path": {"weight": 0.15, "ancestors": "pseudo", "radius": 1.0}}
    content = tiny.model_dump(mode="json", exclude_none=True) | {"loss": loss}
    content["model"]["geometry"] = "euclidean"
    run = start(parse_recipe(content, "control"), tmp_path)
    story = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert story[-1]["path"] < story[0]["path"]


def test_auto_takes_labels_where_there_are_any(tiny: Recipe, tmp_path: Path) -> None:
    auto = changed(tiny, loss={"path": {"weight": 0.15, "ancestors": "auto"}}, train={"steps": 1})
    assert not (start(auto, tmp_path, "deep") / "ancestors.json").exists()
    flat = folder_tree(tmp_path / "flat", list("abcdefgh"))
    run = start(changed(auto, data={"root": str(flat)}), tmp_path, "flat run")
    assert len({tuple(names) for names in json.loads((run / "ancestors.json").read_text())}) == 4


def test_ancestors_that_do_not_fit_the_run_are_refused(tiny: Recipe, tmp_path: Path) -> None:
    recipe = with_pseudo_path(tiny, steps=2)
    run = start(recipe, tmp_path)
    (run / "ancestors.json").write_text('[["cluster 1 of 3"]]')
    with pytest.raises(TrainingError, match=r"of each of 6 classes, found 1 rows"):
        start(recipe, tmp_path, resume=True)
    (run / "ancestors.json").write_text("[[")
    with pytest.raises(TrainingError, match=r"ancestors\.json is damaged"):
        start(recipe, tmp_path, resume=True)


def test_a_run_of_an_older_version_resumes_with_the_defaults_of_this_one(tiny: Recipe, tmp_path: Path) -> None:
    run = start(tiny, tmp_path)
    text = dump_recipe(tiny)
    (run / "recipe.toml").write_text(text.replace('ancestors = "labels"\n', ""))
    assert (run / "recipe.toml").read_text() != text
    start(tiny, tmp_path, resume=True)
    with pytest.raises(TrainingError, match="another recipe"):
        start(changed(tiny, train={"steps": 21}), tmp_path, resume=True)


def test_an_objective_names_its_ancestors_in_the_order_of_their_points(tiny: Recipe) -> None:
    from hyperbolic.curvature import Curvature

    paths = [("v", "leek", "x"), ("f", "pear", "y"), ("f", "fig", "z")]
    objective = Objective(tiny.loss, tiny.model, Curvature(1.0), paths)
    assert objective.path.names == [[("f",), ("v",)], [("f", "fig"), ("f", "pear"), ("v", "leek")]]
    assert objective.path.of_class.tolist() == [[1, 0, 0], [2, 1, 0]]
