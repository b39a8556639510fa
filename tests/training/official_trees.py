"""Miniatures of the four published data sets, in the layouts of their authors."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

# On both sides of the boundary that the protocols draw through the class numbers.
CUB_CLASSES = (1, 99, 100, 101, 102, 200)
CARS_CLASSES = (1, 97, 98, 99, 100, 196)
PHOTOS = 3


def photo(path: Path, shade: int) -> None:
    """A small noisy photo whose colour depends on ``shade``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(abs(hash_of(str(path.name))) + shade)
    base = np.array([(shade * 83) % 256, (shade * 151) % 256, (shade * 37) % 256])
    pixels = np.clip(base + draw.normal(0, 20, (20, 24, 3)), 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path, format="JPEG")


def hash_of(text: str) -> int:
    """A number from text, the same in every process."""
    return random.Random(text).randrange(1 << 30)


def cub(root: Path, classes: Sequence[int] = CUB_CLASSES) -> Path:
    """``CUB_200_2011``: lists by id, all 200 names, photos of a few classes."""
    names = {number: f"{number:03d}.Bird_{number}" for number in range(1, 201)}
    images, labels = [], []
    for number in classes:
        for index in range(PHOTOS):
            images.append(f"{len(images) + 1} {names[number]}/Bird_{number}_{index:04d}.jpg")
            labels.append(f"{len(images)} {number}")
            photo(root / "images" / names[number] / f"Bird_{number}_{index:04d}.jpg", number)
    (root / "images.txt").write_text("\n".join(images) + "\n")
    (root / "image_class_labels.txt").write_text("\n".join(labels) + "\n")
    (root / "classes.txt").write_text("".join(f"{number} {name}\n" for number, name in names.items()))
    return root


def cars(root: Path, classes: Sequence[int] = CARS_CLASSES) -> Path:
    """``cars_annos.mat`` (1 x N struct array with seven fields, 1 x 196 cell of names) beside ``car_ims``."""
    fields = ("relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test")
    rows = []
    for number in classes:
        for index in range(PHOTOS):
            relative = f"car_ims/{len(rows) + 1:06d}.jpg"
            photo(root / relative, number)
            # the flag of the classification task: not what decides here
            numbers = [np.array([[value]], dtype=np.uint8) for value in (1, 2, 20, 18, number, index % 2)]
            rows.append((relative, *numbers))
    annotations = np.array([rows], dtype=[(field, object) for field in fields])
    names = np.array([[f"Make Model {number} Sedan 2012" for number in range(1, 197)]], dtype=object)
    savemat(root / "cars_annos.mat", {"annotations": annotations, "class_names": names})
    return root


def sop(root: Path) -> Path:
    """``Stanford_Online_Products``: two lists with a header, photos by super-class."""
    number = 0
    for name, products in (("Ebay_train.txt", range(1, 7)), ("Ebay_test.txt", range(11319, 11324))):
        lines = ["image_id class_id super_class_id path"]
        for product in products:
            group, folder = ((1, "bicycle_final"), (4, "coffee_maker_final"))[product % 2]
            for index in range(PHOTOS):
                number += 1
                relative = f"{folder}/{product:012d}_{index}.JPG"
                lines.append(f"{number} {product} {group} {relative}")
                photo(root / relative, product)
        (root / name).write_text("\n".join(lines) + "\n")
    return root


def inshop(root: Path, images: str = "img") -> Path:
    """``Eval/list_eval_partition.txt`` with a count, a padded header and padded columns; photos in ``img``."""
    rows = []
    for article in range(1, 10):
        gender, category = (("WOMEN", "Dresses"), ("WOMEN", "Tees_Tanks"), ("MEN", "Denim"))[article % 3]
        item = f"id_{article:08d}"
        for index in range(PHOTOS):
            name = f"{gender}/{category}/{item}/0{index + 1}_1_front.jpg"
            status = "train" if article <= 5 else ("query" if index == 0 else "gallery")
            rows.append(f"{f'img/{name}':<72}{item}    {status}")
            photo(root / images / name, article)
    (root / "Eval").mkdir(parents=True)
    header = f"{len(rows)}\nimage_name{' ' * 60}item_id        evaluation_status\n"
    (root / "Eval/list_eval_partition.txt").write_text(header + "\n".join(rows) + "\n")
    return root


TREES = {"cub": cub, "cars": cars, "sop": sop, "inshop": inshop}
