"""The worker: ``python -m service.encoder.worker FD PARENT``, started by :mod:`service.encoder.process` only.

It loads the checkpoint, then answers photos until the socket is closed or its parent dies. SIGINT and SIGTERM, which
a terminal or a container's engine sends to whole groups, are the parent's to decide on: it lets requests end first.
"""

import ctypes
import faulthandler
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from hyperbolic.images import ImageError, read_image
from service.encoder.frames import EncoderInfo, Kind, Link, Setup
from service.encoder.lanes import Lane
from service.encoder.pipeline import Encoded, FloatArray, Outcome, Pipeline, Task

if TYPE_CHECKING:
    from hyperbolic.preprocessing import Preprocessing

logger = logging.getLogger(__name__)

LOG_FORMAT = "%(levelname)s %(name)s %(message)s"
MAX_PHOTO = 2**32 - 1
# On CPUs larger batches are no faster, they only make the first of a batch wait for the last.
CPU_BATCH = 4
# OpenVINO computes one image in each thread: a batch is two rounds, and the next begins where this one leaves threads
# idle. EfficientNet-Lite0 on 2 threads behind `lhier serve`: 146 photos/s one batch after the other, 168 overlapping.
ROUNDS, OVERLAPPING = 2, 2
_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> int:
    """Serve one socket until it closes."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    _die_with_parent(int(arguments[1]))
    faulthandler.enable()
    link = Link(socket.socket(fileno=int(arguments[0])), MAX_PHOTO)
    frame = link.receive()
    if frame is None:
        return 0
    setup = Setup(**frame.head)
    logging.basicConfig(level=setup.log_level, format=LOG_FORMAT, stream=sys.stderr)
    try:
        model = _load(setup)
    except Exception as error:
        logger.debug("event=not_loaded", exc_info=True)
        _tell(link, Kind.REFUSED, {"error": type(error).__name__, "detail": str(error)})
        return 1
    _serve(link, model, setup)
    return 0


@dataclass(frozen=True, slots=True)
class Model:
    """What is kept of a loaded checkpoint: outside torch, its weights in torch are let go."""

    info: EncoderInfo
    preprocessing: "Preprocessing"
    run: Callable[[FloatArray], FloatArray]
    max_batch: int
    encode_threads: int = 1


def _load(setup: Setup) -> Model:
    """The model, warmed up at every batch size on a CPU: a size seen first takes OpenVINO up to 100 ms longer."""
    import torch

    from hyperbolic.embedder import Embedder
    from hyperbolic.runtimes import Precision, Runtime

    if setup.threads is not None:
        torch.set_num_threads(setup.threads)
    chosen = ("openvino" if setup.device == "cpu" else "torch") if setup.runtime == "auto" else setup.runtime
    embedder = Embedder.load(
        Path(setup.checkpoint),
        device=setup.device,
        runtime=cast(Runtime, chosen),  # checked by the settings, and by Embedder again
        precision=cast(Precision, setup.precision),
    )
    side, on_cpu = embedder.image_size, embedder.device.type == "cpu"
    by_openvino = embedder.runtime == "openvino"
    largest = ROUNDS * torch.get_num_threads() if by_openvino else CPU_BATCH if on_cpu else setup.max_batch
    max_batch = min(setup.max_batch, largest)
    for size in range(1, max_batch + 1) if on_cpu else (1, max_batch):
        embedder.run(np.zeros((size, 3, side, side), np.float32))
    info = EncoderInfo(
        model_hash=embedder.model_hash,
        embedding_dim=embedder.embedding_dim,
        c=embedder.c,
        backbone=embedder.backbone,
        image_size=embedder.image_size,
        runtime=embedder.runtime,
        precision=embedder.precision if embedder.device.type != "cuda" else "f16",
        device=str(embedder.device),
    )
    return Model(info, embedder.preprocessing, embedder.run, max_batch, OVERLAPPING if by_openvino else 1)


def _serve(link: Link, model: Model, setup: Setup) -> None:
    preprocessing = model.preprocessing

    def decode(task: Task) -> FloatArray:
        image = read_image(task.photo, task.max_pixels, task.min_side, preprocessing.draft_side)
        return np.asarray(preprocessing(image).numpy())

    def answer(outcome: Outcome) -> None:
        _tell(link, *_answer(outcome))

    pipeline = Pipeline(
        decode,
        model.run,
        answer,
        decode_threads=setup.decode_threads,
        encode_threads=model.encode_threads,
        max_batch=model.max_batch,
    )
    gc.collect()
    gc.freeze()  # what was loaded stays: going through it again and again would hold photos up
    # As many photos as keep everything busy: one batch more than are encoded, and those that are being decoded.
    window = (model.encode_threads + 1) * model.max_batch + setup.decode_threads
    _tell(link, Kind.READY, {"info": asdict(model.info), "window": window})
    while (frame := link.receive()) is not None:
        head = frame.head
        if frame.kind == Kind.PHOTO:
            lane = Lane(head["lane"])
            pipeline.put(Task(head["number"], lane, frame.body, head["max_pixels"], head["min_side"]))
        elif frame.kind == Kind.CANCEL:
            pipeline.cancel(head["number"])
    # Not by returning: that would wait for decoders that nobody waits for any more.
    os._exit(0)


def _tell(link: Link, kind: Kind, head: dict[str, Any], body: bytes = b"") -> None:
    try:
        link.send(kind, head, body)
    except OSError:  # the parent has gone: whoever receives next ends this process
        logger.debug("event=answer_lost")


def _answer(outcome: Outcome) -> tuple[Kind, dict[str, Any], bytes]:
    if isinstance(outcome, Encoded):
        head = {
            "numbers": [task.number for task in outcome.tasks],
            "decode_s": [task.decode_s for task in outcome.tasks],
            "encode_s": outcome.seconds,
        }
        return Kind.POINTS, head, outcome.points.astype("<f4").tobytes()
    task, error = outcome
    if error is None:
        return Kind.DROPPED, {"number": task.number}, b""
    if isinstance(error, ImageError):
        return Kind.BAD_PHOTO, {"number": task.number, "code": error.code, "detail": str(error)[:1000]}, b""
    return Kind.FAILED, {"number": task.number, "detail": f"{type(error).__name__}: {error}"[:1000]}, b""


def _die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, even while native code holds every thread."""
    if sys.platform == "linux":  # elsewhere the end of the socket has to do
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before that
        os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
