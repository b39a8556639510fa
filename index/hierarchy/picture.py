"""What a picture of a tree shows, and where: edges, dots, photos and names on the disk, before any of it is drawn.

Lengths are in units of the disk's radius, unless they are said to be in points (1/72 inch).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from index.distances import Float64
from index.hierarchy.labelling import Label, Measure, Named, inner_labels, rim_labels
from index.hierarchy.layout import Layout, geodesic_curve, layout, sibling_order
from index.hierarchy.selection import Selection, select

if TYPE_CHECKING:
    from index.hierarchy.tree import Hierarchy

DISK, WIDE_DISK = 306.0, 330.0  # the disk's radius in points: with names around it, and where few nodes need none
FEW = 150
# Dark enough to read on white and in print; next to each other in this order they differ most.
COLOURS = (
    "#c2410c", "#0f766e", "#7c3aed", "#a16207", "#1d4ed8", "#be185d",
    "#4d7c0f", "#0e7490", "#b91c1c", "#4338ca", "#15803d", "#86198f",
)  # fmt: skip
NEUTRAL = "#57534e"
LEGEND = (
    "Poincaré disk\n"
    "from the centre outwards: ever more specific\n"
    "rings: radius of the embedding\n"
    "lines: geodesics · colours: branches"
)
PHOTO_SHARE = 0.35  # disc of a photo beside that of a branch
LARGEST_PHOTO, SMALLEST_PHOTO = 0.11, 0.021  # radius
MOST_PHOTOS = 400
PHOTO_EDGE = 0.25  # points
NUMBER = 0.025  # room about a ring's number
CLEAR = 0.008  # between a photo and whatever lies beside it

LoadImage = Callable[[int], Image.Image | None]
"""The photo of a catalogue row; None where it has none."""


@dataclass(frozen=True, slots=True, eq=False)
class Edges:
    """Geodesics of one colour and width (in points): (n, 7, 2), two cubic Bezier curves each."""

    curves: Float64
    colour: str
    width: float
    opacity: float


@dataclass(frozen=True, slots=True, eq=False)
class Dots:
    """Dots of one colour and radius (in points), with a title each."""

    points: Float64
    radius: float
    colour: str
    titles: list[str]


@dataclass(frozen=True, slots=True, eq=False)
class Photo:
    """A round photo with a border in its branch's colour."""

    point: tuple[float, float]
    radius: float
    image: Image.Image
    colour: str
    border: float
    title: str


@dataclass(frozen=True, slots=True)
class Ring:
    """A circle about the centre, and the radius of the hierarchy that it stands for."""

    radius: float
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Drawing:
    """One picture, ready to be drawn as SVG or PNG; `disk` is the disk's radius in points."""

    disk: float
    title: str
    subtitle: str
    legend: str
    rings: list[Ring]
    edges: list[Edges]
    dots: list[Dots]
    photos: list[Photo]
    labels: list[Label] = field(default_factory=list)


def compose(
    hierarchy: "Hierarchy",
    *,
    most: int,
    title: str,
    measure: Measure,
    load_image: LoadImage,
    item_title: Callable[[int], str] = str,
) -> Drawing:
    """Choose, lay out and place: at most `most` nodes and photos. `measure`: width and height of a text in points.

    `item_title`: what the tooltip of a catalogue row says.
    """
    chosen = select(hierarchy, most)
    photos_of = chosen.nodes < 0
    shares = np.where(photos_of, PHOTO_SHARE, 1.0)
    order = sibling_order(chosen.parents, chosen.space, hierarchy.c)
    placed = layout(chosen.parents, chosen.radii, order, shares=shares)
    points = placed.points
    disk = WIDE_DISK if len(points) <= FEW else DISK
    colours = _colours(chosen, placed)
    titles = [_title(hierarchy, chosen, row, item_title) for row in range(len(points))]
    dot_radii = np.where(photos_of, _photo_dot(placed, disk), _node_dot(chosen.sizes))
    photos = _photos(chosen, points, dot_radii / disk, colours, titles, load_image)
    shown_as_photo = np.zeros(len(points), dtype=bool)
    shown_as_photo[list(photos)] = True
    rings = _rings(placed, float(chosen.radii[0]), float(chosen.radii.max()), list(photos.values()))

    def scaled(text: str, size: float) -> tuple[float, float]:
        width, height = measure(text, size)
        return width / disk, height / disk

    labels = _labels(chosen, placed, photos, dot_radii / disk, rings, colours, scaled)
    nodes, items = int((~photos_of).sum()), int(photos_of.sum())
    shown = f"{nodes} of {len(hierarchy.ids)}" if nodes < len(hierarchy.ids) else f"{nodes}"
    subtitle = f"{chosen.sizes[0]:,} photos · {shown} branches" + (f" · {items:,} photos as dots" if items else "")
    return Drawing(
        disk,
        title,
        subtitle,
        LEGEND,
        rings,
        _edges(chosen, points, colours),
        _dots(points, dot_radii, colours, titles, ~shown_as_photo),
        list(photos.values()),
        labels,
    )


