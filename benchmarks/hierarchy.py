"""Trees that people can use: each way of training, its tree over photos it never saw, and the answers taken from it.

    python -m benchmarks.hierarchy GROCERY SPECIMENS --out benchmarks/results [--methods a,b] [--seeds 3]

Three settings, one row per run. ``grocery``: protocol P2, the tree is over the test photos; paths come from the tree
over the gallery, fitted on ``val.txt``. ``held_out``: every third class is never trained on; the tree is over the test
photos of those classes, which are also the near out-of-distribution photos (the specimens are the far ones).
``specimens``: the folder of ``lhier data specimens``; the tree is over species never trained on, whose true distances
are known. Finished rows are kept in ``--rows`` (a JSONL file)
and encoders in ``--runs``, so an interrupted grid continues, and a new figure needs no new training.
"""

import argparse
import itertools
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.cluster.hierarchy import linkage

from benchmarks.common import write_result
from benchmarks.metric_learning import EUCLIDEAN, LIGHT_ANCHOR, METHODS, PAIRWISE
from hyperbolic import lorentz
from hyperbolic.embedder import Embedder
from hyperbolic.models.lhier import Encoder
from index.distances import radii
from index.hierarchy import Hierarchy
from index.hierarchy.answers import Answers
from index.hierarchy.calibration import precision_at
from index.hierarchy.fitting import fit
from index.hierarchy.linkage import average_linkage, dendrogram, distance_matrix
from index.hierarchy.walk import deepest
from index.kmeans import centroids_of_sums, lifted
from training.data.grocery import load_grocery
from training.data.specimens import Taxonomy
from training.data.split import Photo, RetrievalData, load_data
from training.dendrogram_metrics import (
    common_ancestor_radius_spearman,
    common_levels,
    dendrogram_purity,
    item_pairs,
    tree_distance_spearman,
)
from training.evaluate import evaluate, measure, raw_points
from training.features import FeatureCache, default_cache
from training.hierarchy_metrics import (
    accuracy_coverage_area,
    common_ancestor_level_figures,
    detection_figures,
    expected_calibration_error,
    node_order_violations,
)
from training.loop import train
from training.metrics import cosine_ranking, label_indices
from training.recipe import load_recipe, parse_recipe

BASE = "grocery-lhier-128"
THETA = 0.8
FAR_PHOTOS = 400


def of_recipe(name: str, **path: Any) -> dict[str, Any]:
    """The geometry and loss of a recipe, with changes to its label path."""
    recipe = load_recipe(name).model_dump(mode="json", exclude_none=True)
    return {
        "model": {"geometry": recipe["model"]["geometry"]},
        "loss": {**recipe["loss"], "path": {**recipe["loss"]["path"], **path}},
    }


# The controls have the same terms without curvature, but for LHIER's own, which has no Euclidean form.
FIRST, CONTROL = "grocery-lhier-128-hierarchy", "grocery-euclidean-128-hierarchy"
DEFAULT_PATH = load_recipe(BASE).loss.path.model_dump(include={"weight", "coarse_radius", "root_radius"})
TREE_METHODS: dict[str, dict[str, Any]] = {
    **{name: METHODS[name] for name in ("ProxyAnchor", "Hyp", "HIER", "LHIER (paper)", "PA + SC", "0.3 PA + SC")},
    "default": of_recipe(BASE),
    "hierarchy": of_recipe(FIRST),
    "hierarchy + cones": {"loss": {**of_recipe(FIRST)["loss"], "cone": {"weight": 0.1}}},
    "pseudo-path": of_recipe(BASE, ancestors="pseudo"),
    "0.3 PA + SC (Euclidean)": {"model": EUCLIDEAN, "loss": {"proxy_anchor": LIGHT_ANCHOR, "pairwise": PAIRWISE}},
    "default (Euclidean)": of_recipe(CONTROL, **DEFAULT_PATH),
    "hierarchy (Euclidean)": of_recipe(CONTROL),
    "pseudo-path (Euclidean)": of_recipe(CONTROL, **DEFAULT_PATH, ancestors="pseudo"),
}
RAW = "raw features"
RETRIEVAL = ("recall_at_1", "map_at_r", "coarse_map_at_r")
SHOWN = (*RETRIEVAL, "purity_fine", "purity_coarse", "purity_super", "true_spearman", "stopped_at_root", "near_auroc")


