"""Large files, sent and fetched by the client without being held in memory."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from service.client.transport import Transport

BLOCK = 2**20


@contextmanager
def as_form(path: Path, **fields: str) -> Iterator[Callable[[], Mapping[str, Any]]]:
    """What makes a form with ``path`` as its file, for as many attempts as it takes."""
    with path.open("rb") as file:

        def prepare() -> Mapping[str, Any]:
            file.seek(0)
            return {"files": {"file": (path.name, file, "application/octet-stream")}, "data": fields}

        yield prepare


@contextmanager
def as_body(path: Path) -> Iterator[Callable[[], Mapping[str, Any]]]:
    """What makes a body of ``path``, for as many attempts as it takes."""
    with path.open("rb") as file:

        def prepare() -> Mapping[str, Any]:
            file.seek(0)
            return {"content": iter(lambda: file.read(BLOCK), b"")}

        yield prepare


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(transport: Transport, url: str, to: Path) -> None:
    """Write the answer into ``to``, which appears when it has come whole. Raises ``OSError`` where it came damaged."""
    partial = to.with_name(to.name + ".partial")
    try:
        with transport.stream("GET", url) as response, partial.open("wb") as file:
            found = _copy(response.iter_bytes(BLOCK), file)
        expected = response.headers.get("X-Checksum-SHA256", found)
        if found != expected:
            raise OSError(f"{url} came damaged: expected sha256 {expected}, got {found}; fetch it again")
        partial.replace(to)
    finally:
        partial.unlink(missing_ok=True)


def _copy(blocks: Iterator[bytes], file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    for block in blocks:
        file.write(block)
        digest.update(block)
    return digest.hexdigest()
