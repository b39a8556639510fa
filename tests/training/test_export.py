"""Exported graphs against the Embedder, on photos that were decoded; and the refusal of graphs that differ."""

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from hyperbolic.checkpoint import save_checkpoint
from hyperbolic.embedder import Embedder
from hyperbolic.images import find_images, read_image
from hyperbolic.models.config import Geometry, ModelConfig
from hyperbolic.models.lhier import Encoder, LorentzNeck
from training import export

# Looked for, not imported: importing openvino outside our own code would report to its maker.
if any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime", "openvino")):
    pytest.skip("the extra 'export' is not installed", allow_module_level=True)


@pytest.fixture(autouse=True)
def _shapes_unchecked_while_traced() -> Iterator[None]:
    # jaxtyping's checks read sizes, which would fix the batch axis while torch traces the encoder.
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def make(folder: Path, backbone: str, geometry: Geometry) -> Path:
    """A checkpoint with a boost, a curvature that is not 1, and a rotation away from its start."""
    torch.manual_seed(0)
    config = ModelConfig(geometry=geometry, backbone=backbone, image_size=64, embedding_dim=12, curvature=0.7,
                         x_time_max=10.0)  # fmt: skip
    encoder = Encoder(config)
    if isinstance(encoder.neck, LorentzNeck):
        torch.nn.init.normal_(encoder.neck.linear.proper_velocity, std=0.1)
    save_checkpoint(folder, encoder)
    return folder


def decoded(photo_folder: Path, embedder: Embedder) -> tuple[np.ndarray, np.ndarray]:
    """Preprocessed photos, and their points by the Embedder's own path."""
    images = [read_image(path) for path in find_images(photo_folder)[::4]]
    return torch.stack([embedder.preprocessing(image) for image in images]).numpy(), embedder.embed(images)


def largest(points: np.ndarray, expected: np.ndarray, c: float) -> float:
    """Largest geodesic distance by the textbook arccosh in float64 with x_t from the definition: an own formula."""
    a, b = points.astype(np.float64), expected.astype(np.float64)
    time = [np.sqrt(1 / c + (x * x).sum(1)) for x in (a, b)]
    return float((np.arccosh(np.maximum(1.0, c * (time[0] * time[1] - (a * b).sum(1)))) / np.sqrt(c)).max())


