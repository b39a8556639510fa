"""What an uploaded file is, told from its first bytes and never from its name; and compressed ones unpacked."""

import gzip
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from index.files import sync

Content = Literal["zip", "tar", "gzip", "parquet", "jsonl"]
UPLOAD, UNPACKED = "upload", "unpacked"
_BLOCK = 1 << 20
_MAGIC: tuple[tuple[int, bytes, Content], ...] = (
    (0, b"PK\3\4", "zip"),
    (0, b"PK\5\6", "zip"),  # one without members
    (0, b"\x1f\x8b", "gzip"),
    (0, b"PAR1", "parquet"),
    (257, b"ustar", "tar"),
)
_EXPECTED = "expected a .zip or .tar of photos, or points as JSON lines or Parquet, each perhaps in .gz"


class ContentError(ValueError):
    """An uploaded file that is none of what a job can take, or is damaged: the text says what was expected."""


def content_of(path: Path) -> Content:
    """What a file holds. Raises :class:`ContentError` for anything else."""
    with path.open("rb") as file:
        head = file.read(512)
    for offset, magic, content in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return content
    if _is_old_tar(head):
        return "tar"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return "jsonl"
    raise ContentError(f"{_EXPECTED}, got something else" if head else f"{_EXPECTED}, got an empty file")


def ready_content(folder: Path, max_bytes: int, check: Callable[[], None]) -> tuple[Path, Content]:
    """The file in ``folder`` that a job is to read, unpacked beside the upload and in its place where that was a .gz.

    ``check`` is called between blocks and may raise. :class:`ContentError` for more than ``max_bytes``, and as
    :func:`content_of`.
    """
    upload, unpacked = folder / UPLOAD, folder / UNPACKED
    if not unpacked.exists():
        if (content := content_of(upload)) != "gzip":
            return upload, content
        partial = folder / f"{UNPACKED}.partial"
        try:
            _unpack(upload, partial, max_bytes, check)
        except (OSError, EOFError, zlib.error, struct.error) as error:
            if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
                raise
            raise ContentError(f"the .gz is damaged: {error}") from error
        sync(partial)
        partial.rename(unpacked)
        sync(folder)
    upload.unlink(missing_ok=True)
    if (content := content_of(unpacked)) == "gzip":
        raise ContentError("expected one .gz, got one inside another: compress once")
    return unpacked, content


def _unpack(source: Path, target: Path, max_bytes: int, check: Callable[[], None]) -> None:
    written = 0
    with gzip.open(source, "rb") as packed, target.open("wb") as file:
        while block := packed.read(_BLOCK):
            check()
            written += len(block)
            if written > max_bytes:
                raise ContentError(f"unpacked, the .gz has more than {max_bytes:,} bytes: send it in several")
            file.write(block)


def _is_old_tar(head: bytes) -> bool:
    """A header from before POSIX gave it a name: its checksum is the sum of its bytes, blanks in its own place."""
    field = head[148:156].strip(b" \0")
    if len(head) < 512 or not field or set(field) - set(b"01234567"):
        return False
    return int(field, 8) == sum(head[:148]) + 8 * 32 + sum(head[156:])
