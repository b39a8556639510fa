"""Writing files so that a crash leaves the old or the new, and knowing a file by its hash."""

import ctypes
import fcntl
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# What a killed writer may leave: a folder half-written, and one swapped out. Nobody else's files end like this.
_LEFTOVER = re.compile(r"\.(.+)\.[0-9a-f]{8}\.lhier-(new|old)")
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD, RENAME_EXCHANGE


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Force a file, or a folder's entries, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write JSON under a temporary name, sync it, and rename it into place."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(value, file, indent=1, ensure_ascii=False, allow_nan=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it where they are missing, and force their entries onto the disk."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync(path.parent)


def sweep(folder: Path) -> None:
    """Delete what killed writers left half-written in `folder`, and put back what one had swapped out.

    Does nothing while anybody writes there.
    """
    with suppress(OSError):  # a folder that may not be written to is searched all the same
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            _sweep(folder, descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def workspace(target: Path) -> Iterator[Path]:
    """A folder beside `target` to make it in; gone when the block ends, or at the next write there if it is killed."""
    make_folder(target.parent)
    descriptor = os.open(target.parent, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks keeps what killed writers leave
            _sweep(target.parent, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.lhier-new")
        temporary.mkdir()
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    finally:
        os.close(descriptor)


@contextmanager
def new_folder(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """A temporary folder beside `target` that becomes `target`, synced, when the block ends well.

    With `replace` an existing target is exchanged for it and then deleted: whoever looks finds the old or the new.
    Without it, the target is left alone and ``FileExistsError`` is raised.
    """
    with workspace(target) as temporary:
        yield temporary
        for path in [*temporary.rglob("*"), temporary]:
            sync(path)
        if not target.exists():
            temporary.rename(target)
        elif not replace:
            raise FileExistsError(f"{target} exists already")
        elif not _exchange(temporary, target):
            # Killed between the two renames, this leaves neither: sweep() puts the old one back.
            target.rename(temporary.with_suffix(".lhier-old"))
            temporary.rename(target)
            temporary.with_suffix(".lhier-old").rename(temporary)
        sync(target.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names at a stroke; False where the system or the file system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    return bool(rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0)


def _sweep(folder: Path, descriptor: int) -> None:
    # Writers share the lock, so whoever gets it alone knows that nobody is at work on what lies there.
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    for path in list(folder.iterdir()):
        found = _LEFTOVER.fullmatch(path.name)
        if found is None:
            continue
        target = path.with_name(found[1])
        if found[2] == "old" and not target.exists():
            path.rename(target)
        else:
            shutil.rmtree(path, ignore_errors=True)
