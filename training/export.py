"""Export of a checkpoint to ONNX or OpenVINO: from the image tensor to the point, checked before it is kept.

DIR/model.onnx and DIR/model.onnx.json, or DIR/model.xml, model.bin and model.xml.json. The JSON says how a photo
becomes the input, and what the output means; the graph carries the same in its own metadata.
"""

import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import logging
import math
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from hyperbolic import lorentz
from hyperbolic.embedder import Embedder
from hyperbolic.images import Preprocessing
from hyperbolic.models.lhier import Encoder, LorentzNeck
from hyperbolic.nn.linear import LorentzLinear

logger = logging.getLogger(__name__)

Format = Literal["onnx", "openvino"]
FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
Runner = Callable[[FloatArray], FloatArray]

TOLERANCE = 1e-3
"""Largest geodesic distance between a point of the graph and the encoder's own, in float32."""
BATCH_SIZES = (1, 8)
INPUT, OUTPUT = "images", "space"
OPSET = 20
FILES: dict[Format, tuple[str, ...]] = {"onnx": ("model.onnx",), "openvino": ("model.xml", "model.bin")}


class ExportError(RuntimeError):
    """A graph that cannot be made, run or trusted; nothing was written."""


def export_checkpoint(checkpoint: Path, kind: Format, out: Path) -> dict[str, Any]:
    """Write the encoder of ``checkpoint`` (or of a run) into ``out`` as ``kind``, with its description beside it.

    Made and checked in a folder of its own, moved into ``out`` only when every point agreed: see
    :func:`check_parity`. Returns the description. Raises :class:`ExportError`, and
    :class:`~hyperbolic.checkpoint.CheckpointError` for what is wrong with the checkpoint.
    """
    _require(kind)
    description_file = f"{FILES[kind][0]}.json"
    present = [name for name in (*FILES[kind], description_file) if (out / name).exists()]
    if present:
        raise ExportError(f"{out} already holds {', '.join(present)}: choose another --out or remove them")
    embedder = Embedder.load(checkpoint)
    description = describe(embedder, kind)
    missing = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    with tempfile.TemporaryDirectory(prefix=".lhier-export-", dir=missing) as name:
        staging = Path(name)
        write_graph(embedder, kind, staging, description)
        parity = check_parity(load_graph(staging / FILES[kind][0]), embedder)
        description |= {
            "parity": parity,
            "sha256": {name: hashlib.sha256((staging / name).read_bytes()).hexdigest() for name in FILES[kind]},
        }
        (staging / description_file).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        out.mkdir(parents=True, exist_ok=True)
        for file in (*FILES[kind], description_file):
            shutil.move(staging / file, out / file)
    logger.info("exported=%s format=%s model_hash=%s parity=%.2e", out, kind, embedder.model_hash, parity["largest"])
    return description


