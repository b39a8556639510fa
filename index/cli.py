"""`lhier embed`, `lhier index` and `lhier search`."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from index.catalogue import Catalogue

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
NEW_FOLDER = click.Path(file_okay=False, path_type=Path)
SHOWN_FAILURES = 10

collection_option = click.option(
    "--collection", "name", default="default", show_default=True, help="The collection's name."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")


@contextmanager
def _plain_errors(*more: type[Exception]) -> Iterator[None]:
    """Failures that are expected become one line and exit code 1."""
    from index.errors import FaissMissingError, PointError, StoreError

    expected: tuple[type[Exception], ...] = (StoreError, PointError, FaissMissingError, OSError, *more)
    try:
        yield
    except expected as error:
        raise click.ClickException(str(error)) from error


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with the rate on a terminal, a line now and then elsewhere; on stderr, so that stdout stays the
    answer."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(unit=" photos", desc=what) as bar:

            def draw(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            yield draw
        return
    start = last = time.monotonic()

    def write(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= 10 or done == total:
            last = now
            rate = done / max(now - start, 1e-3)
            click.echo(f"{what}: {done} of {total} photos, {rate:.1f} a second", err=True)

    yield write


@click.command()
@click.argument("checkpoint", type=FOLDER)
@click.argument("images", type=FOLDER)
@click.option("--out", required=True, type=NEW_FOLDER, help="Folder for the points; an interrupted job goes on there.")
@click.option(
    "--list", "list_file", type=FILE, help="Only these photos: relative paths, one a line; after a comma, ignored."
)
@click.option("--batch-size", default=32, show_default=True, type=click.IntRange(min=1), help="Photos at a time.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, ...")
@json_option
def embed(
    checkpoint: Path, images: Path, out: Path, list_file: Path | None, batch_size: int, device: str, as_json: bool
) -> None:
    """Turn the photos below IMAGES into points, with the encoder in CHECKPOINT (or in a run folder).

    The folders a photo lies in are its label path, most general first. Photos that cannot be read are named
    in failures.jsonl and left out. Interrupted? The same command goes on where it stopped.

    \b
    lhier embed runs/a photos --out points
    lhier embed runs/a grocery --list grocery/test.txt --out points
    """
    from hyperbolic.checkpoint import CheckpointError
    from hyperbolic.embedder import DeviceError, Embedder
    from index.embed import embed_photos, read_list

    with _plain_errors(CheckpointError, DeviceError):
        photos = read_list(list_file, images) if list_file else None
        embedder = Embedder.load(checkpoint, device=device, batch_size=batch_size)
        try:
            with _progress("embed") as progress:
                report = embed_photos(embedder, images, out, checkpoint=checkpoint, photos=photos, progress=progress)
        except KeyboardInterrupt:
            click.echo("interrupted: the same command goes on where it stopped", err=True)
            raise
    if as_json:
        answer = {"out": str(out), "count": report.count, "failed": len(report.failures), "reused": report.reused}
        click.echo(json.dumps(answer | {"failures": report.failures}))
    else:
        before = f" ({report.reused} from before; photos that changed since need another --out)"
        click.echo(f"{report.count} photos -> {out}" + (before if report.reused else ""))
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


@click.group()
def index() -> None:
    """Build, check and describe the exact index over a store's collections.

    \b
    lhier index build points --store store
    lhier index info store
    lhier index verify store
    """


@index.command()
@click.argument("embeddings", type=FOLDER)
@click.option("--store", required=True, type=NEW_FOLDER, help="Folder of the collections; made when it is missing.")
@collection_option
@click.option("--replace", is_flag=True, help="Replace the collection if it exists.")
@json_option
def build(embeddings: Path, store: Path, name: str, replace: bool, as_json: bool) -> None:
    """Make a collection of the points that `lhier embed` wrote into EMBEDDINGS.

    \b
    lhier index build points --store store
    lhier index build points --store store --collection shoes --replace
    """
    from index.build import build_collection

    with (
        _plain_errors(),
        _progress("index") as progress,
        build_collection(embeddings, store, name, replace=replace, progress=progress) as collection,
    ):
        answer = _description(collection.catalogue, collection.folder)
    if as_json:
        click.echo(json.dumps(answer))
    else:
        click.echo(f"{answer['count']} items -> collection {name!r} of {store} (model {answer['model_hash']})")


@index.command()
@click.argument("store", type=FOLDER)
@json_option
def info(store: Path, as_json: bool) -> None:
    """What the collections of STORE hold.

    \b
    lhier index info store
    """
    from index.catalogue import Catalogue
    from index.collection import collection_folder, list_collections
    from index.errors import StoreError

    answers: list[dict[str, Any]] = []
    for name in list_collections(store):
        folder = collection_folder(store, name)
        try:
            with Catalogue.open(folder / "catalogue.sqlite") as catalogue:
                answers.append(_description(catalogue, folder))
        except StoreError as error:
            answers.append({"name": name, "error": str(error)})
    if as_json:
        click.echo(json.dumps(answers))
        return
    if not answers:
        click.echo(f"{store} holds no collections: run 'lhier index build'")
    for answer in answers:
        click.echo(answer["name"])
        for key, value in answer.items():
            if key != "name":
                click.echo(f"  {key:<15}{value}")


def _description(catalogue: "Catalogue", folder: Path) -> dict[str, Any]:
    from index.snapshot import list_generations

    generations = list_generations(folder / "generations")
    return {
        "name": folder.name,
        "count": catalogue.count(),
        "model_hash": catalogue.model_hash,
        "embedding_dim": catalogue.embedding_dim,
        "c": catalogue.c,
        "image_root": str(catalogue.image_root) if catalogue.image_root else None,
        "checkpoint": str(catalogue.checkpoint) if catalogue.checkpoint else None,
        "sequence": catalogue.sequence,
        "generation": generations[0].name if generations else None,
        "bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
    }


@index.command()
@click.argument("store", type=FOLDER)
@collection_option
@click.option("--sample", default=50, show_default=True, type=click.IntRange(min=1), help="Searches to try.")
@json_option
def verify(store: Path, name: str, sample: int, as_json: bool) -> None:
    """Check a collection: hashes, catalogue, and searches against brute force in float64. Changes nothing.

    Exit code 1 when something is wrong.

    \b
    lhier index verify store
    """
    from index.build import verify_collection

    checks = []
    with _plain_errors():
        for check in verify_collection(store, name, sample=sample):
            checks.append({"check": check.name, "ok": check.ok, "detail": check.detail})
            if not as_json:
                click.echo(f"{'ok  ' if check.ok else 'FAIL'} {check.name}: {check.detail}")
    sound = all(check["ok"] for check in checks)
    if as_json:
        click.echo(json.dumps({"ok": sound, "checks": checks}))
    if not sound:
        raise click.exceptions.Exit(1)


@index.command()
@click.argument("store", type=FOLDER)
@collection_option
@json_option
def rebuild(store: Path, name: str, as_json: bool) -> None:
    """Build the index anew from the catalogue, which holds every point.

    \b
    lhier index rebuild store
    """
    from index.collection import Collection

    with _plain_errors(), Collection.open(store, name) as collection:
        generation = collection.rebuild()
        count = collection.count
    if as_json:
        click.echo(json.dumps({"name": name, "count": count, "generation": generation}))
    else:
        click.echo(f"collection {name!r}: {count} points, generation {generation}")


@click.command()
@click.argument("store", type=FOLDER)
@click.argument("image", type=FILE)
@click.option("--checkpoint", type=FOLDER, help="The encoder; by default the one the collection was built with.")
@collection_option
@click.option("--limit", default=10, show_default=True, type=click.IntRange(1, 1000), help="How many neighbours.")
@json_option
def search(store: Path, image: Path, checkpoint: Path | None, name: str, limit: int, as_json: bool) -> None:
    """The photos of STORE nearest to the photo IMAGE: rank, geodesic distance, label path, file.

    \b
    lhier search store photo.jpg
    lhier search store photo.jpg --limit 3 --json
    """
    from hyperbolic.checkpoint import CheckpointError
    from hyperbolic.embedder import Embedder
    from hyperbolic.images import ImageError, read_image
    from index.collection import Collection

    try:
        photo = read_image(image)
    except ImageError as error:
        raise click.ClickException(f"{image}: {error}") from error
    with _plain_errors(), Collection.open(store, name) as collection:
        folder = checkpoint or collection.checkpoint
        if folder is None:
            raise click.UsageError("the collection does not say which checkpoint made it: give --checkpoint")
        try:
            embedder = Embedder.load(folder)
        except CheckpointError as error:
            raise click.ClickException(f"{error}; where it moved, give --checkpoint") from error
        collection.require_model(embedder.model_hash)
        hits = collection.search(embedder.embed([photo])[0], limit)
    if as_json:
        rows = [
            {
                "id": hit.item.id,
                "distance": hit.distance,
                "exact": hit.exact,
                "labels": list(hit.item.labels),
                "image": hit.item.image,
            }
            for hit in hits
        ]
        click.echo(json.dumps({"hits": rows}))
        return
    labels = [" > ".join(hit.item.labels) for hit in hits]
    width = max([len("label path"), *(len(label) for label in labels)])
    click.echo(f"rank  distance  {'label path':<{width}}  file")
    for rank, (hit, label) in enumerate(zip(hits, labels, strict=True), 1):
        click.echo(f"{rank:>4}  {hit.distance:8.4f}  {label:<{width}}  {hit.item.image or hit.item.id}")
