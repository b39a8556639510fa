"""Nested folders as a data set: ``root/Fruit/Apple/Gala/photo.jpg`` has the label path (Fruit, Apple, Gala)."""

from pathlib import Path

from hyperbolic.images import find_images
from training.data.split import DataError, Photo, RetrievalData, hold_out


def load_folder(root: Path, what: str, fraction: float, seed: int) -> RetrievalData:
    """Photos below ``root`` with their folders as label path, split by :func:`training.data.split.hold_out`.

    Paths of different depth are padded: a class that ends early stands for itself on the lower levels. A folder
    that ``lhier data specimens`` wrote is known by its ``specimens.json`` and read from its ``images``.
    Raises :class:`DataError` where there are no photos or fewer than two classes.
    """
    notes: tuple[str, ...] = ()
    if (root / "specimens.json").is_file():
        root = root / "images"
    paths = find_images(root)
    if not paths:
        raise DataError(
            f"{root}: expected photos (JPEG, PNG, ...) in folders named by their labels, found no image file"
        )
    photos = [Photo(path, path.relative_to(root).parts[:-1]) for path in paths]
    loose = [photo for photo in photos if not photo.labels]
    if loose:
        notes = (
            f"{len(loose)} photos lie outside any label folder and are left out, for example {loose[0].path.name}",
        )
        photos = [photo for photo in photos if photo.labels]
    depth = max((len(photo.labels) for photo in photos), default=0)
    padded = [Photo(p.path, p.labels + (p.labels[-1],) * (depth - len(p.labels))) for p in photos]
    return hold_out(root.resolve().name, padded, what, fraction, seed, notes)
