"""Files and folders on this machine or behind a URL that fsspec knows: what is in them, and whether it changed."""

import importlib
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from index.errors import EmbeddingsError

READ_ATTEMPTS = 3
STAMPERS = 16  # threads
# What file systems call that which changes with a file's content, the best first.
_STAMPS = ("ETag", "etag", "md5Hash", "content_md5", "mtime", "LastModified", "last_modified", "updated", "created")


@dataclass(frozen=True)
class Place:
    """A folder or file, here (``local``) or on a ``system`` of fsspec's (an ``AbstractFileSystem``)."""

    name: str
    local: Path | None
    system: Any = field(compare=False)
    base: str

    @classmethod
    def of(cls, where: str) -> "Place":
        """From a path or a URL. Raises :class:`EmbeddingsError` for a URL that fsspec does not know."""
        if "://" not in where:
            local = Path(where).resolve()
            return cls(str(local), local, None, str(local))
        try:
            system, base = importlib.import_module("fsspec.core").url_to_fs(where)
        except (ImportError, ValueError) as error:
            raise EmbeddingsError(f"{where} cannot be opened: {error}") from error
        if "file" in ((system.protocol,) if isinstance(system.protocol, str) else system.protocol):
            return cls.of(base)
        return cls(where.rstrip("/"), None, system, base.rstrip("/"))

    def below(self, path: str) -> "Place":
        """A file of this folder, or the place of a URL."""
        if "://" in path:
            return Place.of(path)
        local = self.local / path if self.local else None
        return Place(f"{self.name}/{path}", local, self.system, f"{self.base}/{path}")

    def content(self) -> Path | bytes:
        """The file here; what is in it elsewhere, asked for again when the connection fails."""
        return self.local if self.local is not None else self.bytes()

    def bytes(self, start: int | None = None, end: int | None = None) -> bytes:
        """What is in the file, from ``start`` to before ``end``. Raises ``OSError``."""
        if self.system is None:
            with Path(self.base).open("rb") as file:
                file.seek(start or 0)
                return file.read() if end is None else file.read(end - (start or 0))
        for attempt in range(1, READ_ATTEMPTS + 1):
            try:
                return bytes(self.system.cat_file(self.base, start, end))
            except (FileNotFoundError, PermissionError, IsADirectoryError):
                raise
            except Exception as error:  # each file system has its own for a connection that fails
                if attempt == READ_ATTEMPTS:
                    raise OSError(f"{self.name} cannot be read: {error}") from error
                time.sleep(0.5 * attempt**2)
        raise AssertionError

    def stamp(self) -> str:
        """What changes when the file does; "missing" where there is none."""
        if self.system is None:
            return local_stamp(Path(self.base))
        try:
            return remote_stamp(self.system.info(self.base))
        except OSError:
            return "missing"


def stamps_of(places: Sequence[Place]) -> list[str]:
    """The stamp of each, asked for many at a time where each is a request and an answer."""
    if all(place.local is not None for place in places):
        return [place.stamp() for place in places]
    with ThreadPoolExecutor(max_workers=STAMPERS) as pool:
        return list(pool.map(Place.stamp, places))


def local_stamp(path: Path) -> str:
    """Size and time of change; "missing" where there is no file."""
    try:
        found = path.stat()
    except OSError:
        return "missing"
    return f"{found.st_size}-{found.st_mtime_ns}"


def remote_stamp(info: dict[str, Any]) -> str:
    """Size, and the best that a file system has to tell one content from another."""
    changes = next((str(info[key]) for key in _STAMPS if info.get(key) is not None), "")
    return f"{info.get('size')}-{changes}"
