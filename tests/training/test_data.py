"""Data sets: folders, tables, the Grocery protocols, and what is said about unusable ones."""

from pathlib import Path

import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from hyperbolic.preprocessing import Preprocessing
from training.data.folder import load_folder
from training.data.grocery import load_grocery
from training.data.manifest import load_manifest
from training.data.samplers import ClassBalancedBatches
from training.data.split import DataError, Photo, label_levels, load_data
from training.data.transforms import random_view
from training.recipe import DataConfig


def photos_in(root: Path, counts: dict[str, int]) -> Path:
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (8, 8), (number * 20 % 255, 90, 10)).save(root / folder / f"{number}.jpg")
    return root


COUNTS = {"fruit/apple/gala": 5, "fruit/apple/fuji": 6, "fruit/pear/anjou": 4, "veg/leek/leek": 5, "veg/leek/baby": 7}


def test_folders_are_the_label_path(tmp_path: Path) -> None:
    data = load_folder(photos_in(tmp_path / "p", COUNTS), "images", 0.2, seed=0)
    assert {p.labels for p in data.gallery} == {tuple(name.split("/")) for name in COUNTS}
    assert data.train == data.gallery
    assert not {p.path for p in data.query} & {p.path for p in data.gallery}
    assert len(data.query) + len(data.gallery) == sum(COUNTS.values())
    assert {p.labels for p in data.query} == {p.labels for p in data.gallery}


def test_the_split_depends_on_the_seed_alone(tmp_path: Path) -> None:
    root = photos_in(tmp_path / "p", COUNTS)
    first, again, other = (load_folder(root, "images", 0.4, seed=s) for s in (0, 0, 1))
    assert first == again
    assert first.query != other.query


def test_held_out_classes_are_never_trained_on_and_leave_siblings(tmp_path: Path) -> None:
    counts = {f"o/g{g}/s{s}": 3 for g in range(6) for s in range(4)}
    data = load_folder(photos_in(tmp_path / "p", counts), "classes", 0.5, seed=3)
    seen, unseen = {p.labels for p in data.train}, {p.labels for p in data.query}
    assert data.leave_one_out
    assert not seen & unseen
    assert (len(seen), len(unseen)) == (12, 12)
    assert {labels[:2] for labels in unseen} <= {labels[:2] for labels in seen}


def test_paths_of_different_depth_are_padded(tmp_path: Path) -> None:
    data = load_folder(photos_in(tmp_path / "p", {"a/b": 2, "c": 2}), "none", 0.2, seed=0)
    assert {p.labels for p in data.train} == {("a", "b"), ("c", "c")}
    assert label_levels(data.train) == 2


def test_the_folder_one_stands_in_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos_in(tmp_path / "p", COUNTS))
    assert load_folder(Path(), "none", 0.2, seed=0).name == "p"


