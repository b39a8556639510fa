"""Stanford Online Products (Oh Song et al., CVPR 2016): 120,053 photos of 22,634 products in 12 super-classes.

Protocol: ``Ebay_train.txt`` trains, ``Ebay_test.txt`` is searched leave-one-out; recall at 1, 10, 100 and 1000. The
label path is (super-class, product).
"""

from pathlib import Path

from training.data.official import OfficialDataset, below, read_rows
from training.data.split import DataError, Photo, RetrievalData

RECALL_AT = (1, 10, 100, 1000)
COLUMNS = ("image_id", "class_id", "super_class_id", "path")
SOP = OfficialDataset(
    title="Stanford Online Products",
    page="the Lifted Structured Feature Embedding page of the Stanford CVGL lab (Stanford_Online_Products.zip)",
    files=(("Ebay_train.txt",), ("Ebay_test.txt",)),
    counts={
        "photos": 120053,
        "super-classes": 12,
        "train photos": 59551,
        "train classes": 11318,
        "test photos": 60502,
        "test classes": 11316,
    },
)


def load_sop(root: Path) -> RetrievalData:
    """The data set in its published layout (``Stanford_Online_Products``). Raises :class:`DataError`."""
    SOP.require(root)
    names: dict[str, str] = {}
    train, test = (_read(root, name, names) for name in ("Ebay_train.txt", "Ebay_test.txt"))
    return RetrievalData("Stanford Online Products", train, test, test, leave_one_out=True, recall_at=RECALL_AT)


def _read(root: Path, name: str, names: dict[str, str]) -> tuple[Photo, ...]:
    photos = []
    for image, product, group, relative in read_rows(root / name, COLUMNS, header_lines=1):
        path = below(root, relative, f"{name}, image {image}")
        # The lists number the super-classes; their folders name them: bicycle_final, cabinet_final, ...
        folder = Path(relative).parts[0].removesuffix("_final")
        if names.setdefault(group, folder) != folder:
            raise DataError(f"{name}, image {image}: super-class {group} is {names[group]!r} and {folder!r}")
        photos.append(Photo(path, (folder, product)))
    return tuple(photos)
