"""What a whole embedding job costs beside its encoder alone: photos per second, in each runtime.

    python -m benchmarks.embed [--photos ../shared/data/grocery/train] [--count 1024] [--threads 1] [--out FOLDER]

The job is `lhier embed` from listing the photos to the manifest, with the checkpoint loaded and converted; the encoder
alone gets photos that are decoded already, at the same batch size. Both take turns, and the share is the median of the
rounds' own. The encoder is EfficientNet-Lite0 with the points of the recipes (radius 3), or ``--checkpoint``. Beside
the runtimes: plain torch (channels first, the batch as it comes), decoding by itself, and what draft decoding would
save on large JPEGs (mosaics of the photos) and how far it would move their points.
"""

import argparse
import copy
import io
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from benchmarks.common import PROJECT, write_result
from hyperbolic.embedder import Embedder
from hyperbolic.graph import ExportError
from hyperbolic.images import find_images, read_image
from hyperbolic.models.backbone import WeightsError
from hyperbolic.models.config import ModelConfig
from hyperbolic.models.lhier import Encoder
from hyperbolic.runtimes import Precision, Runtime, geodesic
from index.embed import embed_photos

PHOTOS = PROJECT.parent / "shared" / "data" / "grocery" / "train"
RUNTIMES: dict[str, tuple[Runtime, Precision]] = {
    "torch float32": ("torch", "f32"),
    "ONNX Runtime float32": ("onnxruntime", "f32"),
    "OpenVINO float32": ("openvino", "f32"),
    "OpenVINO bfloat16": ("openvino", "bf16"),
}
PLAIN = "torch float32, plain"
DECODED = 128  # photos kept decoded, given to the encoder again and again
MOSAICS = ((6, 5), (10, 8))  # photos across and down


def load(checkpoint: Path | None, backbone: str, batch_size: int) -> tuple[Embedder, str]:
    """An embedder, and what it was loaded from: checkpoint, offline weights or random ones."""
    if checkpoint is not None:
        return Embedder.load(checkpoint, batch_size=batch_size), "checkpoint"
    torch.manual_seed(0)
    config = ModelConfig(backbone=backbone, embedding_dim=128, x_time_max=10.0677)
    try:
        return Embedder(Encoder(config, "offline"), "benchmark", batch_size=batch_size), "offline"
    except WeightsError:
        return Embedder(Encoder(config, "none"), "benchmark", batch_size=batch_size), "random"


