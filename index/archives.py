"""Photos in tar archives, in WebDataset's layout: files of one sample share the name up to the first dot."""

import json
import tarfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from index.errors import EmbeddingsError
from index.places import Place
from index.sources import Photo, label_path, plain_path

LARGEST_SIDECAR = 1 << 20  # bytes
LARGEST_PHOTO = 1 << 30  # bytes; a sparse member may announce any number


@dataclass(frozen=True)
class ArchiveSource:
    """The photos in one tar or several.

    A photo's labels are those of the sample's ``.json`` ("labels", a list, or "label"), its ``.cls``, or the folders it
    lies in. With several archives, ids and paths start with the archive's name.
    """

    name: str
    archives: tuple[Place, ...] = field(repr=False)
    most_photos: int | None = None

    @classmethod
    def open(cls, pattern: str, *, most_photos: int | None = None) -> "ArchiveSource":
        """From a path or URL, or a pattern with ``*``. Raises :class:`EmbeddingsError` where it means no file.

        ``most_photos``: refuse an archive that holds more, before their names take all memory.
        """
        place = Place.of(pattern)
        if "*" not in pattern:
            return cls(place.name, (place,), most_photos)
        if place.local is not None:
            fixed = next(parent for parent in place.local.parents if "*" not in str(parent))
            found = sorted(map(str, fixed.glob(str(place.local.relative_to(fixed)))))
        else:
            found = sorted(place.system.unstrip_protocol(path) for path in place.system.glob(place.base))
        if not found:
            raise EmbeddingsError(f"no archive is named {place.name}")
        return cls(place.name, tuple(Place.of(path) for path in found), most_photos)

    @property
    def image_root(self) -> Path | None:
        """None: the photos are no files."""
        return None

    def photos(self) -> list[Photo]:
        """Archive by archive, in their order inside."""
        found: dict[str, Photo] = {}
        for number, archive in enumerate(self.archives):
            prefix = f"{PurePosixPath(archive.base).stem}/" if len(self.archives) > 1 else ""
            stamp = archive.stamp()
            for member, labels in _members(archive, self.most_photos):
                photo = Photo(
                    prefix + member.name,
                    prefix + member.name,
                    labels,
                    f"{stamp}-{member.offset_data}",
                    (number, member.offset_data, member.size),
                )
                if photo.id in found:
                    raise EmbeddingsError(f"{archive.name} holds {photo.id!r:.120} twice: expected each name once")
                found[photo.id] = photo
        return list(found.values())

    def read(self, photo: Photo) -> bytes:
        """The photo's bytes, straight from its place in the archive. Raises ``OSError`` where there are too many."""
        assert photo.place is not None  # noqa: S101  # it is one of photos()
        number, offset, size = photo.place
        if size > LARGEST_PHOTO:
            raise OSError(f"expected a photo of up to {LARGEST_PHOTO} bytes, the archive announces {size}")
        return self.archives[number].bytes(offset, offset + size)


def _members(archive: Place, most: int | None) -> list[tuple[tarfile.TarInfo, tuple[str, ...]]]:
    from hyperbolic.images import IMAGE_SUFFIXES

    photos: list[tarfile.TarInfo] = []
    labels: dict[str, tuple[str, ...]] = {}
    try:
        with _opened(archive) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.size < 0:  # Python would read the same header for ever
                    raise tarfile.ReadError(f"{member.name!r:.120} has a size of {member.size}")
                name = PurePosixPath(member.name)
                if not member.isfile() or name.name.startswith("."):
                    continue
                member.name = plain_path(member.name, archive.name, "the archive")
                if name.suffix.lower() in IMAGE_SUFFIXES:
                    photos.append(member)
                    if most is not None and len(photos) > most:
                        raise tarfile.ReadError(f"it holds more than {most:,} photos: split it")
                elif name.suffix in (".json", ".cls") and member.size <= LARGEST_SIDECAR:
                    content = tar.extractfile(member)
                    told = _labels(content.read() if content else b"", name.suffix)
                    if told is not None and (name.suffix == ".json" or _key(member.name) not in labels):
                        labels[_key(member.name)] = told
                tar.members = []  # type: ignore[attr-defined]  # or every header is kept twice
    except (OSError, tarfile.TarError, MemoryError) as error:  # no memory for a header that announces too much
        raise EmbeddingsError(f"{archive.name} cannot be read as a tar archive: {error!r:.200}") from error
    return [(photo, labels.get(_key(photo.name), label_path(photo.name))) for photo in photos]


def _opened(archive: Place) -> IO[bytes]:
    if archive.system is None:
        return Path(archive.base).open("rb")
    file: IO[bytes] = archive.system.open(archive.base, "rb")
    return file


def _key(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    return f"{folder}{slash}{file.partition('.')[0]}"


def _labels(content: bytes, suffix: str) -> tuple[str, ...] | None:
    text = content.decode("utf-8", errors="replace").strip()
    if suffix == ".cls":
        return (text,) if text else None
    try:
        told: Any = json.loads(text)
    except ValueError:
        return None
    if not isinstance(told, dict):
        return None
    labels = told.get("labels", [told["label"]] if "label" in told else None)
    return tuple(map(str, labels)) if isinstance(labels, list) else None
