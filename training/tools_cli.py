"""``lhier report``, ``lhier export`` and ``lhier data delta``."""

import json
import logging
import sys
from pathlib import Path
from typing import Literal

import click

FOLDER = click.Path(path_type=Path, file_okay=False)


def _configure_logging() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s level=%(levelname)s %(name)s %(message)s")


@click.command()
@click.argument("run", type=FOLDER)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a value of the run's recipe, for example data.root where the photos moved.",
)
@click.option(
    "--queries", type=click.IntRange(min=1), default=40, show_default=True, help="Queries in the retrieval grid."
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), default=None, help="[default: RUN/report.html]")
@click.option("--cache", type=FOLDER, default=None, help="Where features of frozen backbones are kept.")
def report(run: Path, overrides: tuple[str, ...], queries: int, out: Path | None, cache: Path | None) -> None:
    """One HTML page about a RUN: figures, curves, radii, neighbours, the Poincare disk, confusions, the recipe.

    \b
    lhier report runs/g1
    lhier report runs/g1 --set data.root=/mnt/photos --out g1.html

    The page holds everything it shows (photos as thumbnails) and loads nothing from a network: mail it, archive it.
    """
    _configure_logging()
    from hyperbolic.checkpoint import CheckpointError
    from hyperbolic.images import ImageError
    from training.data.split import DataError
    from training.features import default_cache
    from training.recipe import RecipeError
    from training.report import write_report
    from training.report_content import ReportError

    try:
        page = write_report(
            run,
            out or run / "report.html",
            overrides=overrides,
            num_queries=queries,
            cache=cache or default_cache(),
            progress=sys.stderr.isatty(),
        )
    except (RecipeError, DataError, CheckpointError, ImageError, ReportError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"wrote {page} ({page.stat().st_size / 1e6:.1f} MB): open it in a browser")


@click.command()
@click.argument("checkpoint", type=FOLDER)
@click.option("--format", "kind", type=click.Choice(["onnx", "openvino"]), required=True)
@click.option("--out", type=FOLDER, required=True, help="Folder for the graph and its description (JSON).")
@click.option("--json", "as_json", is_flag=True, help="Print the description as one JSON object.")
def export(checkpoint: Path, kind: Literal["onnx", "openvino"], out: Path, as_json: bool) -> None:
    """Write a CHECKPOINT's encoder (or a run's) as an ONNX or OpenVINO graph, image tensor to point.

    \b
    lhier export runs/g1 --format onnx --out graphs
    lhier export runs/g1 --format openvino --out graphs

    The graph's points are compared with the encoder's on 16 images, at batch 1 and 8; where one lies further than
    1e-3 (geodesic) nothing is written. Needs pip install 'lhier[export]'.
    """
    _configure_logging()
    for talkative in ("onnx_ir", "onnxscript", "torch.onnx"):  # they log every rewritten node at INFO
        logging.getLogger(talkative).setLevel(logging.WARNING)
    from hyperbolic.checkpoint import CheckpointError
    from training.export import FILES, ExportError, export_checkpoint

    try:
        description = export_checkpoint(checkpoint, kind, out)
    except (CheckpointError, ExportError, OSError) as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps(description))
        return
    parity = description["parity"]
    size = description["input"]["shape"][-1]
    click.echo(
        f"wrote {', '.join(FILES[kind])} and {FILES[kind][0]}.json in {out}\n"
        f"  input   images (batch, 3, {size}, {size}) float32, preprocessed as the JSON says\n"
        f"  output  space (batch, {description['embedding_dim']}) float32, points of c = {description['c']:.6g}\n"
        f"  parity  largest geodesic difference {parity['largest']:.1e} over {parity['images']} images "
        f"(bound {parity['tolerance']:g})"
    )
    if kind == "openvino":
        click.echo(
            "  note    compile with INFERENCE_PRECISION_HINT = f32: bfloat16, the default on newer CPUs, moves points"
        )


@click.command()
@click.argument("directory", metavar="DIR", type=FOLDER)
@click.option("--backbone", default="tf_efficientnet_lite0", show_default=True, help="A timm model name.")
@click.option(
    "--weights",
    type=click.Choice(["hub", "offline", "none"]),
    default="offline",
    show_default=True,
    help="Where the backbone's weights come from; none: random.",
)
@click.option("--image-size", type=click.IntRange(min=16), default=224, show_default=True)
@click.option("--sample", type=click.IntRange(min=4), default=1000, show_default=True, help="Photos of each repeat.")
@click.option("--repeats", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Draws the samples.")
@click.option("--cache", type=FOLDER, default=None, help="Where features of frozen backbones are kept.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def delta(
    directory: Path,
    backbone: str,
    weights: Literal["hub", "offline", "none"],
    image_size: int,
    sample: int,
    repeats: int,
    seed: int,
    cache: Path | None,
    as_json: bool,
) -> None:
    """How tree-like the photos in DIR are (delta_rel), and the curvature c to start with.

    \b
    lhier data delta photos
    lhier data delta photos --sample 500 --repeats 10 --json | jq .c

    delta_rel is 0 for a tree and near 1 for a space without hierarchy, by the 4-point condition on samples of frozen
    backbone features; c = (0.144 / delta_rel)^2 (Khrulkov et al., CVPR 2020). DIR may also be an embedding folder of
    'lhier embed': then geodesic distances of its points are judged, and no c is proposed.
    """
    _configure_logging()
    from hyperbolic.images import ImageError
    from hyperbolic.models.backbone import WeightsError
    from training.data.split import DataError
    from training.delta import measure_delta, photo_features, starting_curvature, stored_points
    from training.features import default_cache

    unreadable: list[str] = []
    try:
        stored = stored_points(directory)
        if stored is not None:
            points, c = stored
            found = measure_delta(points, sample=sample, repeats=repeats, seed=seed, c=c)
        else:
            features = photo_features(
                directory,
                cache or default_cache(),
                backbone=backbone,
                weights=weights,
                image_size=image_size,
                most=sample * repeats,
                seed=seed,
                on_error=lambda path, why: unreadable.append(f"{path}: {why}"),
                progress=sys.stderr.isatty(),
            )
            found = measure_delta(features, sample=sample, repeats=repeats, seed=seed)
    except (DataError, WeightsError, ImageError, FileNotFoundError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    proposal = starting_curvature(found.mean) if stored is None else None
    for line in unreadable[:3]:
        click.echo(f"unreadable: {line}", err=True)
    if as_json:
        answer = {"delta_rel": found.mean, "delta_rel_sd": found.sd, "values": found.values, "c": proposal}
        source = {"backbone": backbone, "weights": weights} if stored is None else {"points_c": stored[1]}
        counts = {"points": found.points, "sample": found.sample, "repeats": repeats, "unreadable": len(unreadable)}
        click.echo(json.dumps(answer | source | counts))
        return
    what = f"{backbone} features, Euclidean" if stored is None else f"stored points, geodesic at c = {stored[1]:.6g}"
    click.echo(
        f"delta_rel {found.mean:.4f} +- {found.sd:.4f}   ({what}; {repeats} samples of {found.sample} out of "
        f"{found.points})\n  0 is a tree, 1 has no hierarchy at all"
    )
    if proposal is not None:
        click.echo(
            f"starting c {proposal:.4g} = (0.144 / delta_rel)^2   (Khrulkov et al. 2020)\n"
            f"  in a recipe: model.curvature = {proposal:.4g}; c can also be learned: model.learn_curvature = true"
        )
    elif stored is None:
        click.echo("  an exact tree fits every c: none is proposed")
