"""All losses in one harness: Grocery photos, frozen EfficientNet-Lite0, by dimension, seed and protocol.

    python -m benchmarks.metric_learning GROCERY --out benchmarks/results [--methods a,b] [--dims 128,32,8] [--seeds 3]

Every method is the recipe ``grocery-lhier-128`` with the changes listed in METHODS, trained by the real loop and
measured by the real evaluation. One row per run. Finished runs are kept in ``--rows`` (a JSONL file), so an interrupted
grid continues, and grids can be added up; the result file holds all rows of that file.
"""

import argparse
import itertools
import json
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import write_result
from hyperbolic.embedder import Embedder
from training.data.split import load_data
from training.evaluate import evaluate, measure, raw_points
from training.features import FeatureCache, default_cache
from training.loop import train
from training.metrics import cosine_ranking
from training.recipe import load_recipe, parse_recipe

BASE = "grocery-lhier-128"
KEPT = (
    "recall_at_1", "map_at_r", "coarse_recall_at_1", "coarse_map_at_r", "recall_at_1_cosine", "map_at_r_cosine",
    "lca_height", "hierarchical_precision_at_10", "radius_mean", "radius_sd",
)  # fmt: skip

# The number of triplets is the same for HIER and LHIER: 6 an image, 3 a proxy.
HIERARCHY = {"weight": 0.5, "proxies": 512, "triplets_per_anchor": 6, "triplets_per_proxy": 3}
PAIRWISE = {"weight": 1.0, "temperature": 0.2}
LIGHT_ANCHOR, ANCHOR = {"weight": 0.3}, {"weight": 1.0}
EUCLIDEAN = {"geometry": "euclidean"}
BALL = {"geometry": "poincare", "curvature": 0.1, "clip_radius": 2.3}
PAPER = {"x_time_max": 2e3}  # D_max = 8.29 at c = 1


def library(name: str) -> dict[str, Any]:
    """A loss of pytorch-metric-learning on the Euclidean control."""
    return {"model": EUCLIDEAN, "loss": {"library": {"name": name}}}


METHODS: dict[str, dict[str, Any]] = {
    "NormSoftmax": library("normalised_softmax"),
    "SoftTriple": library("soft_triple"),
    "ProxyNCA++": library("proxy_nca"),
    "XBM": library("cross_batch_memory"),
    "MultiSimilarity": library("multi_similarity"),
    "ProxyAnchor": {"model": EUCLIDEAN, "loss": {"proxy_anchor": ANCHOR}},
    "Hyp": {"model": BALL, "loss": {"pairwise": PAIRWISE}},
    "HIER": {"model": BALL, "loss": {"proxy_anchor": ANCHOR, "hierarchy": HIERARCHY}},
    "LHIER (paper)": {"model": PAPER, "loss": {"proxy_anchor": ANCHOR, "hierarchy": HIERARCHY}},
    "SC": {"loss": {"pairwise": PAIRWISE}},
    "SC small gain": {"model": {"gain": 0.04}, "loss": {"pairwise": PAIRWISE}},
    "PA + SC": {"loss": {"proxy_anchor": ANCHOR, "pairwise": PAIRWISE}},
    "0.3 PA + SC": {"loss": {"proxy_anchor": LIGHT_ANCHOR, "pairwise": PAIRWISE}},
    "0.3 PA + SC + path (Euclidean)": {
        "model": EUCLIDEAN,
        "loss": {"proxy_anchor": LIGHT_ANCHOR, "pairwise": PAIRWISE, "path": {"weight": 0.15, "radius": 1.0}},
    },
    "default": {
        "loss": {"proxy_anchor": LIGHT_ANCHOR, "pairwise": PAIRWISE, "hierarchy": HIERARCHY, "path": {"weight": 0.15}}
    },
    "default path 0.3": {
        "loss": {"proxy_anchor": LIGHT_ANCHOR, "pairwise": PAIRWISE, "hierarchy": HIERARCHY, "path": {"weight": 0.3}}
    },
}


