"""The file of a snapshot: an uncompressed tar whose first member, manifest.json, has the hash of every other.

catalogue.sqlite                    the truth, as it stood at one moment
index_request.json                  what the index was asked to be, where that is known
metadata_schema.json                the declared fields of its metadata, where there are any
generations/<name>/...              the newest whole index, which saves the restored collection building one
hierarchy/tree/..., names.json      the tree and the names people gave, where there are any
hierarchy/former/...                what its successor takes the names over by, where there is no tree

Nothing is unpickled, and no member's name can lead out of the collection: names are compared with a pattern, members
must be plain files that the manifest announces. Hashes prove that nothing was damaged, not who wrote the file.
"""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

from index.errors import SnapshotError
from index.files import sha256
from index.metadata import SCHEMA_FILE
from index.plan import REQUEST_FILE

FORMAT, FORMAT_VERSION = "lhier-snapshot", 1
MANIFEST, CATALOGUE, GENERATIONS = "manifest.json", "catalogue.sqlite", "generations"
LARGEST_MANIFEST = 16_000_000  # bytes
BLOCK = 1 << 20  # bytes read at a time

_FILE = r"[A-Za-z0-9_][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*"
_MEMBER = re.compile(
    rf"{re.escape(CATALOGUE)}|{re.escape(REQUEST_FILE)}|{re.escape(SCHEMA_FILE)}"
    rf"|{GENERATIONS}/[0-9][0-9A-Za-z-]*/({_FILE}|index/{_FILE})"
    rf"|hierarchy/names\.json|hierarchy/(tree|former)/{_FILE}"
)
# What tarfile and a manifest's reader raise over other bytes than expected. An OSError speaks for itself.
_UNREADABLE = (
    tarfile.TarError, EOFError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError,
    MemoryError,  # for a header that announces too much
)  # fmt: skip


class Member(NamedTuple):
    """One file of a snapshot."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a snapshot says of itself."""

    collection: str
    model_hash: str
    embedding_dim: int
    c: float
    count: int
    sequence: int
    created_at: str
    files: dict[str, Member]

    def to_json(self) -> bytes:
        """The file manifest.json, which has a checksum of its own."""
        content = {"format": FORMAT, "format_version": FORMAT_VERSION} | asdict(self)
        content["files"] = {name: member._asdict() for name, member in self.files.items()}
        return json.dumps(content | {"checksum": _checksum(content)}, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes, path: Path) -> Self:
        """What :meth:`to_json` wrote; :class:`SnapshotError` for another format or other bytes."""
        content = json.loads(data)
        if content["format"] != FORMAT:
            raise SnapshotError(f"{path} is no snapshot of lhier: its manifest says {content['format']!r:.80}")
        if (version := content["format_version"]) != FORMAT_VERSION:
            raise SnapshotError(
                f"{path} has snapshot format {version}, this version of lhier reads {FORMAT_VERSION}: restore it with "
                f"the version that wrote it, and take another with 'lhier snapshot create' once that store is migrated"
            )
        if content.pop("checksum") != _checksum(content):
            raise SnapshotError(f"{path} is damaged: its manifest does not have its checksum")
        del content["format"], content["format_version"]
        content["files"] = {name: Member(**member) for name, member in content["files"].items()}
        if bad := [name for name in content["files"] if not _MEMBER.fullmatch(name)]:
            raise SnapshotError(f"{path} names a file that no collection has: {bad[0]!r:.120}")
        if CATALOGUE not in content["files"]:
            raise SnapshotError(f"{path} holds no catalogue")
        if not isinstance(content["collection"], str):
            raise SnapshotError(f"{path} names its collection {content['collection']!r:.80}, expected a string")
        return cls(**content)


def measured(file: IO[bytes]) -> Member:
    """Size and hash of an open file, which is left at its beginning."""
    file.seek(0)
    digest = hashlib.sha256()
    while block := file.read(BLOCK):
        digest.update(block)
    size = file.tell()
    file.seek(0)
    return Member(size, digest.hexdigest())


