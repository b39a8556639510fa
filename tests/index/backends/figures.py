"""The table of docs/backends.md. No test of the suite; it is asked for by name:

pytest tests/index/backends/figures.py -s
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from index.backends.connect import create_backend
from index.backends.interface import About

COUNT, DIM, CLUSTER, K, QUERIES = 5_000, 32, 500, 10, 20
RADII = (1, 3, 5, 8.3)


def test_figures(
    tmp_path: Path, milvus_url: str, postgres_url: str, grow_tree: Callable, brute_force: Callable
) -> None:
    """Recall, what was proven, and the fastest search, of every engine, coordinates and scan."""
    sets = []
    for radius in RADII:
        points = grow_tree(radius, CLUSTER, count=COUNT, dim=DIM)
        queries = points[:: COUNT // QUERIES] * np.random.default_rng(1).normal(1, 0.02, (QUERIES, DIM)).astype("f4")
        sets.append((points, queries, np.sort(brute_force(queries, points, 1.0), axis=1)[:, :K]))
    write = sys.stdout.write
    write(f"\n{COUNT:,} x {DIM}, clusters of {CLUSTER}, {QUERIES} searches for {K} neighbours, one at a time.\n\n")
    write("| engine | coordinates | scan | " + " | ".join(f"radius {radius:g}" for radius in RADII) + " |\n")
    write("|---|---|---|" + "---|" * len(RADII) + "\n")
    urls = {"FAISS": tmp_path.as_uri(), "milvus-lite": milvus_url, "PostgreSQL": postgres_url}
    for engine, url in urls.items():
        for frame, scan in (("ball", "exact"), ("lorentz", "exact"), ("ball", "hnsw")):
            if engine == "FAISS" and (frame, scan) != ("ball", "exact"):
                continue
            cells = []
            for number, (points, queries, truth) in enumerate(sets):
                name = f"figures_{frame}_{scan}_{number}"
                backend = create_backend(url, name, About(DIM, 1.0, "fa4e00000001", frame, scan))
                for start in range(0, COUNT, 2500):
                    backend.upsert(np.arange(start, start + 2500), points[start : start + 2500])
                backend.search(queries, K)  # plans made, rows in memory
                found, proven, seconds = [], [], []
                for query in queries:
                    begin = time.perf_counter()
                    answer = backend.search(query[None], K)
                    seconds.append(time.perf_counter() - begin)
                    found.append(answer.distances[0] <= truth[len(found), -1] * (1 + 1e-9))
                    proven.append(answer.exact[0])
                backend.close()
                assert all(hits.all() for hits, sure in zip(found, proven, strict=True) if sure)
                cells.append(f"{np.mean(found):.3f}, {np.mean(proven):.0%}, {min(seconds) * 1e3:.1f} ms")
            write(f"| {engine} | {'its own' if engine == 'FAISS' else frame} | {scan} | " + " | ".join(cells) + " |\n")
