"""Cars-196 (Krause et al., 2013): 16,185 photos of 196 models of cars.

Protocol of metric learning: the first 98 classes train, the last 98 are searched leave-one-out (the ``test`` flag of
the annotation belongs to the classification task and is not used). The annotation gives one level of labels.
"""

from pathlib import Path

import numpy as np

from training.data.official import OfficialDataset, below
from training.data.split import DataError, Photo, RetrievalData

LAST_TRAIN_CLASS = 98
CARS = OfficialDataset(
    title="Cars-196",
    page="the Cars Dataset page of Jonathan Krause, Stanford AI Lab (car_ims.tgz and cars_annos.mat)",
    files=(("cars_annos.mat",), ("car_ims",)),
    counts={
        "photos": 16185,
        "train photos": 8054,
        "train classes": 98,
        "test photos": 8131,
        "test classes": 98,
    },
)


def load_cars(root: Path) -> RetrievalData:
    """The data set in its published layout (``cars_annos.mat`` beside ``car_ims``). Raises :class:`DataError`."""
    from scipy.io import loadmat

    CARS.require(root)
    try:
        # squeeze_me: MATLAB wraps every number and text of a struct in a 1 x 1 array
        content = loadmat(root / "cars_annos.mat", squeeze_me=True, variable_names=("annotations", "class_names"))
        annotations, names = np.atleast_1d(content["annotations"]), np.atleast_1d(content["class_names"])
        rows = [
            (str(path), int(number))
            for path, number in zip(annotations["relative_im_path"], annotations["class"], strict=True)
        ]
    except Exception as error:  # scipy's reader raises whatever a damaged file leads it to
        raise DataError(
            f"{root / 'cars_annos.mat'}: expected a MATLAB file with the struct array annotations (relative_im_path, "
            f"class, ...) and class_names: {error!r}"
        ) from error
    train: list[Photo] = []
    test: list[Photo] = []
    for relative, number in rows:
        if not 1 <= number <= len(names):
            raise DataError(f"cars_annos.mat: {relative} is of class {number}, class_names has {len(names)} names")
        photo = Photo(below(root, relative, "cars_annos.mat"), (str(names[number - 1]),))
        (train if number <= LAST_TRAIN_CLASS else test).append(photo)
    return RetrievalData("Cars-196", tuple(train), tuple(test), tuple(test), leave_one_out=True)
