"""Cached backbone features: with a frozen backbone each view of each photo is computed once, for all runs.

One safetensors file per 256 photos and view, named by the hash of what it was made from (backbone weights,
preprocessing, view, and each file's path, size and time), so an interrupted extraction continues and a changed photo
is computed anew.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from hyperbolic.embedder import Embedder
from hyperbolic.images import ImageError, read_image
from training.data.transforms import random_view

logger = logging.getLogger(__name__)

CHUNK = 256
BATCH = 32
OnError = Callable[[Path, str], None]


def default_cache() -> Path:
    """``$XDG_CACHE_HOME/lhier/features`` or ``~/.cache/lhier/features``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "lhier" / "features"


class FeatureCache:
    """Features of one frozen backbone, kept in ``folder``."""

    def __init__(self, embedder: Embedder, folder: Path, crop_scale_min: float = 1.0) -> None:
        self.embedder = embedder
        self.folder = folder
        self.crop_scale_min = crop_scale_min
        digest = hashlib.sha256(embedder.preprocessing.model_dump_json().encode())
        for name, tensor in sorted(embedder.encoder.backbone.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        self._digest = digest.hexdigest()

    def extract(
        self, paths: Sequence[Path], views: int = 1, on_error: OnError | None = None, progress: bool = False
    ) -> tuple[list[int], Float[Tensor, "n views f"]]:
        """Features of each photo's views (0: centre crop, others random), and which photos could be read.

        Returns the positions in ``paths`` of the n readable photos and float32 features (n, views, f). Each unreadable
        photo is reported once to ``on_error``.
        """
        failed: dict[Path, str] = {}
        kept: list[int] = []
        chunks: list[Tensor] = []
        with tqdm(total=len(paths) * views, unit="view", desc="features", disable=None if progress else True) as bar:
            for start in range(0, len(paths), CHUNK):
                chunk = paths[start : start + CHUNK]
                per_view = [self._view(chunk, view, failed, bar) for view in range(views)]
                rows, _ = per_view[0]
                kept += [start + int(row) for row in rows]
                chunks.append(torch.stack([features for _, features in per_view], dim=1))
        if on_error is not None:
            for path, why in failed.items():
                on_error(path, why)
        if not kept:
            raise ImageError("undecodable_image", f"none of {len(paths)} photos could be read")
        return kept, torch.cat([chunk for chunk in chunks if len(chunk)])

    def _view(
        self, paths: Sequence[Path], view: int, failed: dict[Path, str], bar: "tqdm[None]"
    ) -> tuple[Tensor, Tensor]:
        file = self.folder / f"{self._key(paths, view)}.safetensors"
        try:
            stored = load_file(file)
            rows, features = stored["rows"], stored["features"].float()
            errors = json.loads(bytes(stored["errors"].numpy()).decode())
        except (OSError, SafetensorError, KeyError, ValueError):
            rows, features, errors, passing = self._compute(paths, view, bar)
            if not passing:
                _save(file, rows, features, errors)
        else:
            bar.update(len(paths))
        failed.update({Path(path): why for path, why in errors.items()})
        return rows, features

    def _compute(
        self, paths: Sequence[Path], view: int, bar: "tqdm[None]"
    ) -> tuple[Tensor, Tensor, dict[str, str], bool]:
        """Rows that could be read, their features, the others' errors, and whether one of those may pass.

        A file that is missing or forbidden now may be readable tomorrow, without a change that the key would show.
        """
        passing = False
        preprocessing = self.embedder.preprocessing
        errors: dict[str, str] = {}
        rows: list[int] = []
        batch: list[Tensor] = []
        features = [np.zeros((0, self.embedder.encoder.num_features), np.float32)]
        for row, path in enumerate(paths):
            try:
                image = read_image(path)
            except ImageError as error:
                errors[str(path)] = str(error)
                passing |= error.code == "unreadable_file"
            else:
                rows.append(row)
                batch.append(
                    preprocessing(image)
                    if view == 0
                    else random_view(image, preprocessing, self.crop_scale_min, _seed(path, view))
                )
            if batch and (len(batch) == BATCH or row == len(paths) - 1):
                features.append(self.embedder.feature_tensors(torch.stack(batch)))
                batch = []
            bar.update()
        return torch.tensor(rows, dtype=torch.int64), torch.from_numpy(np.concatenate(features)), errors, passing

    def _key(self, paths: Sequence[Path], view: int) -> str:
        digest = hashlib.sha256(f"{self._digest} {view} {self.crop_scale_min if view else 1.0}".encode())
        for path in paths:
            try:
                status = path.stat()
                digest.update(f"{path.absolute()} {status.st_size} {status.st_mtime_ns}\n".encode())
            except OSError:
                digest.update(f"{path.absolute()} missing\n".encode())
        return digest.hexdigest()[:32]


def _seed(path: Path, view: int) -> int:
    # By the name within its class, so a moved data set draws the same crops.
    return int.from_bytes(hashlib.sha256(f"{'/'.join(path.parts[-3:])} {view}".encode()).digest()[:8])


def _save(file: Path, rows: Tensor, features: Tensor, errors: dict[str, str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    staging = file.with_suffix(f".{os.getpid()}.tmp")
    text = torch.frombuffer(bytearray(json.dumps(errors).encode()), dtype=torch.uint8)
    save_file({"rows": rows, "features": features.contiguous(), "errors": text}, staging)
    staging.replace(file)
