"""The published data sets in their authors' layouts: protocols, label paths, and what ``lhier data verify`` says."""

import json
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy.io import loadmat, savemat

from lhier.cli import main
from training.data.official import OfficialDataset, count
from training.data.split import DataError, RetrievalData, load_data
from training.data.verify import OFFICIAL, verify_official
from training.evaluate import Points, measure
from training.metrics import lorentz_ranking, retrieval_metrics
from training.recipe import DataConfig

# Under --import-mode=importlib test modules cannot import their siblings.
TREES: dict[str, Callable[[Path], Path]] = runpy.run_path(str(Path(__file__).parent / "official_trees.py"))["TREES"]
LISTS = {
    "cub": "images.txt",
    "cars": "cars_annos.mat",
    "sop": "Ebay_test.txt",
    "inshop": "Eval/list_eval_partition.txt",
}


@pytest.fixture(scope="session")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One miniature of each data set; not to be changed."""
    return {name: write(tmp_path_factory.mktemp(name)) for name, write in TREES.items()}


@pytest.fixture
def own(trees: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of one miniature, to damage."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(trees[name], tmp_path / name))

    return copy


def load(name: str, root: Path) -> RetrievalData:
    return load_data(DataConfig(kind=name, root=str(root)))


def test_cub_trains_on_its_first_hundred_classes(trees: dict[str, Path]) -> None:
    data = load("cub", trees["cub"])
    assert {p.labels for p in data.train} == {("001.Bird_1",), ("099.Bird_99",), ("100.Bird_100",)}
    assert {p.labels for p in data.query} == {("101.Bird_101",), ("102.Bird_102",), ("200.Bird_200",)}
    assert data.leave_one_out
    assert data.query == data.gallery
    assert (len(data.train), len(data.query)) == (9, 9)


def test_cars_trains_on_its_first_98_classes_whatever_the_test_flag(trees: dict[str, Path]) -> None:
    data = load("cars", trees["cars"])
    numbers = [{int(p.labels[0].split()[2]) for p in photos} for photos in (data.train, data.query)]
    assert numbers == [{1, 97, 98}, {99, 100, 196}]
    assert data.leave_one_out
    assert (len(data.train), len(data.query)) == (9, 9)


def test_sop_has_super_classes_and_its_own_recall_levels(trees: dict[str, Path]) -> None:
    data = load("sop", trees["sop"])
    assert data.recall_at == (1, 10, 100, 1000)
    assert data.leave_one_out
    assert {p.labels for p in data.train} == {
        ("bicycle", "2"), ("bicycle", "4"), ("bicycle", "6"),
        ("coffee_maker", "1"), ("coffee_maker", "3"), ("coffee_maker", "5"),
    }  # fmt: skip
    assert {p.labels[1] for p in data.query} == {str(product) for product in range(11319, 11324)}


@pytest.mark.parametrize("images", ["img", "Img/img"])
def test_inshop_asks_queries_against_the_gallery(tmp_path: Path, images: str) -> None:
    write: Callable[..., Path] = TREES["inshop"]
    data = load("inshop", write(tmp_path, images))
    assert data.recall_at == (1, 10, 20, 30)
    assert not data.leave_one_out
    assert [len(photos) for photos in (data.train, data.query, data.gallery)] == [15, 4, 8]
    assert {p.labels for p in data.query} == {p.labels for p in data.gallery}
    assert not {p.labels[-1] for p in data.train} & {p.labels[-1] for p in data.query}
    assert ("WOMEN", "Tees_Tanks", "id_00000007") in {p.labels for p in data.query}


def test_an_article_of_inshop_is_one_class_even_in_two_folders(own: Callable[[str], Path]) -> None:
    root = own("inshop")
    listing = root / LISTS["inshop"]
    moved = "img/MEN/Denim/id_00000007/03_1_front.jpg"
    listing.write_text(listing.read_text().replace("img/WOMEN/Tees_Tanks/id_00000007/03_1_front.jpg", moved))
    (root / moved).parent.mkdir(parents=True)
    shutil.move(root / "img/WOMEN/Tees_Tanks/id_00000007/03_1_front.jpg", root / moved)
    data = load("inshop", root)
    assert {p.labels for p in data.gallery if p.path == root / moved} == {("WOMEN", "Tees_Tanks", "id_00000007")}


@pytest.mark.parametrize("name", TREES)
def test_every_listed_photo_is_where_the_path_says(trees: dict[str, Path], name: str) -> None:
    data = load(name, trees[name])
    photos = {photo.path for part in (data.train, data.query, data.gallery) for photo in part}
    assert photos == {p for p in trees[name].rglob("*") if p.suffix.lower() == ".jpg"}


@pytest.mark.parametrize("name", TREES)
def test_a_missing_list_is_named_with_the_page_that_has_it(own: Callable[[str], Path], name: str) -> None:
    root = own(name)
    (root / LISTS[name]).unlink()
    with pytest.raises(DataError, match=f"found no {LISTS[name]}.*published on .*page"):
        load(name, root)
    shutil.copytree(TREES[name](root.parent / "archive" / name), root / "deeper")
    with pytest.raises(DataError, match=r"give .*deeper, which holds them"):
        load(name, root)


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("name", "listing", "old", "new", "message"),
    [
        ("cub", "images.txt", "1 001.Bird_1/", "1 ../001.Bird_1/", "image 1: expected a path below"),
        ("cub", "images.txt", "2 001.Bird_1/Bird_1_0001.jpg", "2", r"images\.txt, line 2: expected image_id path"),
        ("cub", "image_class_labels.txt", "4 99\n", "", r"image 4 .* has no class: see image_class_labels"),
        ("cub", "image_class_labels.txt", "4 99\n", "4 201\n", r"classes\.txt, which lacks class 201"),
        ("sop", "Ebay_train.txt", "1 1 4 coffee_maker_final", "1 1 1 coffee_maker_final", "super-class 1 is"),
        ("sop", "Ebay_test.txt", " 4 coffee", " coffee", r"Ebay_test\.txt, line"),
        ("inshop", "Eval/list_eval_partition.txt", "27\n", "28\n", "announces 28 photos, 27 follow"),
        ("inshop", "Eval/list_eval_partition.txt", "27\n", "many\n", "expected a whole number, got 'many'"),
        ("inshop", "Eval/list_eval_partition.txt", "gallery\n", "galery\n", "galery"),
    ],
)
def test_a_damaged_list_is_explained(
    own: Callable[[str], Path], name: str, listing: str, old: str, new: str, message: str
) -> None:
    root = own(name)
    rewrite(root / listing, old, new)
    with pytest.raises(DataError, match=message):
        load(name, root)


def test_damaged_cars_annotations_are_explained(own: Callable[[str], Path]) -> None:
    root = own("cars")
    content = loadmat(root / "cars_annos.mat")
    annotations = content["annotations"].copy()
    annotations[0, 2]["class"] = np.array([[197]], dtype=np.uint8)
    savemat(root / "cars_annos.mat", {"annotations": annotations, "class_names": content["class_names"]})
    with pytest.raises(DataError, match=r"000003\.jpg is of class 197, class_names has 196"):
        load("cars", root)
    savemat(root / "cars_annos.mat", {"something": 1})
    with pytest.raises(DataError, match="expected a MATLAB file with the struct array annotations"):
        load("cars", root)
    (root / "cars_annos.mat").write_bytes(b"MATLAB 5.0, cut short")
    with pytest.raises(DataError, match="expected a MATLAB file with the struct array annotations"):
        load("cars", root)


def test_recall_levels_reach_the_figures(trees: dict[str, Path]) -> None:
    """Oracle: points on a line, so that the rank of the first right neighbour is known."""
    data = load("sop", trees["sop"])
    photos = data.query
    place = torch.arange(len(photos), dtype=torch.float32)[:, None].repeat(1, 2) * 0.01
    points = Points(place, photos, place, photos, True, (), data.recall_at)
    figures = measure(points, lorentz_ranking(1.0))
    assert {name for name in figures if name.startswith("recall_at_")} == {f"recall_at_{k}" for k in data.recall_at}
    assert {name for name in figures if name.startswith("coarse_recall")} == {
        f"coarse_recall_at_{k}" for k in data.recall_at
    }
    # fifteen photos in a row, three of each product: each has one of its own right beside it
    assert figures["recall_at_10"] == figures["recall_at_1000"] == 1.0
    labels = torch.arange(6)[:, None] // 2
    line = torch.tensor([[0.0], [3.0], [0.1], [3.1], [0.2], [3.2]])
    only = retrieval_metrics(line, labels, line, labels, lambda g: lambda q: (q - g.T).abs(), True, recall_at=(3, 4, 5))
    # by hand: the other photo of the class comes at rank 3, 5, 4, 4, 5, 3
    assert [only[f"recall_at_{k}"] for k in (3, 4, 5)] == pytest.approx([2 / 6, 4 / 6, 6 / 6])
    assert "recall_at_1" not in only


PUBLISHED = {
    "cub": {"photos": 11788, "train photos": 5864, "test photos": 5924, "train classes": 100, "test classes": 100},
    "cars": {"photos": 16185, "train photos": 8054, "test photos": 8131, "train classes": 98, "test classes": 98},
    "sop": {"photos": 120053, "train photos": 59551, "test photos": 60502, "train classes": 11318,
            "test classes": 11316, "super-classes": 12},
    "inshop": {"photos": 52712, "train photos": 25882, "train classes": 3997, "query photos": 14218,
               "gallery photos": 12612, "query classes": 3985, "gallery classes": 3985},
}  # fmt: skip


@pytest.mark.parametrize("name", TREES)
def test_published_sizes_add_up(name: str, trees: dict[str, Path]) -> None:
    counts = OFFICIAL[name][0].counts
    assert counts == PUBLISHED[name]
    assert counts["photos"] == sum(n for part, n in counts.items() if part.endswith(" photos"))
    assert set(counts) <= set(count(load(name, trees[name])))  # every published size is one that is counted


def as_if_published(monkeypatch: pytest.MonkeyPatch, name: str, root: Path) -> None:
    official, reader = OFFICIAL[name]
    counts = {part: number for part, number in count(reader(root)).items() if part in official.counts}
    small = OfficialDataset(official.title, official.page, official.files, counts)
    monkeypatch.setitem(OFFICIAL, name, (small, reader))


@pytest.mark.parametrize("name", TREES)
def test_verify_compares_with_what_is_published(name: str, trees: dict[str, Path]) -> None:
    result = CliRunner().invoke(main, ["data", "verify", name, str(trees[name])])
    assert result.exit_code == 1, result.output
    assert f"published: {PUBLISHED[name]['train photos']:,}" in result.output
    assert f"is published on {OFFICIAL[name][0].page}" in result.output
    answer = json.loads(CliRunner().invoke(main, ["data", "verify", name, str(trees[name]), "--json"]).stdout)
    assert answer["counts"]["train photos"]["published"] == PUBLISHED[name]["train photos"]
    assert answer["counts"]["train photos"]["found"] in (9, 15, 18)
    assert (answer["good"], answer["missing"], answer["faults"]) == (False, [], [])


@pytest.mark.parametrize("name", TREES)
def test_verify_is_content_with_a_whole_collection(
    name: str, trees: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    as_if_published(monkeypatch, name, trees[name])
    result = CliRunner().invoke(main, ["data", "verify", name, str(trees[name]), "--decode"])
    assert result.exit_code == 0, result.output
    assert "is whole" in result.output
    assert "published on" not in result.output


@pytest.mark.parametrize("name", TREES)
def test_verify_names_missing_and_broken_photos(
    name: str, own: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = own(name)
    as_if_published(monkeypatch, name, root)
    gone, broken, *more = sorted(p for p in root.rglob("*") if p.suffix.lower() == ".jpg")
    gone.unlink()
    broken.write_bytes(broken.read_bytes()[:200])
    shallow = CliRunner().invoke(main, ["data", "verify", name, str(root)])
    assert shallow.exit_code == 1
    assert f"missing: {gone.relative_to(root).as_posix()}" in shallow.output
    assert "unreadable" not in shallow.output
    deep = verify_official(name, root, decode=True)
    assert [(fault.path, fault.code) for fault in deep.faults] == [
        (broken.relative_to(root).as_posix(), "undecodable_image")
    ]
    for path in more[:11]:
        path.unlink()
    many = CliRunner().invoke(main, ["data", "verify", name, str(root)]).output
    assert many.count("missing: ") == 11
    assert "missing: 2 more files" in many
    (root / LISTS[name]).unlink()
    lost = verify_official(name, root)
    assert lost.missing == [LISTS[name]]
    assert lost.counts == {}
    assert not lost.good


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["birds", "x"], 2, "NAME one of cub, cars, sop, inshop"),
        (["cub"], 2, "lhier data verify cub DIR"),
        (["cub", "nowhere"], 1, "expected a folder of photos, found none at nowhere"),
        (["cub", "a", "b"], 2, "expected [NAME] DIR"),
        ([], 2, "Missing argument"),
    ],
)
def test_wrong_use_of_verify_is_explained(
    arguments: list[str], code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["data", "verify", *arguments])
    assert result.exit_code == code, result.output
    assert message in result.output


def test_a_plain_folder_may_bear_the_name_of_a_data_set(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(photo_folder, tmp_path / "cub")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["data", "verify", "cub"])
    assert result.exit_code == 0
    assert "36 photos in 6 label folders" in result.output
