"""Thumbnails of stored photos: made when first asked for, the recent ones kept in memory."""

import hashlib
import io
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from hyperbolic.images import ImageError, read_image

QUALITY = 85
AT_ONCE = 4
"""Photos that are decoded at once: each may take 200 MB, and there are ten times as many threads."""


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A JPEG, and the entity tag of the photo and size it shows."""

    data: bytes
    etag: str


def entity_tag(path: Path, variant: str = "") -> str:
    """A quoted ETag that changes with the file and the variant. Raises :class:`~hyperbolic.images.ImageError`."""
    try:
        stat = path.stat()
    except OSError as error:
        raise ImageError("unreadable_file", f"{path.name}: {error.strerror or error}") from error
    text = f"{path}\0{stat.st_mtime_ns}\0{stat.st_size}\0{variant}"
    return f'"{hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:20]}"'


class Thumbnails:
    """Least recently used cache of thumbnails, at most ``max_bytes`` of JPEG. Any thread may ask."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[str, Thumbnail] = OrderedDict()
        self._lock = threading.Lock()
        self._making = threading.BoundedSemaphore(AT_ONCE)

    def get(self, path: Path, side: int) -> Thumbnail:
        """The photo at ``path``, upright, within ``side`` x ``side`` pixels (never enlarged).

        Raises :class:`~hyperbolic.images.ImageError` for a photo that cannot be read.
        """
        etag = entity_tag(path, str(side))
        with self._lock:
            if etag in self._kept:
                self._kept.move_to_end(etag)
                return self._kept[etag]
        buffer = io.BytesIO()
        with self._making:
            # A large JPEG is decoded at a fraction of its size, with enough pixels left to be sharp.
            image = read_image(path, draft_side=2 * side)
            image.thumbnail((side, side), Image.Resampling.LANCZOS)
            image.save(buffer, "JPEG", quality=QUALITY, optimize=True)
        thumbnail = Thumbnail(buffer.getvalue(), etag)
        self._keep(thumbnail)
        return thumbnail

    def _keep(self, thumbnail: Thumbnail) -> None:
        with self._lock:
            old = self._kept.pop(thumbnail.etag, None)
            self._bytes += len(thumbnail.data) - (len(old.data) if old else 0)
            self._kept[thumbnail.etag] = thumbnail
            while self._bytes > self._max_bytes:
                _, dropped = self._kept.popitem(last=False)
                self._bytes -= len(dropped.data)
