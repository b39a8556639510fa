"""What a store should hold, and whether it does: everything is compared with a dictionary and float64 brute force."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from index.catalogue import Item
from index.collection import Collection

C, DIM, MODEL = 0.7, 8, "fa4e00000001"


class Held(NamedTuple):
    """One item, as it can be compared."""

    space: bytes
    labels: tuple[str, ...]
    metadata: str


State = dict[str, Held]


def made(item_id: str, seed: int, dim: int = DIM) -> Item:
    """The item that a number stands for; its radius is anywhere from 0 to 8."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=dim)
    length = np.sinh(np.sqrt(C) * rng.uniform(0, 8)) / np.sqrt(C)
    space = (direction / np.linalg.norm(direction) * length).astype(np.float32)
    return Item(item_id, space, (f"family-{seed % 3}", f"kind-{seed % 7}"), {"seed": seed})


def held(item: Item) -> Held:
    """An item for comparison."""
    return Held(item.space.tobytes(), item.labels, json.dumps(item.metadata))


def state_of(collection: Collection) -> State:
    """Everything a collection holds."""
    found: State = {}
    after = 0
    while page := collection.items(after, 5000):
        after = page[-1].row
        found |= {item.id: held(item) for item in page}
    return found


def distances(query: np.ndarray, points: np.ndarray) -> np.ndarray:
    """From one point (d,) to all (n, d), in float64 by the asinh form of the chord."""
    query, points = query.astype(np.float64), points.astype(np.float64)
    times = np.sqrt(1 / C + (points**2).sum(1))
    time_difference = ((points - query) * (points + query)).sum(1) / (times + np.sqrt(1 / C + query @ query))
    squared = ((points - query) ** 2).sum(1) - time_difference**2
    return 2 / np.sqrt(C) * np.arcsinh(np.sqrt(C) / 2 * np.sqrt(np.maximum(squared, 0)))


def faults_of(collection: Collection, expected: State, *, searches: int = 3, seed: int = 0) -> list[str]:
    """What is wrong with a collection that should hold `expected`."""
    wrong = collection.catalogue.faults()
    found = state_of(collection)
    if found != expected:
        lost, invented = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
        changed = [id_ for id_ in expected.keys() & found.keys() if expected[id_] != found[id_]]
        wrong.append(f"lost {lost[:5]}, invented {invented[:5]}, changed {changed[:5]}")
        return wrong
    return wrong + searches_that_differ(collection, expected, searches=searches, seed=seed)


def searches_that_differ(collection: Collection, expected: State, *, searches: int, seed: int = 0) -> list[str]:
    """Searches and a range search of a collection against brute force over what it should hold."""
    if len(collection.index) != len(expected):
        return [f"the index holds {len(collection.index)} points, {len(expected)} are expected"]
    if not expected:
        return [] if collection.search(np.zeros(collection.embedding_dim), 3) == [] else ["hits in nothing"]
    ids = list(expected)
    points = np.stack([np.frombuffer(expected[id_].space, dtype=np.float32) for id_ in ids])
    rng, wrong = np.random.default_rng(seed), []
    for _ in range(searches):
        query = points[rng.integers(len(ids))]
        if rng.random() < 0.5:
            query = (query * rng.uniform(0.5, 1)).astype(np.float32)
        truth = dict(zip(ids, distances(query, points).tolist(), strict=True))
        nearest = sorted(truth.values())
        # What the chord loses to rounding: about x_time^2 u of its square.
        tolerance = 1e-6 + np.sqrt(1e-14) * np.sqrt(1 / C + float((query.astype(np.float64) ** 2).sum()))
        hits = collection.search(query, 10, exact=True)
        wrong += _compared(hits, truth, nearest[:10], tolerance)
        radius = nearest[len(nearest) // 3] + 2 * tolerance
        within = collection.range_search(query, radius)
        sure = {id_ for id_, distance in truth.items() if distance <= radius - tolerance}
        if not sure <= {hit.item.id for hit in within} <= {id_ for id_ in ids if truth[id_] <= radius + tolerance}:
            wrong.append(f"a range search found {len(within)}, {len(sure)} are within {radius:.4f}")
    return wrong


def _compared(hits: list[Any], truth: dict[str, float], nearest: list[float], tolerance: float) -> list[str]:
    if len({hit.item.id for hit in hits}) != len(nearest) or not all(hit.exact for hit in hits):
        return [f"{len(hits)} hits, {len(nearest)} expected, each once and proven"]
    return [
        f"rank {rank}: {hit.item.id} at {hit.distance}, by brute force {truth.get(hit.item.id)}, expected {distance}"
        for rank, (hit, distance) in enumerate(zip(hits, nearest, strict=True))
        if not abs(truth.get(hit.item.id, np.inf) - distance) <= tolerance >= abs(hit.distance - distance)
    ]


def leftovers(store: Path) -> list[str]:
    """What killed writers left in a store: half-written and set-aside folders."""
    return [path.name for path in store.rglob("*") if path.name.startswith((".", "bad-"))]
