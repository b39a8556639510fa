"""Pictures of trees: what is chosen, that nothing covers anything, and what stands in the files."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from index.hierarchy import Hierarchy
from index.hierarchy.canvas import PAPER, PicturesMissingError, text_measure, write
from index.hierarchy.labelling import RIM, Label, Named, rim_labels, shortened
from index.hierarchy.picture import Drawing, compose
from index.hierarchy.picture import _photos as photos_in
from index.hierarchy.selection import Selection, branches, largest, majority_label, select

SVG = "{http://www.w3.org/2000/svg}"


def measure(text: str, size: float) -> tuple[float, float]:
    return 0.62 * size * len(text), size


def photo(row: int) -> Image.Image:
    return Image.new("RGB", (40, 30), (row * 37 % 256, row * 59 % 256, 200))


@pytest.fixture(scope="module")
def tree(grow_tree: Callable[..., np.ndarray]) -> Hierarchy:
    space = grow_tree(4.0, 12, count=600, dim=16, c=0.7, scatter=0.1)
    labels = [("photos", f"family {i // 120}", f"kind {i // 24}") for i in range(600)]
    return Hierarchy.build(space, np.arange(1, 601), 0.7, labels=labels)


def drawn(tree: Hierarchy, most: int, **more: Any) -> Drawing:
    settings = {"title": "Everything", "measure": measure, "load_image": photo, "item_title": "item {}".format}
    return compose(tree, most=most, **(settings | more))


def boxes(labels: list[Label], disk: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Centre and half-extents along its own axes of each text that is not turned."""
    found = []
    for label in labels:
        width, height = (value / disk for value in measure(label.text, label.size))
        shift = {"left": width / 2, "center": 0.0, "right": -width / 2}[label.align]
        found.append((np.array([label.point[0] + shift, label.point[1]]), np.array([width / 2, height / 2])))
    return found


@pytest.mark.parametrize("most", [1, 7, 25, 200, 5000])
def test_no_more_than_asked_for_and_a_tree(tree: Hierarchy, most: int) -> None:
    chosen = select(tree, most)
    assert len(chosen.parents) <= most
    assert len(chosen.parents) == min(most, len(tree.ids) + len(tree)) or most < len(tree.ids)
    assert chosen.parents[0] == -1
    assert (chosen.parents[1:] < np.arange(1, len(chosen.parents))).all()
    for place in range(1, len(chosen.parents)):
        parent = int(chosen.nodes[chosen.parents[place]])
        if chosen.nodes[place] < 0:
            assert tree.owner_of(int(chosen.rows[place])) == parent
        else:
            assert parent in tree.ancestors(int(chosen.nodes[place]))[1:]
    items = chosen.rows[chosen.nodes < 0]
    assert len(set(items.tolist())) == len(items)
    if most < len(tree.ids):
        assert len(items) == 0
        assert most == 1 or len(chosen.parents) > 0.6 * most


def test_a_branch_is_not_shown_twice() -> None:
    """0 - 1 - 2 - (3, 4): of the chain only its lower end splits, and 5 to 7 are too small to show."""
    parents, sizes = [-1, 0, 1, 2, 2, 0, 1, 0], [100, 60, 50, 25, 24, 20, 3, 4]
    nodes, above = largest(parents, sizes, 5)
    assert nodes.tolist() == [0, 2, 3, 4, 5]
    assert above.tolist() == [-1, 0, 1, 1, 0]
    nodes, above = largest(parents, sizes, 6, kept=[1])
    assert nodes.tolist() == [0, 1, 2, 3, 4, 5]
    assert above.tolist() == [-1, 0, 1, 2, 2, 0]
    everything, above = largest(parents, sizes, 8)
    assert everything.tolist() == list(range(8))
    assert above.tolist() == parents


def test_branches_are_neither_one_nor_many() -> None:
    """A few outliers beside one child that holds the rest, which splits into four of six each."""
    parents, sizes = [-1, 0, 0, 0], [1000, 5, 5, 990]
    for _ in range(4):
        parents.append(3)
        sizes.append(247)
    for middle in range(4, 8):
        parents += [middle] * 6
        sizes += [41] * 6
    numbers = branches(parents, sizes)
    assert numbers[[0, 3]].tolist() == [-1, -1]
    heads = {int(number) for number in numbers if number >= 0}
    assert 8 <= len(heads) <= 12
    for node in range(1, len(parents)):
        assert numbers[parents[node]] in (numbers[node], -1)


