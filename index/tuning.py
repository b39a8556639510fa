"""Lists learnt from a sample, and how many of them a search must probe."""

import logging

import numpy as np

from index.distances import Float64
from index.exact_points import Float32, Int64
from index.frames import Frames
from index.kmeans import lorentz_kmeans
from index.list_rows import ListRows

logger = logging.getLogger(__name__)

TARGET = 0.99  # recall at K
K = 10
SAMPLE = 400  # stored points that are searched for
TRAIN_PER_LIST = 30  # points a centroid is learnt from
SPARES = (100, 200, 400, 800, 1600)  # candidates beyond K that rows of 8 bits may need
ITERATIONS = 6
BLOCK = 1 << 22


def learn_centroids(space: Float32, nlist: int, c: float, seed: int = 0) -> Float64:
    """Space parts of `nlist` centroids, from a sample of points (n, d)."""
    most = TRAIN_PER_LIST * nlist
    if len(space) > most:
        chosen = np.random.default_rng(seed).choice(len(space), most, replace=False)
        space = space[np.sort(chosen)]
    return lorentz_kmeans(space, nlist, c, iterations=ITERATIONS, seed=seed)


def sample(count: int, seed: int = 0) -> Int64:
    """Positions of the points that are searched for."""
    return np.sort(np.random.default_rng(seed).choice(count, min(SAMPLE, count), replace=False))


def nearest_others(space: Float32, chosen: Int64, k: int, c: float) -> Int64:
    """The k nearest points of each chosen one, itself left out: (s,) -> (s, k). By float64 products, exact up to
    their rounding (1e-9 of cosh d at radius 8), which tuning does not mind.
    """
    frames = Frames(
        np.sqrt(c) * space[chosen].astype(np.float64), c
    )  # for its products only: cosh(sqrt(c) d) to every chosen one
    step = max(k, BLOCK // len(chosen))
    best, place = np.full((len(chosen), k), np.inf), np.full((len(chosen), k), -1, dtype=np.int64)
    for start in range(0, len(space), step):
        part = space[start : start + step].astype(np.float64)
        cosh = frames.cosh_to_all(*frames.unit(part)).T
        own = (chosen >= start) & (chosen < start + len(part))
        cosh[np.flatnonzero(own), chosen[own] - start] = np.inf
        few = min(k, len(part))
        nearest = np.argpartition(cosh, few - 1, axis=1)[:, :few]
        best = np.concatenate([best, np.take_along_axis(cosh, nearest, axis=1)], axis=1)
        place = np.concatenate([place, nearest + start], axis=1)
        kept = np.argpartition(best, k - 1, axis=1)[:, :k]
        best, place = np.take_along_axis(best, kept, axis=1), np.take_along_axis(place, kept, axis=1)
    return place


def probes_for(rows: ListRows, chosen: Int64, neighbours: Int64) -> int:
    """The fewest nearest lists that hold TARGET of the neighbours (s, k) of the chosen points, and so on the lower
    end of what another sample would give (two standard errors).
    """
    cosh = rows.frames.cosh_to_all(*rows.frames.unit(rows.gather(chosen).astype(np.float64)))
    near = rows.gather(neighbours.ravel()).astype(np.float64)
    lists = rows.route(near, 1)[0].reshape(neighbours.shape)
    ranks = np.array([(row[None] < row[own][:, None]).sum(axis=1) for row, own in zip(cosh, lists, strict=True)])
    for probes in range(1, rows.nlist):
        found = (ranks < probes).mean(axis=1)
        if found.mean() - 2 * found.std() / np.sqrt(len(found)) >= TARGET:
            return probes
    return rows.nlist
