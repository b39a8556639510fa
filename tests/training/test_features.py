"""The feature cache: computed once, never believed when damaged, never stuck with an error that has passed."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

import training.features
from hyperbolic.embedder import Embedder
from hyperbolic.images import ImageError
from hyperbolic.models.config import ModelConfig
from hyperbolic.models.lhier import Encoder
from training.features import FeatureCache


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    torch.manual_seed(0)
    return Embedder(Encoder(ModelConfig(backbone="test_efficientnet", embedding_dim=8, image_size=32)), "x")


@pytest.fixture
def paths(photo_folder: Path) -> list[Path]:
    return sorted(photo_folder.rglob("*.jpg"))[:5]


def extract(embedder: Embedder, folder: Path, paths: list[Path]) -> tuple[list[int], Tensor, dict[Path, str]]:
    failed: dict[Path, str] = {}
    kept, features = FeatureCache(embedder, folder, 0.5).extract(
        paths, views=2, on_error=lambda path, why: failed.update({path: why})
    )
    return kept, features, failed


def test_what_was_computed_is_read_and_what_was_damaged_is_computed_anew(
    embedder: Embedder, paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no photo")
    paths = [*paths[:2], tmp_path / "bad.jpg", *paths[2:]]
    kept, features, failed = extract(embedder, tmp_path / "cache", paths)
    assert kept == [0, 1, 3, 4, 5]
    assert features.shape == (5, 2, embedder.encoder.num_features)
    assert list(failed) == [tmp_path / "bad.jpg"]
    assert not torch.equal(features[:, 0], features[:, 1])
    with monkeypatch.context() as patch:
        patch.setattr(training.features, "read_image", lambda _: pytest.fail("read again"))
        again = extract(embedder, tmp_path / "cache", paths)
    assert (again[0], again[2]) == (kept, failed)
    assert torch.equal(again[1], features)
    files = list((tmp_path / "cache").iterdir())
    assert len(files) == 2
    for damage in (lambda data: data[:-100], lambda data: data.replace(b'": "', b'"= "'), lambda _: b""):
        for file in files:
            changed = damage(file.read_bytes())
            assert changed != file.read_bytes()
            file.write_bytes(changed)
        anew = extract(embedder, tmp_path / "cache", paths)
        assert (anew[0], anew[2]) == (kept, failed)
        assert torch.equal(anew[1], features)


def test_a_photo_that_may_not_be_read_now_is_tried_again(
    embedder: Embedder, paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = training.features.read_image

    def forbidden(path: Path) -> object:
        if path == paths[1]:
            raise ImageError("unreadable_file", f"{path.name}: Permission denied")
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(training.features, "read_image", forbidden)
        kept, _, failed = extract(embedder, tmp_path, paths)
    assert kept == [0, 2, 3, 4]
    assert "Permission denied" in failed[paths[1]]
    kept, features, failed = extract(embedder, tmp_path, paths)
    assert (kept, failed) == ([0, 1, 2, 3, 4], {})
    assert torch.isfinite(features).all()
