"""`lhier index` and `lhier search`; `lhier embed` has a file of its own."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click

from index.asked_photos import points_of
from index.embed_cli import embed
from index.terminal import plain_errors, progress_of

if TYPE_CHECKING:
    from index.catalogue import Catalogue

__all__ = ["embed", "index", "search"]

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
NEW_FOLDER = click.Path(file_okay=False, path_type=Path)

collection_option = click.option(
    "--collection", "name", default="default", show_default=True, help="The collection's name."
)
image_root_option = click.option(
    "--image-root", type=FOLDER, help="Where the photos lie, if not (or no more) where they were embedded."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")


class Bytes(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2 only
    """A number of bytes, with or without a unit."""

    name = "size"
    UNITS: ClassVar = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """ "4GB" -> 4000000000."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([KMGT]?B?)", str(value).strip().upper())
        unit = match[2] if match and match[2] in self.UNITS else f"{match[2]}B" if match else None
        if match is None or unit is None or (size := int(float(match[1]) * self.UNITS[unit])) < 1:
            self.fail(f"expected a size such as 800MB or 4GB, got {value!r}", param, ctx)
        return size


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
@image_root_option
@click.option(
    "--kind",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "flat", "ivf", "ivf_sq8"]),
    help="flat scans everything; ivf the nearest lists; ivf_sq8 the same in 8 bits a coordinate, re-ranked exactly.",
)
@click.option("--memory", type=Bytes(), help="What the index may hold: 800MB, 4GB; auto stays below it.")
@click.option("--nlist", type=click.IntRange(min=1), help="Lists of ivf; by default 4 sqrt(n).")
@click.option("--nprobe", type=click.IntRange(min=1), help="Lists a search probes; by default tuned for recall 0.99.")
@json_option
def build(
    embeddings: Path, store: Path, name: str, replace: bool, image_root: Path | None, kind: str, memory: int | None,
    nlist: int | None, nprobe: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Make a collection of the points that `lhier embed` wrote into EMBEDDINGS.

    The kind of its index, and why it was chosen, are what `lhier index info` shows. A collection that outgrows its
    index builds another by the same rule, while it is searched.

    \b
    lhier index build points --store store
    lhier index build points --store store --collection shoes --replace
    lhier index build points --store store --image-root /mnt/photos
    lhier index build points --store store --kind auto --memory 4GB
    """
    from index.build import build_collection

    request = {"kind": kind, "memory": memory, "nlist": nlist, "nprobe": nprobe}
    with (
        plain_errors(),
        progress_of("index") as progress,
        build_collection(
            embeddings, store, name, replace=replace, image_root=image_root, request=request, progress=progress
        ) as collection,
    ):
        answer = _description(collection.catalogue, collection.folder)
    if as_json:
        click.echo(json.dumps(answer))
    else:
        click.echo(f"{answer['count']} items -> collection {name!r} of {store} (model {answer['model_hash']})")
        click.echo(f"index: {answer['index']['kind']} ({answer['index']['reason']})")


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
            if key == "index":
                for part, told in (value or {}).items():
                    click.echo(f"  {'index ' + part:<15}{told}")
            elif key != "name":
                click.echo(f"  {key:<15}{value}")


def _index_description(generation: Path) -> dict[str, Any]:
    from index.errors import SnapshotError
    from index.storage import read_description

    try:
        plan = read_description(generation / "index")["plan"]
    except SnapshotError as error:
        return {"error": str(error)}
    told = {"kind": plan["kind"], "reason": plan["reason"]}
    if plan["nlist"]:
        told |= {"lists": plan["nlist"], "nprobe": plan["nprobe"], "recall": plan["recall"]}
    return told


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
        "index": _index_description(generations[0]) if generations else None,
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
    with plain_errors():
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

    with plain_errors(), Collection.open(store, name) as collection:
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
@image_root_option
@json_option
def search(
    store: Path, image: Path, checkpoint: Path | None, name: str, limit: int, image_root: Path | None, as_json: bool
) -> None:
    """The photos of STORE nearest to the photo IMAGE: rank, geodesic distance, label path, file.

    With --image-root the files are those below that folder, in full.

    \b
    lhier search store photo.jpg
    lhier search store photo.jpg --limit 3 --json
    """
    from index.collection import Collection

    with plain_errors(), Collection.open(store, name, image_root=image_root) as collection:
        hits = collection.search(points_of([image], collection.catalogue, checkpoint)[0], limit)
        files = [
            str(collection.image_path(hit.item)) if image_root and hit.item.image else hit.item.image for hit in hits
        ]
    if as_json:
        rows = [
            {
                "id": hit.item.id,
                "distance": hit.distance,
                "exact": hit.exact,
                "labels": list(hit.item.labels),
                "image": file,
            }
            for hit, file in zip(hits, files, strict=True)
        ]
        click.echo(json.dumps({"hits": rows}))
        return
    labels = [" > ".join(hit.item.labels) for hit in hits]
    width = max([len("label path"), *(len(label) for label in labels)])
    click.echo(f"rank  distance  {'label path':<{width}}  file")
    for rank, (hit, label, file) in enumerate(zip(hits, labels, files, strict=True), 1):
        click.echo(f"{rank:>4}  {hit.distance:8.4f}  {label:<{width}}  {file or hit.item.id}")
