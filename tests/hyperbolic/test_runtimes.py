"""The encoder in ONNX Runtime and OpenVINO against torch; graphs made once, and refused when they are wrong."""

import importlib.util
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image

from hyperbolic import runtimes
from hyperbolic.checkpoint import save_checkpoint
from hyperbolic.embedder import DeviceError, Embedder
from hyperbolic.graph import ExportError
from hyperbolic.models.config import ModelConfig
from hyperbolic.models.lhier import Encoder

# Looked for, not imported: importing openvino outside our own code would report to its maker.
if any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime", "openvino")):
    pytest.skip("the extra 'export' is not installed", allow_module_level=True)


@pytest.fixture(autouse=True)
def _shapes_unchecked_while_traced() -> Iterator[None]:
    # jaxtyping's checks read sizes, which would fix the batch axis while torch traces the encoder.
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def make(folder: Path, x_time_max: float) -> Path:
    torch.manual_seed(0)
    config = ModelConfig(
        backbone="test_efficientnet", image_size=64, embedding_dim=12, curvature=0.7, x_time_max=x_time_max
    )
    save_checkpoint(folder, Encoder(config))
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("near") / "checkpoint", x_time_max=10.0)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all tests: a graph takes seconds to make."""
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    rng = np.random.default_rng(1)
    fields = rng.uniform(0, 255, (11, 6, 5, 3)).astype(np.uint8)
    return [Image.fromarray(field).resize((90, 70), Image.Resampling.BICUBIC) for field in fields]


def largest(points: np.ndarray, expected: np.ndarray, c: float) -> float:
    """Largest geodesic distance by the textbook arccosh in float64: an own formula."""
    a, b = points.astype(np.float64), expected.astype(np.float64)
    time = [np.sqrt(1 / c + (x * x).sum(1)) for x in (a, b)]
    return float((np.arccosh(np.maximum(1.0, c * (time[0] * time[1] - (a * b).sum(1)))) / np.sqrt(c)).max())


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_points_equal_torchs(
    runtime: runtimes.Runtime, checkpoint: Path, graphs: Path, images: list[Image.Image]
) -> None:
    torchs = Embedder.load(checkpoint)
    other = Embedder.load(checkpoint, runtime=runtime, graphs=graphs)
    expected, found = torchs.embed(images), other.embed(images)
    assert (other.runtime, other.precision) == (runtime, "f32")
    assert found.dtype == np.float32
    assert not np.array_equal(found, expected)  # it is another program
    assert largest(found, expected, torchs.c) <= 1e-3
    assert np.array_equal(other.features(images[:2]), torchs.features(images[:2]))
    assert "openvino_telemetry.main" not in sys.modules  # it tells nobody
    other.use("torch")
    assert np.array_equal(other.embed(images), expected)


SIGNALLED = """
import os, signal, sys
from pathlib import Path
from hyperbolic.runtimes import load_graph

