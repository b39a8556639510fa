"""The float32 errors that the certificates allow for, against products and distances in float64 (long
double)."""

import subprocess
import sys

import numpy as np
import pytest

from index.ball_rows import BallRows
from index.distances import distances, norms
from index.faiss_library import inner_products_by_blas, own_method
from index.generators import ROUNDING, InnerProductRows, selector


def near_pairs(radius: float, dim: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Queries and rows about 0.3 apart at one radius."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(1, dim)) + np.zeros((count, 1))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    scatter = rng.normal(size=(2, count, dim)) / np.sqrt(dim) * 0.3 * np.exp(-radius)
    x, y = directions + scatter
    return (x * np.sinh(radius)).astype(np.float32).astype(np.float64), (y * np.sinh(radius)).astype(np.float32)


@pytest.mark.parametrize("dim", [2, 16, 128, 512, 1024])
@pytest.mark.parametrize("batch", [1, 50], ids=["kernels", "blas"])
def test_the_error_of_inner_products_stays_below_its_allowance(dim: int, batch: int) -> None:
    worst = 0.0
    for seed, radius in enumerate([0.5, 2.0, 4.0, 5.5]):
        queries, rows = near_pairs(radius, dim, 400, seed)
        generator = InnerProductRows(dim, 1.0)
        generator.add(rows)
        points = rows.astype(np.longdouble)
        times = np.sqrt(1 + (points**2).sum(1))
        for start in range(0, 100, batch):
            part = queries[start : start + batch]
            flipped = generator._flipped(part)
            if batch == 1:
                scores, positions = own_method(generator.flat, "search")(flipped, 400, params=selector(None))
            else:
                with inner_products_by_blas():
                    scores, positions = generator.flat.search(flipped, 400)
            wide = part.astype(np.longdouble)
            query_times = np.sqrt(1 + (wide**2).sum(1, keepdims=True))
            truth = wide @ points.T - query_times * times
            error = np.abs(scores - np.take_along_axis(truth, positions, axis=1))
            worst = max(worst, float((error / (ROUNDING * query_times * times[positions])).max()))
    assert 0.1 < worst <= 2 * (dim + 4)


@pytest.mark.parametrize("radius", [0.5, 3.0, 8.3, 14.0])
def test_the_error_of_ball_distances_stays_below_its_allowance(radius: float) -> None:
    queries, rows = near_pairs(radius, 128, 400, 0)
    generator = BallRows(128, 1.0)
    generator.add(rows)

    def ball(space: np.ndarray) -> np.ndarray:
        wide = space.astype(np.longdouble)
        return wide / (1 + np.sqrt(1 + (wide**2).sum(-1, keepdims=True)))

    squares, positions = own_method(generator.flat, "search")(
        generator._ball(queries[:50]).astype(np.float32), 400, params=selector(None)
    )
    truth = np.sqrt(((ball(queries[:50])[:, None] - ball(rows)[None]) ** 2).sum(-1))
    truth = np.take_along_axis(truth, positions, axis=1).astype(np.float64)
    error = np.abs(np.sqrt(squares.astype(np.float64)) - truth)
    assert (error <= generator._error(truth)).all()


@pytest.mark.parametrize("c", [0.2, 1.0, 5.0])
@pytest.mark.parametrize("radius", [0.5, 3.0, 8.3])
def test_the_hyperbolic_ball_is_the_euclidean_ball_that_is_scanned(c: float, radius: float) -> None:
    """Points on the rim of a ball of radius d about q lie within the bounds the certificates use, and on
    them in places."""
    rng = np.random.default_rng(0)
    root, reach = np.sqrt(c), 0.8
    query = np.zeros((1, 3))
    query[0, 0] = np.sinh(radius) / root
    # The rim: expmap at the origin, then the boost that takes the origin to the query.
    angles = rng.normal(size=(2000, 3))
    angles[:2] = [[1, 0, 0], [-1, 0, 0]]
    angles /= np.linalg.norm(angles, axis=1, keepdims=True)
    rim, time = np.sinh(reach) * angles, np.cosh(reach)
    along = np.cosh(radius) * rim[:, 0] + np.sinh(radius) * time
    rim = np.concatenate([along[:, None], rim[:, 1:]], axis=1) / root
    np.testing.assert_allclose(distances(query, rim[None], c)[0], reach / root, rtol=1e-6)
    generator = BallRows(3, c)
    for guess in (0.0, 0.3, 0.8, 1.5):
        centre = generator._centre(query, np.array([guess / root]))
        farthest = generator._farthest(query, np.array([reach / root]), centre)
        gaps = norms(generator._ball(rim) - generator._ball(query) * centre[:, None])
        assert gaps.max() <= farthest[0] * (1 + 1e-9)
        assert gaps.max() >= farthest[0] * (1 - 1e-9)


def test_searches_survive_the_torch_wrappers_of_faiss() -> None:
    """`faiss.contrib.torch_utils` replaces methods in the whole process: in one of its own, here."""
    program = """
import faiss.contrib.torch_utils
import numpy as np
from index.lorentz_index import LorentzIndex

space = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
for scale in (1.0, 300.0):
    index = LorentzIndex.build(space * np.float32(scale), np.arange(500), 1.0)
    distances, ids, exact = index.search(space[:5] * np.float32(scale), 3)
    assert ids[:, 0].tolist() == [0, 1, 2, 3, 4] and exact, (ids, exact)
    assert len(index.range_search(space[:1] * np.float32(scale), float(distances[0, 2]) + 1e-9)[2]) == 3
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
