"""The worker's module with a decoder that crashes or hangs where a photo says so, and an encoder of a few lines.

Started in place of ``-m service.encoder.worker`` by the tests of what the supervisor does. Its point of a photo is
the mean colour, so that no two photos' points can be mixed up.
"""

import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from PIL import Image

from service.encoder import worker
from service.encoder.frames import EncoderInfo, Setup

CRASH, HANG, SLOW, POISON_BATCH, NOT_A_NUMBER = b"crash", b"hang", b"slow", b"poison", b"nan"
DIM = 3
_read_image = worker.read_image


def read_image(data: bytes, *limits: int) -> Image.Image:
    if data == CRASH:
        os.kill(os.getpid(), signal.SIGSEGV)
    if data == HANG:
        time.sleep(3600)
    if data == SLOW:
        time.sleep(0.2)
        return Image.new("RGB", (8, 8), (1, 2, 3))
    if data in {POISON_BATCH, NOT_A_NUMBER}:
        return Image.new("RGB", (8, 8), (250, 250, 250) if data == POISON_BATCH else (251, 251, 251))
    return _read_image(data, *limits)


class Preprocessing:
    draft_side = 16

    def __call__(self, image: Image.Image) -> SimpleNamespace:
        planes = np.asarray(image.resize((8, 8)), np.float32).transpose(2, 0, 1)
        return SimpleNamespace(numpy=lambda: planes)


def run(images: np.ndarray) -> np.ndarray:
    points = images.mean(axis=(2, 3))
    if (points == 250).all(axis=1).any():
        raise RuntimeError("a photo that no batch survives")
    points[(points == 251).all(axis=1)] = np.nan
    return np.asarray(points, np.float32)


def load(setup: Setup) -> worker.Model:
    """``checkpoint`` is a file that holds the name of the model: whoever writes another has changed the checkpoint."""
    text = Path(setup.checkpoint).read_text()
    if text == "broken":
        raise RuntimeError("the checkpoint is broken")
    if text == "crashing":
        os.kill(os.getpid(), signal.SIGKILL)
    info = EncoderInfo(text, DIM, 1.0, "mean", 8, "torch", "f32", "cpu")
    return worker.Model(info, cast(Any, Preprocessing()), run, min(setup.max_batch, worker.CPU_BATCH))


if __name__ == "__main__":
    worker.read_image, worker._load = read_image, load
    sys.exit(worker.main(sys.argv[1:]))
