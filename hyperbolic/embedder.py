"""Embedder: from a checkpoint and photos to points: the one path of evaluation, batch embedding and serving."""

import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from hyperbolic.checkpoint import load_checkpoint
from hyperbolic.graph import ExportError
from hyperbolic.images import ImageError, read_image
from hyperbolic.models.lhier import Encoder
from hyperbolic.runtimes import Precision, Runner, Runtime, graph_runner

logger = logging.getLogger(__name__)

T = TypeVar("T")
# EfficientNet's widest maps of 8 photos at 224 px pass 32 MB, from where on malloc returns each one to the kernel
# and pays for its pages anew: half the time went there (batch 32: 14-22, batch 4: 56-71 photos/s on two busy cores).
CPU_SLICE = 4
DECODERS = 4  # threads
DECODED_AHEAD = 2  # batches
FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


class DeviceError(RuntimeError):
    """A device that this machine does not have; the text says why."""


@dataclass(frozen=True, slots=True)
class Batch(Generic[T]):
    """Items of one batch: those that could be read, in order, their preprocessed images, and the others' errors."""

    kept: list[T]
    images: Float[Tensor, "n 3 h w"]
    failed: list[tuple[T, ImageError]]


class Embedder:
    """Decoded photos -> float32 space parts (n, d). One call at a time.

    ``run`` computes preprocessed images (n, 3, s, s) -> space parts (n, d): in torch, or in another runtime.
    """

    runtime: Runtime = "torch"
    precision: Precision = "f32"

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
        self.run: Runner = self._run_torch

    @classmethod
    def load(
        cls,
        checkpoint: Path,
        *,
        device: str = "cpu",
        batch_size: int = 32,
        runtime: Runtime = "torch",
        precision: Precision = "f32",
        graphs: Path | None = None,
    ) -> "Embedder":
        """From a checkpoint (or run) folder.

        Another ``runtime`` than torch runs on the CPU, with as many threads as torch, on a graph that is made on first
        use and kept in ``graphs`` (:func:`~hyperbolic.runtimes.graph_cache`). ``precision`` "bf16", in OpenVINO only,
        is faster and moves points far; a warning says how far.

        Raises :class:`~hyperbolic.checkpoint.CheckpointError`; :class:`DeviceError` for a device that is not here;
        :class:`~hyperbolic.graph.ExportError` for a runtime that cannot be used or trusted with this encoder.
        """
        encoder, config = load_checkpoint(checkpoint)
        embedder = cls(encoder, config.model_hash, device=device, batch_size=batch_size)
        embedder.use(runtime, precision=precision, graphs=graphs)
        return embedder

    def use(self, runtime: Runtime, *, precision: Precision = "f32", graphs: Path | None = None) -> None:
        """Compute in ``runtime`` from now on; as :meth:`load`."""
        if runtime == "torch":
            if precision != "f32":
                raise ExportError(f"{precision} is offered with the OpenVINO runtime only, not with torch")
            self.run = self._run_torch
        elif self.device.type != "cpu":
            raise DeviceError(f"the {runtime} runtime runs on the CPU, not on {str(self.device)!r}: choose one of them")
        else:
            self.run = graph_runner(
                self.encoder, self.model_hash, self._run_torch, runtime, precision=precision, cache=graphs
            )
        self.runtime, self.precision = runtime, precision

    def embed(self, images: Sequence[Image.Image]) -> FloatArray:
        """Decoded RGB photos -> float32 space parts (n, d)."""
        points = [
            self.embed_tensors(torch.stack([self.preprocessing(image) for image in batch]))
            for batch in _batches(images, self.batch_size)
        ]
        return np.concatenate(points) if points else np.zeros((0, self.embedding_dim), np.float32)

    def embed_tensors(self, images: Float[Tensor, "n 3 h w"]) -> FloatArray:
        """Preprocessed photos (n, 3, s, s) -> float32 space parts (n, d)."""
        return self.run(np.ascontiguousarray(images.numpy(force=True)))

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
        from tqdm import tqdm

        kept: list[Path] = []
        points: list[FloatArray] = [np.zeros((0, self.embedding_dim), np.float32)]
        with tqdm(total=len(paths), unit="photo", disable=None if progress else True) as bar:
            for batch in self.decoded(_batches(paths, self.batch_size), read_image):
                for path, error in batch.failed:
                    if on_error is None:
                        raise ImageError(error.code, f"{path}: {error}") from error
                    on_error(path, error)
                if batch.kept:
                    kept += batch.kept
                    points.append(self.embed_tensors(batch.images))
                bar.update(len(batch.kept) + len(batch.failed))
        return kept, np.concatenate(points)

    def decoded(self, batches: Iterable[Sequence[T]], read: Callable[[T], Image.Image]) -> Iterator[Batch[T]]:
        """Each batch read and preprocessed, in order, DECODED_AHEAD batches ahead of the caller on DECODERS threads.

        ``read`` raises :class:`~hyperbolic.images.ImageError` for an item that is no photo.
        """

        def decode(item: T) -> Tensor | ImageError:
            try:
                return self.preprocessing(read(item))
            except ImageError as error:
                return error

        with ThreadPoolExecutor(max_workers=DECODERS, thread_name_prefix="decode") as pool:
            coming = iter(batches)
            pending: deque[tuple[Sequence[T], list[Future[Tensor | ImageError]]]] = deque()
            try:
                while True:
                    for batch in islice(coming, DECODED_AHEAD + 1 - len(pending)):
                        pending.append((batch, [pool.submit(decode, item) for item in batch]))
                    if not pending:
                        return
                    batch, futures = pending.popleft()
                    results = [(item, future.result()) for item, future in zip(batch, futures, strict=True)]
                    tensors = [result for _, result in results if isinstance(result, Tensor)]
                    yield Batch(
                        [item for item, result in results if isinstance(result, Tensor)],
                        torch.stack(tensors) if tensors else torch.zeros(0, 3, self.image_size, self.image_size),
                        [(item, result) for item, result in results if isinstance(result, ImageError)],
                    )
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def radius(self, space: FloatArray) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        """Geodesic distance from the origin of points given by their space parts (..., d) -> (...)."""
        root = math.sqrt(self.c)
        norms = np.linalg.norm(np.asarray(space, dtype=np.float64), axis=-1)
        return np.asarray(np.arcsinh(root * norms) / root)

    def _run_torch(self, images: FloatArray) -> FloatArray:
        with torch.inference_mode():
            space = self.encoder.embed_features(self._features(torch.from_numpy(images)))
        return np.asarray(space.float().cpu().numpy())

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