@dataclass(frozen=True)
class Setting:
    """Photos to train on and to draw the tree of, and what the answers are fitted on and asked."""

    name: str
    data: RetrievalData
    seen: tuple[Photo, ...] = ()
    """Photos of classes that were trained on, asked for their paths."""
    validation: tuple[Photo, ...] = ()
    far: tuple[Photo, ...] = ()
    """Photos of other things."""
    taxonomy: Taxonomy | None = None


def settings(grocery: Path, specimens: Path) -> dict[str, Setting]:
    """The three settings; what is held out is the same for every seed."""
    p2 = load_grocery(grocery, "P2")
    held = set(sorted({photo.labels for photo in p2.train})[2::3])

    def seen(photos: tuple[Photo, ...], yes: bool = True) -> tuple[Photo, ...]:
        return tuple(photo for photo in photos if (photo.labels not in held) == yes)

    unseen = seen(p2.query, False)
    held_out = RetrievalData("grocery held out", seen(p2.train), unseen, unseen, leave_one_out=True)
    drawn = load_data(load_recipe("specimens-lhier-128", (f"data.root={json.dumps(str(specimens))}",)).data)
    taxonomy = Taxonomy.load(specimens / "taxonomy.json")
    return {
        "grocery": Setting("grocery", p2, p2.query, p2.validation),
        "held_out": Setting(
            "held_out", held_out, seen(p2.query), seen(p2.validation), drawn.query[:: len(drawn.query) // FAR_PHOTOS]
        ),
        "specimens": Setting("specimens", drawn, taxonomy=taxonomy),
    }


Labels = Sequence[tuple[str, ...]]


class Embedding:
    """Points of photos, read once each, and their own distance: geodesic, or cosine for what has no curvature."""

    def __init__(self, embedder: Embedder, cache: FeatureCache, kind: str) -> None:
        """``kind``: the neck's geometry, or ``RAW`` for the backbone's own features."""
        self.embedder, self.cache, self.kind = embedder, cache, kind
        self.c = embedder.c

    def __call__(self, photos: Sequence[Photo]) -> tuple[npt.NDArray[np.float32], Labels]:
        """Points (n, d) and label paths of the photos that can be read."""
        rows, features = self.cache.extract([photo.path for photo in photos])
        labels = [photos[row].labels for row in rows]
        if self.kind == RAW:
            return torch.nn.functional.normalize(features[:, 0], dim=1).numpy(), labels
        with torch.inference_mode():
            return self.embedder.encoder.embed_features(features[:, 0]).numpy(), labels

    def merges(self, points: npt.NDArray[np.float32], method: str = "average") -> npt.NDArray[np.float64]:
        """Merge matrix on own distance; ``ward``: on tangent vectors at the origin, or on directions."""
        flat = self.kind in (RAW, "euclidean")
        if method == "ward":
            seen = unit(points) if flat else lorentz.logmap0(lorentz.lift(torch.from_numpy(points), self.c), self.c)
            return np.asarray(linkage(np.asarray(seen, dtype=np.float64), "ward"))
        return average_linkage(1 - unit(points) @ unit(points).T) if flat else dendrogram(points, self.c)


def unit(points: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Directions of points (n, d)."""
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def node_radii(merges: npt.NDArray[np.float64], points: npt.NDArray[np.float32], c: float) -> npt.NDArray[np.float64]:
    """Radii of the Lorentz centroids of all 2n - 1 nodes of a dendrogram, none above its children's."""
    n = len(points)
    sums = np.concatenate([lifted(points, c), np.empty((n - 1, points.shape[1] + 1))])
    for row, (left, right) in enumerate(merges[:, :2].astype(int)):
        sums[n + row] = sums[left] + sums[right]
    found = radii(centroids_of_sums(sums, np.ones(len(sums)), c), c)
    for row, (left, right) in enumerate(merges[:, :2].astype(int)):
        found[n + row] = min(found[n + row], found[left], found[right])
    return found


def tree_figures(embedding: Embedding, photos: Sequence[Photo]) -> dict[str, float]:
    """Of the tree over photos that were not trained on: purity by level, and whether radius tells the level."""
    points, labels = embedding(photos)
    numbers = label_indices(labels).numpy()
    merges = embedding.merges(points)
    row = by_level("purity", dendrogram_purity(merges, numbers))
    row |= by_level("purity_ward", dendrogram_purity(embedding.merges(points, "ward"), numbers))
    if embedding.kind != RAW:
        found = node_radii(merges, points, embedding.c)
        row["ancestor_radius_spearman"] = common_ancestor_radius_spearman(merges, found, numbers, limit=200_000)
        tree = Hierarchy.build(points, np.arange(len(points)), embedding.c)
        row["order_violations"] = node_order_violations(tree.parents, tree.radii)
        row["nodes"] = len(tree.ids)
    return row


def by_level(name: str, values: Sequence[float]) -> dict[str, float]:
    """Figures named by level from the class up: fine, coarse, super, ..."""
    names = ("fine", "coarse", "super", "top")
    return {f"{name}_{level}": value for level, value in zip(names, reversed(values), strict=False)}


def answer_figures(
    embedding: Embedding, setting: Setting, queries: Sequence[Photo], validation: Sequence[Photo]
) -> tuple[dict[str, float], Answers]:
    """Of paths in the tree over the training photos, fitted on ``validation``, asked with ``queries``."""
    space, gallery_labels = embedding(setting.data.train)
    tree = Hierarchy.build(space, np.arange(len(space)), embedding.c, labels=gallery_labels)
    answers = Answers(tree, fit(tree, *embedding(validation)))
    points, labels = embedding(queries)
    forest = answers.posterior.labels
    true = np.array([forest.find(path) for path in labels])
    ways = answers.ways(points)
    right = ways.labels == true
    row: dict[str, float] = {
        "temperature": answers.fit.temperature,
        "theta": answers.fit.label_threshold.theta,
        "stopped_at_root": float((ways.node_probabilities[:, 1] < THETA).mean()),
    }
    row |= by_level("ece", [
        expected_calibration_error(probability, hit)
        for probability, hit in zip(ways.label_probabilities.T, right.T, strict=True)
    ])  # fmt: skip
    row |= by_level("accuracy", right.mean(0).tolist())
    row["accuracy_coverage_area"] = accuracy_coverage_area(ways.label_probabilities[:, -1], right[:, -1])
    threshold = answers.fit.label_threshold
    row["precision_validation"], row["answered_validation"] = threshold.precision, threshold.answered
    row["precision"], row["answered"] = precision_at(ways.label_probabilities, right, threshold.theta)
    homes = answers.posterior.homes.toarray().astype(bool)[:, true[:, -1]].T
    node_right = (np.take_along_axis(homes, np.maximum(ways.nodes, 0), 1)) & (ways.nodes >= 0)
    node_right[:, 0] = True
    nodes = ways.node_probabilities[:, 1:]
    row["ece_nodes"] = expected_calibration_error(nodes[nodes > 0], node_right[:, 1:][nodes > 0])
    row["node_precision_validation"] = answers.fit.node_threshold.precision
    row["node_precision"], row["node_answered"] = precision_at(ways.node_probabilities, node_right, answers.fit.theta)
    row |= common_ancestor_figures(answers, points, true)
    # The nearest photo's label, which knows no doubt, for comparison.
    nearest, distance = nearest_neighbour(points, space, embedding.c)
    row["accuracy_nearest"] = float(np.mean([gallery_labels[i] == own for i, own in zip(nearest, labels, strict=True)]))
    correct = right[:, -1]
    row["correct_auroc"] = detection_figures(ways.specificity[correct], ways.specificity[~correct]).auroc
    row["correct_auroc_nearest"] = detection_figures(-distance[correct], -distance[~correct]).auroc
    return row, answers


def common_ancestor_figures(
    answers: Answers, points: npt.NDArray[np.float32], true: npt.NDArray[np.int64], per_level: int = 2000
) -> dict[str, float]:
    """Is the most specific label that two photos share named at the right level? As many pairs of each true level."""
    forest = answers.posterior.labels
    masses = answers.posterior.masses(points, answers.fit.temperature).labels
    i, j = item_pairs(len(points), limit=400_000)
    shared = common_levels(true[i], true[j])
    rng = np.random.default_rng(0)
    chosen = [rng.permutation(np.flatnonzero(shared == level))[:per_level] for level in range(true.shape[1] + 1)]
    pairs = np.concatenate(chosen)
    least = np.minimum(masses[i[pairs]], masses[j[pairs]])
    named = deepest(least, forest.levels, answers.fit.common_ancestor_mass)
    predicted = np.where(named >= 0, forest.levels[named] + 1, 0)
    found = common_ancestor_level_figures(predicted, shared[pairs])
    return {"ancestor_level_right": found.exact, "ancestor_level_too_specific": found.too_specific}


def nearest_neighbour(
    points: npt.NDArray[np.float32], space: npt.NDArray[np.float32], c: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Position and geodesic distance of the nearest gallery photo of each point."""
    found = distance_matrix(points, space, c)
    nearest = found.argmin(1)
    return nearest, found[np.arange(len(found)), nearest].astype(np.float64)


def unknown_figures(embedding: Embedding, setting: Setting, answers: Answers) -> dict[str, float]:
    """Specificity beside the distance of the nearest photo: do they tell seen classes from unseen, and from others?"""
    known_space = answers.hierarchy.item_space
    scores = {}
    for name, photos in (("known", setting.seen), ("near", setting.data.query), ("far", setting.far)):
        points, _ = embedding(photos)
        scores[name] = (answers.specificity(points)[0], -nearest_neighbour(points, known_space, embedding.c)[1])
    row: dict[str, float] = {}
    for name in ("near", "far"):
        for score, suffix in ((0, ""), (1, "_nearest")):
            found = detection_figures(scores["known"][score], scores[name][score])
            row[f"{name}_auroc{suffix}"], row[f"{name}_fpr95{suffix}"] = found.auroc, found.fpr95
    return row


def true_tree_figures(embedding: Embedding, photos: Sequence[Photo], taxonomy: Taxonomy) -> dict[str, float]:
    """Does the tree's distance rise with the true one, over photos and over species (by their mean points)?"""
    points, labels = embedding(photos)
    species = sorted({path[-1] for path in labels})
    true = np.array([[taxonomy.distance(a, b) for b in species] for a in species])
    of = np.array([species.index(path[-1]) for path in labels])
    row = {}
    for method, suffix in (("average", ""), ("ward", "_ward")):
        row[f"true_spearman{suffix}"] = tree_distance_spearman(embedding.merges(points, method), true[np.ix_(of, of)])
        sums = np.zeros((len(species), points.shape[1]))
        np.add.at(sums, of, points)
        means = (sums / np.bincount(of)[:, None]).astype(np.float32)
        row[f"true_spearman_species{suffix}"] = tree_distance_spearman(embedding.merges(means, method), true)
    return row


def figures_of(setting: Setting, embedding: Embedding) -> dict[str, float]:
    """All figures of a setting."""
    row = tree_figures(embedding, setting.data.query)
    if setting.taxonomy is not None:
        return row | true_tree_figures(embedding, setting.data.query, setting.taxonomy)
    if embedding.kind == RAW:
        return row
    answered, answers = answer_figures(embedding, setting, setting.seen, setting.validation)
    row |= answered
    return row | unknown_figures(embedding, setting, answers) if setting.far else row


def run(setting: Setting, method: str, seed: int, runs: Path, cache: Path) -> dict[str, Any]:
    """Train once into ``runs``, or continue or reuse what is there, and measure."""
    content = load_recipe(BASE).model_dump(mode="json", exclude_none=True)
    change = TREE_METHODS[method]
    content["model"] |= change.get("model", {})
    content |= {"loss": change["loss"], "seed": seed}
    recipe = parse_recipe(content, method)
    folder = runs / f"{setting.name}-{re.sub(r'[^a-z0-9]+', '-', method.lower()).strip('-')}-{seed}"
    encoder = train(recipe, setting.data, folder, cache=cache, resume=(folder / "recipe.toml").is_file())
    embedder = Embedder(encoder, model_hash="")
    features = FeatureCache(embedder, cache)
    found = evaluate(setting.data, embedder, features)
    row = {"setting": setting.name, "method": method, "seed": seed}
    row |= {name: found[name] for name in RETRIEVAL}
    return row | figures_of(setting, Embedding(embedder, features, recipe.model.geometry))


def raw(setting: Setting, cache: Path) -> dict[str, Any]:
    """The frozen features themselves, by cosine."""
    recipe = load_recipe(BASE)
    embedder = Embedder(Encoder(recipe.model, recipe.weights), model_hash="")
    features = FeatureCache(embedder, cache)
    found = measure(raw_points(setting.data, features), cosine_ranking)
    row = {"setting": setting.name, "method": RAW, "seed": 0} | {name: found[name] for name in RETRIEVAL}
    return row | figures_of(setting, Embedding(embedder, features, RAW))


def main() -> None:
    """Run the grid and write one result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grocery", type=Path, help="Grocery Store Dataset")
    parser.add_argument("specimens", type=Path, help="folder of 'lhier data specimens'")
    parser.add_argument("--out", type=Path, help="folder or file for the result")
    parser.add_argument("--methods", default=",".join(TREE_METHODS), help="names, comma-separated")
    parser.add_argument("--settings", default="grocery,held_out,specimens")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=Path, default=Path("hierarchy.jsonl"), help="finished runs")
    parser.add_argument("--runs", type=Path, default=Path("hierarchy_runs"), help="trained encoders, kept and reused")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=default_cache())
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(arguments.threads)
    chosen = [name.strip() for name in arguments.methods.split(",")]
    rows = [json.loads(line) for line in arguments.rows.read_text().splitlines()] if arguments.rows.is_file() else []
    finished = {(row["setting"], row["method"], row["seed"]) for row in rows}

    def add(row: dict[str, Any]) -> None:
        rows.append({name: round(v, 5) if isinstance(v, float) else v for name, v in row.items()})
        with arguments.rows.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
        shown = " ".join(f"{name} {rows[-1][name]:.3f}" for name in SHOWN if name in row)
        print(f"{row['setting']:10} seed {row['seed']} {row['method']:<26} {shown}", flush=True)

    every = settings(arguments.grocery, arguments.specimens)
    for setting in (every[name] for name in arguments.settings.split(",")):
        if (setting.name, RAW, 0) not in finished:
            add(raw(setting, arguments.cache))
        for seed, method in itertools.product(range(arguments.seeds), chosen):
            if (setting.name, method, seed) not in finished:
                add(run(setting, method, seed, arguments.runs, arguments.cache))
    parameters = {
        "recipe": BASE, "methods": {name: TREE_METHODS[name] for name in chosen}, "threads": arguments.threads,
        "photos": {name: len(setting.data.query) for name, setting in every.items()}, "theta": THETA,
    }  # fmt: skip
    print(write_result("hierarchy", arguments.out, parameters, rows))


if __name__ == "__main__":
    main()
