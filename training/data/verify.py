"""Checks of a collection before a long run: files, sizes against the published ones, and that photos decode."""

from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hyperbolic.images import ImageError, find_images, read_image
from training.data.cars import CARS, load_cars
from training.data.cub import CUB, load_cub
from training.data.inshop import INSHOP, load_inshop
from training.data.official import OfficialDataset, count
from training.data.sop import SOP, load_sop
from training.data.split import DataError, RetrievalData

OFFICIAL: dict[str, tuple[OfficialDataset, Callable[[Path], RetrievalData]]] = {
    "cub": (CUB, load_cub),
    "cars": (CARS, load_cars),
    "sop": (SOP, load_sop),
    "inshop": (INSHOP, load_inshop),
}


@dataclass(frozen=True)
class Fault:
    """A photo that cannot be read."""

    path: str
    code: str
    error: str


@dataclass(frozen=True)
class FolderCheck:
    """What a plain folder of photos holds."""

    photos: int
    classes: int
    single_photo_classes: list[str]
    faults: list[Fault]

    @property
    def good(self) -> bool:
        """Whether there are photos and all of them can be read."""
        return bool(self.photos) and not self.faults

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The findings as text."""
        first = (
            f"{self.photos} photos in {self.classes} label folders; "
            f"{len(self.single_photo_classes)} folders hold one photo only"
        )
        return [first, *_fault_lines(self.faults)]


@dataclass(frozen=True)
class OfficialCheck:
    """What a folder holds of a published data set. ``counts``: published and found size of each part."""

    title: str
    page: str
    counts: dict[str, tuple[int, int]] = field(default_factory=dict)
    problem: str = ""
    missing: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    decoded: bool = False

    @property
    def good(self) -> bool:
        """Whether everything is there and as published."""
        sizes_agree = all(published == found for published, found in self.counts.values())
        return sizes_agree and not (self.problem or self.missing or self.faults)

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        content = asdict(self) | {"good": self.good}
        content["counts"] = {name: {"published": p, "found": f} for name, (p, f) in self.counts.items()}
        return content

    def lines(self) -> list[str]:
        """The findings as text, at most ten missing files by name."""
        published_on = f"{self.title} is published on {self.page}"
        if self.problem:  # no list could be read: it says which, and where to get it or what is wrong in it
            return [self.problem] if self.missing else [self.problem, published_on]
        lines = []
        for name, (published, found) in self.counts.items():
            verdict = "as published" if published == found else f"published: {published:,}"
            lines.append(f"{name:<16} {found:>9,}  {verdict}")
        lines += [f"missing: {name}" for name in self.missing[:10]]
        if len(self.missing) > 10:
            lines.append(f"missing: {len(self.missing) - 10:,} more files (all of them with --json)")
        lines += _fault_lines(self.faults)
        if self.good:
            return [*lines, f"{self.title} is whole" + ("" if self.decoded else "; --decode also reads every photo")]
        return [*lines, published_on]


def verify_folder(root: Path) -> FolderCheck:
    """Decode every photo below ``root`` and count label folders. Raises ``FileNotFoundError`` without a folder."""
    paths = find_images(root)
    classes = Counter(path.parent.relative_to(root).as_posix() for path in paths)
    single = sorted(name for name, number in classes.items() if number == 1)
    return FolderCheck(len(paths), len(classes), single, _faults(root, paths))


def verify_official(name: str, root: Path, decode: bool = False) -> OfficialCheck:
    """Compare ``root`` with what the authors of data set ``name`` (a key of :data:`OFFICIAL`) publish.

    Every photo of the official lists must be there; with ``decode`` it is read as well.
    """
    official, load = OFFICIAL[name]
    lacking = official.missing(root)
    try:
        data = load(root)
    except DataError as error:
        return OfficialCheck(official.title, official.page, problem=str(error), missing=lacking)
    found = count(data)
    counts = {part: (published, found.get(part, 0)) for part, published in official.counts.items()}
    paths = dict.fromkeys(photo.path for photos in (data.train, data.query, data.gallery) for photo in photos)
    present = {path: path.is_file() for path in paths}
    missing = [path.relative_to(root).as_posix() for path, there in present.items() if not there]
    faults = _faults(root, [path for path, there in present.items() if there]) if decode else []
    return OfficialCheck(official.title, official.page, counts, "", missing, faults, decode)


def _faults(root: Path, paths: list[Path]) -> list[Fault]:
    def fault(path: Path) -> Fault | None:
        try:
            read_image(path)
        except ImageError as error:
            return Fault(str(path.relative_to(root)), error.code, str(error))
        return None

    with ThreadPoolExecutor(max_workers=4) as pool:
        results = tqdm(pool.map(fault, paths), total=len(paths), unit="photo", disable=None)
        return [result for result in results if result is not None]


def _fault_lines(faults: Iterable[Fault]) -> list[str]:
    return [f"unreadable: {fault.path} [{fault.code}] {fault.error}" for fault in faults]
