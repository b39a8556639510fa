"""A drawing on paper, with matplotlib: the same figure as SVG, with tooltips, or as PNG."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from index.hierarchy.labelling import Measure
from index.hierarchy.picture import Drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPER = 864.0  # points, square: 12 inches
DPI = 200
FONT = "DejaVu Sans"  # comes with matplotlib, so a picture looks alike everywhere
# Where names need more letters: whichever of these there are.
MORE_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans", "PingFang SC", "Hiragino Sans", "Microsoft YaHei",
)  # fmt: skip
THUMBNAIL_DPI = 300
INK, SOFT, FAINT = "#1c1917", "#78716c", "#e7e5e4"
SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"


def write(drawing: Drawing, path: Path) -> None:
    """Draw to a file; its ending says how: `.svg` or `.png`. ``ValueError`` for another ending."""
    kind = path.suffix.lower()
    if kind not in {".svg", ".png"}:
        raise ValueError(f"expected a file ending in .svg or .png, got {path.name!r}")
    with _matplotlib():
        figure, titles = _figure(drawing, vector=kind == ".svg")
        if kind == ".png":
            figure.savefig(path, format="png", dpi=DPI)
            return
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Title": drawing.title, "Date": None})
    path.write_bytes(_with_titles(buffer.getvalue(), titles))


def text_measure() -> Measure:
    """A function for the width and height of a text, in points, as this module draws it."""
    with _matplotlib():
        from matplotlib.font_manager import FontProperties
        from matplotlib.textpath import TextToPath

        to_path, font = TextToPath(), FontProperties(family=FONT, weight="bold")

    def measure(text: str, size: float) -> tuple[float, float]:
        font.set_size(size)
        with _matplotlib():
            width, _, _ = to_path.get_text_width_height_descent(text, font, ismath=False)
        return float(width), size

    return measure


def _figure(drawing: Drawing, *, vector: bool) -> tuple["Figure", dict[str, list[str]]]:
    """The figure, and the titles of its elements by the id they carry in SVG: one, or one for each of a collection."""
    from matplotlib.collections import EllipseCollection, PathCollection
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle
    from matplotlib.path import Path as Curve

    figure = Figure(figsize=(PAPER / 72, PAPER / 72), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    half = PAPER / drawing.disk / 2
    axes.set(xlim=(-half, half), ylim=(-half, half), aspect="equal")
    axes.axis("off")
    titles: dict[str, list[str]] = {}

    axes.add_patch(Circle((0, 0), 1, facecolor="#fdfcfb", edgecolor="#d6d3d1", linewidth=0.9, zorder=0))
    for ring in drawing.rings:
        axes.add_patch(Circle((0, 0), ring.radius, fill=False, edgecolor=FAINT, linewidth=0.7, zorder=1))
    for edges in drawing.edges:
        codes = [Curve.MOVETO, *[Curve.CURVE4] * 6] * len(edges.curves)
        paths = PathCollection(
            [Curve(edges.curves.reshape(-1, 2), codes)],
            facecolors="none",
            edgecolors=edges.colour,
            linewidths=edges.width,
            alpha=edges.opacity,
            zorder=2,
        )
        paths.set_capstyle("round")
        axes.add_collection(paths, autolim=False)
    for number, dots in enumerate(drawing.dots):
        size = 2 * dots.radius
        collection = EllipseCollection(
            [size], [size], [0.0], units="points", offsets=dots.points, offset_transform=axes.transData,
            facecolors=dots.colour, edgecolors="white", linewidths=0.25, zorder=4, gid=f"dots{number}",
        )  # fmt: skip
        axes.add_collection(collection, autolim=False)
        titles[f"dots{number}"] = dots.titles
    for number, photo in enumerate(drawing.photos):
        (x, y), r = photo.point, photo.radius
        side = max(8, round(2 * r * drawing.disk * THUMBNAIL_DPI / 72))
        pixels = photo.image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
        axes.add_patch(Circle((x, y), r, facecolor="white", linewidth=0, zorder=5))
        shown = axes.imshow(
            np.asarray(pixels), extent=(x - r, x + r, y - r, y + r), zorder=6, gid=f"photo{number}",
            interpolation="none" if vector else "antialiased", aspect="equal",
        )  # fmt: skip
        shown.set_clip_path(Circle((x, y), r, transform=axes.transData))
        axes.add_patch(Circle((x, y), r, fill=False, edgecolor=photo.colour, linewidth=photo.border, zorder=7))
        titles[f"photo{number}"] = [photo.title]
    axes.set(xlim=(-half, half), ylim=(-half, half))  # imshow moves them
    _write_texts(drawing, axes)
    return figure, titles


def _write_texts(drawing: Drawing, axes: Any) -> None:
    from matplotlib.patheffects import withStroke

    for ring in drawing.rings:
        axes.text(
            0, -ring.radius, ring.text, size=6.5, color=SOFT, ha="center", va="center", zorder=8,
            path_effects=[withStroke(linewidth=2.5, foreground="white")], parse_math=False,
        )  # fmt: skip
    for label in drawing.labels:
        for leader in label.leaders:
            axes.plot(*zip(*leader, strict=True), color=label.colour, linewidth=0.4, alpha=0.45, zorder=3)
        turned = bool(label.leaders)
        axes.text(
            *label.point, label.text, size=label.size, color=label.colour or INK, ha=label.align,
            va="center_baseline" if turned else "center", rotation=label.rotation, rotation_mode="anchor",
            weight="bold" if label.bold else "normal", zorder=9, parse_math=False,
            path_effects=[] if turned else [withStroke(linewidth=2.5, foreground="white", alpha=0.9)],
        )  # fmt: skip
    corner = PAPER / drawing.disk / 2 - 0.06
    axes.text(-corner, corner, drawing.title, size=15, weight="bold", color=INK, va="top", parse_math=False)
    axes.text(-corner, corner - 0.07, drawing.subtitle, size=8.5, color=SOFT, va="top", parse_math=False)
    axes.text(corner, -corner, drawing.legend, size=7, color=SOFT, va="bottom", ha="right", linespacing=1.5)


def _with_titles(svg: bytes, titles: dict[str, list[str]]) -> bytes:
    """The SVG with a <title>, which browsers show as a tooltip, in each dot and photo."""
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(svg)  # noqa: S314 -- matplotlib has just written it
    for element in root.iter():
        found = titles.get(element.get("id", ""))
        if found is None:
            continue
        parts = list(element.iter(f"{{{SVG}}}use")) or element.findall(f"{{{SVG}}}path") or [element]
        for part, title in zip(parts, found, strict=True):
            ElementTree.SubElement(part, f"{{{SVG}}}title").text = title
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


class PicturesMissingError(ImportError):
    """Matplotlib is not installed."""

    def __init__(self) -> None:
        super().__init__("pictures need matplotlib, which is not installed: run 'pip install \"lhier[pictures]\"'")


@contextmanager
def _matplotlib() -> Iterator[None]:
    """Our settings of matplotlib; :class:`PicturesMissingError` where it is not installed."""
    try:
        import matplotlib as mpl
        from matplotlib.font_manager import fontManager
    except ImportError as error:
        raise PicturesMissingError from error
    installed = set(fontManager.get_font_names())
    fonts = [FONT, *(font for font in MORE_FONTS if font in installed)]
    with (
        mpl.rc_context({"font.family": fonts, "svg.fonttype": "path", "svg.hashsalt": "lhier"}),
        warnings.catch_warnings(),
    ):
        # A letter that no font has is drawn as a box, which the picture shows well enough.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        yield
