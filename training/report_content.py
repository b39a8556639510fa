"""What a report shows of a run, gathered from its folder and the photos."""

import base64
import importlib.metadata
import io
import json
import logging
import platform
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from hyperbolic.checkpoint import load_proxies
from hyperbolic.embedder import Embedder
from hyperbolic.images import ImageError, read_image
from training.data.split import RetrievalData, load_data
from training.evaluate import Points, embed_protocol, evaluate
from training.features import FeatureCache
from training.losses.objective import Objective
from training.recipe import Recipe, load_recipe
from training.report_analysis import Rankings, rank_queries, spread_sample
from training.report_layout import DiskLayout, PlaneLayout, disk_layout, plane_layout
from training.run_folder import CLASSES_FILE, METRICS_FILE, RECIPE_FILE, SKIPPED_FILE, read_ancestors

logger = logging.getLogger(__name__)

DISK_ITEMS = 600
DISK_PROXIES = 200
THUMBNAIL = 112
PACKAGES = ("lhier", "torch", "torchvision", "timm", "numpy", "scipy", "pillow", "pytorch-metric-learning")


class ReportError(RuntimeError):
    """A run that cannot be reported on; the text says what is missing."""


@dataclass(frozen=True)
class Nodes:
    """Points that training learned beside the encoder: hierarchical proxies, and ancestors of the label path."""

    space: Float[Tensor, "m d"]
    ancestors: list[tuple[str, ...]]
    """Label paths of the first rows; the rest are hierarchical proxies."""
    edges: list[tuple[int, int]]
    """(ancestor, its parent), rows of ``space``."""


@dataclass(frozen=True)
class Disk:
    """What is drawn on the Poincare disk: gallery rows, nodes, and where they lie."""

    rows: list[int]
    nodes: Nodes
    layout: DiskLayout
    plane: PlaneLayout


@dataclass(frozen=True)
class Report:
    """Everything the page shows."""

    run: Path
    made: str
    recipe: Recipe
    recipe_text: str
    data: RetrievalData
    metrics: list[dict[str, float | None]]
    figures: dict[str, float]
    model_hash: str
    c: float
    points: Points
    rankings: Rankings
    worst: list[int]
    radii: dict[str, list[float]]
    ancestor_radii: list[tuple[str, float]]
    disk: Disk
    thumbnails: dict[Path, str]
    skipped: int
    versions: dict[str, str]


def gather(run: Path, *, overrides: tuple[str, ...], num_queries: int, cache: Path, progress: bool = False) -> Report:
    """Measure and collect what the page shows; see :func:`training.report.write_report`."""
    if not (run / RECIPE_FILE).is_file():
        raise ReportError(
            f"{run} is not a run: expected {RECIPE_FILE}, checkpoint/ and {METRICS_FILE} as lhier train leaves"
        )
    recipe = load_recipe(run / RECIPE_FILE, overrides)
    embedder = Embedder.load(run)
    data = load_data(recipe.data, recipe.seed)
    with ExitStack() as stack:
        # Features of a fine-tuned backbone serve this report only.
        folder = cache if recipe.train.frozen_backbone else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        store = FeatureCache(embedder, folder)
        points = embed_protocol(data, embedder, store, progress=progress)
        figures = evaluate(data, embedder, store)
    logger.info("queries=%d gallery=%d map_at_r=%.4f", len(points.query), len(points.gallery), figures["map_at_r"])
    rankings = rank_queries(points, embedder.c)
    worst = rankings.worst_first()[:num_queries]
    nodes = learned_nodes(run, recipe, embedder)
    rows = spread_sample([photo.labels for photo in points.gallery_photos], DISK_ITEMS)
    proxies = len(nodes.space) - len(nodes.ancestors)
    shown = Nodes(nodes.space[: len(nodes.ancestors) + min(proxies, DISK_PROXIES)], nodes.ancestors, nodes.edges)
    items = points.gallery[rows]
    disk = Disk(
        rows,
        shown,
        disk_layout(items, shown.space, embedder.c),
        plane_layout(items, shown.space, embedder.c),
    )
    needed = [points.query_photos[row].path for row in worst]
    needed += [points.gallery_photos[int(row)].path for q in worst for row in rankings.nearest[q]]
    needed += _confusion_photos(points, rankings)
    needed += [points.gallery_photos[row].path for row in rows]
    radii = {"Photos": points.query} if points.leave_one_out else {"Queries": points.query, "Gallery": points.gallery}
    if proxies:
        radii["Hierarchical proxies"] = nodes.space[len(nodes.ancestors) :]
    return Report(
        run=run,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        recipe=recipe,
        recipe_text=(run / RECIPE_FILE).read_text(encoding="utf-8"),
        data=data,
        metrics=read_metrics(run / METRICS_FILE),
        figures=figures,
        model_hash=embedder.model_hash,
        c=embedder.c,
        points=points,
        rankings=rankings,
        worst=worst,
        radii={name: embedder.radius(space.numpy()).tolist() for name, space in radii.items()},
        ancestor_radii=_ancestor_radii(nodes, embedder),
        disk=disk,
        thumbnails=thumbnails(needed, progress),
        skipped=_count_lines(run / SKIPPED_FILE),
        versions=_versions(),
    )


