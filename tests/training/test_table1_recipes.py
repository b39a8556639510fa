"""The recipes of table 1: alike but for what a row is about, with the paper's figures, and each of them runs."""

import json
import math
import runpy
import shutil
from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from hyperbolic.checkpoint import load_checkpoint
from training.data.split import RetrievalData, load_data
from training.evaluate import evaluate
from training.loop import train
from training.recipe import RECIPES, DataConfig, Recipe, load_recipe

# Under --import-mode=importlib test modules cannot import their siblings.
TREES: dict[str, Callable[[Path], Path]] = runpy.run_path(str(Path(__file__).parent / "official_trees.py"))["TREES"]

# Table 1 of Bdeir & Landwehr, in per cent as printed: CUB and Cars at 1, 2, 4; SOP at 1, 10, 100;
# In-Shop at 1, 10, 20.
TABLE_1 = """
hyp   r50  512  65.5 76.2 84.9  81.9 88.8 93.1  79.9 91.5 96.5  90.1 98.0 98.7
hier  r50  512  70.1 79.4 86.9  88.2 93.0 95.6  80.2 91.5 96.6  92.4 98.2 98.8
lhier r50  512  71.0 80.3 87.8  88.7 93.2 95.7  81.3 92.1 96.8  92.8 98.5 99.0
hyp   deit 128  74.7 84.5 90.1  82.1 89.1 93.4  83.0 93.4 97.5  90.9 97.9 98.6
hier  deit 128  75.2 84.2 90.0  85.1 91.1 95.1  82.5 92.7 97.0  91.0 98.0 98.6
lhier deit 128  75.5 84.7 90.6  85.4 91.7 95.6  82.7 93.5 97.4  91.4 98.5 98.9
hyp   dino 128  78.3 86.0 91.2  86.0 91.9 95.2  84.6 94.1 97.7  92.6 98.4 99.0
hier  dino 128  78.5 86.7 91.5  88.4 93.3 95.9  84.9 94.2 97.5  92.6 98.4 98.9
lhier dino 128  78.8 87.0 91.9  88.9 93.2 96.4  85.1 94.9 98.2  92.7 98.5 99.0
hyp   vit  128  84.0 90.2 94.2  82.7 89.7 93.9  85.5 94.9 98.1  92.7 98.4 98.9
hier  vit  128  84.2 90.1 93.7  86.4 91.9 95.1  85.6 94.6 97.8  92.7 98.4 98.9
lhier vit  128  84.6 90.2 93.9  86.7 92.0 95.3  85.9 95.0 98.0  92.8 98.4 99.0
hyp   deit 384  77.8 86.6 91.9  86.4 92.2 95.5  83.3 93.5 97.4  90.5 97.8 98.5
hier  deit 384  78.7 86.8 92.0  88.9 93.9 96.6  83.0 93.1 97.2  90.6 98.1 98.6
lhier deit 384  78.3 86.2 91.8  88.7 93.4 96.4  82.8 92.9 96.9  91.0 98.2 98.7
hyp   dino 384  80.9 87.6 92.4  89.2 94.1 96.7  85.1 94.4 97.8  92.4 98.4 98.9
hier  dino 384  81.1 88.2 93.3  91.3 95.2 97.1  85.7 94.6 97.8  92.5 98.6 99.0
lhier dino 384  81.3 88.4 93.3  91.5 95.1 97.6  85.9 95.0 98.1  92.7 98.5 98.9
hyp   vit  384  85.6 91.4 94.8  86.5 92.1 95.3  85.9 94.9 98.1  92.5 98.3 98.8
hier  vit  384  85.7 91.3 94.4  88.3 93.2 96.1  86.1 95.0 98.0  92.8 98.4 99.0
lhier vit  384  86.2 92.1 95.2  88.6 93.6 96.3  86.7 95.3 98.3  92.9 98.5 99.0
"""
RECALL_AT = {"cub": (1, 2, 4), "cars": (1, 2, 4), "sop": (1, 10, 100), "inshop": (1, 10, 20)}
ROWS = {
    (data, method, arch, dim): {
        f"recall_at_{k}": float(value) / 100 for k, value in zip(ks, values[3 * column : 3 * column + 3], strict=True)
    }
    for method, arch, dim, *values in (line.split() for line in TABLE_1.split("\n") if line)
    for column, (data, ks) in enumerate(RECALL_AT.items())
}
NAMES = {"-".join(row): row for row in ROWS}

