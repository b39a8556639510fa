"""Where the encoder runs besides torch: ONNX Runtime and OpenVINO, on graphs made from a checkpoint on first use.

A graph is made once per model and versions, checked against torch, and kept in :func:`graph_cache`.
"""

import contextlib
import copy
import hashlib
import importlib
import importlib.metadata
import json
import logging
import os
import queue
import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from hyperbolic import lorentz
from hyperbolic.graph import FILES, INPUT, OUTPUT, ExportError, Format, describe, openvino_core, require, write_graph
from hyperbolic.models.lhier import Encoder
from hyperbolic.preprocessing import Preprocessing

logger = logging.getLogger(__name__)

Runtime = Literal["torch", "onnxruntime", "openvino"]
Precision = Literal["f32", "bf16"]
FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
Runner = Callable[[FloatArray], FloatArray]
"""Preprocessed images (n, 3, s, s) -> space parts (n, d)."""

KIND: dict[Runtime, Format] = {"onnxruntime": "onnx", "openvino": "openvino"}
TOLERANCE = 1e-3
"""Largest geodesic distance between a point of the graph and the encoder's own, in float32."""
ROUNDING_FACTOR = 2.0
"""Far out, where float32 torch itself lies further than TOLERANCE from float64: how much further a graph may lie."""
BATCH_SIZES = (1, 8)
ONNX_SLICE = 8  # photos; larger batches run slower
DESCRIPTION = "graph.json"


