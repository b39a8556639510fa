"""Export of a checkpoint to ONNX or OpenVINO: from the image tensor to the point, checked before it is kept.

DIR/model.onnx and DIR/model.onnx.json, or DIR/model.xml, model.bin and model.xml.json. The JSON says how a photo
becomes the input, and what the output means; the graph carries the same in its own metadata.
"""

import hashlib
import json
import logging
import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hyperbolic.embedder import Embedder
from hyperbolic.graph import FILES, ExportError, Format, describe, require, write_graph
from hyperbolic.runtimes import TOLERANCE, Runner, compare_points, load_graph

__all__ = ["FILES", "TOLERANCE", "ExportError", "Format", "Runner", "check_parity", "export_checkpoint", "load_graph"]

logger = logging.getLogger(__name__)


def export_checkpoint(checkpoint: Path, kind: Format, out: Path) -> dict[str, Any]:
    """Write the encoder of ``checkpoint`` (or of a run) into ``out`` as ``kind``, with its description beside it.

    Made and checked in a folder of its own, moved into ``out`` only when every point agreed: see
    :func:`check_parity`. Returns the description. Raises :class:`ExportError`, and
    :class:`~hyperbolic.checkpoint.CheckpointError` for what is wrong with the checkpoint.
    """
    require(kind)
    description_file = f"{FILES[kind][0]}.json"
    present = [name for name in (*FILES[kind], description_file) if (out / name).exists()]
    if present:
        raise ExportError(f"{out} already holds {', '.join(present)}: choose another --out or remove them")
    embedder = Embedder.load(checkpoint)
    description = describe(embedder.encoder, embedder.model_hash, kind)
    missing = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    with tempfile.TemporaryDirectory(prefix=".lhier-export-", dir=missing) as name:
        staging = Path(name)
        write_graph(embedder.encoder, kind, staging, description)
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


def check_parity(run: Runner, embedder: Embedder, tolerance: float = TOLERANCE) -> dict[str, Any]:
    """Compare a graph's points with the encoder's own on 16 images, one by one and 8 at a time.

    Returns the largest geodesic distance, per batch size too. Raises :class:`ExportError` where one is above
    ``tolerance``, and what :func:`hyperbolic.runtimes.compare_points` raises.
    """
    found, expected = compare_points(run, embedder.run, embedder.preprocessing, embedder.c)
    for name, worst in found.items():
        if not worst <= tolerance:
            reach = math.sqrt(embedder.c) * float(embedder.radius(expected).max())
            raise ExportError(
                f"points of the exported graph differ from the encoder's by up to {worst:.2e} at "
                f"{name.replace('_', ' size ')}, "
                f"expected at most {tolerance:g} (geodesic, float32): nothing was written. Where points lie, at radius "
                f"{reach:.1f}/sqrt(c), an angle of 1e-6 is a distance of {math.sinh(reach) * 1e-6:.1e}"
                + ("; train with a smaller model.x_time_max" if math.sinh(reach) * 1e-6 > tolerance / 2 else "")
            )
    return {"largest": max(found.values()), "tolerance": tolerance, "images": len(expected), **found}
