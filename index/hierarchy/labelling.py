"""Names on a picture without overlaps: beside their nodes where there is room, else around the disk."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from index.distances import Float64
from index.hierarchy.layout import START

RIM = 1.025  # where leader lines end and names around the disk begin
PAPER_EDGE, FARTHEST = 420.0, 445.0  # points from the disk's centre to a side of the paper, and where names end
SPREAD = 0.16  # radians over which nodes of one name share it around the disk
RIM_SIZES = (9.0, 8.0, 7.0, 6.0)  # points
GENERAL_SIZES = (11.0, 9.5, 8.5, 7.5)
SPECIFIC_SIZE = 7.5
LINE = 1.3  # of the text's size, from line to line
MOST_SHIFTED = 2.5  # lines by which a name around the disk may be moved
LONGEST = 26  # characters
CLEAR = 0.006

Measure = Callable[[str, float], tuple[float, float]]
"""Width and height of a text at a size in points: in units of the disk's radius, as far as this module goes."""
Align = Literal["left", "center", "right"]
Box = tuple[float, float, float, float]
Line = tuple[tuple[float, float], ...]
SIDES: tuple[tuple[Align, int], ...] = (("left", 1), ("right", -1))


@dataclass(frozen=True, slots=True)
class Named:
    """A node to be named: where it is, the radius of its dot or photo, and whether it has named nodes below it."""

    text: str
    point: tuple[float, float]
    radius: float
    size: int
    colour: str
    general: bool

    @property
    def angle(self) -> float:
        """Around the disk, from its foot."""
        return float((np.arctan2(self.point[1], self.point[0]) - START) % (2 * np.pi) + START)


@dataclass(frozen=True, slots=True)
class Label:
    """A text: its anchor, how it is turned (degrees) and aligned, and the lines from its nodes, if it is at the rim."""

    text: str
    point: tuple[float, float]
    size: float
    colour: str
    align: Align
    rotation: float = 0.0
    bold: bool = False
    leaders: tuple[Line, ...] = ()


