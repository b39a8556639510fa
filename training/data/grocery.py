"""Grocery Store Dataset (Klasson et al., WACV 2019): 81 fine and 43 coarse classes under Fruit, Vegetables, Packages.

Protocols: **P2** trains on ``train.txt`` and asks with ``test.txt`` against the training photos (``val.txt`` is the
validation). **P1** trains on the classes 0-39 and searches the classes 40-80 leave-one-out, as CUB does. **P1x** as
P1, but photos of ``test.txt`` ask against those of ``train.txt`` and ``val.txt`` (other shops, other days).
"""

import csv
from pathlib import Path

from training.data.split import DataError, Photo, RetrievalData

FIRST_TEST_CLASS = 40


def load_grocery(root: Path, protocol: str) -> RetrievalData:
    """The data set in its published layout (``dataset/`` of its repository). Raises :class:`DataError`."""
    try:
        with (root / "classes.csv").open(encoding="utf-8", newline="") as file:
            classes = {
                int(row["Class ID (int)"]): (row["Coarse Class Name (str)"], row["Class Name (str)"])
                for row in csv.DictReader(file)
            }
        split = {name: _read_list(root, name, classes) for name in ("train", "val", "test")}
    except (OSError, LookupError, ValueError) as error:
        raise DataError(
            f"{root}: expected the Grocery Store Dataset (classes.csv, train.txt, val.txt, test.txt): {error!r}"
        ) from error

    def of(names: tuple[str, ...], seen: bool) -> tuple[Photo, ...]:
        return tuple(p for name in names for number, p in split[name] if (number < FIRST_TEST_CLASS) == seen)

    if protocol == "P2":
        train, validation, test = (tuple(p for _, p in split[name]) for name in ("train", "val", "test"))
        return RetrievalData("grocery P2", train, test, train, leave_one_out=False, validation=validation)
    train = of(("train", "val", "test"), seen=True)
    if protocol == "P1":
        unseen = of(("train", "val", "test"), seen=False)
        return RetrievalData("grocery P1", train, unseen, unseen, leave_one_out=True)
    return RetrievalData("grocery P1x", train, of(("test",), False), of(("train", "val"), False), leave_one_out=False)


def _read_list(root: Path, name: str, classes: dict[int, tuple[str, str]]) -> list[tuple[int, Photo]]:
    photos = []
    for line in (root / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        if not line.strip():
            continue
        path, fine, _ = (part.strip() for part in line.split(","))
        coarse_name, fine_name = classes[int(fine)]
        photos.append((int(fine), Photo(root / path, (Path(path).parts[1], coarse_name, fine_name))))
    return photos