def read_metrics(path: Path) -> list[dict[str, float | None]]:
    """Rows of ``metrics.jsonl``; empty where there is none. Raises :class:`ReportError` on a damaged one."""
    if not path.is_file():
        return []
    rows = []
    for place, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row: dict[str, Any] = json.loads(line)
            rows.append({"step": float(row["step"])} | {k: v for k, v in row.items() if k != "step"})
        except (ValueError, KeyError, TypeError) as error:
            raise ReportError(f"{path}, line {place}: expected a JSON object with 'step' ({error})") from error
    return rows


def learned_nodes(run: Path, recipe: Recipe, embedder: Embedder) -> Nodes:
    """The proxies as the losses use them (rescaled or clipped), and the label path's ancestors, by name."""
    empty = Nodes(torch.zeros(0, embedder.embedding_dim), [], [])
    state = load_proxies(run)
    if not state:
        return empty
    try:
        label_paths = [tuple(path) for path in json.loads((run / CLASSES_FILE).read_text(encoding="utf-8"))]
        known = read_ancestors(run, len(label_paths))
        objective = Objective(recipe.loss, embedder.config, embedder.encoder.curvature, label_paths, known)
        objective.load_state_dict({name: value.to(embedder.device) for name, value in state.items()})
    except (OSError, ValueError, RuntimeError, LookupError, TypeError) as error:
        raise ReportError(f"{run}: the learned proxies do not fit the recipe and {CLASSES_FILE}: {error}") from error
    parts, ancestors, edges = [empty.space], [], []
    with torch.no_grad():
        c = embedder.encoder.curvature()
        if objective.has_path:
            for level, names in enumerate(objective.path.names):
                parts.append(objective.path.points(level, c))
                ancestors += names
            number = {name: row for row, name in enumerate(ancestors)}
            edges = [(row, number[name[:-1]]) for name, row in number.items() if len(name) > 1]
        if recipe.loss.hierarchy is not None:
            parts.append(objective.hierarchy.points(c))
    return Nodes(torch.cat([part.detach().float().cpu() for part in parts]), ancestors, edges)


def thumbnails(paths: Sequence[Path], progress: bool = False) -> dict[Path, str]:
    """Photos as JPEG data URIs, centre square; those that cannot be read are left out."""

    def shrink(path: Path) -> tuple[Path, str | None]:
        try:
            image = read_image(path)
        except ImageError:
            return path, None
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        box = (left, top, left + side, top + side)
        small = image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)
        data = io.BytesIO()
        small.save(data, "JPEG", quality=68, optimize=True)
        return path, f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"

    unique = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(max_workers=4, thread_name_prefix="thumbnail") as pool:
        made = tqdm(
            pool.map(shrink, unique),
            total=len(unique),
            unit="photo",
            desc="thumbnails",
            disable=None if progress else True,
        )
        return {path: uri for path, uri in made if uri is not None}


def _confusion_photos(points: Points, rankings: Rankings) -> list[Path]:
    from training.report_analysis import most_confused

    paths = []
    for confusion in most_confused(points, rankings):
        paths.append(points.query_photos[confusion.example].path)
        paths.append(points.gallery_photos[int(rankings.nearest[confusion.example, 0])].path)
    return paths


def _ancestor_radii(nodes: Nodes, embedder: Embedder) -> list[tuple[str, float]]:
    """Mean radius of each level's ancestors (they share one)."""
    radius = embedder.radius(nodes.space.numpy())
    levels: dict[int, list[float]] = {}
    for row, name in enumerate(nodes.ancestors):
        levels.setdefault(len(name), []).append(float(radius[row]))
    return [(f"ancestors, level {level}", sum(values) / len(values)) for level, values in sorted(levels.items())]


def _count_lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else 0


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found | {"platform": f"{platform.system()} {platform.machine()}"}
