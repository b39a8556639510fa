"""What embedding a photo costs on a CPU: images per second of the encoder in each runtime, and how far they agree.

    python -m benchmarks.encoder [--out FOLDER] [--threads 1]

The whole encoder, from the preprocessed image to the point, for EfficientNet-Lite0 (its ImageNet weights, where the
``offline`` extra is installed) and ViT-S/16 (random weights: the time is the same). Runtimes: torch float32 plain, and
as `Embedder` runs it (channels last, slices of 4); torch with the backbone in bfloat16 and channels last; the graphs of
``lhier export`` in ONNX Runtime and in OpenVINO, there in float32 and in bfloat16. One that is not installed has a row
with the reason. Agreement is with torch float32, on drawn scenes and noise: cosine and relative error of the space
parts, and the largest geodesic distance.
"""

import argparse
import copy
import importlib
import importlib.util
import logging
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import measure_together, write_result
from hyperbolic.embedder import Embedder
from hyperbolic.graph import INPUT, OUTPUT, ExportError, Format, describe, openvino_core, write_graph
from hyperbolic.models.backbone import WeightsError
from hyperbolic.models.config import ModelConfig
from hyperbolic.models.lhier import Encoder
from hyperbolic.runtimes import geodesic, sample_images

BACKBONES = ("tf_efficientnet_lite0", "vit_small_patch16_224")
FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
Runner = Callable[[FloatArray], FloatArray]
REFERENCE = "torch float32"


class UnavailableError(RuntimeError):
    """A runtime that cannot be measured here; the text is the row's reason."""


def build(backbone: str) -> tuple[Embedder, str]:
    """The encoder as it is served, and where its weights come from."""
    torch.manual_seed(0)
    config = ModelConfig(backbone=backbone, embedding_dim=128)
    try:
        return Embedder(Encoder(config, "offline"), model_hash="benchmark"), "offline"
    except WeightsError:
        return Embedder(Encoder(config, "none"), model_hash="benchmark"), "random"


def torch_float32(embedder: Embedder) -> Runner:
    """Plain: channels first, the batch as it comes."""
    encoder = copy.deepcopy(embedder.encoder).to(memory_format=torch.contiguous_format).eval()

    def run(images: FloatArray) -> FloatArray:
        with torch.inference_mode():
            return np.asarray(encoder(torch.from_numpy(images)).numpy())

    return run


def torch_bfloat16(embedder: Embedder) -> Runner:
    """Backbone in bfloat16, channels last; neck and geometry in float32."""
    encoder = copy.deepcopy(embedder.encoder).eval()
    encoder.backbone.to(torch.bfloat16, memory_format=torch.channels_last)

    def run(images: FloatArray) -> FloatArray:
        batch = torch.from_numpy(images).to(torch.bfloat16, memory_format=torch.channels_last)
        with torch.inference_mode():
            return np.asarray(encoder.embed_features(encoder.features(batch).float()).numpy())

    return run


def graph(embedder: Embedder, kind: Format, folder: Path) -> Path:
    """The exported graph's file. Raises :class:`UnavailableError`."""
    needed = ("onnx", "onnxscript", "onnxruntime" if kind == "onnx" else "openvino")
    absent = [name for name in needed if importlib.util.find_spec(name) is None]
    if absent:
        raise UnavailableError(f"{', '.join(absent)} not installed: pip install 'lhier[export]'")
    file = folder / kind / ("model.onnx" if kind == "onnx" else "model.xml")
    if not file.exists():
        file.parent.mkdir()
        try:
            write_graph(embedder.encoder, kind, file.parent, describe(embedder.encoder, embedder.model_hash, kind))
        except ExportError as error:
            raise UnavailableError(str(error)) from error
    return file


def onnx_runtime(file: Path, threads: int) -> Runner:
    """ONNX Runtime on the CPU."""
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = runtime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda images: np.asarray(session.run([OUTPUT], {INPUT: images})[0])


def openvino(file: Path, threads: int, precision: str) -> Runner:
    """OpenVINO on the CPU, computing in ``precision`` (f32 or bf16)."""
    options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino_core().compile_model(file, "CPU", options)
    used = str(compiled.get_property("INFERENCE_PRECISION_HINT"))
    if precision == "bf16" and "bfloat16" not in used and "bf16" not in used:
        raise UnavailableError(f"this CPU computes in {used} when asked for bfloat16")
    return lambda images: np.array(compiled({INPUT: images})[OUTPUT])