# Keys in which recipes may differ: always those that say which row it is, and ...
ALWAYS = {"name", "description", "published.figures"}
# ... between methods: the loss, and the neck's geometry (the curvature of LHIER is learned);
METHOD = {"model.geometry", "model.learn_curvature", "loss"}
# ... between backbones: what a ResNet has and a ViT has not, and rates;
BACKBONE = {
    "model.backbone", "model.embedding_dim", "model.pooling", "model.freeze_batchnorm", "train.freeze_patch_embedding",
    "train.crop_scale_min", "optimiser.lr", "optimiser.backbone_lr", "optimiser.proxy_lr", "optimiser.hierarchy_lr",
    "optimiser.schedule", "optimiser.step_every", "optimiser.step_factor",
}  # fmt: skip
# ... between data sets: length, warm-up, decay and steps of the rate, and how often is evaluated.
DATA = {
    "data.kind", "train.steps", "selection.every", "optimiser.lr", "optimiser.weight_decay", "optimiser.warmup_steps",
    "optimiser.step_every", "optimiser.step_factor",
}  # fmt: skip


def flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for key, value in content.items():
        inner = isinstance(value, dict) and f"{prefix}{key}" not in {"loss", "published.figures"}
        rows |= flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return rows


@cache
def values_of(name: str) -> dict[str, Any]:
    return flat(load_recipe(name).model_dump(mode="json"))


def differing(a: str, b: str) -> set[str]:
    left, right = values_of(a), values_of(b)
    return {key for key in left.keys() | right.keys() if left.get(key) != right.get(key)}


def test_there_is_a_recipe_for_every_row_and_no_other() -> None:
    shipped = {path.stem for path in RECIPES.glob("*.toml") if path.stem.split("-")[0] in RECALL_AT}
    assert len(ROWS) == 4 * 3 * 7
    assert shipped == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_carries_its_row(name: str) -> None:
    data, method, arch, dim = NAMES[name]
    recipe = load_recipe(name)
    assert recipe.published is not None
    assert recipe.published.source == "Bdeir & Landwehr, table 1"
    assert recipe.published.figures == pytest.approx(ROWS[NAMES[name]])
    assert (recipe.data.kind, recipe.model.embedding_dim) == (data, int(dim))
    assert recipe.selection.rule == "best_on_test"
    assert recipe.model.geometry == ("lorentz" if method == "lhier" else "poincare")
    assert recipe.model.learn_curvature == (method == "lhier")
    losses = {term for term, config in recipe.loss if isinstance(config, BaseModel)}
    assert losses == ({"pairwise"} if method == "hyp" else {"proxy_anchor", "hierarchy"})
    known = {"r50": "resnet50", "deit": "deit_small", "dino": "vit_small_patch16_224.dino", "vit": "augreg_in21k"}
    assert known[arch] in recipe.model.backbone
    assert recipe.name == name


@pytest.mark.parametrize("name", NAMES)
def test_the_values_are_those_of_hier(name: str) -> None:
    data, method, arch, _ = NAMES[name]
    recipe = load_recipe(name)
    model, training, optimiser = recipe.model, recipe.train, recipe.optimiser
    assert (training.classes_per_batch, training.images_per_class) == (45, 2)
    assert (model.curvature, training.frozen_steps, training.frozen_backbone) == (0.1, "1 epoch", False)
    assert (training.precision, recipe.weights) == ("16-mixed", "hub")
    assert optimiser.backbone_lr == (1e-4 if arch == "r50" else 1e-5)
    assert (model.pooling, model.freeze_batchnorm, training.freeze_patch_embedding) == (
        ("max_average", True, False) if arch == "r50" else ("default", False, True)
    )
    large = data in ("sop", "inshop")
    assert optimiser.lr == pytest.approx(optimiser.backbone_lr * (100 if large else 1))
    assert (optimiser.weight_decay, optimiser.warmup_steps) == ((1e-4, "5 epochs") if large else (1e-2, 0))
    if method == "lhier":
        assert (model.rescale, model.x_time_max, model.tightness) == (True, 2e3, 2.0)
    else:
        assert model.clip_radius == 2.3
    if method != "hyp":
        anchor, hierarchy = recipe.loss.proxy_anchor, recipe.loss.hierarchy
        assert anchor is not None
        assert hierarchy is not None
        assert (anchor.weight, anchor.alpha, anchor.margin) == (1.0, 32.0, 0.1)
        assert (hierarchy.weight, hierarchy.proxies, hierarchy.neighbours) == (0.5, 512, 20)
        assert (hierarchy.triplets_per_anchor, hierarchy.triplets_per_proxy) == (50, 50)
        assert (hierarchy.temperature, hierarchy.margin) == (0.1, 0.1)


