"""The peer of benchmarks/serving.py: the same torch model and a flat FAISS index behind LitServe, as its guide shows.

    python -m benchmarks.serving_litserve CHECKPOINT POINTS.npy PORT [--threads 2] [--sliced]

``--sliced``: the encoder in parts of four photos, as our Embedder runs it, in place of the batch as it comes.
"""

import argparse
import io
from pathlib import Path
from typing import Any

import faiss
import litserve
import numpy as np
import torch
from fastapi import Request
from PIL import Image

from hyperbolic.checkpoint import load_checkpoint
from hyperbolic.embedder import Embedder


class SearchAPI(litserve.LitAPI):
    """A photo in the form field ``file`` -> its ten nearest rows."""

    def __init__(self, checkpoint: Path, points: Path, threads: int, *, sliced: bool, **options: Any) -> None:
        super().__init__(**options)
        self.checkpoint, self.points, self.threads, self.sliced = checkpoint, points, threads, sliced

    def setup(self, device: str) -> None:
        """Once in each worker."""
        torch.set_num_threads(self.threads)
        encoder, config = load_checkpoint(self.checkpoint)
        self.encoder = encoder.eval()
        self.preprocessing = encoder.preprocessing
        self.embedder = Embedder(encoder, config.model_hash) if self.sliced else None
        points = np.load(self.points)
        self.index = faiss.IndexFlatL2(points.shape[1])
        self.index.add(points)

    def decode_request(self, request: Request) -> torch.Tensor:
        """The photo, preprocessed. (LitServe hands over the form of such a request.)"""
        with Image.open(io.BytesIO(request["file"].file.read())) as image:
            tensor: torch.Tensor = self.preprocessing(image.convert("RGB"))
        return tensor

    def batch(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        """One tensor of them all."""
        return torch.stack(inputs)

    def predict(self, images: torch.Tensor) -> list[tuple[list[float], list[int]]]:
        """Distances and rows."""
        if self.embedder is not None:
            space = self.embedder.embed_tensors(images)
        else:
            with torch.inference_mode():
                space = self.encoder(images).numpy()
        distances, rows = self.index.search(np.ascontiguousarray(space, dtype=np.float32), 10)
        return list(zip(distances.tolist(), rows.tolist(), strict=True))

    def unbatch(self, output: list[tuple[list[float], list[int]]]) -> list[tuple[list[float], list[int]]]:
        """One answer each."""
        return output

    def encode_response(self, output: tuple[list[float], list[int]]) -> dict[str, Any]:
        """As JSON."""
        return {"distances": output[0], "rows": output[1]}


def main() -> None:
    """Serve until a signal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("points", type=Path)
    parser.add_argument("port", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sliced", action="store_true")
    asked = parser.parse_args()
    api = SearchAPI(
        asked.checkpoint, asked.points, asked.threads, sliced=asked.sliced, max_batch_size=16, batch_timeout=0.005
    )
    server = litserve.LitServer(api, accelerator="cpu", timeout=60)
    server.run(host="127.0.0.1", port=asked.port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
