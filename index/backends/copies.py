"""A collection's points in a backend: copied there, and compared with the collection."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from index.backends.connect import create_backend, open_backend
from index.backends.interface import About, Backend, BackendError, BackendNotFoundError
from index.collection import Collection
from index.errors import ModelMismatchError

BATCH = 5000


@dataclass(frozen=True, slots=True)
class Comparison:
    """Searches of a backend beside the same ones of the collection's own index."""

    points: int
    points_of_collection: int
    searches: int
    proven: float  # share of the answers that the backend proved exact
    same: float  # share of the answers with the collection's distances
    wrong: int  # answers that claimed to be exact and were not
    milliseconds: float  # of one search, the median
    milliseconds_of_collection: float

    @property
    def sound(self) -> bool:
        """Nothing is missing, and no claim was wrong."""
        return self.points == self.points_of_collection and not self.wrong


def push(
    collection: Collection,
    url: str,
    name: str,
    *,
    replace: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **choices: Any,
) -> Backend:
    """Copy every point of a collection to the backend at `url`, which is created where it is missing.

    What was pushed before is overwritten, and what was deleted since is deleted there. `choices`: `coordinates` and
    `scan` of :class:`~index.backends.interface.About`. :class:`ModelMismatchError` where the backend holds points of
    another model, :class:`BackendError` where it holds another collection's.
    """
    about = About(collection.embedding_dim, collection.c, collection.model_hash, **choices)
    try:
        backend = create_backend(url, name, about, replace=True) if replace else open_backend(url, name)
    except BackendNotFoundError:
        backend = create_backend(url, name, about)
    try:
        require(backend, about)
        changes = collection.catalogue.changes()
        for start in range(0, len(changes.rows), BATCH):
            part = slice(start, start + BATCH)
            backend.upsert(changes.rows[part], changes.space[part])
            progress(min(start + BATCH, len(changes.rows)), len(changes.rows))
        backend.delete(changes.removed)
        if backend.count != len(changes.rows):
            raise BackendError(
                f"{backend.name} holds {backend.count} points after {len(changes.rows)} of {collection.name!r} were "
                "pushed: some are of another collection; push with --replace, or under another --name"
            )
    except BaseException:
        backend.close()
        raise
    return backend


def require(backend: Backend, about: About) -> None:
    """Refuse a backend that holds other points than these."""
    there = backend.about
    if there.model_hash != about.model_hash:
        raise ModelMismatchError(f"the {backend.name} backend", expected=about.model_hash, found=there.model_hash)
    if there != about:
        raise BackendError(f"the {backend.name} backend holds {there}, expected {about}: push with --replace")


def compare(collection: Collection, backend: Backend, *, sample: int, k: int = 10, seed: int = 0) -> Comparison:
    """Search for the neighbours of `sample` of the collection's points, one at a time, there and here."""
    changes = collection.catalogue.changes()
    chosen = np.random.default_rng(seed).permutation(len(changes.rows))[:sample]
    proven = same = wrong = 0
    seconds: tuple[list[float], list[float]] = ([], [])
    for query in changes.space[chosen]:
        times = [time.perf_counter()]
        answer = backend.search(query[None], k)
        times.append(time.perf_counter())
        expected, _, _ = collection.index.search(query[None], k, exact=True)
        times.append(time.perf_counter())
        for kept, spent in zip(seconds, np.diff(times), strict=True):
            kept.append(float(spent))
        # Both are float64 distances of the same float32 points: they differ by rounding or by a neighbour.
        agrees = bool(np.allclose(answer.distances, expected, rtol=1e-9, atol=1e-12))
        proven, same = proven + bool(answer.exact[0]), same + agrees
        wrong += bool(answer.exact[0]) and not agrees
    searches = max(len(chosen), 1)
    there, here = (float(np.median(kept)) * 1000 if kept else 0.0 for kept in seconds)
    return Comparison(
        backend.count, len(changes.rows), len(chosen), proven / searches, same / searches, wrong, there, here
    )
