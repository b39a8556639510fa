"""Neighbours by hyperbolic distance: LHIER's kinds against FAISS, hnswlib, NGT, torch and geoopt, one thread.

    OMP_NUM_THREADS=1 python -m benchmarks.search [--sets tree m12 r8.3x1000] [--count 200000] [--dim 128]
        [--engines flat ivf ...] [--graphs-up-to 200000] [--queries 300] [--repeats 5] [--out FOLDER]

A set may have a size of its own: tree:1000000x64.

Sets are generated (benchmarks/search_sets.py). Recall at 10 is against float64 products over all points. Engines with
a setting (nprobe, ef, epsilon) are given the first that reaches recall 0.99, or their last. All are built first and
then timed in turn, so that what disturbs the machine disturbs them all. Engines that are not installed are skipped, and
named. The neighbours' ids are kept in an .npz beside the result.
"""

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.search_engines import ENGINES, TARGET, Engine, Lhier, build, query_by_query
from benchmarks.search_sets import cosh_distances, parse, queries_of, recall, truth_of

K = 10
BATCH = 100
RADIUS_QUERIES = 20


def one_set(name: str, arguments: argparse.Namespace, ids: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Every engine on one set."""
    generate, count, dim = parse(name, arguments.count, arguments.dim)
    space = generate(count, dim)
    queries = queries_of(space, arguments.queries)
    truth, kth = truth_of(queries, space, K)
    ids[f"{name}/truth"] = truth
    print(f"\n{name}: {count} x {dim}", flush=True)
    engines: dict[str, Engine] = {}
    rows: dict[str, dict[str, Any]] = {}
    for kind in arguments.engines:
        if ENGINES[kind].graph and count > arguments.graphs_up_to:
            print(f"{ENGINES[kind].name}: skipped (--graphs-up-to {arguments.graphs_up_to})", flush=True)
            continue
        try:
            engine, seconds = build(kind, space)
        except (ImportError, RuntimeError) as error:
            print(f"{ENGINES[kind].name}: skipped ({error})", flush=True)
            continue
        asked = len(queries) if not engine.slow else min(20, len(queries))
        reached, found = 0.0, np.zeros((0, K))
        for setting in engine.settings or (None,):
            engine.setting = setting
            found = engine.search(queries[:asked], K)
            reached = recall(found, queries[:asked], space, kth[:asked])
            if reached >= TARGET:
                break
        ids[f"{name}/{kind}"] = found
        engines[kind] = engine
        rows[kind] = {
            "set": name, "count": count, "dim": dim, "part": "search",
            "engine": kind, "name": engine.name, "setting": engine.setting,
            "recall_at_10": reached, "build_s": seconds, "memory_bytes": engine.memory,
            "memory_of_flat": engine.memory / (4 * space.size),
        }  # fmt: skip
        if isinstance(engine, Lhier):
            rows[kind]["plan"] = engine.plan
        print(f"{engine.name}: built in {seconds:.1f} s, recall {reached:.4f}", flush=True)
    for kind, times in timed(engines, queries, arguments.repeats).items():
        rows[kind] |= times
    print_table(rows)
    extras = []
    for kind, engine in engines.items():
        if isinstance(engine, Lhier) and kind != "ivf_exact":
            extras.append({"set": name, "part": "radius", "engine": kind, **radius_search(engine, queries, space, kth)})
    if "flat" in engines:
        extras.append(
            {"set": name, "part": "certificate", "engine": "flat", **certificate(engines["flat"], queries, 9)}
        )
    if "ivf" in engines:
        extras.append({"set": name, "part": "certificate", "engine": "ivf", **certificate(engines["ivf"], queries, 9)})
    for row in extras:
        print({key: value for key, value in row.items() if key != "set"}, flush=True)
    return [*rows.values(), *extras]


def timed(engines: dict[str, Engine], queries: np.ndarray, repeats: int) -> dict[str, dict[str, float]]:
    """Seconds a query, one at a time and in batches of 100, medians of `repeats` rounds over all engines."""
    single: dict[str, list[float]] = {kind: [] for kind in engines}
    batch: dict[str, list[float]] = {kind: [] for kind in engines}
    for turn in range(repeats + 1):  # the first is a warm-up
        for kind, engine in engines.items():
            if engine.slow and turn > 1:
                continue
            few = queries[turn :: repeats + 1][: 3 if engine.slow else 20]
            many = queries[: 10 if engine.slow else BATCH]
            start = time.perf_counter()
            query_by_query(engine, few, K)
            middle = time.perf_counter()
            engine.search(many, K)
            end = time.perf_counter()
            if turn or engine.slow:
                single[kind].append((middle - start) / len(few))
                batch[kind].append((end - middle) / len(many))
    return {
        kind: {
            "single_s": statistics.median(single[kind]), "single_min_s": min(single[kind]),
            "batch_s": statistics.median(batch[kind]), "batch_min_s": min(batch[kind]),
            "batch": 10 if engine.slow else BATCH,
        }
        for kind, engine in engines.items()
    }  # fmt: skip


def radius_search(engine: Lhier, queries: np.ndarray, space: np.ndarray, kth: np.ndarray) -> dict[str, Any]:
    """Missed and spurious within the median 10th distance; pairs within 1e-8 of it are left out of the count."""
    reach = float(np.arccosh(np.median(kth)))
    asked = queries[:RADIUS_QUERIES]
    start = time.perf_counter()
    lims, _, found = engine.index.range_search(asked, reach)
    seconds = time.perf_counter() - start
    missed = spurious = hits = 0
    for row, cosh in enumerate(cosh_distances(asked, space)):
        limit = np.cosh(reach)
        slack = 1e-8 * limit
        named = found[lims[row] : lims[row + 1]]
        is_named = np.zeros(len(space), dtype=bool)
        is_named[named] = True
        hits += len(named)
        missed += int(np.count_nonzero((cosh < limit - slack) & ~is_named))
        spurious += int(np.count_nonzero(cosh[named] > limit + slack))
    return {"radius": reach, "hits": hits, "missed": missed, "spurious": spurious, "single_s": seconds / len(asked)}


def certificate(engine: Engine, queries: np.ndarray, repeats: int) -> dict[str, Any]:
    """Time of a batch with the certificate and what follows from it, against the same without either."""
    if not isinstance(engine, Lhier):
        raise TypeError(f"expected an engine of LHIER, got {engine.name}")
    generator: Any = engine.index._generator
    seconds: dict[bool, list[float]] = {True: [], False: []}
    asked = queries[:BATCH]
    engine.search(asked, K)
    before = engine.index.statistics
    for _ in range(repeats):
        for with_it in (True, False):
            if not with_it:
                generator.certified = lambda asked, *_: np.ones(len(asked), dtype=bool)
            start = time.perf_counter()
            engine.search(asked, K)
            seconds[with_it].append(time.perf_counter() - start)
            if not with_it:
                del generator.certified
    after = engine.index.statistics
    rate = (after["uncertified"] - before["uncertified"]) / (repeats * len(asked))
    cost = statistics.median(seconds[True]) / statistics.median(seconds[False]) - 1
    return {"generator": engine.index.generator, "cost": cost, "uncertified": rate}


def print_table(rows: dict[str, dict[str, Any]]) -> None:
    """What was measured, and ratios to the flat scans."""
    print(f"{'':28} {'recall':>7} {'1/s':>9} {'1/s by 100':>11} {'build s':>8} {'memory':>7}")
    for row in rows.values():
        print(
            f"{row['name']:28} {row['recall_at_10']:7.4f} {1 / row['single_s']:9.1f} {1 / row['batch_s']:11.1f} "
            f"{row['build_s']:8.1f} {row['memory_of_flat']:6.2f}x"
        )
    if "faiss_ip" in rows:
        flat = rows["faiss_ip"]
        for kind, row in rows.items():
            if row["engine"] in ("flat", "ivf", "ivf_exact", "ivf_sq8"):
                one, hundred = flat["single_s"] / row["single_s"], flat["batch_s"] / row["batch_s"]
                print(f"{kind}: {one:.2f}x plain flat IP one at a time, {hundred:.2f}x BLAS by 100")


def main() -> None:
    """Run every set, print the tables, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=["tree"], help="tree, m12, r<radius>x<cluster>, :<count>x<dim>")
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=list(ENGINES))
    parser.add_argument(
        "--graphs-up-to", type=int, default=200_000, help="points of the largest set that hnswlib and NGT index"
    )
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=None, help="folder or .json file; default benchmarks/results")
    arguments = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":
        parser.error("run it with OMP_NUM_THREADS=1 in the environment: every engine gets one thread")
    import faiss
    import torch

    from benchmarks.common import write_result

    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    for name in arguments.sets:
        parse(name, arguments.count, arguments.dim)
    ids: dict[str, np.ndarray] = {}
    rows = [row for name in arguments.sets for row in one_set(name, arguments, ids)]
    parameters = {key: value for key, value in vars(arguments).items() if key != "out"} | {"threads": 1, "k": K}
    path = write_result("search", arguments.out, parameters, rows)
    np.savez_compressed(path.with_name(f"{path.stem}_ids.npz"), **ids)  # type: ignore[arg-type]
    print(path)


if __name__ == "__main__":
    main()