def test_methods_differ_in_their_method_only() -> None:
    for data, arch, dim in {(row[0], *row[2:]) for row in ROWS}:
        for method in ("hier", "hyp"):
            keys = differing(f"{data}-lhier-{arch}-{dim}", f"{data}-{method}-{arch}-{dim}")
            assert keys - ALWAYS <= METHOD, (data, method, arch, dim)


@pytest.mark.parametrize(("data", "method"), list(product(RECALL_AT, ("lhier", "hier", "hyp"))))
def test_rows_of_a_data_set_differ_in_the_backbone_only(data: str, method: str) -> None:
    names = [name for name, row in NAMES.items() if row[:2] == (data, method)]
    assert len(names) == 7
    for name in names[1:]:
        assert differing(names[0], name) - ALWAYS <= BACKBONE, name
    for small in names:  # and two sizes of one backbone in the size only
        if small.endswith("-128"):
            keys = differing(small, small.removesuffix("128") + "384")
            assert keys - ALWAYS == {"model.embedding_dim"}, small


def test_data_sets_differ_in_their_photos_and_length_only() -> None:
    for _, *row in {row for row in ROWS if row[0] == "cub"}:
        for data in ("cars", "sop", "inshop"):
            keys = differing("-".join(("cub", *row)), "-".join((data, *row)))
            assert keys - ALWAYS <= DATA, (data, row)
            assert "data.kind" in keys


def test_evaluations_and_steps_of_the_rate_come_by_the_epoch() -> None:
    steps = {
        "cub": ("5 epochs", 0.5),
        "cars": ("10 epochs", 0.5),
        "sop": ("25 epochs", 0.3),
        "inshop": ("20 epochs", 0.3),
    }
    for name, (data, _, arch, _) in NAMES.items():
        recipe = load_recipe(name)
        # an evaluation of SOP embeds as many photos as an epoch draws
        assert recipe.selection.every == ("5 epochs" if data == "sop" else "1 epoch")
        assert recipe.train.save_every == "1 epoch"
        rate = recipe.optimiser
        if arch == "r50":
            assert (rate.schedule, rate.step_every, rate.step_factor) == ("step", *steps[data])
        else:
            assert (rate.schedule in ("constant", "cosine"), rate.step_every) == (True, None)


@pytest.fixture(scope="module")
def miniatures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RetrievalData]:
    """Each data set as its reader reads it from a miniature in its official layout."""
    roots = {name: write(tmp_path_factory.mktemp(name)) for name, write in TREES.items()}
    return {name: load_data(DataConfig(kind=name, root=str(root))) for name, root in roots.items()}


def tiny(name: str) -> Recipe:
    """The recipe with a backbone of 0.4 M weights, two steps and few proxies, for a CPU; all else as it ships."""
    # timm's test_vit is made for 160 pixels; a convolutional network takes any size.
    backbone = ("test_resnet", 32) if NAMES[name][2] == "r50" else ("test_vit", 160)
    overrides = [
        "weights=none", f"model.backbone={backbone[0]}", f"model.image_size={backbone[1]}", "train.steps=2",
        "train.precision=32-true", "train.workers=0", "train.log_every=1",
    ]  # fmt: skip
    if NAMES[name][1] != "hyp":
        overrides.append("loss.hierarchy.proxies=24")
    return load_recipe(name, tuple(overrides))


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_trains_on_a_miniature_of_its_data(
    name: str, miniatures: dict[str, RetrievalData], tmp_path: Path
) -> None:
    recipe, data = tiny(name), miniatures[NAMES[name][0]]
    figures: dict[str, float] = {}

    def score(embedder: Any) -> dict[str, float]:
        figures.update(evaluate(data, embedder))
        return figures

    run = tmp_path / "run"
    train(recipe, data, run, cache=tmp_path / "cache", evaluate=score)
    story = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(story) == 2
    expected = {"pairwise"} if NAMES[name][1] == "hyp" else {"proxy_anchor", "hierarchy"}
    for row in story:
        assert expected <= set(row)
        assert all(math.isfinite(value) for value in row.values())
    # learned where it is to be learned, and there only
    assert (story[0]["c"] == story[1]["c"] == pytest.approx(0.1)) == (NAMES[name][1] != "lhier")
    assert recipe.published is not None
    assert set(recipe.published.figures) <= set(figures)  # what is published is also what is measured
    encoder, *_ = load_checkpoint(run)
    assert encoder.config == recipe.model
    shutil.rmtree(run)
