"""The report's section on the Poincare disk."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from html import escape

from torch import Tensor

from training.report_analysis import coarse_level
from training.report_charts import disk_chart, number
from training.report_content import Disk, Report
from training.report_layout import geodesic_arc


def disk_section(report: Report) -> str:
    """The disk, its legend, and what the page's script shows of each dot."""
    disk, photos = report.disk, report.points.gallery_photos
    labels = [photos[row].labels for row in disk.rows]
    level = coarse_level(report.rankings.levels)
    around = {name: math.atan2(*_mean_place(disk, labels, name, level)) for name in {path[:level] for path in labels}}
    # The golden angle, in the order around the disk: classes drawn side by side never look alike.
    groups = {name: place for place, name in enumerate(sorted(around, key=lambda name: (around[name], name)))}
    hues = "".join(f".k{k}{{--h:{(25 + 137.508 * k) % 360:.0f}}}" for k in groups.values())
    root_c = math.sqrt(report.c)
    all_radii = [value for values in report.radii.values() for value in values]
    step = _round_step(max(all_radii) / 3)
    circles = [
        (math.tanh(disk.layout.scale * root_c * r / 2), number(r))
        for r in (step * k for k in range(1, int(max(all_radii) / step) + 1))
    ]
    numbers = [groups[path[:level]] for path in labels]
    chart = _chart(disk, labels, numbers, disk.layout.items, disk.layout.nodes, circles)
    plane = _chart(disk, labels, numbers, disk.plane.items, disk.plane.nodes, None)
    radius = [math.asinh(root_c * float(report.points.gallery[row].double().norm())) / root_c for row in disk.rows]
    shown = [
        [report.thumbnails.get(photos[row].path, ""), " / ".join(photos[row].labels), f"{r:.3f}"]
        for row, r in zip(disk.rows, radius, strict=True)
    ]
    scaled = "" if disk.layout.scale == 1 else f" Radii are drawn at {disk.layout.scale:.2f} of their length, to fit."
    return (
        f'<p class="soft">{len(disk.rows)} of {len(photos)} gallery photos, evenly over the classes (dots), '
        f"{len(disk.nodes.ancestors)} label-path ancestors (diamonds, joined by geodesics) and "
        f"{len(disk.nodes.space) - len(disk.nodes.ancestors)} hierarchical proxies (rings). Distance from the centre "
        f"is geodesic distance from the origin; circles mark it.{scaled} The angle is a layout: the leaf order "
        f"of an average-linkage tree of geodesic distances, so what lies side by side was near in "
        f"{report.recipe.model.embedding_dim} dimensions ({disk.layout.kept:.0%} of the ten nearest stay so); "
        "ancestors and proxies point to the photos around them.</p>"
        f'<style>{hues}</style><div class="split"><div>{chart}</div><div>'
        '<div class="look" aria-live="polite"><span class="soft">Touch a dot to see its photo; press a class to single '
        f"it out.</span></div>{_legend(labels, groups, level)}</div></div>"
        f'<h3>The same points in the tangent plane of their centroid</h3><p class="soft small">Principal components of '
        f"logmap at the Lorentz centroid, mapped back onto the disk: the two directions hold {disk.plane.share:.0%} of "
        f"the variance. The centre is the centroid, not the origin.</p>"
        f'<div style="max-width:560px">{plane}</div>'
        f'<script type="application/json" id="disk-data">{_script_json(shown)}</script>'
    )


def _chart(
    disk: Disk,
    labels: Sequence[tuple[str, ...]],
    numbers: Sequence[int],
    items: Tensor,
    nodes: Tensor,
    circles: Sequence[tuple[float, str]] | None,
) -> str:
    """One disk; ``circles`` only where the centre is the origin, and then the label tree's geodesics too."""
    ancestors = disk.nodes.ancestors
    few = sum(len(name) == 1 for name in ancestors) <= 12
    places = [(float(x), float(y)) for x, y in nodes]
    arcs = [geodesic_arc(places[child], places[parent]) for child, parent in disk.nodes.edges]
    if circles is not None:
        arcs += [geodesic_arc((0.0, 0.0), places[row]) for row, name in enumerate(ancestors) if len(name) == 1]
    return disk_chart(
        [(float(x), float(y), k, "/".join(path)) for (x, y), k, path in zip(items, numbers, labels, strict=True)],
        [(x, y, "/".join(name), few and len(name) == 1) for (x, y), name in zip(places, ancestors, strict=False)],
        places[len(ancestors) :],
        arcs,
        circles or [],
    )


def _mean_place(
    disk: Disk, labels: Sequence[tuple[str, ...]], name: tuple[str, ...], level: int
) -> tuple[float, float]:
    rows = [row for row, path in enumerate(labels) if path[:level] == name]
    x, y = disk.layout.items[rows].mean(0).tolist()
    return y, x


def _legend(labels: Sequence[tuple[str, ...]], groups: dict[tuple[str, ...], int], level: int) -> str:
    counts = Counter(path[:level] for path in labels)
    parts, parent = [], None
    for name in sorted(groups):
        if level > 1 and name[:-1] != parent:
            parent = name[:-1]
            parts.append(f"<h4>{escape(' / '.join(parent))}</h4>")
        parts.append(
            f'<button type="button" aria-pressed="false" data-group="{groups[name]}" class="k{groups[name]}">'
            f"<i></i>{escape(name[-1])} <span class='soft'>{counts[name]}</span></button>"
        )
    return f'<div class="legend">{"".join(parts)}</div>'


def _round_step(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return next(m * power for m in (1, 2, 5, 10) if m * power >= value)


def _script_json(content: object) -> str:
    # "</script>" inside a label must not end the element.
    return json.dumps(content, ensure_ascii=False).replace("<", "\\u003c")