def graph_cache() -> Path:
    """``$XDG_CACHE_HOME/lhier/graphs`` or ``~/.cache/lhier/graphs``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "lhier" / "graphs"


def graph_runner(
    encoder: Encoder,
    model_hash: str,
    reference: Runner,
    runtime: Runtime,
    *,
    precision: Precision = "f32",
    threads: int | None = None,
    cache: Path | None = None,
) -> Runner:
    """The encoder in another runtime, its graph taken from the cache or made and checked against ``reference``.

    ``threads`` is as many as torch takes by default. Raises :class:`ExportError` where a package is missing, the graph
    cannot be made, or its points differ: by more than :data:`TOLERANCE` from torch's and by more than
    :data:`ROUNDING_FACTOR` times torch's own distance from a float64 backbone.
    """
    if precision == "bf16" and runtime != "openvino":
        raise ExportError(f"bfloat16 is offered with the OpenVINO runtime only, not with {runtime}")
    file = _cached_graph(encoder, model_hash, reference, KIND[runtime], cache or graph_cache())
    run = load_graph(file, precision=precision, threads=threads or torch.get_num_threads())
    if precision == "bf16":
        images = np.asarray(sample_images(encoder.preprocessing).numpy())
        moved = geodesic(run(images), reference(images), _curvature(encoder))
        logger.warning(
            "event=reduced_precision precision=bf16 moved_median=%.2g moved_most=%.2g (geodesic, 16 drawn images): "
            "not comparable with points in f32",
            float(moved.median()),
            float(moved.max()),
        )
    return run


def load_graph(path: Path, *, precision: Precision = "f32", threads: int | None = None) -> Runner:
    """A function from preprocessed images (n, 3, s, s) to space parts (n, d), computed on the CPU.

    That of OpenVINO takes several callers at a time. ``threads``: as many as there are cores by default.
    Raises :class:`ExportError` where the runtime is not installed, or the processor has no bfloat16 units for "bf16".
    """
    return _onnx_runner(path, threads) if path.suffix == ".onnx" else _openvino_runner(path, precision, threads)


def _onnx_runner(path: Path, threads: int | None) -> Runner:
    onnxruntime = _imported("onnxruntime", lambda: importlib.import_module("onnxruntime"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    # Threads that spin while they wait take the processor from the threads that decode.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(images: FloatArray) -> FloatArray:
        slices = [images[i : i + ONNX_SLICE] for i in range(0, max(1, len(images)), ONNX_SLICE)]
        return np.concatenate([np.asarray(session.run([OUTPUT], {INPUT: each})[0]) for each in slices])

    return run


def _openvino_runner(path: Path, precision: Precision, threads: int | None) -> Runner:
    core = _imported("openvino", openvino_core)
    # On CPUs with bfloat16 units OpenVINO computes in it unless told otherwise.
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision}
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    alone = core.compile_model(path, "CPU", options | {"PERFORMANCE_HINT": "LATENCY"})
    used = str(alone.get_property("INFERENCE_PRECISION_HINT"))
    if precision == "bf16" and "bfloat16" not in used and "bf16" not in used:
        raise ExportError(f"this processor computes in {used} when asked for bfloat16: use f32")
    count = int(alone.get_property("INFERENCE_NUM_THREADS"))
    side_by_side = core.compile_model(path, "CPU", options | {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": count})
    return _SideBySide(alone, side_by_side, count)


class _SideBySide:
    """Images computed each by one thread, side by side; one that is alone by all threads together.

    Threads that share an image wait for each other: EfficientNet-Lite0 on two takes 160 images/s so, in batches of any
    size up to 8, and 209/s side by side. Several callers keep the threads busy where one's last images would not.
    """

    def __init__(self, alone: Any, side_by_side: Any, count: int) -> None:
        self._alone = alone.create_infer_request()
        self._callers = 0
        self._lock = threading.Lock()
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(2 * count):  # so that a thread that is done finds the next image waiting
            self._idle.put(side_by_side.create_infer_request())

    def __call__(self, images: FloatArray) -> FloatArray:
        with self._lock:
            is_alone = not self._callers and len(images) == 1
            self._callers += 1
        try:
            if is_alone:
                return np.array(self._alone.infer({INPUT: images})[OUTPUT])
            return self._spread(images)
        finally:
            with self._lock:
                self._callers -= 1

    def _spread(self, images: FloatArray) -> FloatArray:
        points: list[FloatArray] = []
        under_way: deque[Any] = deque()

        def collect() -> None:
            request = under_way.popleft()
            try:
                request.wait()
                points.append(np.array(request.get_output_tensor(0).data))
            finally:
                self._idle.put(request)

        try:
            for number in range(max(1, len(images))):
                while under_way and self._idle.empty():
                    collect()
                request = self._idle.get()
                under_way.append(request)
                request.start_async({INPUT: images[number : number + 1]})
            while under_way:
                collect()
        finally:
            for request in under_way:  # one failed: the others end first
                with contextlib.suppress(RuntimeError):
                    request.wait()
                self._idle.put(request)
        return np.concatenate(points)


def compare_points(
    run: Runner, reference: Runner, preprocessing: Preprocessing, c: float
) -> tuple[dict[str, float], FloatArray]:
    """Largest geodesic distance from ``reference`` on 16 images, at each of BATCH_SIZES; and the reference's points.

    Half the images are noise, half drawn scenes that went through the real preprocessing. Raises :class:`ExportError`
    where the graph does not run, a shape is wrong or a number not finite.
    """
    inputs = np.asarray(sample_images(preprocessing).numpy())
    expected = reference(inputs)
    found: dict[str, float] = {}
    for size in BATCH_SIZES:
        try:
            parts = [run(np.ascontiguousarray(inputs[i : i + size])) for i in range(0, len(inputs), size)]
            points = np.concatenate(parts)
        except Exception as error:  # whatever a runtime raises on a graph that it cannot run
            raise ExportError(f"the exported graph does not run at batch size {size}: {error}") from error
        if points.shape != expected.shape:
            raise ExportError(
                f"the exported graph answers {points.shape} at batch size {size}, expected {expected.shape}"
            )
        if not np.isfinite(points).all():
            raise ExportError(f"the exported graph answers with numbers that are not finite at batch size {size}")
        found[f"batch_{size}"] = float(geodesic(points, expected, c).max())
    return found, expected


def geodesic(a: FloatArray, b: FloatArray, c: float) -> Float[Tensor, " n"]:
    """Distances between points given by their space parts (n, d), row by row, in float64."""
    x, y = (torch.from_numpy(np.asarray(points, dtype=np.float64)) for points in (a, b))
    return lorentz.distance(lorentz.lift(x, c), lorentz.lift(y, c), c)


def sample_images(preprocessing: Preprocessing, count: int = 16, seed: int = 0) -> Float[Tensor, "n 3 s s"]:
    """``count`` inputs, always the same: every second one noise, the others drawn scenes of photos' sizes."""
    rng = np.random.default_rng(seed)
    size = preprocessing.image_size
    images = []
    for number in range(count):
        if number % 2:
            pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
            images.append(preprocessing.to_tensor(Image.fromarray(pixels)))
        else:
            images.append(preprocessing(_scene(rng)))
    return torch.stack(images)


