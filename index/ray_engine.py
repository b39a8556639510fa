"""An embedding job on Ray Data: parts go out to encoders on other processes or machines, points come back.

The machine that runs the command lists the photos and writes the embedding folder, as without Ray; it sends the
checkpoint along. The others read the photos themselves, under the same path or URL.
"""

import importlib
import importlib.util
import logging
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from hyperbolic.checkpoint import CONFIG_FILE, MODEL_FILE, resolve_checkpoint
from hyperbolic.embedder import Embedder
from index.embed import EmbeddedPart, Engine, Task, embed_parts
from index.sources import Source

logger = logging.getLogger(__name__)


class RayError(RuntimeError):
    """Ray is not installed, or a machine of the cluster could not do its part."""


class PartEmbedder:
    """What each Ray worker holds: an encoder of its own. Called with pickled tasks, answers with pickled parts."""

    def __init__(self, setup: dict[str, Any]) -> None:
        ray = importlib.import_module("ray")
        files, options, threads, self.source, self.draft = ray.get(setup["reference"])
        torch.set_num_threads(threads)
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                Path(folder, name).write_bytes(content)
            self.embedder = Embedder.load(Path(folder), **options)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        """{"task": pickled tasks} -> {"part": pickled parts}."""
        tasks: list[Task] = [pickle.loads(task) for task in batch["task"]]  # noqa: S301  # written by ray_engine
        parts = embed_parts(self.embedder, self.source, tasks, lambda _: None, draft=self.draft)
        return {"part": [pickle.dumps(part) for part in parts]}


def ray_engine(
    embedder: Embedder, checkpoint: Path, source: Source, *, draft: bool = False, workers: int | None = None
) -> Engine:
    """An engine for :func:`index.embed.embed_photos` that has the work done by ``workers`` encoders on Ray.

    As many as the cluster has CPUs (or GPUs, for an embedder there) by default, each with as many threads as here, so
    that the rows are those of the local job. On the cluster of RAY_ADDRESS, or one started here for the job; what a
    kill costs is a part for each worker. Raises :class:`RayError` where Ray is missing.
    """
    if importlib.util.find_spec("ray") is None:
        raise RayError("--engine ray needs Ray Data: pip install 'lhier[ray]'")
    if source.name.startswith("memory://"):
        raise RayError("photos at memory:// are in this process alone: Ray's workers cannot read them")
    folder = resolve_checkpoint(checkpoint)
    files = {name: (folder / name).read_bytes() for name in (CONFIG_FILE, MODEL_FILE)}
    options = {
        "device": embedder.device.type,
        "batch_size": embedder.batch_size,
        "runtime": embedder.runtime,
        "precision": embedder.precision,
    }
    threads = torch.get_num_threads()
    gpu = embedder.device.type == "cuda"

    def engine(tasks: Sequence[Task], count: Callable[[int], None]) -> Iterator[EmbeddedPart]:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # or it reports to its maker
        ray, data = importlib.import_module("ray"), importlib.import_module("ray.data")
        started = not ray.is_initialized()
        if started:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # it tells its plans at INFO, its settings at WARNING
        try:
            context = data.DataContext.get_current()
            context.enable_progress_bars = False
            resources = ray.cluster_resources()
            most = int(resources.get("GPU" if gpu else "CPU", 1))
            per_worker = {"num_gpus": 1} if gpu else {"num_cpus": max(1, min(threads, most))}
            size = min(workers or most // (1 if gpu else per_worker["num_cpus"]), len(tasks), most)
            photos = {task.number: len(task.photos) for task in tasks}
            setup = ray.put((files, options, threads, source, draft))
            parts = data.from_items(
                [{"task": pickle.dumps(task)} for task in tasks], override_num_blocks=len(tasks)
            ).map_batches(
                PartEmbedder,
                batch_size=1,
                # A dict, because Ray would tie the workers' restart to a bare reference.
                fn_constructor_args=({"reference": setup},),
                compute=data.ActorPoolStrategy(size=max(1, size)),
                **per_worker,
            )
            for row in parts.iter_rows():
                part: EmbeddedPart = pickle.loads(row["part"])  # noqa: S301  # written by PartEmbedder
                yield part
                count(photos[part.number])
        except ray.exceptions.RayError as error:
            raise RayError(f"a Ray worker failed: {str(error).strip().splitlines()[-1]}") from error
        finally:
            if started:
                ray.shutdown()

    return engine
