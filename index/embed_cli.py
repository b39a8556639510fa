"""`lhier embed`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from index.terminal import plain_errors, progress_of

if TYPE_CHECKING:
    from index.embed import Engine

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
NEW_FOLDER = click.Path(file_okay=False, path_type=Path)
SHOWN_FAILURES = 10


def _existing(_: click.Context, __: click.Parameter, source: str) -> str:
    if "://" in source or "*" in source or Path(source).exists():
        return source
    raise click.BadParameter(f"{source!r} does not exist: expected a folder, a .csv, .parquet or .tar file, or a URL")


@click.command()
@click.argument("checkpoint", type=FOLDER)
@click.argument("source", callback=_existing)
@click.option("--out", required=True, type=NEW_FOLDER, help="Folder for the points; an interrupted job goes on there.")
@click.option(
    "--list",
    "list_file",
    type=FILE,
    help="Only these photos of a folder: relative paths, one a line; after a comma, ignored.",
)
@click.option("--root", help="Folder or URL that the paths of a .csv or .parquet are below.  [default: its own]")
@click.option("--batch-size", default=32, show_default=True, type=click.IntRange(min=1), help="Photos at a time.")
@click.option(
    "--shard-size",
    default=1024,
    show_default=True,
    type=click.IntRange(min=1),
    help="Photos in a Parquet file; a kill costs no more than one.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, ...; torch only.")
@click.option(
    "--runtime",
    type=click.Choice(["torch", "onnxruntime", "openvino"]),
    default="torch",
    show_default=True,
    help="What computes. The others are quicker on a CPU; the checkpoint is converted on first use.",
)
@click.option(
    "--precision",
    type=click.Choice(["f32", "bf16"]),
    default="f32",
    show_default=True,
    help="bf16 (OpenVINO only) is quicker still and moves points far.",
)
@click.option(
    "--draft", is_flag=True, help="Decode JPEGs of over twice the encoder's size at 1/2 to 1/8: quicker, moves points."
)
@click.option(
    "--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="ray: on Ray Data."
)
@click.option(
    "--workers", type=click.IntRange(min=1), help="Encoders at a time, with --engine ray.  [default: all CPUs]"
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def embed(
    checkpoint: Path,
    source: str,
    out: Path,
    list_file: Path | None,
    root: str | None,
    batch_size: int,
    shard_size: int,
    device: str,
    runtime: Literal["torch", "onnxruntime", "openvino"],
    precision: Literal["f32", "bf16"],
    draft: bool,
    engine: Literal["local", "ray"],
    workers: int | None,
    as_json: bool,
) -> None:
    """Turn the photos of SOURCE into points, with the encoder in CHECKPOINT (or in a run folder).

    SOURCE is a folder, a list (.csv or .parquet with a column path, perhaps id and labels), a .tar in WebDataset's
    layout (several: 'photos-*.tar'), or a URL of any of these (s3://, gs://, file://, ...). The folders a photo lies in
    are its label path, most general first. Photos that cannot be read are named in failures.jsonl and left out.
    Interrupted? The same command goes on where it stopped; finished, it embeds again what changed.

    \b
    lhier embed runs/a photos --out points
    lhier embed runs/a grocery --list grocery/test.txt --out points
    lhier embed runs/a s3://bucket/photos --out points --runtime openvino
    lhier embed runs/a photos.csv --root /mnt/photos --out points --engine ray

    With --engine ray every machine needs lhier and the photos under the same name; RAY_ADDRESS names a cluster.
    """
    from hyperbolic.checkpoint import CheckpointError
    from hyperbolic.embedder import DeviceError, Embedder
    from hyperbolic.graph import ExportError
    from index.embed import embed_photos
    from index.ray_engine import RayError
    from index.sources import open_source, read_list

    if workers is not None and engine != "ray":
        raise click.UsageError("--workers goes with --engine ray")
    with plain_errors(CheckpointError, DeviceError, ExportError, RayError):
        photos = open_source(source, listed=read_list(list_file, source) if list_file else None, root=root)
        embedder = Embedder.load(checkpoint, device=device, batch_size=batch_size, runtime=runtime, precision=precision)
        elsewhere: Engine | None = None
        if engine == "ray":
            from index.ray_engine import ray_engine

            elsewhere = ray_engine(embedder, checkpoint, photos, draft=draft, workers=workers)
        try:
            with progress_of("embed") as progress:
                report = embed_photos(
                    embedder,
                    photos,
                    out,
                    checkpoint=checkpoint,
                    progress=progress,
                    part_size=shard_size,
                    draft=draft,
                    engine=elsewhere,
                )
        except (KeyboardInterrupt, SystemExit):  # Ctrl-C, SIGTERM
            click.echo("interrupted: the same command goes on where it stopped", err=True)
            raise
    if as_json:
        answer = {"out": str(out), "count": report.count, "failed": len(report.failures), "reused": report.reused}
        click.echo(json.dumps(answer | {"failures": report.failures[:SHOWN_FAILURES]}))
    else:
        click.echo(f"{report.count} photos -> {out}" + (f" ({report.reused} from before)" if report.reused else ""))
        _tell_failures(report.failures, out)
    if not report.count:
        raise click.ClickException(f"none of the {len(report.failures)} photos could be read: see {out}/failures.jsonl")


def _tell_failures(failures: list[dict[str, str]], out: Path) -> None:
    if not failures:
        return
    click.echo(f"{len(failures)} could not be read:")
    for failure in failures[:SHOWN_FAILURES]:
        click.echo(f"  {failure['path']}: {failure['error']}")
    if len(failures) > SHOWN_FAILURES:
        click.echo(f"  ... all of them in {out / 'failures.jsonl'}")