first = load_graph(Path(sys.argv[1]))
second = load_graph(Path(sys.argv[1]))
del first  # in the order in which they were made
del second
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGUSR1)
"""


def test_a_process_that_has_had_two_encoders_takes_signals(checkpoint: Path, graphs: Path) -> None:
    """OpenVINO used to leave its thread with a stack for signals that was unmapped: Ctrl-C ended without a word."""
    Embedder.load(checkpoint, runtime="openvino", graphs=graphs)
    (graph,) = graphs.glob("*-openvino/model.xml")
    done = subprocess.run([sys.executable, "-c", SIGNALLED, graph], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


Writer = Callable[[Encoder, runtimes.Format, Path, dict[str, object]], None]


def copying(files: list[Path], made: list[Path]) -> Writer:
    """In place of write_graph, which takes seconds: brings these files, and writes down that it was asked."""
    contents = {file.name: file.read_bytes() for file in files}

    def write(encoder: Encoder, kind: runtimes.Format, folder: Path, description: dict[str, object]) -> None:
        made.append(folder)
        for name, content in contents.items():
            (folder / name).write_bytes(content)

    return write


def test_a_graph_is_made_once_and_again_when_it_is_damaged(
    checkpoint: Path, graphs: Path, images: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    Embedder.load(checkpoint, runtime="openvino", graphs=graphs)
    (folder,) = graphs.glob("*-openvino")
    made: list[Path] = []
    monkeypatch.setattr(runtimes, "write_graph", copying([folder / "model.xml", folder / "model.bin"], made))
    first = Embedder.load(checkpoint, runtime="openvino", graphs=graphs).embed(images)
    assert not made
    description = json.loads((folder / "graph.json").read_text())
    assert description["parity"]["tolerance"] == 1e-3
    weights = bytearray((folder / "model.bin").read_bytes())
    weights[len(weights) // 2] ^= 0x10
    (folder / "model.bin").write_bytes(weights)
    again = Embedder.load(checkpoint, runtime="openvino", graphs=graphs).embed(images)
    assert len(made) == 1
    assert np.array_equal(again, first)
    (folder / "graph.json").write_text(json.dumps(description | {"versions": {"torch": "0.1"}}))
    Embedder.load(checkpoint, runtime="openvino", graphs=graphs)
    assert len(made) == 2
    assert not list(graphs.glob(".*"))


def test_far_out_a_graph_is_measured_by_float64(tmp_path: Path) -> None:
    """Where float32 torch lies over 1e-3 from a float64 backbone, a graph may lie twice as far, and no further."""
    embedder = Embedder.load(make(tmp_path / "far", x_time_max=2e3))
    inputs = runtimes.sample_images(embedder.preprocessing).numpy()
    encoder, double = embedder.encoder, Embedder.load(tmp_path / "far").encoder.backbone.double()
    with torch.inference_mode():
        truth = encoder.embed_features(double(torch.from_numpy(inputs).double())).numpy().astype(np.float64)
    assert embedder.radius(truth.astype(np.float32)).min() > 5

    def off(by: float) -> runtimes.Runner:
        """Answers with the true points, moved along their radii by a geodesic length."""
        root = np.sqrt(embedder.c)
        norm = np.linalg.norm(truth, axis=1, keepdims=True)
        points = (truth / norm * np.sinh(np.arcsinh(root * norm) + root * by) / root).astype(np.float32)
        place = {image.tobytes(): point for image, point in zip(inputs, points, strict=True)}
        return lambda images: np.stack([place[image.tobytes()] for image in images])

    assert runtimes._check(off(2.5e-3), off(2e-3), encoder)["tolerance"] == 1e-3
    found = runtimes._check(off(-3.6e-3), off(2e-3), encoder)
    assert found["from_float64"] == pytest.approx(3.6e-3, rel=0.1)
    assert found["torch_from_float64"] == pytest.approx(2e-3, rel=0.1)
    with pytest.raises(ExportError, match="use the torch runtime"):
        runtimes._check(off(-4.4e-3), off(2e-3), encoder)
    with pytest.raises(ExportError, match="use the torch runtime"):
        runtimes._check(off(1.5e-3), off(0.0), encoder)


def test_a_wrong_graph_is_refused_and_not_kept(
    checkpoint: Path, graphs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Embedder.load(checkpoint, runtime="openvino", graphs=graphs)
    (folder,) = graphs.glob("*-openvino")
    made: list[Path] = []
    monkeypatch.setattr(runtimes, "write_graph", copying([folder / "model.xml", folder / "model.bin"], made))
    other = make(tmp_path / "other", x_time_max=12.0)
    with pytest.raises(ExportError, match="differ from the encoder's"):
        Embedder.load(other, runtime="openvino", graphs=tmp_path / "cache")
    assert len(made) == 1
    assert list((tmp_path / "cache").iterdir()) == []


def test_bfloat16_warns_how_far_it_moves(
    checkpoint: Path, graphs: Path, caplog: pytest.LogCaptureFixture, images: list[Image.Image]
) -> None:
    plain = Embedder.load(checkpoint, runtime="openvino", graphs=graphs)
    assert "reduced_precision" not in caplog.text
    try:
        with caplog.at_level(logging.WARNING):
            half = Embedder.load(checkpoint, runtime="openvino", precision="bf16", graphs=graphs)
    except ExportError as error:
        pytest.skip(str(error))
    assert "event=reduced_precision precision=bf16" in caplog.text
    assert half.precision == "bf16"
    assert largest(half.embed(images), plain.embed(images), plain.c) > 1e-3


def test_what_cannot_be_had_is_explained(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for runtime in ("torch", "onnxruntime"):
        with pytest.raises(ExportError, match="with the OpenVINO runtime only"):
            Embedder.load(checkpoint, runtime=runtime, precision="bf16", graphs=tmp_path)  # type: ignore[arg-type]
    embedder = Embedder.load(checkpoint)
    embedder.device = torch.device("cuda")
    with pytest.raises(DeviceError, match="runs on the CPU"):
        embedder.use("openvino", graphs=tmp_path)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    with pytest.raises(ExportError, match=r"needs onnxscript: pip install 'lhier\[export\]'"):
        Embedder.load(checkpoint, runtime="openvino", graphs=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_openvino_serves_several_callers_and_outlives_a_failure(checkpoint: Path, graphs: Path) -> None:
    embedder = Embedder.load(checkpoint, runtime="openvino", graphs=graphs)
    inputs = np.random.default_rng(2).normal(size=(24, 3, 64, 64)).astype(np.float32)
    expected = np.concatenate([embedder.run(inputs[i : i + 1]) for i in range(len(inputs))])
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            sizes = (1, 3, 5, 7, 8)
            ends = np.cumsum(sizes)
            parts = list(
                pool.map(embedder.run, (inputs[end - size : end] for size, end in zip(sizes, ends, strict=True)))
            )
            assert np.abs(np.concatenate(parts) - expected).max() < 1e-4
    for size in (1, 9):
        text: Any = np.full((size, 3, 64, 64), "no number")
        with pytest.raises(ValueError, match="no number"):
            embedder.run(text)
    assert np.abs(embedder.run(inputs) - expected).max() < 1e-4