def test_what_most_photos_are_called(tree: Hierarchy) -> None:
    for node in range(len(tree.ids)):
        label = majority_label(tree, node)
        rows = tree.members(node)
        under = [("photos", f"family {(row - 1) // 120}", f"kind {(row - 1) // 24}") for row in rows.tolist()]
        shares = [sum(path[: len(label)] == label for path in under) / len(under)] if label else []
        assert all(share >= 0.6 for share in shares)
        assert label != ("photos",) or node == 0
        deeper = {path[: len(label) + 1] for path in under if path[: len(label)] == label and len(label) < 3}
        if label:
            assert all(sum(path[: len(one)] == one for path in under) < 0.6 * len(under) for one in deeper)


@pytest.mark.parametrize("most", [30, 2000])
def test_nothing_covers_anything(tree: Hierarchy, most: int) -> None:
    drawing = drawn(tree, most)
    assert len(drawing.photos) >= 10
    circles = np.array([(*photo.point, photo.radius) for photo in drawing.photos])
    apart = np.hypot(*(circles[:, None, :2] - circles[None, :, :2]).transpose(2, 0, 1))
    np.fill_diagonal(apart, np.inf)
    assert (apart > circles[:, None, 2] + circles[None, :, 2]).all()
    assert (np.hypot(circles[:, 0], circles[:, 1]) + circles[:, 2] < 1).all()

    flat = [label for label in drawing.labels if not label.leaders]
    assert flat
    found = boxes(flat, drawing.disk)
    for number, (centre, half) in enumerate(found):
        for other, other_half in found[:number]:
            assert (np.abs(centre - other) >= half + other_half - 1e-9).any()
        nearest = np.clip(circles[:, :2], centre - half, centre + half)
        assert (np.hypot(*(nearest - circles[:, :2]).T) >= circles[:, 2]).all()
        assert np.hypot(*(np.abs(centre) + half)) <= 1 + 1e-9


def test_photos_take_the_room_that_there_is_largest_first() -> None:
    """A crowd of nodes: no photo overlaps another, or hides the dot of a node of a sixth of its size or more."""
    rng = np.random.default_rng(5)
    points, sizes = rng.uniform(-0.6, 0.6, (250, 2)), rng.integers(1, 200, 250)
    everyone = np.arange(250)
    crowd = Selection(everyone - 1, everyone, everyone, sizes, sizes / 1.0, points, everyone, [""] * 250)
    dots = np.full(250, 0.01)
    found = photos_in(crowd, points, dots, ["#000"] * 250, [""] * 250, photo)
    assert 30 < len(found) < 250
    circles = {node: (np.array(shown.point), shown.radius) for node, shown in found.items()}
    for node, (centre, radius) in circles.items():
        np.testing.assert_array_equal(centre, points[node])
        for other, (their_centre, their_radius) in circles.items():
            assert other == node or np.hypot(*(centre - their_centre)) > radius + their_radius
        rivals = (sizes * 6 >= sizes[node]) & (everyone != node)
        assert (np.hypot(*(points[rivals] - centre).T) > radius + 0.01).all()
    assert np.mean(sizes[list(found)]) > np.mean(sizes)


def test_names_around_the_disk_keep_a_line_apart(tree: Hierarchy) -> None:
    rng = np.random.default_rng(0)
    crowd = [
        Named(f"name {number}", (float(np.cos(angle)) / 2, float(np.sin(angle)) / 2), 0.01, int(size), "#000", False)
        for number, (angle, size) in enumerate(zip(rng.normal(0.5, 0.8, 400), rng.integers(1, 99, 400), strict=True))
    ]

    def scaled(text: str, size: float) -> tuple[float, float]:
        width, height = measure(text, size)
        return width / 300, height / 300

    labels = rim_labels(crowd, scaled)
    assert 50 < len(labels) < 400
    places = np.array([label.point for label in labels])
    np.testing.assert_allclose(np.hypot(*places.T), RIM)
    around = np.sort(np.arctan2(places[:, 1], places[:, 0]))
    assert np.diff(around).min() >= scaled("x", labels[0].size)[1] / RIM
    sizes = {named.text: named.size for named in crowd}
    shown = [sizes[label.text] for label in labels]
    assert np.mean(shown) > np.mean(list(sizes.values()))
    assert all(-90 - 1e-6 <= label.rotation <= 90 + 1e-6 for label in labels)
    few = rim_labels(crowd[:20], scaled)
    assert sorted(label.text for label in few) == sorted(named.text for named in crowd[:20])


