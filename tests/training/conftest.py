"""A small collection of drawn photos and a recipe with a tiny backbone: real runs in about a second."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.recipe import Recipe, parse_recipe

CLASSES = {"warm/red/scarlet": (220, 30, 30), "warm/red/brick": (150, 60, 50), "warm/sun": (240, 220, 60),
           "cold/sea": (30, 90, 200), "cold/leaf/moss": (60, 120, 40), "cold/leaf/lime": (150, 230, 60)}  # fmt: skip


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 classes x 6 photos of noisy colour."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name, colour in CLASSES.items():
        (root / name).mkdir(parents=True)
        for number in range(6):
            pixels = np.clip(np.array(colour) + rng.normal(0, 25, (40, 48, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.jpg")
    return root


@pytest.fixture
def tiny(photo_folder: Path) -> Recipe:
    """Frozen tiny backbone, all four losses, 20 steps."""
    return parse_recipe(
        {
            "name": "tiny", "weights": "none",
            "model": {"backbone": "test_efficientnet", "image_size": 32, "embedding_dim": 8, "x_time_max": 10.0677,
                      "learn_curvature": True},
            "data": {"kind": "folder", "root": str(photo_folder), "hold_out": "images", "hold_out_fraction": 0.34},
            "train": {"steps": 20, "classes_per_batch": 4, "images_per_class": 3, "frozen_backbone": True, "views": 2,
                      "log_every": 1, "save_every": 10, "workers": 0},
            "optimiser": {"lr": 1e-2, "proxy_lr": 1e-2, "backbone_lr": 1e-3},
            "loss": {"proxy_anchor": {"weight": 0.3}, "pairwise": {"weight": 1.0}, "path": {"weight": 0.15},
                     "hierarchy": {"weight": 0.5, "proxies": 16, "neighbours": 3, "triplets_per_anchor": 5,
                                   "triplets_per_proxy": 3}},
        },
        "tiny",
    )  # fmt: skip
