"""`lhier snapshot`: collections into files and back."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from index.cli import FILE, FOLDER, NEW_FOLDER, collection_option, image_root_option, json_option
from index.terminal import plain_errors

if TYPE_CHECKING:
    from index.snapshot_file import Manifest

checksum_option = click.option("--sha256", "checksum", help="What 'create' printed: compare the file as a whole, too.")


@click.group()
def snapshot() -> None:
    """A collection in one file, taken while it is served: its items, index, tree and names.

    \b
    lhier snapshot create store --out backups
    lhier snapshot verify backups/default-20261122T061753000000Z.tar
    lhier snapshot restore backups/default-20261122T061753000000Z.tar --store store --replace

    The photos themselves are not in it: it remembers where they lie.
    """


@snapshot.command()
@click.argument("store", type=FOLDER)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="A new file, or a folder for one named by its time."
)
@collection_option
@json_option
def create(store: Path, out: Path, name: str, as_json: bool) -> None:
    """Take a snapshot of a collection of STORE, which may be searched and written to meanwhile.

    \b
    lhier snapshot create store --out backups
    lhier snapshot create store --out shoes.tar --collection shoes
    """
    from index.backup import create_snapshot

    with plain_errors():
        created = create_snapshot(store, name, out=out)
    answer = {"path": str(created.path), "bytes": created.path.stat().st_size, "sha256": created.sha256}
    if as_json:
        click.echo(json.dumps(answer | _facts(created.manifest) | {"left_out": created.left_out}))
        return
    click.echo(f"{_told(created.manifest)} -> {created.path} ({answer['bytes']} bytes)")
    click.echo(f"sha256 {created.sha256}")
    for fault in created.left_out:
        click.echo(f"left out, damaged: {fault}", err=True)


@snapshot.command()
@click.argument("file", metavar="SNAPSHOT", type=FILE)
@checksum_option
@json_option
def verify(file: Path, checksum: str | None, as_json: bool) -> None:
    """Read every byte of SNAPSHOT and compare it with the hashes that were written. Exit code 1 where it differs.

    \b
    lhier snapshot verify shoes.tar
    """
    from index.backup import verify_snapshot

    with plain_errors():
        manifest = verify_snapshot(file, checksum=checksum)
    click.echo(json.dumps(_facts(manifest)) if as_json else f"sound: {_told(manifest)}")


@snapshot.command()
@click.argument("file", metavar="SNAPSHOT", type=FILE)
@click.option("--store", required=True, type=NEW_FOLDER, help="Folder of the collections; made when it is missing.")
@click.option("--collection", "name", help="The restored collection's name.  [default: the one it had]")
@click.option("--replace", is_flag=True, help="Replace the collection if it exists.")
@click.option("--checkpoint", type=FOLDER, help="Refuse points of any other model than this one.")
@image_root_option
@click.option("--untrusted", is_flag=True, help="From somebody else: build the index anew, forget the places it names.")
@checksum_option
@json_option
def restore(
    file: Path, store: Path, name: str | None, replace: bool, checkpoint: Path | None, image_root: Path | None,
    untrusted: bool, checksum: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Make a collection of SNAPSHOT: checked beside the one that is there, then switched in at a stroke.

    A service that has the old one open goes on searching it, and refuses writes, until it is started again.

    \b
    lhier snapshot restore shoes.tar --store store
    lhier snapshot restore shoes.tar --store store --collection shoes-of-june
    lhier snapshot restore shoes.tar --store store --replace --checkpoint runs/a
    """
    from index.backup import restore_snapshot

    with plain_errors():
        model_hash = None
        if checkpoint is not None:
            from hyperbolic.checkpoint import CheckpointError, load_config

            try:
                model_hash = load_config(checkpoint).model_hash
            except CheckpointError as error:
                raise click.ClickException(str(error)) from error
        with restore_snapshot(
            file, store, name, replace=replace, model_hash=model_hash, image_root=image_root, trusted=not untrusted,
            checksum=checksum,
        ) as collection:  # fmt: skip
            answer = {
                "name": collection.name,
                "count": collection.count,
                "model_hash": collection.model_hash,
                "sequence": collection.sequence,
                "generation": collection.generation,
            }
    if as_json:
        click.echo(json.dumps(answer))
    else:
        click.echo(
            f"{answer['count']} items -> collection {answer['name']!r} of {store} (model {answer['model_hash']})"
        )


def _facts(manifest: "Manifest") -> dict[str, Any]:
    return {
        "collection": manifest.collection,
        "count": manifest.count,
        "sequence": manifest.sequence,
        "model_hash": manifest.model_hash,
        "embedding_dim": manifest.embedding_dim,
        "c": manifest.c,
        "created_at": manifest.created_at,
        "files": len(manifest.files),
    }


def _told(manifest: "Manifest") -> str:
    return (
        f"collection {manifest.collection!r}: {manifest.count} items at write {manifest.sequence}, "
        f"model {manifest.model_hash}, of {manifest.created_at}"
    )