def run(root: Path, method: str, dim: int, protocol: str, seed: int, cache: Path) -> dict[str, Any]:
    """Train and evaluate once."""
    content = load_recipe(BASE).model_dump(mode="json", exclude_none=True)
    change = METHODS[method]
    content["model"] |= {"embedding_dim": dim, **change.get("model", {})}
    content["loss"] = change["loss"]
    content["data"] |= {"root": str(root), "protocol": protocol}
    content["seed"] = seed
    recipe = parse_recipe(content, method)
    data = load_data(recipe.data, seed)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        encoder = train(recipe, data, Path(folder) / "run", cache=cache)
    seconds = time.perf_counter() - started
    embedder = Embedder(encoder, model_hash="")
    figures = evaluate(data, embedder, FeatureCache(embedder, cache))
    row = {"method": method, "dim": dim, "protocol": protocol, "seed": seed, "train_seconds": round(seconds, 2)}
    return row | {name: round(figures[name], 5) for name in KEPT}


def raw(root: Path, protocol: str, cache: Path) -> dict[str, Any]:
    """The frozen features themselves, by cosine."""
    recipe = load_recipe(BASE, (f"data.root='{root}'", f"data.protocol={protocol}"))
    from hyperbolic.models.lhier import Encoder

    embedder = Embedder(Encoder(recipe.model, recipe.weights), model_hash="")
    figures = measure(raw_points(load_data(recipe.data), FeatureCache(embedder, cache)), cosine_ranking)
    row: dict[str, Any] = {"method": "raw features", "dim": 1280, "protocol": protocol, "seed": 0}
    return row | {name: round(figures[name], 5) for name in KEPT if name in figures}


def main() -> None:
    """Run the grid and write one result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="Grocery Store Dataset")
    parser.add_argument("--out", type=Path, help="folder or file for the result")
    parser.add_argument("--methods", default=",".join(METHODS), help="names, comma-separated")
    parser.add_argument("--dims", default="128,32,8")
    parser.add_argument("--protocols", default="P2,P1,P1x")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=Path, default=Path("metric_learning.jsonl"), help="finished runs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=default_cache())
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(arguments.threads)
    methods = [name.strip() for name in arguments.methods.split(",")]
    dims = [int(dim) for dim in arguments.dims.split(",")]
    protocols = arguments.protocols.split(",")
    rows = [json.loads(line) for line in arguments.rows.read_text().splitlines()] if arguments.rows.is_file() else []
    finished = {(row["protocol"], row["dim"], row["method"], row["seed"]) for row in rows}

    def add(row: dict[str, Any]) -> None:
        rows.append(row)
        with arguments.rows.open("a") as file:
            file.write(json.dumps(row) + "\n")

    for protocol in protocols:
        if (protocol, 1280, "raw features", 0) not in finished:
            add(raw(arguments.root, protocol, arguments.cache))
    for protocol, dim, method, seed in itertools.product(protocols, dims, methods, range(arguments.seeds)):
        if (protocol, dim, method, seed) in finished:
            continue
        add(run(arguments.root, method, dim, protocol, seed, arguments.cache))
        row = rows[-1]
        print(
            f"{protocol} {dim:>4}-d seed {seed} {method:<30} R@1 {row['recall_at_1']:.3f} MAP@R {row['map_at_r']:.3f} "
            f"coarse {row['coarse_map_at_r']:.3f} ({row['train_seconds']:.0f} s)",
            flush=True,
        )
    parameters = {
        "recipe": BASE, "methods": {name: METHODS[name] for name in METHODS if name in {row["method"] for row in rows}},
        "threads": arguments.threads,
    }  # fmt: skip
    print(write_result("metric_learning", arguments.out, parameters, rows))


if __name__ == "__main__":
    main()
