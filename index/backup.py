"""Snapshots of a collection: taken while it is searched and written to, restored whole or not at all."""

import json
import logging
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, NamedTuple

from index.catalogue import Catalogue
from index.collection import DEFAULT, Collection, collection_folder, list_collections
from index.errors import (
    CatalogueError,
    CollectionExistsError,
    CollectionNotFoundError,
    ModelMismatchError,
    SnapshotError,
)
from index.files import new_folder, sha256, sync, workspace
from index.foreign import require_own_items, require_own_schema
from index.lorentz_index import LorentzIndex
from index.metadata import SCHEMA_FILE
from index.plan import REQUEST_FILE, read_request
from index.snapshot import list_generations, newest_valid_generation, write_generation
from index.snapshot_file import (
    CATALOGUE,
    GENERATIONS,
    MANIFEST,
    Manifest,
    measured,
    read_manifest,
    unpack,
    verify_snapshot,
    write_snapshot,
)

__all__ = ["Created", "Manifest", "create_snapshot", "read_manifest", "restore_snapshot", "verify_snapshot"]

logger = logging.getLogger(__name__)

ATTEMPTS = 100  # at opening a folder that others are replacing


@dataclass(frozen=True, slots=True)
class Created:
    """A snapshot that was taken, and what was too damaged to go into it."""

    path: Path
    manifest: Manifest
    sha256: str  # of the file as a whole
    left_out: tuple[str, ...]


def create_snapshot(store: Path, name: str = DEFAULT, *, out: Path) -> Created:
    """Take a snapshot of a collection into the new file `out`, or into the folder `out` under a name of its own.

    Others may search and write meanwhile, from this process or from another: the snapshot holds every write up to one
    sequence number and nothing of a later one. The file appears complete, checked and synced, or not at all. An index
    or a tree that is damaged is left out, as both can be built from the catalogue; a damaged catalogue is refused
    (:class:`CatalogueError`).
    """
    folder = collection_folder(store, name)
    if not folder.is_dir():
        known = ", ".join(list_collections(store)) or "none"
        raise CollectionNotFoundError(f"the store {store} has no collection {name!r} (it has: {known})")
    moment = datetime.now(UTC)
    target = out / f"{name}-{moment:%Y%m%dT%H%M%S%fZ}.tar" if out.is_dir() else out
    if target.exists():
        raise SnapshotError(f"{target} exists already: choose another name, or a folder")
    with workspace(target) as temporary, ExitStack() as stack:
        # The catalogue comes last: whatever was saved before is of a write that it has.
        left_out: list[str] = []
        files = _open_caches(folder, stack, left_out)
        with Catalogue.open(folder / CATALOGUE) as live:
            live.copy_to(temporary / CATALOGUE)
        with Catalogue.open(temporary / CATALOGUE) as copy:
            if faults := copy.faults():
                raise CatalogueError(f"{folder / CATALOGUE} is damaged, no snapshot was taken: {'; '.join(faults)}")
            facts = (name, copy.model_hash, copy.embedding_dim, copy.c, copy.count(), copy.sequence)
        files = {CATALOGUE: stack.enter_context((temporary / CATALOGUE).open("rb")), **files}
        manifest = Manifest(*facts, moment.isoformat(), {member: measured(file) for member, file in files.items()})
        made = temporary / "snapshot.tar"
        write_snapshot(made, manifest, files, moment=int(moment.timestamp()))
        sync(made)
        verify_snapshot(made)
        checksum = sha256(made)
        made.rename(target)
        sync(target.parent)
    logger.info("event=snapshot_created path=%s count=%d sequence=%d", target, manifest.count, manifest.sequence)
    return Created(target, manifest, checksum, tuple(left_out))