@pytest.mark.parametrize(
    ("backbone", "geometry", "kind"),
    [
        ("test_vit", "lorentz", "openvino"),
        ("test_efficientnet", "poincare", "openvino"),
        ("test_efficientnet", "euclidean", "onnx"),
    ],
)
def test_points_equal_the_embedders(
    backbone: str, geometry: Geometry, kind: export.Format, photo_folder: Path, tmp_path: Path
) -> None:
    checkpoint = make(tmp_path / "checkpoint", backbone, geometry)
    description = export.export_checkpoint(checkpoint, kind, tmp_path / "out")
    names = {"model.onnx", "model.onnx.json"} if kind == "onnx" else {"model.xml", "model.bin", "model.xml.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert json.loads((tmp_path / "out" / f"{export.FILES[kind][0]}.json").read_text()) == description

    embedder = Embedder.load(checkpoint)
    inputs, expected = decoded(photo_folder, embedder)
    run = export.load_graph(tmp_path / "out" / export.FILES[kind][0])
    for size in (1, 3, len(inputs)):  # 3: the batch axis is free, not one of the sizes that were checked
        points = np.concatenate([run(inputs[i : i + size]) for i in range(0, len(inputs), size)])
        assert points.dtype == np.float32
        assert largest(points, expected, embedder.c) <= 1e-3
    assert "openvino_telemetry.main" not in sys.modules  # exporting tells nobody


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(checkpoint, folder with model.onnx) of a Lorentz encoder, through the command."""
    from training.tools_cli import export as command

    folder = tmp_path_factory.mktemp("exported")
    checkpoint = make(folder / "checkpoint", "test_efficientnet", "lorentz")
    jaxtyping.config.update("jaxtyping_disable", True)
    result = CliRunner().invoke(command, [str(checkpoint), "--format", "onnx", "--out", str(folder / "out")])
    assert result.exit_code == 0, result.output
    assert "largest geodesic difference" in result.output
    return checkpoint, folder / "out"


def test_metadata_is_enough_to_use_the_graph(exported: tuple[Path, Path], photo_folder: Path) -> None:
    import onnxruntime
    from PIL import Image

    checkpoint, out = exported
    description = json.loads((out / "model.onnx.json").read_text())
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    inside = session.get_modelmeta().custom_metadata_map
    assert json.loads(inside["lhier.preprocessing"]) == description["preprocessing"]
    assert float(inside["lhier.c"]) == pytest.approx(0.7)
    # By the words of the description alone, with no code of ours: resize, crop, scale.
    how = description["preprocessing"]
    path = find_images(photo_folder)[0]
    image = Image.open(path).convert("RGB")
    size, full = how["image_size"], how["image_size"] / how["crop_fraction"]
    width, height = (round(side * full / min(image.size)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    back = np.array([image.width / width, image.height / height] * 2)
    box = tuple(np.array([left, top, left + size, top + size]) * back)
    image = image.resize((size, size), Image.Resampling[how["interpolation"].upper()], box=box)
    pixels = np.asarray(image, dtype=np.float32) / 255
    tensor = ((pixels - how["mean"]) / how["std"]).transpose(2, 0, 1)[None].astype(np.float32)
    (name,), (output,) = [i.name for i in session.get_inputs()], [o.name for o in session.get_outputs()]
    assert (name, output) == (description["input"]["name"], description["output"]["name"])
    points = session.run([output], {name: tensor})[0]
    embedder = Embedder.load(checkpoint)
    assert largest(points, embedder.embed([read_image(path)]), embedder.c) <= 1e-3
    assert description["model_hash"] == embedder.model_hash


def test_second_format_goes_beside_the_first_but_none_is_overwritten(exported: tuple[Path, Path]) -> None:
    checkpoint, out = exported
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(export.ExportError, match=r"already holds model\.onnx"):
        export.export_checkpoint(checkpoint, "onnx", out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("weights", "differ from the encoder's by up to"),
        ("nan", "not finite"),
        ("output", "does not run at batch size 1"),
    ],
)
def test_graph_that_differs_is_refused(
    change: str, message: str, exported: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    checkpoint, out = exported

    def write_tampered(embedder: Embedder, kind: str, folder: Path, description: dict[str, object]) -> None:
        model = onnx.load(out / "model.onnx")
        if change == "output":
            model.graph.output[0].name = model.graph.node[-2].output[0]
        else:
            largest_tensor = max(model.graph.initializer, key=lambda tensor: int(np.prod(tensor.dims)))
            values = onnx.numpy_helper.to_array(largest_tensor).copy()
            values *= np.float32("nan") if change == "nan" else np.float32(1.003)
            largest_tensor.CopyFrom(onnx.numpy_helper.from_array(values, largest_tensor.name))
        onnx.save(model, folder / "model.onnx")

    monkeypatch.setattr(export, "write_graph", write_tampered)
    with pytest.raises(export.ExportError, match=message):
        export.export_checkpoint(checkpoint, "onnx", tmp_path / "new" / "out")
    assert not list(tmp_path.iterdir())


def test_bound_is_the_stated_one(exported: tuple[Path, Path]) -> None:
    checkpoint, out = exported
    embedder = Embedder.load(checkpoint)
    run = export.load_graph(out / "model.onnx")
    found = export.check_parity(run, embedder)
    assert 0 < found["largest"] < 1e-4

    def moved(by: float) -> export.Runner:
        # Along the radius by a geodesic length `by`: sinh of the radius, c = 0.7.
        root = np.sqrt(embedder.c)

        def shifted(images: np.ndarray) -> np.ndarray:
            space = run(images).astype(np.float64)
            norm = np.linalg.norm(space, axis=1, keepdims=True)
            return (space / norm * np.sinh(np.arcsinh(root * norm) + root * by) / root).astype(np.float32)

        return shifted

    assert export.check_parity(moved(0.8e-3), embedder)["largest"] == pytest.approx(0.8e-3, rel=0.1)
    with pytest.raises(export.ExportError, match=r"at most 0\.001"):
        export.check_parity(moved(1.2e-3), embedder)


def test_missing_packages_are_named(
    exported: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.tools_cli import export as command

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    result = CliRunner().invoke(command, [str(exported[0]), "--format", "onnx", "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "needs onnxruntime: pip install 'lhier[export]'" in result.output
    assert not list(tmp_path.iterdir())


def test_no_checkpoint_is_explained(tmp_path: Path) -> None:
    from training.tools_cli import export as command

    result = CliRunner().invoke(command, [str(tmp_path / "no"), "--format", "onnx", "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "no checkpoint at" in result.output
    assert not list(tmp_path.iterdir())
