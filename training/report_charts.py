"""Charts of the report as inline SVG; colours are the page's CSS variables, so they follow light and dark."""

import math
from collections.abc import Sequence
from html import escape

from training.report_analysis import Matrix


def number(value: float) -> str:
    """A figure for an axis or a caption: four significant digits, no needless zeros."""
    if not math.isfinite(value):
        return "n/a"
    return f"{value:.4g}"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) between ``low`` and ``high``."""
    span = high - low
    if not span > 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= span / count)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def line_chart(title: str, steps: Sequence[float], values: Sequence[float | None]) -> str:
    """One curve over the steps; ``None`` and non-finite values leave a gap. A flat curve is drawn in the middle."""
    width, height, left, right, top, bottom = 340, 170, 46, 10, 10, 22
    finite = [v for v in values if v is not None and math.isfinite(v)]
    if not finite:
        return _figure(title, "no values", f'<svg viewBox="0 0 {width} {height}"></svg>')
    low, high = min(finite), max(finite)
    pad = (high - low) * 0.06 or max(abs(high) * 0.1, 1e-6)
    low, high = low - pad, high + pad
    first, last = min(steps), max(steps)
    x = [left + (s - first) / ((last - first) or 1) * (width - left - right) for s in steps]
    pieces: list[list[str]] = [[]]
    marks = []
    for place, step, value in zip(x, steps, values, strict=True):
        if value is None or not math.isfinite(value):
            pieces.append([])
            continue
        y = top + (high - value) / (high - low) * (height - top - bottom)
        pieces[-1].append(f"{place:.1f},{y:.1f}")
        marks.append(f"{place:.1f},{y:.1f},{step:g},{number(value)}")
    grid = "".join(
        f'<line x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
        f'<text x="{left - 6}" y="{y + 3.5:.1f}" class="tick end">{number(value)}</text>'
        for value in ticks(low, high)
        for y in (top + (high - value) / (high - low) * (height - top - bottom),)
    )
    grid += "".join(
        f'<text x="{left + (s - first) / ((last - first) or 1) * (width - left - right):.1f}" y="{height - 6}" '
        f'class="tick {"end" if s == last else "mid"}">{s:g}</text>'
        for s in ticks(first, last, 3)
    )
    # A piece of one point is a curve too: it is drawn as a dot by its round line cap.
    lines = "".join(f'<polyline points="{" ".join(p if len(p) > 1 else p * 2)}" class="curve"/>' for p in pieces if p)
    svg = (
        f'<svg viewBox="0 0 {width} {height}" class="plot" data-marks="{" ".join(marks)}" role="img" '
        f'aria-label="{escape(title)} over steps">{grid}{lines}<circle r="4" class="cursor" visibility="hidden"/></svg>'
    )
    shown = f"{number(finite[0])} → {number(finite[-1])}" if len(finite) > 1 else number(finite[0])
    return _figure(title, shown, svg)


def _figure(title: str, shown: str, svg: str) -> str:
    return (
        f'<figure class="chart"><figcaption><b>{escape(title)}</b> <output data-rest="{shown}">{shown}</output>'
        f"</figcaption>{svg}</figure>"
    )


def histograms(groups: Sequence[tuple[str, Sequence[float]]], rings: Sequence[tuple[str, float]], unit: str) -> str:
    """Rows of histograms over one axis that starts at 0, each as high as the others; ``rings`` as vertical lines."""
    width, row, left, right, gap = 720, 92, 12, 12, 30
    high = max([max(values, default=0.0) for _, values in groups] + [value for _, value in rings] + [1e-9]) * 1.04
    bins = 72

    def place(value: float) -> float:
        return left + value / high * (width - left - right)

    parts = []
    height = gap + len(groups) * row + 40
    bottom = height - 40
    for label, value in rings:
        x = place(value)
        anchor = "end" if x > 0.9 * width else "mid"
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{gap - 6}" y2="{bottom}" class="ring"/>'
            f'<text x="{x:.1f}" y="{gap - 11}" class="tick {anchor}">{escape(label)}</text>'
        )
    for place_of, (label, values) in enumerate(groups):
        base = gap + (place_of + 1) * row - 12
        counts = [0] * bins
        for value in values:
            counts[min(bins - 1, int(value / high * bins))] += 1
        tallest = max(counts) or 1
        for i, count in enumerate(counts):
            if count:
                tall = max(1.0, count / tallest * (row - 34))
                x0, x1 = place(i * high / bins), place((i + 1) * high / bins)
                parts.append(
                    f'<rect x="{x0 + 0.5:.1f}" y="{base - tall:.1f}" width="{x1 - x0 - 1:.1f}" height="{tall:.1f}" '
                    f'class="bar s{place_of}"><title>{escape(label)}: {count} between {number(i * high / bins)} and '
                    f"{number((i + 1) * high / bins)}</title></rect>"
                )
        mean = sum(values) / len(values)
        sd = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
        parts.append(
            f'<line x1="{left}" x2="{width - right}" y1="{base}" y2="{base}" class="axis"/>'
            f'<text x="{left}" y="{base - row + 30:.1f}" class="label"><tspan class="strong">{escape(label)}</tspan> '
            f"{len(values)} · mean {mean:.3f} · SD {sd:.3f}</text>"
        )
    parts += [
        f'<text x="{place(value):.1f}" y="{height - 23}" class="tick mid">{number(value)}</text>'
        for value in ticks(0, high, 8)
    ]
    parts.append(f'<text x="{width / 2}" y="{height - 6}" class="tick mid">{escape(unit)}</text>')
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="radius histograms">{"".join(parts)}</svg>'


def matrix_chart(matrix: Matrix) -> str:
    """Rows are the query's class, columns the first neighbour's; each cell a share of its row."""
    names, n = matrix.names, len(matrix.names)
    cell = 24 if n <= 12 else 15
    longest = max((len(name[-1]) for name in names), default=0)
    left = top = 14 + 6.2 * min(longest, 26)
    parts = []
    totals = matrix.counts.sum(1).tolist()
    counts = matrix.counts.tolist()
    for i, name in enumerate(names):
        shown = escape(name[-1] if len(name[-1]) <= 26 else name[-1][:25] + "…")
        middle = i * cell + cell / 2
        parts.append(
            f'<text x="{left - 6:.0f}" y="{top + middle + 3.5:.1f}" class="tick end">{shown}</text>'
            f'<text transform="translate({left + middle + 3.5:.1f} {top - 6:.0f}) rotate(-90)" '
            f'class="tick">{shown}</text>'
        )
        for j, count in enumerate(counts[i]):
            share = count / totals[i] if totals[i] else 0.0
            kind = ("hit" if i == j else "miss") if count else "none"
            strength = f' fill-opacity="{0.12 + 0.88 * share:.2f}"' if count else ""
            parts.append(
                f'<rect x="{left + j * cell + 0.5:.1f}" y="{top + i * cell + 0.5:.1f}" width="{cell - 1}" '
                f'height="{cell - 1}" class="{kind}"{strength}>'
                + (
                    f"<title>{escape('/'.join(name))} → {escape('/'.join(names[j]))}: {count} of {totals[i]} "
                    f"({share:.0%})</title>"
                    if count
                    else ""
                )
                + "</rect>"
            )
    size = (left + n * cell + 4, top + n * cell + 4)
    return (
        f'<svg viewBox="0 0 {size[0]:.0f} {size[1]:.0f}" style="width:{size[0]:.0f}px" role="img" '
        f'aria-label="confusion matrix">{"".join(parts)}</svg>'
    )


def disk_chart(
    items: Sequence[tuple[float, float, int, str]],
    nodes: Sequence[tuple[float, float, str, bool]],
    proxies: Sequence[tuple[float, float]],
    arcs: Sequence[Sequence[tuple[float, float]]],
    circles: Sequence[tuple[float, str]],
) -> str:
    """The Poincare disk: items (x, y, class number, label path), nodes (x, y, path, whether to write it), proxies.

    ``arcs``: polylines; ``circles``: radius on the disk and the distance it stands for. The page's script shows an item
    when it is touched.
    """
    size = 500

    def xy(x: float, y: float) -> tuple[str, str]:
        return f"{x * size:.1f}", f"{-y * size:.1f}"

    parts = [f'<circle r="{size}" class="rim"/>']
    for radius, label in circles:
        parts.append(
            f'<circle r="{radius * size:.1f}" class="ring"/>'
            f'<text x="0" y="{radius * size + 13:.1f}" class="tick mid">{escape(label)}</text>'
        )
    parts += [f'<polyline points="{" ".join(",".join(xy(x, y)) for x, y in arc)}" class="arc"/>' for arc in arcs if arc]
    for x, y in proxies:
        px, py = xy(x, y)
        parts.append(f'<circle cx="{px}" cy="{py}" r="3" class="proxy"><title>hierarchical proxy</title></circle>')
    for x, y, what, written in nodes:
        px, py = xy(x, y)
        parts.append(
            f'<rect x="-6" y="-6" width="12" height="12" class="node" transform="translate({px} {py}) rotate(45)">'
            f"<title>{escape(what)}</title></rect>"
        )
        if written:
            parts.append(f'<text x="{px}" y="{float(py) - 14:.1f}" class="name mid">{escape(what)}</text>')
    for row, (x, y, group, what) in enumerate(items):
        px, py = xy(x, y)
        parts.append(
            f'<circle cx="{px}" cy="{py}" r="4.5" class="dot k{group}" data-row="{row}">'
            f"<title>{escape(what)}</title></circle>"
        )
    return (
        f'<svg viewBox="-510 -510 1020 1020" class="disk" role="img" aria-label="Poincare disk">{"".join(parts)}</svg>'
    )