def _colours(chosen: Selection, placed: Layout) -> list[str]:
    """Each branch's colour, in the order of the branches around the disk."""
    heads = [int(np.flatnonzero(chosen.branches == branch)[0]) for branch in sorted({*chosen.branches.tolist()} - {-1})]
    around = sorted(heads, key=lambda node: float(placed.angles[node]))
    colour = {int(chosen.branches[node]): COLOURS[place % len(COLOURS)] for place, node in enumerate(around)}
    return [colour.get(branch, NEUTRAL) for branch in chosen.branches.tolist()]


def _title(hierarchy: "Hierarchy", chosen: Selection, row: int, item_title: Callable[[int], str]) -> str:
    node = int(chosen.nodes[row])
    if node < 0:
        return item_title(int(chosen.rows[row]))
    name = chosen.names[row] or f"branch {hierarchy.ids[node]}"
    count = int(chosen.sizes[row])
    return f"{name} · {count:,} photo{'s' if count != 1 else ''} · radius {chosen.radii[row]:.2f}"


def _node_dot(sizes: npt.NDArray[np.int64]) -> Float64:
    """Radius in points: the area grows with the number of photos, slowly."""
    return np.clip(np.round(1.0 + 0.75 * np.log10(np.maximum(sizes, 1)), 1), 1.2, 4.0)


def _photo_dot(placed: Layout, disk: float) -> float:
    """Radius in points of a photo's dot: what its disc leaves it at the rim, between a speck and a pea."""
    farthest = float(placed.distances.max())
    room = PHOTO_SHARE * placed.disc / (2 * np.cosh(farthest / 2) ** 2) if np.isfinite(placed.disc) else 1.0
    return float(np.clip(0.85 * room * disk, 0.55, 2.2))


def _rings(placed: Layout, low: float, high: float, photos: Sequence[Photo]) -> list[Ring]:
    """Three to six circles at round radii between the root's and the largest; a number that a photo covers is left
    out."""
    span = high - low
    if span <= 0:
        return []
    step = 10.0 ** np.floor(np.log10(span))
    step = next(step * factor for factor in (0.1, 0.2, 0.5, 1.0, 2.0) if span / (step * factor) <= 6)
    values = np.arange(np.ceil(low / step), np.floor(high / step + 1e-6) + 1) * step
    rings = [Ring(float(np.tanh(placed.distance_of(value) / 2)), f"{value:.4g}") for value in values if value > low]
    return [
        Ring(ring.radius, "" if any(_covers(photo, (0.0, -ring.radius), NUMBER) for photo in photos) else ring.text)
        for ring in rings
    ]


def _covers(photo: Photo, point: tuple[float, float], clear: float) -> bool:
    return float(np.hypot(photo.point[0] - point[0], photo.point[1] - point[1])) < photo.radius + clear


def _edges(chosen: Selection, points: Float64, colours: Sequence[str]) -> list[Edges]:
    """Every node's edge to its parent in its own colour, the thicker the more photos it carries; thin ones first."""
    widths = np.where(chosen.nodes < 0, PHOTO_EDGE, np.round(0.5 + 0.55 * np.log10(np.maximum(chosen.sizes, 1)), 1))
    groups: dict[tuple[float, str], list[int]] = {}
    for node in range(1, len(points)):
        groups.setdefault((float(widths[node]), colours[node]), []).append(node)
    return [
        Edges(
            np.stack([geodesic_curve(points[chosen.parents[node]], points[node]) for node in members]),
            colour,
            width,
            0.25 if width == PHOTO_EDGE else 0.55,
        )
        for (width, colour), members in sorted(groups.items())
    ]