def restore_snapshot(
    path: Path,
    store: Path,
    name: str | None = None,
    *,
    replace: bool = False,
    model_hash: str | None = None,
    image_root: Path | None = None,
    trusted: bool = True,
    checksum: str | None = None,
) -> Collection:
    """Make a collection of a snapshot, and open it.

    It is unpacked and checked beside the collection `name` (that of the snapshot by default), then switched in at a
    stroke; where anything is wrong, the store is as before. An existing collection is refused
    (:class:`CollectionExistsError`) unless `replace`, and then must be of the same model. Whoever has the old one open
    goes on searching it, and is refused writes. Uploaded photos (:mod:`index.uploads`) are in no snapshot: those of the
    store stay where they are, and the restored items find those that are still there.

    `model_hash`: refuse points of any other model (:class:`ModelMismatchError`). `image_root`: where the photos lie
    now. `checksum`: the SHA-256 of the whole file. `trusted=False`, for a file from somebody else: its index is not
    read but built anew from its points, since FAISS is no parser for hostile files, its catalogue must be one that
    could have been written here (:mod:`index.foreign`), and the places it names on disk are forgotten for those of the
    collection it replaces.
    """
    manifest = read_manifest(path)
    name = manifest.collection if name is None else name
    folder = collection_folder(store, name)
    if folder.exists() and not replace:
        raise CollectionExistsError(
            f"the store {store} has a collection {name!r} already: add --replace, or --collection for another name"
        )
    replaced = _places_of(folder)
    for expected in (model_hash, replaced.model_hash):
        if expected is not None and manifest.model_hash != expected:
            raise ModelMismatchError(str(path), expected=expected, found=manifest.model_hash)
    with new_folder(folder, replace=replace) as temporary:
        if unpack(path, temporary, checksum=checksum, indexed=trusted) != manifest:
            raise SnapshotError(f"{path} was replaced while it was read")
        if not trusted:
            require_own_schema(temporary / CATALOGUE)
        with Catalogue.open(temporary / CATALOGUE, model_hash=manifest.model_hash) as catalogue:
            if not trusted:
                require_own_items(catalogue)
            _check_catalogue(path, manifest, catalogue)
            kept = _Places(None, catalogue.image_root, catalogue.checkpoint) if trusted else replaced
            catalogue.relocate(
                image_root=image_root.resolve() if image_root else kept.image_root, checkpoint=kept.checkpoint
            )
            if newest_valid_generation(temporary / GENERATIONS, catalogue) is None:
                changes = catalogue.changes()
                index = LorentzIndex.build(changes.space, changes.rows, catalogue.c, **read_request(temporary))
                write_generation(temporary / GENERATIONS, index, catalogue, changes.sequence)
    logger.info("event=snapshot_restored path=%s collection=%s count=%d", path, name, manifest.count)
    return Collection.open(store, name)


class _Places(NamedTuple):
    model_hash: str | None = None
    image_root: Path | None = None
    checkpoint: Path | None = None


def _places_of(folder: Path) -> _Places:
    """What a restored collection must agree with, or takes over; nothing where the old one is damaged or absent."""
    with suppress(CatalogueError), Catalogue.open(folder / CATALOGUE) as live:
        return _Places(live.model_hash, live.image_root, live.checkpoint)
    return _Places()


def _check_catalogue(path: Path, manifest: Manifest, catalogue: Catalogue) -> None:
    if faults := catalogue.faults():
        raise SnapshotError(f"the catalogue in {path} is damaged: {'; '.join(faults)}")
    for key, found in (
        ("embedding_dim", catalogue.embedding_dim),
        ("c", catalogue.c),
        ("count", catalogue.count()),
        ("sequence", catalogue.sequence),
    ):
        if found != (announced := getattr(manifest, key)):
            raise SnapshotError(f"{path} announces {key} {announced}, its catalogue has {found}")


def _open_caches(folder: Path, stack: ExitStack, left_out: list[str]) -> dict[str, IO[bytes]]:
    """What goes with the catalogue, opened, by its name in the snapshot; to `left_out` what was damaged.

    Everything is opened before it is copied: what a writer deletes meanwhile is still there for whoever has it open,
    and a file that is replaced is another file.
    """
    from index.hierarchy.store import read_names

    files: dict[str, IO[bytes]] = {}
    for name in (REQUEST_FILE, SCHEMA_FILE):
        with suppress(FileNotFoundError):
            files[name] = stack.enter_context((folder / name).open("rb"))
    hierarchy, generations = folder / "hierarchy", folder / GENERATIONS
    if read_names(hierarchy):  # damaged, nobody could restore them: HierarchyError
        files["hierarchy/names.json"] = stack.enter_context((hierarchy / "names.json").open("rb"))
    places: list[Callable[[], list[Path]]] = [
        lambda: [hierarchy / "tree"],
        lambda: [hierarchy / "former"],
        lambda: list_generations(generations),
    ]
    for candidates in places:
        found = _open_first_whole(candidates, stack, left_out)
        files |= {path.relative_to(folder).as_posix(): file for path, file in found.items()}
    return files


def _open_first_whole(
    candidates: Callable[[], list[Path]], stack: ExitStack, left_out: list[str]
) -> dict[Path, IO[bytes]]:
    """The files of the first folder that has what its manifest.json announces."""
    faults: list[str] = []
    before: list[tuple[Path, int]] | None = None
    for _ in range(ATTEMPTS):
        # What is not whole may only be on its way out: a fault counts once nothing has moved.
        if before == (before := [(path, path.stat().st_ino) for path in candidates() if path.exists()]):
            break
        faults = []
        for folder, _inode in before:
            try:
                found = _open_whole(folder, stack)
            except (OSError, SnapshotError, ValueError, KeyError, TypeError, AttributeError) as error:
                faults.append(f"{folder} ({error})")
            else:
                left_out += faults
                return found
    left_out += faults
    return {}


def _open_whole(folder: Path, stack: ExitStack) -> dict[Path, IO[bytes]]:
    with ExitStack() as inner:
        files: dict[Path, IO[bytes]] = {folder / MANIFEST: inner.enter_context((folder / MANIFEST).open("rb"))}
        announced = json.load(files[folder / MANIFEST])["files"]
        files |= {folder / name: inner.enter_context((folder / name).open("rb")) for name in announced}
        for name, expected in announced.items():
            if measured(files[folder / name]).sha256 != expected:
                raise SnapshotError(f"{name} is damaged")
        stack.push(inner.pop_all())
        return files
