"""Snapshots of a service's store: files in a folder of their own, with their checksums beside them.

STORE/snapshots/<collection>/<collection or "uploaded">-20261122T101500000000Z.tar
STORE/snapshots/<collection>/<the same>.tar.sha256      as sha256sum writes it
STORE/snapshots/<collection>/.incoming-<...>/           what is being made or uploaded
"""

import logging
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from index.collection import collection_folder
from index.errors import ModelMismatchError, SnapshotError
from index.files import make_folder, sha256, sync
from index.snapshot_file import Manifest, read_manifest, verify_snapshot

logger = logging.getLogger(__name__)

FOLDER = "snapshots"
NAME = r"[a-z0-9][a-z0-9_-]{0,63}-[0-9]{8}T[0-9]{12}Z\.tar"
_NAME = re.compile(NAME)
_CHECKSUM = re.compile(r"([0-9a-f]{64})  ")
COLLECTION_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_INCOMING = ".incoming-"


class UnknownSnapshotError(LookupError):
    """A snapshot that is not there."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A snapshot on the disk; ``manifest`` is None for one that is damaged."""

    path: Path
    size: int
    sha256: str
    manifest: Manifest | None

    @property
    def name(self) -> str:
        """Its file's."""
        return self.path.name


class Snapshots:
    """The snapshots kept in ``store``. Any thread."""

    def __init__(self, store: Path) -> None:
        self._store = store

    def collections(self) -> list[str]:
        """Collections of which there are snapshots, whether they still exist or not."""
        folder = self._store / FOLDER
        if not folder.is_dir():
            return []
        return sorted(path.name for path in folder.iterdir() if COLLECTION_NAME.fullmatch(path.name) and path.is_dir())

    def all_of(self, collection: str) -> list[Stored]:
        """Those of a collection, the newest first."""
        found = []
        for path in self._paths(collection):
            with suppress(FileNotFoundError):  # deleted meanwhile
                found.append(self._stored(path))
        return sorted(found, key=lambda each: each.name[-len("20261122T101500000000Z.tar") :], reverse=True)

    def get(self, collection: str, name: str) -> Stored:
        """One by name. Raises :class:`UnknownSnapshotError`."""
        for path in self._paths(collection):  # looked up, never joined: a name from outside is no path
            if path.name == name:
                with suppress(FileNotFoundError):
                    return self._stored(path)
        raise UnknownSnapshotError(f"collection {collection!r:.80} has no snapshot {name!r:.120}")

    def delete(self, collection: str, name: str) -> None:
        """Delete one. Raises :class:`UnknownSnapshotError`."""
        stored = self.get(collection, name)
        stored.path.unlink(missing_ok=True)
        _checksum_file(stored.path).unlink(missing_ok=True)
        sync(stored.path.parent)

    @contextmanager
    def incoming(self, collection: str) -> Iterator[Path]:
        """A folder to make a snapshot in, gone when the block ends. ``CollectionNameError`` for no name of one."""
        folder = self._folder(collection)
        temporary = folder / f"{_INCOMING}{uuid.uuid4().hex}"
        while not temporary.exists():
            make_folder(folder)
            with suppress(FileNotFoundError):  # another that ended has just taken the empty folder away
                temporary.mkdir()
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            with suppress(OSError):  # there are others in it
                folder.rmdir()

    def keep(self, made: Path, collection: str, checksum: str, name: str) -> Stored:
        """Move a whole snapshot in among the others, as ``name`` (:func:`name_of`)."""
        folder = self._folder(collection)
        path = folder / name
        sync(made)
        _write_checksum(path, checksum)
        made.rename(path)
        sync(folder)
        return self._stored(path)

    def sweep(self) -> None:
        """Delete what a killed process was making."""
        for name in self.collections():
            for path in (self._store / FOLDER / name).iterdir():
                orphan = path.suffix == ".sha256" and not path.with_suffix("").exists()
                if path.name.startswith(_INCOMING):
                    shutil.rmtree(path, ignore_errors=True)
                elif orphan:
                    path.unlink(missing_ok=True)

    def _folder(self, collection: str) -> Path:
        collection_folder(self._store, collection)  # raises for a name that is none
        return self._store / FOLDER / collection

    def _paths(self, collection: str) -> list[Path]:
        if collection not in self.collections():
            return []
        folder = self._folder(collection)
        return [path for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_file()]

    def _stored(self, path: Path) -> Stored:
        size = path.stat().st_size
        try:
            manifest = read_manifest(path)
        except SnapshotError as error:
            logger.warning("event=snapshot_damaged path=%s error=%r", path, str(error))
            manifest = None
        return Stored(path, size, _checksum(path), manifest)


def name_of(label: str, moment: float) -> str:
    """How the snapshot of a ``moment`` (seconds since 1970) is called."""
    return f"{label}-{datetime.fromtimestamp(moment, UTC):%Y%m%dT%H%M%S%fZ}.tar"


def verified(path: Path, model_hash: str) -> Manifest:
    """What a snapshot from outside says it holds, once every byte of it was read and compared.

    Raises :class:`~index.errors.ModelMismatchError` for points of another model, and
    :class:`~index.errors.SnapshotError` for one that is damaged or none.
    """
    manifest = read_manifest(path)
    if manifest.model_hash != model_hash:
        raise ModelMismatchError("the snapshot", expected=model_hash, found=manifest.model_hash)
    return verify_snapshot(path)


def _checksum(path: Path) -> str:
    with suppress(FileNotFoundError):
        if found := _CHECKSUM.match(_checksum_file(path).read_text(encoding="ascii", errors="replace")):
            return found[1]
    checksum = sha256(path)  # somebody put it there by hand
    _write_checksum(path, checksum)
    return checksum


def _write_checksum(path: Path, checksum: str) -> None:
    partial = path.with_suffix(f".{uuid.uuid4().hex}.partial")
    partial.write_text(f"{checksum}  {path.name}\n", encoding="ascii")
    sync(partial)
    partial.rename(_checksum_file(path))


def _checksum_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
