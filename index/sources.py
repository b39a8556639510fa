"""Where photos come from: a folder, a CSV or Parquet list, tar archives; on this machine or behind a URL.

A source names its photos, with a stamp that changes when a photo does, and reads one at a time, from any thread and,
pickled, from any process.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from index.errors import EmbeddingsError
from index.places import Place, local_stamp, remote_stamp, stamps_of

LISTS = (".csv", ".parquet")


@dataclass(frozen=True, slots=True)
class Photo:
    """One photo of a source: ``path`` is below the source's root, or a URL of its own."""

    id: str
    path: str
    labels: tuple[str, ...]
    stamp: str
    place: tuple[int, int, int] | None = None
    """In a tar: which archive, the offset in it, and the size."""


class Source(Protocol):
    """Photos that an embedding job can name, stamp and read."""

    @property
    def name(self) -> str:
        """An absolute path or a URL: the source again, another time."""

    @property
    def image_root(self) -> Path | None:
        """The folder on this machine that the photos' paths are below, where there is one."""

    def photos(self) -> list[Photo]:
        """All photos, always in the same order. Raises :class:`EmbeddingsError`."""

    def read(self, photo: Photo) -> Path | bytes:
        """The file of a photo, or what is in it. Raises ``OSError`` where it cannot be had."""


def open_source(source: str, *, listed: Sequence[str] | None = None, root: str | None = None) -> Source:
    """The source that a path or URL means: by its ending a list (.csv, .parquet) or an archive (.tar), or a folder.

    ``listed``: only these paths of a folder. ``root``: what a list's paths are below, where that is not the list's own
    folder. A ``*`` stands for several archives. Raises :class:`EmbeddingsError`.
    """
    from index.archives import ArchiveSource

    ending = PurePosixPath(source).suffix.lower()
    if listed is not None and (ending in LISTS or ending == ".tar"):
        raise EmbeddingsError(f"a selection of paths goes with a folder of photos, not with {source}")
    if root is not None and ending not in LISTS:
        raise EmbeddingsError(f"a root goes with a list of photos (.csv or .parquet), not with {source}")
    if ending == ".tar":
        return ArchiveSource.open(source)
    if ending in LISTS:
        return ListSource(source, root)
    if source.endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")):
        raise EmbeddingsError(
            f"{source} is compressed, so no photo in it can be reached by itself: unpack it to a .tar"
        )
    return FolderSource(source, tuple(listed) if listed is not None else None)


@dataclass(frozen=True)
class FolderSource:
    """The photos in a folder and below, or those of them that are ``listed`` (relative posix paths)."""

    folder: str | Path
    listed: tuple[str, ...] | None = None
    _place: Place = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_place", Place.of(str(self.folder)))

    @property
    def name(self) -> str:
        """The folder's absolute path or URL."""
        return self._place.name

    @property
    def image_root(self) -> Path | None:
        """The folder, where it is on this machine."""
        return self._place.local

    def photos(self) -> list[Photo]:
        """By path."""
        if self.listed is not None:
            stamps = stamps_of([self._place.below(path) for path in self.listed])
            return [self._photo(path, stamp) for path, stamp in zip(self.listed, stamps, strict=True)]
        if self._place.local is not None:
            from hyperbolic.images import find_images

            found = find_images(self._place.local)
            names = (path.relative_to(self._place.local).as_posix() for path in found)
            return [self._photo(name, local_stamp(path)) for name, path in zip(names, found, strict=True)]
        return [self._photo(name, remote_stamp(info)) for name, info in self._remote()]

    def _remote(self) -> Iterator[tuple[str, dict[str, Any]]]:
        from hyperbolic.images import IMAGE_SUFFIXES

        system, base = self._place.system, self._place.base
        try:
            found: dict[str, dict[str, Any]] = system.find(base, detail=True)
        except Exception as error:  # each file system has its own for a bucket that is not there or not open to us
            raise EmbeddingsError(f"{self.name} cannot be listed: {error}") from error
        for path, info in sorted(found.items()):
            name = path[len(base) :].lstrip("/")
            hidden = any(part.startswith(".") for part in name.split("/"))
            if not hidden and PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES:
                yield name, info

    def read(self, photo: Photo) -> Path | bytes:
        """The file, or its bytes."""
        return self._place.below(photo.path).content()

    def _photo(self, path: str, stamp: str) -> Photo:
        return Photo(path, path, label_path(path), stamp)