def _dots(
    points: Float64, dot_radii: Float64, colours: Sequence[str], titles: Sequence[str], shown: npt.NDArray[np.bool_]
) -> list[Dots]:
    groups: dict[tuple[float, str], list[int]] = {}
    for node in np.flatnonzero(shown).tolist():
        groups.setdefault((float(dot_radii[node]), colours[node]), []).append(node)
    return [
        Dots(points[members], radius, colour, [titles[node] for node in members])
        for (radius, colour), members in sorted(groups.items())
    ]


def _photos(
    chosen: Selection,
    points: Float64,
    dot_radii: Float64,
    colours: Sequence[str],
    titles: Sequence[str],
    load_image: LoadImage,
) -> dict[int, Photo]:
    """Photos in the room that there is, the largest nodes' first: none overlaps another, or hides a dot of its size."""
    placed: dict[int, Photo] = {}
    circles = np.zeros((0, 3))
    for node in np.argsort(-chosen.sizes, kind="stable").tolist():
        if len(placed) == MOST_PHOTOS:
            break
        here = points[node]
        apart = np.hypot(*(points - here).T)
        rivals = chosen.sizes * 6 >= chosen.sizes[node]
        rivals[node] = False
        free = float((apart[rivals] - dot_radii[rivals]).min(initial=np.inf))
        if len(circles):
            free = min(free, float((np.hypot(*(circles[:, :2] - here).T) - circles[:, 2]).min()))
        radius = min(free - CLEAR, LARGEST_PHOTO * float(1 - here @ here) ** 0.5)
        if radius < SMALLEST_PHOTO or chosen.rows[node] < 0:
            continue
        image = load_image(int(chosen.rows[node]))
        if image is None:
            continue
        circles = np.concatenate([circles, [[*here, radius]]])
        border = float(np.clip(radius * DISK / 14, 0.8, 2.2))  # points
        placed[node] = Photo(
            (float(here[0]), float(here[1])), radius, _square(image), colours[node], border, titles[node]
        )
    return placed


def _square(image: Image.Image) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _labels(
    chosen: Selection,
    placed: Layout,
    photos: dict[int, Photo],
    dot_radii: Float64,
    rings: Sequence[Ring],
    colours: Sequence[str],
    measure: Measure,
) -> list[Label]:
    """Names beside their nodes where that hides nothing, the others around the disk; general ones first, and bold."""
    points = placed.points
    radii = dot_radii.copy()
    for node, photo in photos.items():
        radii[node] = photo.radius
    labelled = _labelled(chosen)
    named = [
        Named(
            chosen.names[node],
            (float(points[node, 0]), float(points[node, 1])),
            float(radii[node]),
            int(chosen.sizes[node]),
            colours[node],
            general=labelled[node],
        )
        for node in labelled
    ]
    circles = np.column_stack([points, radii])
    numbers = [(-NUMBER, -ring.radius - NUMBER, NUMBER, -ring.radius + NUMBER) for ring in rings if ring.text]
    inside, outside = inner_labels(named, circles, circles[sorted(photos)], numbers, measure)
    return inside + rim_labels(outside, measure)


def _labelled(chosen: Selection) -> dict[int, bool]:
    """Nodes whose name is not that of the next named node above, and whether such nodes lie below them."""
    above: list[int] = []
    labelled: dict[int, bool] = {}
    for node, name in enumerate(chosen.names):
        parent = int(chosen.parents[node])
        nearest = above[parent] if parent >= 0 else -1
        if name and (nearest < 0 or chosen.names[nearest] != name):
            labelled[node] = False
            if nearest >= 0:
                labelled[nearest] = True
            nearest = node
        above.append(nearest)
    labelled.pop(0, None)  # the picture's title names the root
    return labelled