def describe(embedder: Embedder, kind: Format) -> dict[str, Any]:
    """What somebody needs who has the graph only: input, preprocessing, output, geometry, versions."""
    size = embedder.image_size
    packages = ("torch", "timm", "onnx", "onnxruntime") + (("openvino",) if kind == "openvino" else ())
    return {
        "format": kind,
        "model_hash": embedder.model_hash,
        "geometry": embedder.config.geometry,
        "backbone": embedder.backbone,
        "embedding_dim": embedder.embedding_dim,
        "c": embedder.c,
        "input": {"name": INPUT, "shape": ["batch", 3, size, size], "dtype": "float32", "channels": "RGB"},
        "preprocessing": embedder.preprocessing.model_dump(mode="json")
        | {
            "steps": [
                "decode, turn upright by EXIF, convert to RGB",
                "scale = image_size / crop_fraction / shorter side; both sides x scale, rounded",
                f"of that the centre {size} x {size}, offsets rounded down; in the photo's own pixels: the box",
                f"resample the box alone to {size} x {size}, {embedder.preprocessing.interpolation}, antialiased "
                "(Pillow: resize(size, resample, box=box))",
                "divide by 255, subtract mean, divide by std, per channel; channels first",
            ]
        },
        "output": {
            "name": OUTPUT,
            "shape": ["batch", embedder.embedding_dim],
            "dtype": "float32",
            "meaning": "space part x_s of a point of the hyperboloid of curvature -c; x_t = sqrt(1/c + |x_s|^2); "
            "d(x, y) = arccosh(c (x_t y_t - <x_s, y_s>)) / sqrt(c)",
        },
        "inference_precision": "float32: bfloat16 and float16 move points further than the parity bound"
        + ("; compile_model(..., {'INFERENCE_PRECISION_HINT': 'f32'})" if kind == "openvino" else ""),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


def write_graph(embedder: Embedder, kind: Format, folder: Path, description: dict[str, Any]) -> None:
    """Make the graph of ``kind`` in ``folder``, batch axis free, weights in float32, description in its metadata."""
    onnx = importlib.import_module("onnx")
    onnx_file = folder / "model.onnx"
    size = embedder.image_size
    graph = frozen_copy(embedder.encoder)
    program = _quietly(
        lambda: torch.onnx.export(
            graph,
            (torch.zeros(2, 3, size, size),),
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            opset_version=OPSET,
            verbose=False,
        )
    )
    program.save(str(onnx_file), external_data=False)
    model = onnx.load(onnx_file)
    properties = {key: value if isinstance(value, str) else json.dumps(value) for key, value in description.items()}
    onnx.helper.set_model_props(model, {f"lhier.{key}": value for key, value in properties.items()})
    model.producer_name = "lhier"
    onnx.checker.check_model(model)
    onnx.save(model, onnx_file)
    if kind == "openvino":
        openvino = _openvino()
        converted = openvino.Core().read_model(onnx_file)
        for key, value in properties.items():
            converted.set_rt_info(value, ["lhier", key])
        # float16 weights would halve the file and move the points.
        openvino.save_model(converted, folder / "model.xml", compress_to_fp16=False)
        onnx_file.unlink()


def frozen_copy(encoder: Encoder) -> nn.Module:
    """The encoder with what only depends on weights worked out: c, and the Cayley rotation, which ONNX cannot solve."""
    copy = Encoder(encoder.config, weights="none")
    copy.load_state_dict(encoder.state_dict())
    with torch.no_grad():
        if isinstance(copy.neck, LorentzNeck):
            copy.neck.linear = _FixedLorentzLinear(copy.neck.linear)
        copy.curvature = _FixedCurvature(copy.curvature())  # type: ignore[assignment]
    return copy.eval().requires_grad_(False)


class _FixedLorentzLinear(LorentzLinear):
    fixed: Tensor

    def __init__(self, linear: LorentzLinear) -> None:
        super().__init__(linear.in_features, linear.out_features)
        self.register_buffer("fixed", linear.matrix().detach().clone())
        self.proper_velocity = nn.Parameter(linear.proper_velocity.detach().clone())

    def matrix(self) -> Tensor:
        return self.fixed


class _FixedCurvature(nn.Module):
    c: Tensor

    def __init__(self, c: Tensor) -> None:
        super().__init__()
        self.register_buffer("c", c.detach().clone())

    def forward(self) -> Tensor:
        return self.c


def load_graph(path: Path) -> Runner:
    """A function from preprocessed images (n, 3, s, s) to space parts (n, d), computed in float32 on the CPU."""
    if path.suffix == ".onnx":
        session = importlib.import_module("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda images: np.asarray(session.run([OUTPUT], {INPUT: images})[0])
    # On CPUs with bfloat16 units OpenVINO computes in it unless told otherwise.
    compiled = _openvino().Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: np.array(compiled({INPUT: images})[OUTPUT])


def check_parity(run: Runner, embedder: Embedder, tolerance: float = TOLERANCE) -> dict[str, Any]:
    """Compare a graph's points with the encoder's own on 16 images, one by one and 8 at a time.

    Half are noise, half drawn scenes that went through the real preprocessing. Returns the largest geodesic distance,
    per batch size too. Raises :class:`ExportError` where one is above ``tolerance`` or not finite, or a shape is wrong.
    """
    images = sample_images(embedder.preprocessing)
    expected = embedder.embed_tensors(images)
    inputs = np.asarray(images.numpy())
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
        worst = float(geodesic(points, expected, embedder.c).max())
        found[f"batch_{size}"] = worst
        if not worst <= tolerance:
            reach = math.sqrt(embedder.c) * float(embedder.radius(expected).max())
            raise ExportError(
                f"points of the exported graph differ from the encoder's by up to {worst:.2e} at batch size {size}, "
                f"expected at most {tolerance:g} (geodesic, float32): nothing was written. Where points lie, at radius "
                f"{reach:.1f}/sqrt(c), an angle of 1e-6 is a distance of {math.sinh(reach) * 1e-6:.1e}"
                + ("; train with a smaller model.x_time_max" if math.sinh(reach) * 1e-6 > tolerance / 2 else "")
            )
    return {"largest": max(found.values()), "tolerance": tolerance, "images": len(inputs), **found}


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


def _require(kind: Format) -> None:
    packages = ["onnx", "onnxscript", "onnxruntime", *(["openvino"] if kind == "openvino" else [])]
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    if absent:
        raise ExportError(f"export to {kind} needs {', '.join(absent)}: pip install 'lhier[export]'")


def _openvino() -> Any:
    """The module, without its telemetry: importing it would report to its maker and write into the home folder."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return importlib.import_module("openvino")


def _quietly(make: Callable[[], Any]) -> Any:
    """torch's exporter warns of its own internals; its errors are what counts."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return make()
    except Exception as error:
        raise ExportError(f"torch could not export this encoder: {str(error).strip()[:600]}") from error