def test_a_class_of_one_photo_is_trained_on_and_named(tmp_path: Path) -> None:
    data = load_folder(photos_in(tmp_path / "p", {"a": 3, "b": 3, "lonely": 1}), "images", 0.3, seed=0)
    assert any("lonely" in note for note in data.notes)
    assert ("lonely",) in {p.labels for p in data.train}
    assert ("lonely",) not in {p.labels for p in data.query}


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"only": 5}, "two or more label folders, found 1"),
        ({"a": 1, "b": 1}, "every class has one photo only"),
        ({"empty": 0}, "found no image file"),
    ],
)
def test_unusable_folders_are_explained(tmp_path: Path, counts: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_folder(photos_in(tmp_path / "p", counts), "images", 0.2, seed=0)


def test_photos_beside_the_folders_are_left_out_and_named(tmp_path: Path) -> None:
    root = photos_in(tmp_path / "p", {"a": 3, "b": 3})
    Image.new("RGB", (8, 8)).save(root / "loose.jpg")
    data = load_folder(root, "images", 0.3, seed=0)
    assert any("loose.jpg" in note for note in data.notes)
    assert all(p.path.name != "loose.jpg" for p in (*data.train, *data.query))


def test_holding_out_classes_of_two_is_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.hold_out = 'images'"):
        load_folder(photos_in(tmp_path / "p", {"a": 3, "b": 3}), "classes", 0.5, seed=0)


def test_load_data_without_root_says_what_to_give() -> None:
    with pytest.raises(DataError, match=r"--set data\.root=DIR"):
        load_data(DataConfig(kind="folder"))
    with pytest.raises(DataError, match="found none at"):
        load_data(DataConfig(kind="folder", root="/nowhere/at/all"))


MANIFEST = """path,labels,split
a/1.jpg,x/y,train
a/2.jpg,x/y,train
b/1.jpg,x/z,train
a/3.jpg,x/y,query
b/9.jpg,x/z,validation
"""


def test_csv_and_parquet_manifests_agree(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(MANIFEST)
    rows = [line.split(",") for line in MANIFEST.splitlines()[1:]]
    table = pa.table(
        {"path": [r[0] for r in rows], "labels": [r[1].split("/") for r in rows], "split": [r[2] for r in rows]}
    )
    parquet.write_table(table, tmp_path / "m.parquet")
    from_csv, from_parquet = load_manifest(tmp_path, "m.csv"), load_manifest(tmp_path, "m.parquet")
    assert from_csv == from_parquet
    assert from_csv.gallery == from_csv.train
    assert [p.labels for p in from_csv.query] == [("x", "y")]
    assert from_csv.validation[0] == Photo(tmp_path / "b/9.jpg", ("x", "z"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na,b\n", "no column labels"),
        ("path,labels,split\na,b,tain\n", "row 1: split 'tain' is none of train"),
        ("path,labels,split\n../secret.jpg,b,train\n", "row 1: expected a path below"),
        ("path,labels,split\na.jpg,,train\n", "row 1: expected path and labels"),
        ("path,labels,split\na.jpg,b,train\n", "expected rows with split train and query"),
        ("path,labels,split\na.jpg,x/b,train\nb.jpg,b,query\n", "different depths .depth 1: b; depth 2: x/b"),
        ("", "expected CSV"),
    ],
)
def test_wrong_manifests_name_the_row(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        load_manifest(tmp_path, "m.csv")


def test_numeric_looking_labels_stay_text(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path,labels\n1.jpg,007\n2.jpg,007\n3.jpg,8\n4.jpg,8\n")
    data = load_manifest(tmp_path, "m.csv")
    assert {p.labels for p in data.train} == {("007",), ("8",)}


@pytest.mark.grocery
def test_grocery_protocols_have_the_published_sizes(grocery_root: Path) -> None:
    p2 = load_grocery(grocery_root, "P2")
    assert (len(p2.train), len(p2.query), len(p2.validation)) == (2640, 2485, 296)
    assert [len({p.labels[:level] for p in p2.train}) for level in (1, 2, 3)] == [3, 43, 81]
    p1 = load_grocery(grocery_root, "P1")
    assert (len({p.labels for p in p1.train}), len({p.labels for p in p1.query})) == (40, 41)
    assert len(p1.train) + len(p1.query) == 5421
    p1x = load_grocery(grocery_root, "P1x")
    assert not {p.path for p in p1x.query} & {p.path for p in p1x.gallery}
    assert all(p.path.is_file() for p in p2.query)


def test_a_folder_that_is_not_grocery_is_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected the Grocery Store Dataset"):
        load_grocery(tmp_path, "P2")
    (tmp_path / "classes.csv").write_text("Class Name (str),Class ID (int),Coarse Class Name (str)\nGala,0,Apple\n")
    for name in ("train", "val", "test"):
        (tmp_path / f"{name}.txt").write_text("loose.jpg, 0, 0\n")
    with pytest.raises(DataError, match="expected the Grocery Store Dataset"):
        load_grocery(tmp_path, "P2")


def test_batches_are_balanced_and_depend_on_seed_and_step_alone() -> None:
    classes = [0] * 10 + [1] * 3 + [2] * 8 + [3] * 5
    sampler = ClassBalancedBatches(classes, 3, 4, seed=5)
    for step in (0, 1, 17):
        rows = sampler.draw(step)
        labels = torch.tensor(classes)[rows]
        assert sorted(labels.bincount(minlength=4).tolist()) == [0, 4, 4, 4]
        full = [row for row in rows.tolist() if classes[row] != 1]
        assert len(set(full)) == len(full)
        assert torch.equal(rows, ClassBalancedBatches(classes, 3, 4, seed=5).draw(step))
    assert not torch.equal(sampler.draw(0), sampler.draw(1))


def test_random_views_vary_with_the_seed_and_keep_their_size() -> None:
    spec = Preprocessing(
        image_size=24, crop_fraction=1.0, interpolation="bicubic", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
    )
    image = Image.linear_gradient("L").convert("RGB").resize((100, 60))
    views = [random_view(image, spec, 0.3, seed) for seed in range(6)]
    assert all(view.shape == (3, 24, 24) and torch.isfinite(view).all() for view in views)
    assert torch.equal(views[0], random_view(image, spec, 0.3, 0))
    assert len({tuple(view.flatten().tolist()) for view in views}) == 6
    whole = random_view(image.resize((50, 50)), spec, 1.0, 3)
    assert abs(float(whole.mean()) - 0.5) < 0.02
