"""`lhier backend`: a collection's points in an engine that other machines reach."""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from index.asked_photos import points_of
from index.cli import FOLDER, collection_option, json_option
from index.terminal import plain_errors, progress_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from index.backends.interface import Backend
    from index.collection import Collection

to_option = click.option(
    "--to",
    "url",
    required=True,
    envvar="LHIER_BACKEND",
    help="postgresql://user:password@host/database, http://host:19530 (Milvus) or file:///folder; "
    "the variable LHIER_BACKEND keeps a password out of the list of processes.",
)
name_option = click.option("--name", "there", help="The name it has there; by default the collection's.")


@click.group()
def backend() -> None:
    """Search a collection in Milvus or PostgreSQL, with the store's exactness.

    The engine gets points in coordinates whose Euclidean distances (or inner products) it can search, and the points
    themselves. It proposes candidates; they are re-ranked here in float64, and a bound on the engine's rounding proves
    that none is missing. The store stays the truth: ids, labels and photos are its, and after a change of the store,
    push again.

    \b
    lhier backend push store --to postgresql://lhier@db/photos
    lhier backend search store apple/07.jpg --to postgresql://lhier@db/photos
    lhier backend verify store --to postgresql://lhier@db/photos
    """


@backend.command()
@click.argument("store", type=FOLDER)
@to_option
@collection_option
@name_option
@click.option(
    "--coordinates",
    default="ball",
    show_default=True,
    type=click.Choice(["ball", "lorentz"]),
    help="ball is searched by L2, at any radius; lorentz by inner product, for points near the origin.",
)
@click.option(
    "--scan",
    default="exact",
    show_default=True,
    type=click.Choice(["exact", "hnsw"]),
    help="exact compares every point; hnsw is the engine's graph, faster for millions, and proves nothing.",
)
@click.option("--replace", is_flag=True, help="Drop what is there under that name first.")
@json_option
def push(
    store: Path, url: str, name: str, there: str | None, coordinates: str, scan: str, replace: bool, as_json: bool
) -> None:
    """Copy the points of STORE to an engine; again after the store changed, which also deletes there.

    \b
    lhier backend push store --to http://milvus:19530
    lhier backend push store --collection shoes --to postgresql://lhier@db/photos
    lhier backend push store --to http://milvus:19530 --scan hnsw --replace
    """
    from index.backends import copies
    from index.backends.interface import without_secrets
    from index.collection import Collection

    with plain_errors(), Collection.open(store, name) as collection, progress_of("push") as progress:
        made = copies.push(
            collection, url, there or name, replace=replace, progress=progress, coordinates=coordinates, scan=scan
        )
        try:
            count = made.count
        finally:
            made.close()
    if as_json:
        click.echo(json.dumps({"backend": made.name, "count": count}))
    else:
        click.echo(f"{count} points of collection {name!r} -> {made.name} at {without_secrets(url)}")


@backend.command()
@click.argument("store", type=FOLDER)
@click.argument("item")
@to_option
@collection_option
@name_option
@click.option("--checkpoint", type=FOLDER, help="The encoder of a photo; by default the one that made the collection.")
@click.option("--limit", default=10, show_default=True, type=click.IntRange(1, 1000), help="How many neighbours.")
@json_option
def search(
    store: Path, item: str, url: str, name: str, there: str | None, checkpoint: Path | None, limit: int, as_json: bool
) -> None:
    """The items nearest to ITEM, as the engine finds them: an item's id, or the file of a photo.

    The last line says whether the answer is proven exact.

    \b
    lhier backend search store apple/07.jpg --to postgresql://lhier@db/photos
    lhier backend search store new-photo.jpg --to postgresql://lhier@db/photos --limit 3 --json
    """
    with plain_errors(), _opened(store, name, url, there) as (collection, engine):
        answer = engine.search(_point(collection, item, checkpoint)[None], limit)
        rows = answer.ids[0][answer.ids[0] >= 0]
        items = collection.catalogue.get_rows(rows)
        hits = [
            {"id": hit.id, "distance": float(distance), "labels": list(hit.labels), "image": hit.image}
            for hit, distance in zip(items, answer.distances[0, : len(rows)], strict=True)
            if hit is not None  # deleted from the store, and not pushed since
        ]
        exact = bool(answer.exact[0])
    if as_json:
        click.echo(json.dumps({"backend": engine.name, "exact": exact, "hits": hits}))
        return
    labels = [" > ".join(found.labels) for found in items if found is not None]
    width = max([len("label path"), *(len(label) for label in labels)])
    click.echo(f"rank  distance  {'label path':<{width}}  item")
    for rank, (hit, label) in enumerate(zip(hits, labels, strict=True), 1):
        click.echo(f"{rank:>4}  {hit['distance']:8.4f}  {label:<{width}}  {hit['id']}")
    click.echo("proven exact" if exact else "distances are exact, but a nearer item may be missing")


@backend.command()
@click.argument("store", type=FOLDER)
@to_option
@collection_option
@name_option
@click.option("--sample", default=50, show_default=True, type=click.IntRange(min=1), help="Searches to try.")
@click.option("--limit", default=10, show_default=True, type=click.IntRange(1, 1000), help="Neighbours of each.")
@json_option
def verify(store: Path, url: str, name: str, there: str | None, sample: int, limit: int, as_json: bool) -> None:
    """Compare the engine with STORE: how many points, and searches beside those of the store's own index.

    Exit code 1 when points are missing, or an answer claims to be exact and is not.

    \b
    lhier backend verify store --to postgresql://lhier@db/photos
    """
    from index.backends.copies import compare

    with plain_errors(), _opened(store, name, url, there) as (collection, engine):
        found = compare(collection, engine, sample=sample, k=limit)
    if as_json:
        click.echo(json.dumps({"ok": found.sound, "backend": engine.name, **dataclasses.asdict(found)}))
    else:
        click.echo(f"{engine.name}: {found.points} points, the store has {found.points_of_collection}")
        click.echo(
            f"{found.searches} searches for {limit} neighbours: {found.proven:.1%} proven exact, {found.same:.1%} as "
            f"the store answers, {found.wrong} wrongly called exact"
        )
        click.echo(f"{found.milliseconds:.1f} ms a search, {found.milliseconds_of_collection:.1f} ms in the store")
    if not found.sound:
        raise click.exceptions.Exit(1)


@contextmanager
def _opened(store: Path, name: str, url: str, there: str | None) -> "Iterator[tuple[Collection, Backend]]":
    """The collection, and the backend that holds its points."""
    from index.backends.connect import open_backend
    from index.backends.copies import require
    from index.collection import Collection

    with Collection.open(store, name) as collection:
        engine = open_backend(url, there or name)
        try:
            require(
                engine,
                dataclasses.replace(
                    engine.about,
                    embedding_dim=collection.embedding_dim,
                    c=collection.c,
                    model_hash=collection.model_hash,
                ),
            )
            yield collection, engine
        finally:
            engine.close()


def _point(collection: "Collection", item: str, checkpoint: Path | None) -> "npt.NDArray[np.float32]":
    """The point of an item, or of a photo that is none."""
    known = collection.item(item)
    if known is not None:
        return known.space
    if not Path(item).is_file():
        raise click.ClickException(
            f"{item!r} is no item of collection {collection.name!r}, nor a file: 'lhier search STORE PHOTO' shows items"
        )
    point: npt.NDArray[np.float32] = points_of([Path(item)], collection.catalogue, checkpoint)[0]
    return point