def runners(embedder: Embedder, threads: int, folder: Path) -> tuple[dict[str, Runner], dict[str, str]]:
    """Every runtime that can run here, and why the others cannot."""
    makers: dict[str, Callable[[], Runner]] = {
        REFERENCE: lambda: torch_float32(embedder),
        "torch float32, Embedder": lambda: lambda images: embedder.embed_tensors(torch.from_numpy(images)),
        "torch bfloat16, channels last": lambda: torch_bfloat16(embedder),
        "ONNX Runtime float32": lambda: onnx_runtime(graph(embedder, "onnx", folder), threads),
        "OpenVINO float32": lambda: openvino(graph(embedder, "openvino", folder), threads, "f32"),
        "OpenVINO bfloat16": lambda: openvino(graph(embedder, "openvino", folder), threads, "bf16"),
    }
    ready: dict[str, Runner] = {}
    reasons: dict[str, str] = {}
    for name, make in makers.items():
        try:
            ready[name] = make()
        except UnavailableError as error:
            reasons[name] = str(error)
    return ready, reasons


def agreement(points: FloatArray, reference: FloatArray, c: float) -> dict[str, float]:
    """Cosine, relative error and geodesic distance of space parts (n, d) from the reference's."""
    a, b = (np.asarray(x, dtype=np.float64) for x in (points, reference))
    lengths = np.linalg.norm(b, axis=1)
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / lengths
    error = np.linalg.norm(a - b, axis=1) / lengths
    return {
        "cosine_min": float(cosine.min()),
        "cosine_mean": float(cosine.mean()),
        "relative_error": float(error.mean()),
        "geodesic_max": float(geodesic(points, reference, c).max()),
    }


def measure_backbone(backbone: str, batches: list[int], threads: int, seconds: float) -> list[dict[str, Any]]:
    """Rows of one backbone: images per second at each batch size, then agreement."""
    embedder, weights = build(backbone)
    images = np.ascontiguousarray(sample_images(embedder.preprocessing).numpy())
    rows: list[dict[str, Any]] = []
    what = {"backbone": backbone, "weights": weights}
    with tempfile.TemporaryDirectory() as folder:
        ready, reasons = runners(embedder, threads, Path(folder))
        for batch in batches:
            inputs = np.ascontiguousarray(np.resize(images, (batch, *images.shape[1:])))
            calls = {name: lambda run=run, inputs=inputs: run(inputs) for name, run in ready.items()}
            once = measure_together(calls, repeats=1, warmup=1)
            total = sum(found["median_s"] for found in once.values())
            repeats = max(3, min(100, int(seconds * len(calls) / total)))
            for name, found in measure_together(calls, repeats, warmup=0).items():
                rate = batch / found["median_s"]
                rows.append({"part": "speed", **what, "runtime": name, "batch": batch, "images_per_s": rate, **found})
                print(f"{backbone:<24} {name:<32} batch {batch:>3} {rate:8.1f} images/s", flush=True)
        reference = ready[REFERENCE](images)
        for name, run in ready.items():
            found = agreement(run(images), reference, embedder.c)
            rows.append({"part": "agreement", **what, "runtime": name, "images": len(images), **found})
            print(f"{backbone:<24} {name:<32} cosine >= {found['cosine_min']:.6f} error {found['relative_error']:.1e}")
        # The distance between two photos is the scale on which an error counts.
        apart = [geodesic(reference, np.roll(reference, shift, axis=0), embedder.c).numpy() for shift in (1, 3, 5)]
        rows.append(
            {"part": "scale", **what, "geodesic_median": statistics.median(np.concatenate(apart).tolist())},
        )
    for name, reason in reasons.items():
        rows.append({"part": "skipped", **what, "runtime": name, "reason": reason})
        print(f"{backbone:<24} {name:<32} skipped: {reason}")
    return rows


def main() -> None:
    """Measure every backbone and write one result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder or .json file for the result")
    parser.add_argument("--backbones", default=",".join(BACKBONES))
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--seconds", type=float, default=4.0, help="per runtime and batch size, about")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(arguments.threads)
    batches = [int(batch) for batch in arguments.batches.split(",")]
    rows: list[dict[str, Any]] = []
    for backbone in arguments.backbones.split(","):
        rows += measure_backbone(backbone, batches, arguments.threads, arguments.seconds)
    parameters = {
        "backbones": arguments.backbones.split(","),
        "batches": batches,
        "threads": arguments.threads,
        "seconds": arguments.seconds,
    }
    print("wrote", write_result("encoder", arguments.out, parameters, rows))


if __name__ == "__main__":
    main()
