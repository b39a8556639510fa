"""Photos of an uploaded archive: named, bounded and read one at a time, nothing unpacked to the disk."""

import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from hyperbolic.images import IMAGE_SUFFIXES
from index.archives import ArchiveSource
from index.errors import EmbeddingsError
from index.sources import Photo, label_path, plain_path
from service.jobs.content import Content, ContentError

MOST_MEMBERS = 1_000_000
_DIRECTORY_BYTES = 256 * 2**20
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_READ = 1 << 16


class PhotoUnreadableError(OSError):
    """A photo that cannot be had from its archive; ``code`` is that of an image error."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class ZipSource:
    """The photos in a .zip. A photo's labels are the folders it lies in."""

    path: Path
    max_bytes: int
    name: str = "the archive"
    _zip: zipfile.ZipFile = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            size, members = _directory(self.path)
            if members > MOST_MEMBERS or size > _DIRECTORY_BYTES:
                raise ContentError(f"the archive lists {members:,} files: expected at most {MOST_MEMBERS:,}")
            object.__setattr__(self, "_zip", zipfile.ZipFile(self.path))
        except (zipfile.BadZipFile, struct.error, ValueError, NotImplementedError) as error:
            if isinstance(error, ContentError):
                raise
            raise ContentError(f"the archive cannot be read as a .zip: {error}") from error

    @property
    def image_root(self) -> Path | None:
        """None: the photos are no files."""
        return None

    def photos(self) -> list[Photo]:
        """In the order of the archive's directory. Raises :class:`EmbeddingsError` for names that lead out of it."""
        found: dict[str, Photo] = {}
        for place, member in enumerate(self._zip.infolist()):
            name = PurePosixPath(member.filename)
            kind = stat.S_IFMT(member.external_attr >> 16)
            if member.is_dir() or kind not in {0, stat.S_IFREG} or name.name.startswith("."):
                continue
            path = plain_path(member.filename, self.name, "the archive")
            if name.suffix.lower() not in IMAGE_SUFFIXES:
                continue
            if path in found:
                raise EmbeddingsError(f"{self.name} holds {path!r:.120} twice: expected each name once")
            found[path] = Photo(path, path, label_path(path), f"{member.CRC:08x}", (place, 0, member.file_size))
        return list(found.values())

    def read(self, photo: Photo) -> bytes:
        """The photo's bytes. Raises :class:`PhotoUnreadableError`."""
        assert photo.place is not None  # noqa: S101 - it is one of photos()
        member = self._zip.infolist()[photo.place[0]]
        _bounded(member.file_size, self.max_bytes)
        try:
            with self._zip.open(member) as file:
                # What a header announces is not what comes out of it.
                data = bytearray()
                while len(data) <= self.max_bytes and (block := file.read(_READ)):
                    data += block
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, OSError) as error:
            raise PhotoUnreadableError("unreadable_file", f"it cannot be unpacked: {error}") from error
        _bounded(len(data), self.max_bytes)
        return bytes(data)

    def close(self) -> None:
        """Close the file."""
        self._zip.close()


@dataclass(frozen=True)
class TarSource:
    """The photos in a .tar, as :class:`~index.archives.ArchiveSource` has them, up to a size."""

    path: Path
    max_bytes: int
    name: str = "the archive"
    _archive: ArchiveSource = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_archive", ArchiveSource.open(str(self.path), most_photos=MOST_MEMBERS))

    @property
    def image_root(self) -> Path | None:
        """None: the photos are no files."""
        return None

    def photos(self) -> list[Photo]:
        """In their order inside. Raises :class:`EmbeddingsError`."""
        return self._archive.photos()

    def read(self, photo: Photo) -> bytes:
        """The photo's bytes. Raises :class:`PhotoUnreadableError`."""
        assert photo.place is not None  # noqa: S101 - it is one of photos()
        _bounded(photo.place[2], self.max_bytes)
        try:
            return self._archive.read(photo)
        except OSError as error:
            raise PhotoUnreadableError("unreadable_file", f"it cannot be read: {error}") from error

    def close(self) -> None:
        """Nothing is open between reads."""


UploadedPhotos = ZipSource | TarSource


def uploaded_photos(path: Path, content: Content, max_bytes: int) -> UploadedPhotos:
    """The photos of an archive. Raises :class:`ContentError` for a file that is none."""
    if content == "zip":
        return ZipSource(path, max_bytes)
    if content == "tar":
        return TarSource(path, max_bytes)
    raise ContentError(f"expected photos in a .zip or .tar (perhaps .gz), got {content}")


def _bounded(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise PhotoUnreadableError("image_too_large", f"the photo is over {max_bytes:,} bytes: scale it down")


def _directory(path: Path) -> tuple[int, int]:
    """Bytes and entries of a .zip's directory, which ``zipfile`` would read whole, whatever its size."""
    with path.open("rb") as file:
        end = file.seek(0, 2)
        tail_at = max(0, end - _END.size - 0xFFFF)
        file.seek(tail_at)
        tail = file.read()
        at = tail.rfind(b"PK\5\6")
        if at < 0:
            raise ContentError("the archive cannot be read as a .zip: it has no directory")
        *_, members, size, _offset, _comment = _END.unpack_from(tail, at)
        if at >= _LOCATOR.size and tail[at - _LOCATOR.size : at].startswith(b"PK\6\7"):
            file.seek(_LOCATOR.unpack_from(tail, at - _LOCATOR.size)[2])
            *_, members, size, _offset = _END64.unpack(file.read(_END64.size))
        return int(size), int(members)
