"""An encoder as a graph for other runtimes: ONNX or OpenVINO, from the image tensor to the point, in float32.

FOLDER/model.onnx, or FOLDER/model.xml and model.bin; the graph carries its description in its own metadata.
"""

import importlib
import importlib.metadata
import importlib.util
import json
import sys
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hyperbolic.models.lhier import Encoder, LorentzNeck
from hyperbolic.nn.linear import LorentzLinear

Format = Literal["onnx", "openvino"]

INPUT, OUTPUT = "images", "space"
OPSET = 20
FILES: dict[Format, tuple[str, ...]] = {"onnx": ("model.onnx",), "openvino": ("model.xml", "model.bin")}


class ExportError(RuntimeError):
    """A graph that cannot be made, run or trusted; nothing was written."""


def require(kind: Format) -> None:
    """Raise :class:`ExportError` where a package is missing that making and running a graph of ``kind`` takes."""
    packages = ["onnx", "onnxscript", "onnxruntime", *(["openvino"] if kind == "openvino" else [])]
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    if absent:
        raise ExportError(f"a graph in {kind} needs {', '.join(absent)}: pip install 'lhier[export]'")


def describe(encoder: Encoder, model_hash: str, kind: Format) -> dict[str, Any]:
    """What somebody needs who has the graph only: input, preprocessing, output, geometry, versions."""
    size = encoder.preprocessing.image_size
    with torch.inference_mode():
        c = float(encoder.curvature())
    packages = ("torch", "timm", "onnx", "onnxruntime") + (("openvino",) if kind == "openvino" else ())
    return {
        "format": kind,
        "model_hash": model_hash,
        "geometry": encoder.config.geometry,
        "backbone": encoder.config.backbone,
        "embedding_dim": encoder.config.embedding_dim,
        "c": c,
        "input": {"name": INPUT, "shape": ["batch", 3, size, size], "dtype": "float32", "channels": "RGB"},
        "preprocessing": encoder.preprocessing.model_dump(mode="json")
        | {
            "steps": [
                "decode, turn upright by EXIF, convert to RGB",
                "scale = image_size / crop_fraction / shorter side; both sides x scale, rounded",
                f"of that the centre {size} x {size}, offsets rounded down; in the photo's own pixels: the box",
                f"resample the box alone to {size} x {size}, {encoder.preprocessing.interpolation}, antialiased "
                "(Pillow: resize(size, resample, box=box))",
                "divide by 255, subtract mean, divide by std, per channel; channels first",
            ]
        },
        "output": {
            "name": OUTPUT,
            "shape": ["batch", encoder.config.embedding_dim],
            "dtype": "float32",
            "meaning": "space part x_s of a point of the hyperboloid of curvature -c; x_t = sqrt(1/c + |x_s|^2); "
            "d(x, y) = arccosh(c (x_t y_t - <x_s, y_s>)) / sqrt(c)",
        },
        "inference_precision": "float32: bfloat16 and float16 move points further than the parity bound"
        + ("; compile_model(..., {'INFERENCE_PRECISION_HINT': 'f32'})" if kind == "openvino" else ""),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


def write_graph(encoder: Encoder, kind: Format, folder: Path, description: dict[str, Any]) -> None:
    """Make the graph of ``kind`` in ``folder``, batch axis free, weights in float32, description in its metadata."""
    onnx = importlib.import_module("onnx")
    onnx_file = folder / "model.onnx"
    size = encoder.preprocessing.image_size
    graph = frozen_copy(encoder)
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
        converted = openvino_core().read_model(onnx_file)
        for key, value in properties.items():
            converted.set_rt_info(value, ["lhier", key])
        # float16 weights would halve the file and move the points.
        import_openvino().save_model(converted, folder / "model.xml", compress_to_fp16=False)
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


def import_openvino() -> Any:
    """The module, without its telemetry: importing it would report to its maker and write into the home folder."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return importlib.import_module("openvino")


@cache
def openvino_core() -> Any:
    """OpenVINO's ``Core``: one for the process, which keeps it to its end.

    Its plugin for the CPU gives the thread that compiles first a stack for signals. Two of them, freed in the order in
    which they were made, leave that thread with a stack that is unmapped: its next signal ends the process.
    """
    return import_openvino().Core()


def _quietly(make: Callable[[], Any]) -> Any:
    """torch's exporter warns of its own internals; its errors are what counts."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return make()
    except Exception as error:
        raise ExportError(f"torch could not export this encoder: {str(error).strip()[:600]}") from error