@dataclass(frozen=True)
class ListSource:
    """Photos listed in CSV or Parquet: a column ``path``; ``id`` and ``labels`` where they are not path and folders.

    In CSV, ``labels`` are joined by "/", most general first; in Parquet they may be a list of strings.
    """

    file: str
    root: str | None = None
    _place: Place = field(init=False, repr=False, compare=False)
    _root: Place = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_place", Place.of(self.file))
        parent = self.root or (self.file.rpartition("/")[0] or ".")
        object.__setattr__(self, "_root", Place.of(parent))

    @property
    def name(self) -> str:
        """The list's absolute path or URL, and the root's."""
        return f"{self._place.name} in {self._root.name}"

    @property
    def image_root(self) -> Path | None:
        """The root, where it is on this machine."""
        return self._root.local

    def photos(self) -> list[Photo]:
        """In the list's order."""
        found: dict[str, Photo] = {}
        rows = [(f"{self._place.name}, row {number}", row) for number, row in enumerate(self._rows(), 1)]
        paths = [plain_path(str(row.get("path") or ""), where, self._root.name) for where, row in rows]
        stamps = stamps_of([self._root.below(path) for path in paths])
        for (where, row), path, stamp in zip(rows, paths, stamps, strict=True):
            labels = row.get("labels")
            if labels is None:
                labels = label_path(path.partition("://")[2] if "://" in path else path)
            elif isinstance(labels, str):
                labels = [label for label in labels.split("/") if label]
            photo = Photo(str(row.get("id") or path), path, tuple(map(str, labels)), stamp)
            if photo.id in found:
                raise EmbeddingsError(
                    f"{where}: the id {photo.id!r:.80} is taken by an earlier row: expected each once"
                )
            found[photo.id] = photo
        return list(found.values())

    def read(self, photo: Photo) -> Path | bytes:
        """The file, or its bytes."""
        return self._root.below(photo.path).content()

    def _rows(self) -> Iterable[dict[str, Any]]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            data = self._place.bytes()
            if self._place.base.lower().endswith(".csv"):
                reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
                columns, rows = list(reader.fieldnames or ()), list(reader)
            else:
                table = pq.read_table(io.BytesIO(data))
                columns, rows = table.column_names, []
                if "path" in columns:
                    rows = table.select([name for name in ("path", "id", "labels") if name in columns]).to_pylist()
        except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
            raise EmbeddingsError(f"{self._place.name} cannot be read as a list of photos: {error}") from error
        if "path" not in columns:
            raise EmbeddingsError(f"{self._place.name} has the columns {', '.join(columns)}: expected one named path")
        return rows


def read_list(path: Path, root: str) -> list[str]:
    """Relative posix paths from a text file, one a line, each once; what follows a comma is ignored.

    `train/Fruit/Apple/a.jpg, 0, 0` names `train/Fruit/Apple/a.jpg`, unless a file has the whole line as its
    name.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # splitlines would cut at U+2028 in a name, too
    except (OSError, UnicodeDecodeError) as error:
        raise EmbeddingsError(f"{path} cannot be read as a list of photos: {error}") from error
    photos: dict[str, None] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        photo = text if "," in text and Path(root, text).is_file() else text.partition(",")[0].strip()
        if photo:
            photos[plain_path(photo, f"{path}, line {number}", root)] = None
    return list(photos)


def plain_path(path: str, where: str, root: str) -> str:
    """The path in posix form, or a URL as it is. Raises :class:`EmbeddingsError` for one that leaves ``root``."""
    if "://" in path:
        return path
    pure = PurePosixPath(path)
    if not path or pure.is_absolute() or ".." in pure.parts:
        raise EmbeddingsError(f"{where}: expected a path below {root}, got {path!r:.120}")
    return pure.as_posix()


def label_path(photo: str) -> tuple[str, ...]:
    """The folders above a photo, most general first."""
    return PurePosixPath(photo).parts[:-1]