def _scene(rng: np.random.Generator) -> Image.Image:
    """Light falling across a background, and coloured blobs in front, with a sensor's grain."""
    height, width = (int(side) for side in rng.integers(120, 400, 2))
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    light = 0.5 + 0.5 * (np.cos(rng.uniform(0, 6.3)) * x / width + np.sin(rng.uniform(0, 6.3)) * y / height)
    scene = light[..., None] * rng.uniform(40, 220, 3)
    for _ in range(int(rng.integers(2, 8))):
        centre, reach = rng.uniform(0, 1, 2) * (width, height), rng.uniform(0.08, 0.4) * min(width, height)
        away = np.hypot(x - centre[0], (y - centre[1]) * rng.uniform(0.6, 1.6)) / reach
        cover = 1 / (1 + np.exp(np.clip(12 * (away - 1), -50, 50)))[..., None]
        scene = scene * (1 - cover) + cover * rng.uniform(0, 255, 3) * (1 - 0.5 * away.clip(0, 1))[..., None]
    return Image.fromarray((scene + rng.normal(0, 4, scene.shape)).clip(0, 255).astype(np.uint8))


def _cached_graph(encoder: Encoder, model_hash: str, reference: Runner, kind: Format, cache: Path) -> Path:
    """The file of a graph whose points were checked, made where the cache has none that is whole."""
    folder = cache / f"{model_hash}-{kind}"
    if _intact(folder, kind):
        return folder / FILES[kind][0]
    require(kind)
    logger.info("event=graph_made model_hash=%s format=%s folder=%s", model_hash, kind, folder)
    description = describe(encoder, model_hash, kind)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=cache) as name:
        staging = Path(name) / "graph"
        staging.mkdir()
        write_graph(encoder, kind, staging, description)
        description["parity"] = _check(load_graph(staging / FILES[kind][0]), reference, encoder)
        description["sha256"] = {file: _sha256(staging / file) for file in FILES[kind]}
        (staging / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
        try:
            staging.rename(folder)
        except OSError:  # there is one: another process was quicker, or it is damaged or of other versions
            if not _intact(folder, kind):
                shutil.rmtree(folder)
                staging.rename(folder)
    return folder / FILES[kind][0]


def _intact(folder: Path, kind: Format) -> bool:
    """Whether the graph in ``folder`` is the one that was checked, made by the versions that are installed."""
    try:
        known = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        versions = {name: importlib.metadata.version(name) for name in known["versions"]}
        whole = all(_sha256(folder / file) == known["sha256"][file] for file in FILES[kind])
    except (OSError, ValueError, KeyError, TypeError, importlib.metadata.PackageNotFoundError):
        return False
    return whole and versions == known["versions"]


def _check(run: Runner, reference: Runner, encoder: Encoder) -> dict[str, float]:
    c = _curvature(encoder)
    found, expected = compare_points(run, reference, encoder.preprocessing, c)
    worst = max(found.values())
    if worst <= TOLERANCE:
        return found | {"tolerance": TOLERANCE}
    # Where points lie far out, float32 itself moves them by more. Then both are measured by a float64 backbone.
    images = sample_images(encoder.preprocessing)
    with torch.inference_mode():
        double = copy.deepcopy(encoder.backbone).double()
        features = torch.cat([double(part.double()) for part in torch.split(images, 4)])
        truth = np.asarray(encoder.embed_features(features).cpu().numpy())
    ours = float(geodesic(expected, truth, c).max())
    theirs = float(geodesic(run(np.asarray(images.numpy())), truth, c).max())
    if not theirs <= ROUNDING_FACTOR * ours:
        raise ExportError(
            f"points of the graph differ from the encoder's by up to {worst:.2e} (geodesic, float32), expected at most "
            f"{TOLERANCE:g}, and lie {theirs:.2e} from those of a float64 backbone, torch's only {ours:.2e}: "
            f"use the torch runtime"
        )
    logger.info("event=graph_checked_in_float64 graph=%.2e torch=%.2e", theirs, ours)
    return found | {"from_float64": theirs, "torch_from_float64": ours}


def _curvature(encoder: Encoder) -> float:
    with torch.inference_mode():
        return float(encoder.curvature())


def _imported(name: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except ImportError as error:
        raise ExportError(f"{name} is not installed: pip install 'lhier[export]'") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
