"""CUB-200-2011 (Wah et al., 2011): 11,788 photos of 200 bird species.

Protocol of metric learning: the first 100 classes train, the last 100 are searched leave-one-out. Its official
labels have one level, so there are no coarse measures.
"""

from pathlib import Path

from training.data.official import OfficialDataset, as_number, below, read_rows
from training.data.split import DataError, Photo, RetrievalData

LAST_TRAIN_CLASS = 100
CUB = OfficialDataset(
    title="CUB-200-2011",
    page="the Caltech-UCSD Birds-200-2011 page of the Caltech vision lab (CUB_200_2011.tgz)",
    files=(("images.txt",), ("image_class_labels.txt",), ("classes.txt",), ("images",)),
    counts={
        "photos": 11788,
        "train photos": 5864,
        "train classes": 100,
        "test photos": 5924,
        "test classes": 100,
    },
)


def load_cub(root: Path) -> RetrievalData:
    """The data set in its published layout (the folder ``CUB_200_2011``). Raises :class:`DataError`."""
    CUB.require(root)
    names = dict(read_rows(root / "classes.txt", ("class_id", "name")))
    class_of = dict(read_rows(root / "image_class_labels.txt", ("image_id", "class_id")))
    train: list[Photo] = []
    test: list[Photo] = []
    for image, relative in read_rows(root / "images.txt", ("image_id", "path")):
        number = class_of.get(image)
        if number is None or number not in names:
            where = "image_class_labels.txt" if number is None else f"classes.txt, which lacks class {number}"
            raise DataError(f"{root}: image {image} ({relative}) of images.txt has no class: see {where}")
        photo = Photo(below(root / "images", relative, f"images.txt, image {image}"), (names[number],))
        (train if as_number(number, "image_class_labels.txt") <= LAST_TRAIN_CLASS else test).append(photo)
    return RetrievalData("CUB-200-2011", tuple(train), tuple(test), tuple(test), leave_one_out=True)