def write_snapshot(path: Path, manifest: Manifest, files: dict[str, IO[bytes]], *, moment: int) -> None:
    """Write the file: `files` are those that the manifest names, `moment` their time in seconds since 1970."""
    text = manifest.to_json()
    with tarfile.open(path, mode="x", format=tarfile.PAX_FORMAT) as archive:
        for name, size, file in [
            (MANIFEST, len(text), io.BytesIO(text)),
            *((name, member.size, files[name]) for name, member in manifest.files.items()),
        ]:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime, entry.mode = size, moment, 0o644
            archive.addfile(entry, file)


def read_manifest(path: Path) -> Manifest:
    """What a snapshot says it holds; only its beginning is read. :class:`SnapshotError` where it is no snapshot."""
    try:
        with tarfile.open(path, mode="r:") as archive:
            return _first(archive, path)
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error


def verify_snapshot(path: Path, *, checksum: str | None = None) -> Manifest:
    """Read every byte of a snapshot and compare it with what was written; :class:`SnapshotError` where it differs.

    `checksum`: the SHA-256 of the whole file, where it is known, which finds a change in the padding too.
    """
    return unpack(path, None, checksum=checksum)


def unpack(path: Path, target: Path | None, *, checksum: str | None = None, indexed: bool = True) -> Manifest:
    """:func:`verify_snapshot`, and write the files below `target`; those of the index only if `indexed`."""
    if checksum is not None and (found := sha256(path)) != checksum.lower():
        raise SnapshotError(f"{path} is damaged: expected sha256 {checksum[:12]}, found {found[:12]}")
    try:
        with tarfile.open(path, mode="r:") as archive:
            manifest = _first(archive, path)
            missing = dict(manifest.files)
            while (entry := archive.next()) is not None:
                member = missing.pop(entry.name, None)
                if member is None or not _is_plain(entry) or entry.size != member.size:
                    raise SnapshotError(f"{path} holds what its manifest does not announce: {entry.name!r:.120}")
                wanted = target is not None and (indexed or not entry.name.startswith(f"{GENERATIONS}/"))
                if _copied(archive, entry, target / entry.name if wanted and target else None) != member.sha256:
                    raise SnapshotError(f"{path} is damaged: {entry.name} does not have the hash that was written")
            if missing:
                raise SnapshotError(f"{path} is not whole: {next(iter(missing))} is missing")
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error
    return manifest


def _first(archive: tarfile.TarFile, path: Path) -> Manifest:
    entry = archive.next()
    if entry is None or entry.name != MANIFEST or not _is_plain(entry) or entry.size > LARGEST_MANIFEST:
        raise SnapshotError(f"{path} is no snapshot of lhier: expected a tar that begins with {MANIFEST}")
    return Manifest.from_json(b"".join(_blocks(archive, entry)), path)


def _is_plain(entry: tarfile.TarInfo) -> bool:
    # A sparse file could announce more bytes than any disk has.
    return entry.type == tarfile.REGTYPE and not entry.issparse()


def _copied(archive: tarfile.TarFile, entry: tarfile.TarInfo, target: Path | None) -> str:
    """The hash of a member, which is written to `target` where there is one."""
    digest = hashlib.sha256()
    with ExitStack() as stack:
        file = None
        if target is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(target.open("xb"))
        for block in _blocks(archive, entry):
            digest.update(block)
            if file is not None:
                file.write(block)
    return digest.hexdigest()


def _blocks(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> Iterator[bytes]:
    file, left = archive.extractfile(entry), entry.size
    while left and file is not None and (block := file.read(min(BLOCK, left))):
        left -= len(block)
        yield block
    if left:
        raise EOFError(f"{entry.name} is {left} bytes short")


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _unreadable(path: Path, error: Exception) -> SnapshotError:
    return SnapshotError(
        f"{path} cannot be read as a snapshot, it is damaged or none ({type(error).__name__}: {error})"
    )
