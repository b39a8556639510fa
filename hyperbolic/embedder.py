"""Embedder: from a checkpoint and photos to points: the one path of evaluation, batch embedding and serving."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from hyperbolic.checkpoint import load_checkpoint
from hyperbolic.images import ImageError, read_image
from hyperbolic.models.lhier import Encoder

logger = logging.getLogger(__name__)

T = TypeVar("T")
# EfficientNet's widest maps of 8 photos at 224 px pass 32 MB, from where on malloc returns each one to the kernel
# and pays for its pages anew: half the time went there (batch 32: 14-22, batch 4: 56-71 photos/s on two busy cores).
CPU_SLICE = 4
FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


class DeviceError(RuntimeError):
    """A device that this machine does not have; the text says why."""


class Embedder:
    """Decoded photos -> float32 space parts (n, d). One call at a time."""

    def __init__(self, encoder: Encoder, model_hash: str, *, device: str = "cpu", batch_size: int = 32) -> None:
        self.device = _usable_device(device)
        # Channels last halves the time of depthwise convolutions on CPUs and GPUs alike.
        self.encoder = encoder.eval().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.config = encoder.config
        self.preprocessing = encoder.preprocessing
        self.model_hash = model_hash
        self.batch_size = batch_size
        self.embedding_dim = encoder.config.embedding_dim
        self.backbone = encoder.config.backbone
        self.image_size = encoder.preprocessing.image_size
        with torch.inference_mode():
            self.c = float(encoder.curvature())

    @classmethod
    def load(cls, checkpoint: Path, *, device: str = "cpu", batch_size: int = 32) -> "Embedder":
        """From a checkpoint (or run) folder.

        Raises :class:`~hyperbolic.checkpoint.CheckpointError`, and :class:`DeviceError` for a device that is not here.
        """
        encoder, config = load_checkpoint(checkpoint)
        return cls(encoder, config.model_hash, device=device, batch_size=batch_size)

    def embed(self, images: Sequence[Image.Image]) -> FloatArray:
        """Decoded RGB photos -> float32 space parts (n, d)."""
        points = [
            self.embed_tensors(torch.stack([self.preprocessing(image) for image in batch]))
            for batch in _batches(images, self.batch_size)
        ]
        return np.concatenate(points) if points else np.zeros((0, self.embedding_dim), np.float32)

    def embed_tensors(self, images: Float[Tensor, "n 3 h w"]) -> FloatArray:
        """Preprocessed photos (n, 3, s, s) -> float32 space parts (n, d)."""
        with torch.inference_mode():
            space = self.encoder.embed_features(self._features(images))
        return np.asarray(space.float().cpu().numpy())

    def features(self, images: Sequence[Image.Image]) -> FloatArray:
        """Decoded RGB photos -> float32 backbone features (n, f), before the neck."""
        return self.feature_tensors(torch.stack([self.preprocessing(image) for image in images]))

    def feature_tensors(self, images: Float[Tensor, "n 3 h w"]) -> FloatArray:
        """Preprocessed photos (n, 3, s, s) -> float32 backbone features (n, f)."""
        with torch.inference_mode():
            return np.asarray(self._features(images).float().cpu().numpy())

    def embed_files(
        self,
        paths: Sequence[Path],
        on_error: Callable[[Path, ImageError], None] | None = None,
        progress: bool = False,
    ) -> tuple[list[Path], FloatArray]:
        """Photos by path -> (paths that could be read, their float32 space parts (m, d)).

        Unreadable photos go to ``on_error`` and are left out; without it the first one raises
        :class:`~hyperbolic.images.ImageError`. Decoding runs ahead of inference on its own threads.
        """
        kept: list[Path] = []
        points: list[FloatArray] = [np.zeros((0, self.embedding_dim), np.float32)]
        for batch_paths, images in self.read_batches(paths, on_error, progress=progress):
            kept += batch_paths
            points.append(self.embed_tensors(images))
        return kept, np.concatenate(points)

    def read_batches(
        self,
        paths: Sequence[Path],
        on_error: Callable[[Path, ImageError], None] | None = None,
        progress: bool = False,
    ) -> Iterator[tuple[list[Path], Float[Tensor, "n 3 h w"]]]:
        """Preprocessed batches of the readable photos, in order, decoded two batches ahead."""
        from tqdm import tqdm

        def decode(path: Path) -> Tensor | ImageError:
            try:
                return self.preprocessing(read_image(path))
            except ImageError as error:
                return error

        with (
            ThreadPoolExecutor(max_workers=4, thread_name_prefix="decode") as pool,
            tqdm(total=len(paths), unit="photo", disable=None if progress else True) as bar,
        ):
            batches = list(_batches(paths, self.batch_size))
            pending: list[list[Future[Tensor | ImageError]]] = []
            for number, batch in enumerate(batches):
                while len(pending) < min(number + 3, len(batches)):
                    pending.append([pool.submit(decode, path) for path in batches[len(pending)]])
                kept, tensors = [], []
                for path, future in zip(batch, pending[number], strict=True):
                    result = future.result()
                    if isinstance(result, Tensor):
                        kept.append(path)
                        tensors.append(result)
                        continue
                    if on_error is None:
                        raise ImageError(result.code, f"{path}: {result}") from result
                    on_error(path, result)
                pending[number] = []
                if tensors:
                    yield kept, torch.stack(tensors)
                bar.update(len(batch))

    def radius(self, space: FloatArray) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        """Geodesic distance from the origin of points given by their space parts (..., d) -> (...)."""
        root = math.sqrt(self.c)
        norms = np.linalg.norm(np.asarray(space, dtype=np.float64), axis=-1)
        return np.asarray(np.arcsinh(root * norms) / root)

    def _features(self, images: Tensor) -> Tensor:
        images = images.to(self.device, memory_format=torch.channels_last)
        if self.device.type == "cpu":
            return torch.cat([self.encoder.features(part) for part in torch.split(images, CPU_SLICE)])
        with torch.autocast(self.device.type, dtype=torch.float16, enabled=self.device.type == "cuda"):
            features: Tensor = self.encoder.features(images)
        return features


def _usable_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).sum().item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = str(error).partition("\n")[0]
        raise DeviceError(f"the device {name!r} cannot be used here ({why}): choose cpu, or cuda with a GPU") from error
    return device


def _batches(items: Sequence[T], size: int) -> Iterable[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
