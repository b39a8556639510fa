"""What the authors of a data set publish, and the reading of the lists that come with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.data.split import DataError, RetrievalData


@dataclass(frozen=True)
class OfficialDataset:
    """A data set as its authors publish it.

    ``page`` is their project page; ``files``: what its folder must hold, each with its alternative places;
    ``counts``: published sizes under the names of :func:`count`.
    """

    title: str
    page: str
    files: tuple[tuple[str, ...], ...]
    counts: dict[str, int]

    def missing(self, root: Path) -> list[str]:
        """Files and folders that ``root`` lacks."""
        return [" or ".join(places) for places in self.files if not any((root / place).exists() for place in places)]

    def require(self, root: Path) -> None:
        """Raise :class:`DataError` naming what ``root`` lacks and where it is published."""
        lacking = self.missing(root)
        if lacking:
            holder = next((folder for folder in root.glob("*/") if not self.missing(folder)), None)
            hint = f"give {holder}, which holds them" if holder else f"it is published on {self.page}"
            raise DataError(f"{root}: expected {self.title}, found no {', no '.join(lacking)}; {hint}")


def count(data: RetrievalData) -> dict[str, int]:
    """Sizes of a protocol: distinct photos, and photos and classes of each part."""
    parts = {"train": data.train, "test": data.query}
    if not data.leave_one_out:
        parts = {"train": data.train, "query": data.query, "gallery": data.gallery}
    everything = [photo for photos in parts.values() for photo in photos]
    sizes = {"photos": len({photo.path for photo in everything})}
    if everything and len(everything[0].labels) > 1:
        sizes["super-classes"] = len({photo.labels[0] for photo in everything})
    for name, photos in parts.items():
        sizes[f"{name} photos"] = len(photos)
        sizes[f"{name} classes"] = len({photo.labels for photo in photos})
    return sizes


def read_rows(path: Path, columns: Sequence[str], header_lines: int = 0) -> list[list[str]]:
    """Rows of a list whose columns are parted by blanks. Raises :class:`DataError` naming file and line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected a text file with the columns {' '.join(columns)}: {error}") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if number <= header_lines or not line.strip():
            continue
        row = line.split(maxsplit=len(columns) - 1)
        if len(row) != len(columns):
            raise DataError(f"{path.name}, line {number}: expected {' '.join(columns)}, got {line.strip()[:80]!r}")
        rows.append([value.strip() for value in row])
    return rows


def as_number(text: str, where: str) -> int:
    """A whole number of a list; raises :class:`DataError` naming ``where`` it should have stood."""
    if not text.isdecimal():
        raise DataError(f"{where}: expected a whole number, got {text[:40]!r}")
    return int(text)


def below(root: Path, text: str, where: str) -> Path:
    """``root / text`` for a relative path of a list; raises :class:`DataError` where it would lead out of ``root``."""
    path = Path(text)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{where}: expected a path below {root}, got {text}")
    return root / path
