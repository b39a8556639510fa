"""Checkpoints: what was saved is what is loaded, and damage is never loaded."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from hyperbolic.checkpoint import (
    CheckpointError,
    load_checkpoint,
    load_config,
    load_proxies,
    resolve_checkpoint,
    save_checkpoint,
)
from hyperbolic.embedder import DeviceError, Embedder
from hyperbolic.images import ImageError
from hyperbolic.models.config import ModelConfig
from hyperbolic.models.lhier import Encoder

TINY = {"backbone": "test_efficientnet", "embedding_dim": 8, "image_size": 32}


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(ModelConfig(**TINY, curvature=0.7)).eval()


@pytest.fixture
def saved(encoder: Encoder, tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "run" / "checkpoint", encoder, {"proxies": torch.arange(6.0).view(2, 3)})
    return tmp_path / "run" / "checkpoint"


def photos(n: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)) for _ in range(n)]


def test_saved_encoder_embeds_as_before(encoder: Encoder, saved: Path) -> None:
    before = Embedder(encoder, "x").embed(photos(3))
    loaded = Embedder.load(saved)
    assert np.array_equal(loaded.embed(photos(3)), before)
    assert loaded.c == pytest.approx(0.7)
    assert (loaded.embedding_dim, loaded.backbone, loaded.image_size) == (8, "test_efficientnet", 32)
    assert torch.equal(load_proxies(saved)["proxies"], torch.arange(6.0).view(2, 3))


def test_a_run_folder_means_its_checkpoint(saved: Path) -> None:
    assert resolve_checkpoint(saved.parent) == saved
    with pytest.raises(CheckpointError, match="expected a folder with config"):
        resolve_checkpoint(saved.parent.parent)


def test_model_hash_names_the_weights(encoder: Encoder, saved: Path, tmp_path: Path) -> None:
    first = load_config(saved).model_hash
    assert len(first) == 12
    save_checkpoint(tmp_path / "same", encoder)
    assert load_config(tmp_path / "same").model_hash == first
    torch.manual_seed(1)
    save_checkpoint(tmp_path / "other", Encoder(ModelConfig(**TINY, curvature=0.7)))
    assert load_config(tmp_path / "other").model_hash != first


def test_saving_over_a_checkpoint_replaces_it_whole(saved: Path) -> None:
    torch.manual_seed(5)
    other = Encoder(ModelConfig(**TINY))
    save_checkpoint(saved, other)
    assert load_proxies(saved) == {}
    assert sorted(p.name for p in saved.iterdir()) == ["config.json", "model.safetensors"]
    assert [p.name for p in saved.parent.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize("name", ["model.safetensors", "proxies.safetensors"])
def test_a_flipped_byte_is_found(saved: Path, name: str) -> None:
    data = bytearray((saved / name).read_bytes())
    data[len(data) // 2] ^= 1
    (saved / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=f"{name} is damaged: expected sha256"):
        load_checkpoint(saved) if name.startswith("model") else load_proxies(saved)


def test_a_flipped_bit_anywhere_in_the_configuration_is_found(saved: Path) -> None:
    """Digits of a mean and names of backbones included: nothing else would notice them."""
    whole = (saved / "config.json").read_bytes()
    content = json.loads(whole)
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= 1 << (place % 7)
        (saved / "config.json").write_bytes(data)
        try:
            load_config(saved)
        except CheckpointError:
            continue
        assert json.loads(data) == content  # one kind of white space for another, or 1e5 for 1E5


def test_a_checkpoint_without_a_checksum_is_still_read(saved: Path) -> None:
    content = json.loads((saved / "config.json").read_text())
    written = load_config(saved).model_hash
    del content["checksum"]
    (saved / "config.json").write_text(json.dumps(content))
    assert load_config(saved).model_hash == written
    load_checkpoint(saved)
    del content["sha256"]["model.safetensors"]
    (saved / "config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"expected the sha256 of model\.safetensors"):
        load_config(saved)


def test_a_missing_or_cut_file_is_found(saved: Path) -> None:
    (saved / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(saved)
    (saved / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"incomplete: model\.safetensors"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.update(format_version=99), "format version 99, this lhier reads 1"),
        (lambda c: c["model"].update(embedding_dimm=3), "embedding_dimm"),
        (lambda c: c["model"].update(embedding_dim=16), "do not fit"),
        (lambda c: c["model"].update(backbone="test_efficientnett"), "do not fit"),
    ],
)
def test_a_wrong_config_is_explained(saved: Path, edit: object, message: str) -> None:
    content = json.loads((saved / "config.json").read_text())
    del content["checksum"]
    edit(content)  # type: ignore[operator]
    (saved / "config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(saved)
    (saved / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="expected JSON"):
        load_checkpoint(saved)


@pytest.mark.parametrize("geometry", ["lorentz", "poincare", "euclidean"])
def test_every_neck_answers_with_finite_points_whatever_the_features(geometry: str) -> None:
    torch.manual_seed(0)
    encoder = Encoder(ModelConfig(**TINY, geometry=geometry, curvature=0.5, learn_curvature=True))
    features = torch.randn(5, encoder.num_features)
    features = torch.stack(
        [features[0], features[1] * 1e4, features[2] * 1e-6, torch.zeros(features.shape[1]), features[4]]
    )
    space = encoder.embed_features(features)
    assert space.shape == (5, 8)
    assert space.dtype == torch.float32
    assert torch.isfinite(space).all()
    space.square().sum().backward()
    gradients = [p.grad for p in encoder.neck.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)
    assert any(float(g.abs().sum()) > 0 for g in gradients if g is not None)


def test_half_precision_features_give_float32_points() -> None:
    encoder = Encoder(ModelConfig(**TINY))
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            space = encoder.embed_features(torch.randn(4, encoder.num_features).to(dtype))
        assert space.dtype == torch.float32
        assert torch.isfinite(space).all()


def test_embed_files_reports_bad_photos_and_keeps_the_order(encoder: Encoder, tmp_path: Path) -> None:
    paths = []
    for number, image in enumerate(photos(7)):
        paths.append(tmp_path / f"{number}.png")
        image.save(paths[-1])
    paths[3].write_bytes(b"not a photo")
    embedder = Embedder(encoder, "x", batch_size=2)
    failed: list[Path] = []
    kept, points = embedder.embed_files(paths, lambda path, error: failed.append(path))
    assert failed == [paths[3]]
    assert kept == [p for p in paths if p != paths[3]]
    alone = np.concatenate([embedder.embed([Image.open(p).convert("RGB")]) for p in kept])
    assert np.abs(points - alone).max() < 1e-4 * np.abs(alone).max()
    with pytest.raises(ImageError, match=r"3\.png"):
        embedder.embed_files(paths)
    assert embedder.embed([]).shape == (0, 8)


@pytest.mark.parametrize("device", ["cuda:99", "teapot"])
def test_a_device_that_is_not_here_is_explained(saved: Path, device: str) -> None:
    with pytest.raises(DeviceError, match=f"'{device}' cannot be used here"):
        Embedder.load(saved, device=device)


def test_radius_is_the_geodesic_distance_from_the_origin(encoder: Encoder) -> None:
    embedder = Embedder(encoder, "x")
    r = np.array([0.0, 0.5, 3.0])
    space = np.zeros((3, 8), np.float32)
    space[:, 2] = np.sinh(np.sqrt(0.7) * r) / np.sqrt(0.7)
    assert embedder.radius(space) == pytest.approx(r, rel=1e-6)


def test_frozen_batchnorm_stays_in_evaluation_mode() -> None:
    encoder = Encoder(ModelConfig(**TINY, freeze_batchnorm=True)).train()
    norms = [m for m in encoder.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert not any(m.training for m in norms)
    assert encoder.neck.training