def test_the_same_name_side_by_side_is_written_once() -> None:
    nodes = [Named("Apple", (np.cos(at) / 2, np.sin(at) / 2), 0.01, 5, "#000", False) for at in (0.5, 0.55, 0.6)]
    far = Named("Apple", (-0.5, 0.0), 0.01, 5, "#000", False)
    labels = rim_labels([*nodes, far], lambda text, size: (size * len(text) / 500, size / 300))
    assert sorted(len(label.leaders) for label in labels) == [1, 3]


def test_long_names_are_cut() -> None:
    assert shortened("two\nlines  here") == "two lines here"
    assert shortened("x" * 40) == "x" * 25 + "…"
    assert len(shortened("x" * 40, 5)) == 5


def test_dots_stand_for_photos_that_cannot_be_had(tree: Hierarchy) -> None:
    drawing = drawn(tree, 40, load_image=lambda _: None)
    assert drawing.photos == []
    assert sum(len(dots.points) for dots in drawing.dots) == len(select(tree, 40).parents)


def test_a_given_name_is_shown(grow_tree: Callable[..., np.ndarray], tmp_path: Path) -> None:
    plain = Hierarchy.build(grow_tree(3.0, 10, count=200, dim=8), np.arange(200), 1.0)
    assert drawn(plain, 30).labels == []
    biggest = int(np.argmax(plain.sizes[1:])) + 1
    plain.set_name(plain.ids[biggest], "苹果 $x_2$ é")  # letters that the font lacks, and what looks like a formula
    drawing = drawn(plain, 30, measure=text_measure())
    assert [label.text for label in drawing.labels] == ["苹果 $x_2$ é"]
    write(drawing, tmp_path / "named.png")


@pytest.mark.parametrize("most", [30, 700])
def test_svg_has_a_title_for_every_node_and_photo(tree: Hierarchy, most: int, tmp_path: Path) -> None:
    drawing = drawn(tree, most, title="<Tom & Jerry's>", measure=text_measure())
    write(drawing, tmp_path / "tree.svg")
    root = ElementTree.parse(tmp_path / "tree.svg").getroot()  # noqa: S314
    assert root.tag == f"{SVG}svg"
    titles = [element.text for element in root.iter(f"{SVG}title")]
    assert titles[0] == "<Tom & Jerry's>"
    expected = [title for dots in drawing.dots for title in dots.titles] + [photo.title for photo in drawing.photos]
    assert sorted(titles[1:]) == sorted(expected)
    assert len(expected) == len(select(tree, most).parents)
    assert len(list(root.iter(f"{SVG}image"))) == len(drawing.photos)
    assert not list(root.iter(f"{SVG}text"))  # drawn as outlines, which look alike everywhere
    places = {
        (float(use.get("x", "nan")), float(use.get("y", "nan")))
        for use in root.iter(f"{SVG}use")
        if use.find(f"{SVG}title") is not None
    }
    dots = np.concatenate([dots.points for dots in drawing.dots if len(dots.points) > 20] or [np.zeros((0, 2))])
    for x, y in (dots * [1, -1] * drawing.disk + PAPER / 2).tolist():
        assert min((abs(x - px) + abs(y - py) for px, py in places), default=0.0) < 0.01


def test_png_is_drawn_where_the_drawing_says(tree: Hierarchy, tmp_path: Path) -> None:
    drawing = drawn(tree, 30, measure=text_measure())
    write(drawing, tmp_path / "tree.png")
    with Image.open(tmp_path / "tree.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert pixels.shape == (2400, 2400, 3)
    assert (pixels[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()
    scale = drawing.disk / PAPER * 2400
    for shown, row in zip(drawing.photos, range(len(drawing.photos)), strict=True):
        x, y = 1200 + shown.point[0] * scale, 1200 - shown.point[1] * scale
        expected = np.asarray(shown.image)[0, 0].astype(int)
        assert np.abs(pixels[round(y), round(x)] - expected).max() <= 2, row


def test_only_svg_and_png(tree: Hierarchy, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ending in .svg or .png, got 'tree.pdf'"):
        write(drawn(tree, 10), tmp_path / "tree.pdf")
    with pytest.raises(ValueError, match="at least one"):
        drawn(tree, 0)


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(PicturesMissingError, match=r"pip install \"lhier\[pictures\]\""):
        text_measure()


def test_one_photo_and_none(tmp_path: Path) -> None:
    for count in (0, 1, 2):
        tiny = Hierarchy.build(np.ones((count, 3)) * np.arange(count)[:, None], np.arange(count), 1.0)
        write(drawn(tiny, 10, measure=text_measure()), tmp_path / f"{count}.svg")
        assert ElementTree.parse(tmp_path / f"{count}.svg").getroot().tag == f"{SVG}svg"  # noqa: S314