def seconds(call: Callable[[], object]) -> float:
    """Of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def points(folder: Path) -> np.ndarray:
    """Every point of an embedding folder, in order."""
    tables = [pq.read_table(path)["space"] for path in sorted(folder.glob("part-*.parquet"))]
    return np.concatenate([np.array(table.to_pylist(), np.float32) for table in tables])


def measure(
    embedder: Embedder, photos: Path, names: Sequence[str], rounds: int, graphs: Path, work: Path
) -> list[dict[str, Any]]:
    """Rows of parts rate, agreement and skipped."""
    some = [embedder.preprocessing(read_image(photos / name)) for name in names[:DECODED]]
    size = embedder.batch_size
    decoded = [torch.stack(some[start : start + size]) for start in range(0, len(some) - len(some) % size, size)]
    if not decoded:
        raise SystemExit(f"expected at least {size} photos, a batch")
    turns = [decoded[turn % len(decoded)] for turn in range(max(1, len(names) // size))]
    plain = copy.deepcopy(embedder.encoder).to(memory_format=torch.contiguous_format)

    def run_plain() -> None:
        with torch.inference_mode():
            for images in turns:
                plain(images)

    embedders: dict[str, Embedder] = {}
    rows: list[dict[str, Any]] = []
    for name, (runtime, precision) in RUNTIMES.items():
        try:
            embedders[name] = copy.copy(embedder)
            embedders[name].use(runtime, precision=precision, graphs=graphs)
        except ExportError as error:
            del embedders[name]
            rows.append({"part": "skipped", "runtime": name, "reason": str(error)})
            print(f"{name:<24} skipped: {error}")
    rates: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds + 1):  # the first one warms up
        for name, one in embedders.items():
            out = work / f"{name}-{number}"
            bare = seconds(lambda one=one: [one.embed_tensors(images) for images in turns])
            job = seconds(lambda one=one, out=out: embed_photos(one, photos, out, checkpoint=photos, photos=names))
            if number:
                rates.setdefault((name, "bare"), []).append(len(turns) * size / bare)
                rates.setdefault((name, "job"), []).append(len(names) / job)
        if number:
            rates.setdefault((PLAIN, "bare"), []).append(len(turns) * size / seconds(run_plain))
    for name in [PLAIN, *embedders]:
        bare_rates, job_rates = rates[name, "bare"], rates.get((name, "job"))
        row = {"part": "rate", "runtime": name, "bare_per_s": statistics.median(bare_rates), "rounds": rounds}
        if job_rates:
            row |= {
                "job_per_s": statistics.median(job_rates),
                "job_share": statistics.median(job / bare for job, bare in zip(job_rates, bare_rates, strict=True)),
            }
        rows.append(row)
        told = "  ".join(f"{key} {value:.2f}" for key, value in row.items() if isinstance(value, float))
        print(f"{name:<24} {told}", flush=True)
    reference = points(work / f"torch float32-{rounds}")
    for name in embedders:
        moved = geodesic(points(work / f"{name}-{rounds}"), reference, embedder.c)
        rows.append(
            {"part": "agreement", "runtime": name, "median": float(moved.median()), "farthest": float(moved.max())}
        )
    return rows


def decoding(embedder: Embedder, photos: Path, names: Sequence[str]) -> dict[str, Any]:
    """Photos per second of reading, decoding and preprocessing on one thread."""
    some = names[: 2 * DECODED]
    took = seconds(lambda: [embedder.preprocessing(read_image(photos / name)) for name in some])
    return {"part": "decoding", "photos_per_s": len(some) / took, "count": len(some)}


def drafts(embedder: Embedder, photos: Path, names: Sequence[str], count: int = 6) -> list[dict[str, Any]]:
    """Draft decoding of large JPEGs against full decoding: time, pixels and points."""
    rng, side = random.Random(0), embedder.preprocessing.draft_side
    tile = embedder.image_size
    rows = []
    for across, down in MOSAICS:
        files = []
        for _ in range(count):
            mosaic = Image.new("RGB", (across * tile, down * tile))
            for number in range(across * down):
                photo = read_image(photos / rng.choice(names)).resize((tile, tile))
                mosaic.paste(photo, (number % across * tile, number // across * tile))
            file = io.BytesIO()
            mosaic.save(file, "JPEG", quality=90)
            files.append(file.getvalue())
        whole = [embedder.preprocessing(read_image(file)) for file in files]
        draft = [embedder.preprocessing(read_image(file, draft_side=side)) for file in files]
        std = torch.tensor(embedder.preprocessing.std).view(3, 1, 1)
        levels = max(float(((a - b).abs() * std * 255).mean()) for a, b in zip(whole, draft, strict=True))
        a, b = (embedder.embed_tensors(torch.stack(images)) for images in (whole, draft))
        rows.append(
            {
                "part": "draft",
                "width": across * tile,
                "height": down * tile,
                "whole_ms": 1e3 * seconds(lambda files=files: [read_image(file) for file in files]) / count,
                "draft_ms": 1e3
                * seconds(lambda files=files: [read_image(file, draft_side=side) for file in files])
                / count,
                "mean_levels": levels,
                "moved_most": float(geodesic(a, b, embedder.c).max()),
                "apart_median": float(geodesic(a, np.roll(a, 1, axis=0), embedder.c).median()),
            }
        )
    return rows


def main() -> None:
    """Measure and write one result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder or .json file for the result")
    parser.add_argument("--photos", type=Path, default=PHOTOS, help="a folder of photos")
    parser.add_argument("--count", type=int, default=1024, help="photos of a job")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of the encoder; decoding has its own")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--checkpoint", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found = [path.relative_to(arguments.photos).as_posix() for path in find_images(arguments.photos)]
    names = found[:: max(1, len(found) // arguments.count)][: arguments.count]
    embedder, weights = load(arguments.checkpoint, arguments.backbone, arguments.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(embedder, arguments.photos, names, arguments.rounds, Path(folder, "graphs"), Path(folder))
    rows += [decoding(embedder, arguments.photos, names), *drafts(embedder, arguments.photos, names)]
    with Image.open(arguments.photos / names[0]) as first:
        pixels = list(first.size)
    parameters = {
        "backbone": embedder.backbone,
        "weights": weights,
        "count": len(names),
        "photo_size": pixels,
        "rounds": arguments.rounds,
        "threads": arguments.threads,
        "batch_size": arguments.batch_size,
    }
    print("wrote", write_result("embed", arguments.out, parameters, rows))


if __name__ == "__main__":
    main()