def inner_labels(
    named: Sequence[Named], circles: Float64, photos: Float64, reserved: Sequence[Box], measure: Measure
) -> tuple[list[Label], list[Named]]:
    """Labels that lie below, above or beside their nodes, the most important placed first; and the nodes without one.

    None covers another, what is `reserved`, a photo (rows x, y, radius of `photos`) or the rim; specific ones cover no
    dot either (`circles`). General names that find no place are left out, as around the disk they would seem specific.
    """
    taken = list(reserved)
    labels: list[Label] = []
    outside: list[Named] = []
    generals = 0
    for node in sorted(named, key=lambda node: (not node.general, -node.size)):
        text = shortened(node.text)
        size = GENERAL_SIZES[min(generals // 6, len(GENERAL_SIZES) - 1)] if node.general else SPECIFIC_SIZE
        generals += node.general
        width, height = measure(text, size)
        (x, y), gap = node.point, node.radius + 0.3 * height
        places: list[tuple[Align, float, float]] = [
            ("center", x, y - gap - height / 2),
            ("center", x, y + gap + height / 2),
            ("left", x + gap, y),
            ("right", x - gap, y),
            *(
                (align, x + side * gap * 0.75, y + over * (gap * 0.75 + height / 4))
                for align, side in SIDES
                for over in (-1, 1)
            ),
        ]
        for align, at_x, at_y in places:
            left = at_x - {"left": 0.0, "center": width / 2, "right": width}[align]
            box = (left, at_y - height / 2, left + width, at_y + height / 2)
            if _free(box, taken, photos if node.general else circles):
                taken.append(box)
                colour = "" if node.general else node.colour
                labels.append(Label(text, (at_x, at_y), size, colour, align, bold=node.general))
                break
        else:
            if not node.general:
                outside.append(node)
    return labels, outside


def _free(box: Box, taken: Sequence[Box], circles: Float64) -> bool:
    left, low, right, high = box
    if max(np.hypot(x, y) for x in (left, right) for y in (low, high)) > 1:
        return False
    if any(
        left - CLEAR < other[2] and other[0] < right + CLEAR and low < other[3] and other[1] < high for other in taken
    ):
        return False
    across = np.clip(circles[:, 0], left, right) - circles[:, 0]
    along = np.clip(circles[:, 1], low, high) - circles[:, 1]
    return not bool((np.hypot(across, along) < circles[:, 2] + CLEAR).any())


def rim_labels(named: Sequence[Named], measure: Measure) -> list[Label]:
    """Names written outwards around the disk, each as near its node's angle as room allows, with a line from the node.

    The largest size at which all fit; at the smallest, the largest nodes that fit. Names are moved as little as
    possible: the shifts with the least sum of squares that leave a line's room between neighbours (isotonic
    regression). None crosses the foot of the disk, where the rings' numbers are.
    """
    from scipy.optimize import isotonic_regression

    ranked = sorted(_shared(named), key=lambda group: -sum(node.size for node in group))
    for size in RIM_SIZES:
        room = LINE * measure("x", size)[1] / RIM
        most = int((2 * np.pi - room) / room)
        smallest = size == RIM_SIZES[-1]
        kept = min(len(ranked), most) if smallest else len(ranked)
        while 0 < kept <= most:
            chosen = sorted(ranked[:kept], key=_middle)
            wanted = np.array([_middle(group) for group in chosen])
            steps = room * np.arange(kept)
            shifted = isotonic_regression(wanted - steps).x
            angles = np.clip(shifted, START + room / 2, START + 2 * np.pi - room / 2 - steps[-1]) + steps
            if np.abs(angles - wanted).max() <= MOST_SHIFTED * room:
                return [_rim_label(group, float(at), size, measure) for group, at in zip(chosen, angles, strict=True)]
            if not smallest:
                break
            kept = min(kept - 1, int(kept * 0.97))
    return []


def _shared(named: Sequence[Named]) -> list[list[Named]]:
    """Neighbours around the disk that have one name and colour, which is then written once."""
    groups: list[list[Named]] = []
    for node in sorted(named, key=lambda node: node.angle):
        last = groups[-1] if groups else []
        alike = bool(last) and (last[-1].text, last[-1].colour) == (node.text, node.colour)
        if alike and node.angle - last[0].angle <= SPREAD:
            last.append(node)
        else:
            groups.append([node])
    return groups


def _middle(group: Sequence[Named]) -> float:
    return (group[0].angle + group[-1].angle) / 2


def _rim_label(group: Sequence[Named], angle: float, size: float, measure: Measure) -> Label:
    direction = np.array([np.cos(angle), np.sin(angle)])
    left = direction[0] < 0
    degrees = float(np.degrees(angle)) + (180.0 if left else 0.0)
    disk = size / measure("x", size)[1]  # the disk's radius in points
    longest = min(PAPER_EDGE / float(np.abs(direction).max()), FARTHEST) / disk - RIM
    text = shortened(group[0].text)
    while measure(text, size)[0] > longest and len(text) > 2:
        text = shortened(text, len(text) - 1)
    leaders = []
    for node in group:
        own = np.array([np.cos(node.angle), np.sin(node.angle)])
        start = (float(np.hypot(*node.point)) + node.radius + CLEAR) * own
        leaders.append(tuple((float(x), float(y)) for x, y in (start, own, 1.018 * direction)))
    return Label(
        text,
        (float(RIM * direction[0]), float(RIM * direction[1])),
        size,
        group[0].colour,
        "right" if left else "left",
        rotation=(degrees + 180) % 360 - 180,
        leaders=tuple(leaders),
    )


def shortened(text: str, longest: int = LONGEST) -> str:
    """The text on one line, cut with an ellipsis where it is longer than `longest` characters."""
    line = " ".join(text.split())
    return line if len(line) <= longest else line[: max(longest - 1, 1)].rstrip(" …") + "…"
