"""The report's HTML: one function per section."""

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from training.report_analysis import coarse_level, confusion_matrix, most_confused
from training.report_charts import histograms, line_chart, matrix_chart, number
from training.report_content import Report
from training.report_disk import disk_section
from training.report_style import CSS, SCRIPT

COUNTS = ("queries", "gallery", "unreadable")
NOT_CURVES = ("step", "loss", "c", "lr", "gradient_norm", "loss_scale", "skipped_steps")
SELECTION = {
    "last": "the weights of the last step; the test photos were not looked at while training",
    "best_on_validation": "the step with the best figures on the validation photos; the test photos were not looked at",
    "best_on_test": "the step with the best figures on the test photos themselves: read them as a best case",
}
MEANING = {
    "recall_at_": "a photo of the class is among the first k neighbours",
    "map_at_r": "mean average precision over the first R places, R = photos of the class in the gallery",
    "lca_height": "levels up to the common ancestor with the first neighbour (0: same class)",
    "hierarchical_precision": "nearness in the label tree of the first ten, over the best possible",
}


def render(report: Report) -> str:
    """The whole page. It names no address outside itself."""
    sections = [
        ("figures", "Figures", _figures(report)),
        ("curves", "Curves", _curves(report)),
        ("radii", "Radii", _radii(report)),
        ("disk", "Poincaré disk", disk_section(report)),
        ("retrieval", "Retrieval", _retrieval(report)),
        ("confusion", "Confusion", _confusion(report)),
        ("recipe", "Recipe and versions", _recipe(report)),
    ]
    title = f"{report.recipe.name} · seed {report.recipe.seed}"
    links = "".join(f'<a href="#{key}">{escape(name)}</a>' for key, name, _ in sections)
    body = "".join(f'<section id="{key}"><h2>{escape(name)}</h2>{html}</section>' for key, name, html in sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{CSS}</style></head><body>"
        f"<header><div><h1>{escape(title)}</h1>{_head(report)}</div></header><nav><div>{links}</div></nav>"
        f"<main>{body}</main><script>{SCRIPT}</script></body></html>\n"
    )


def _head(report: Report) -> str:
    figures = report.figures
    tiles = [
        ("R@1", f"{figures['recall_at_1']:.1%}"),
        ("MAP@R", f"{figures['map_at_r']:.1%}"),
        ("coarse MAP@R", f"{figures['coarse_map_at_r']:.1%}" if "coarse_map_at_r" in figures else None),
        ("R@1 by cosine", f"{figures['recall_at_1_cosine']:.1%}"),
        ("c", number(report.c)),
        ("mean radius", f"{figures['radius_mean']:.3f}"),
    ]
    model = report.recipe.model
    facts = [
        report.data.name,
        f"{model.backbone}, {model.geometry}, {model.embedding_dim}-d",
        f"model {report.model_hash}",
        f"run {report.run.name}",
        f"made {report.made}",
    ]
    return (
        f'<p class="soft">{escape(report.recipe.description)}</p>'
        f'<p class="soft small">{escape(" · ".join(facts))}</p><div class="tiles">'
        + "".join(
            f'<div class="tile"><b>{value}</b><span>{escape(name)}</span></div>' for name, value in tiles if value
        )
        + "</div>"
    )


def _figures(report: Report) -> str:
    rule = report.recipe.selection.rule
    rows, plain = [], []
    for name, value in report.figures.items():
        if name.endswith("_cosine"):
            continue
        if name in COUNTS or name in ("c", "radius_mean", "radius_sd"):
            shown = f"{value:.0f}" if name in COUNTS else f"{value:.4f}"
            plain.append(f'<tr><td><code>{name}</code></td><td class="n">{shown}</td></tr>')
            continue
        cosine = report.figures.get(f"{name}_cosine")
        meaning = next((text for key, text in MEANING.items() if key in name), "")
        if name.startswith("coarse_") and meaning:
            meaning = f"one level up: {meaning}"
        rows.append(
            f'<tr><td><code>{name}</code></td><td class="n">{value:.4f}</td>'
            f'<td class="n">{"" if cosine is None else f"{cosine:.4f}"}</td>'
            f'<td class="soft small optional">{escape(meaning)}</td></tr>'
        )
    alone = ", each query left out of its own gallery" if report.points.leave_one_out else ""
    note = ""
    if report.figures["unreadable"] or report.skipped:
        note = (
            f'<p class="note">{report.figures["unreadable"]:.0f} photos of the protocol could not be read and are left '
            f"out; {report.skipped} were skipped in training.</p>"
        )
    return (
        f"<p><b>Selection rule: {escape(rule)}</b> — {SELECTION.get(rule, 'see the recipe')}.</p>"
        f'<p class="soft">{escape(report.data.name)}: {len(report.points.query)} queries against '
        f"{len(report.points.gallery)} photos{alone}. Figures are fractions.</p>"
        f'{note}<div class="wide"><table><thead><tr><th>measure</th><th class="n">distance</th>'
        f'<th class="n">cosine</th><th class="optional">meaning</th></tr></thead><tbody>{"".join(rows)}</tbody>'
        f"</table></div><h3>Counts and geometry</h3><table><tbody>{''.join(plain)}</tbody></table>"
    )


def _curves(report: Report) -> str:
    if not report.metrics:
        return '<p class="soft">The run folder holds no metrics.jsonl.</p>'
    steps = [float(row["step"] or 0) for row in report.metrics]
    names = list(dict.fromkeys(name for row in report.metrics for name in row))
    terms = [name for name in names if name not in NOT_CURVES]
    loss = report.recipe.loss

    def charts(chosen: Sequence[str]) -> str:
        drawn = []
        for name in chosen:
            weight = getattr(getattr(loss, name, None), "weight", None)
            title = name if weight is None else f"{name} (weight {weight:g})"
            drawn.append(line_chart(title, steps, [row.get(name) for row in report.metrics]))
        return f'<div class="charts">{"".join(drawn)}</div>'

    learned = "learned" if report.recipe.model.learn_curvature else "fixed"
    return (
        f'<p class="soft">Loss of each logged batch; terms before their weights. c is {learned}.</p>'
        f"<h3>Loss and its terms</h3>{charts([n for n in ('loss', *terms) if n in names])}"
        f"<h3>Curvature c, rate, gradient</h3>{charts([n for n in ('c', 'lr', 'gradient_norm') if n in names])}"
    )


def _radii(report: Report) -> str:
    groups = list(report.radii.items())
    if "Hierarchical proxies" in report.radii:
        inside = _share_inside(report.radii["Hierarchical proxies"], report.radii[groups[0][0]])
        proxies = f" {inside:.0%} of the hierarchical proxies lie nearer the origin than the median query."
    else:
        proxies = " This run has no hierarchical proxies."
    chart = histograms(groups, report.ancestor_radii, "radius: geodesic distance from the origin")
    return (
        f'<p class="soft">Geodesic distance from the origin, where general things belong; each histogram is scaled to '
        f"its own tallest bar.{proxies}</p>"
        f'<div class="wide"><div style="min-width:620px">{chart}</div></div>'
    )


def _share_inside(proxies: Sequence[float], items: Sequence[float]) -> float:
    median = sorted(items)[len(items) // 2]
    return sum(value < median for value in proxies) / len(proxies)


def _retrieval(report: Report) -> str:
    rankings, points = report.rankings, report.points
    cards = []
    for row in report.worst:
        photo = points.query_photos[row]
        neighbours = []
        for place in range(rankings.nearest.shape[1]):
            found = points.gallery_photos[int(rankings.nearest[row, place])]
            agreed = int(rankings.agreed[row, place])
            kind, sign, word = _verdict(agreed, rankings.levels)
            distance = float(rankings.distances[row, place])
            if not math.isfinite(distance):  # a leave-one-out gallery smaller than the strip
                continue
            neighbours.append(
                f'<div class="hitbox {kind}" title="{escape("/".join(found.labels))}">{_image(report, found.path)}'
                f'<div class="mark"><b aria-label="{word}">{sign}</b><span>{distance:.2f}</span></div>'
                f'<div class="path">{_labels(found.labels, agreed)}</div></div>'
            )
        cards.append(
            f'<div class="query" data-query="{escape(photo.path.name)}"><div>{_image(report, photo.path)}<div>'
            f'<div class="path" style="margin-top:6px"><b>{escape(" / ".join(photo.labels))}</b></div>'
            f'<div class="small soft">average precision {float(rankings.precision[row]):.3f}<br>'
            f"first right at place {int(rankings.first_right[row])}</div></div></div>"
            f'<div class="strip">{"".join(neighbours)}</div></div>'
        )
    asked = int((rankings.first_right > 0).sum())
    hopeless = int(((rankings.precision == 0) & (rankings.first_right > 0)).sum())
    return (
        f'<p class="soft">The {len(report.worst)} worst of {asked} queries, worst first: least average precision over '
        f"the first R places ({hopeless} queries have 0), then the latest first right place. Numbers are geodesic "
        "distances. <b style='color:var(--good)'>✓</b> right class · <b style='color:var(--near)'>≈</b> wrong, of the "
        "same parent class · <b style='color:var(--bad)'>✗</b> wrong.</p>" + "".join(cards)
    )


def _verdict(agreed: int, levels: int) -> tuple[str, str, str]:
    if agreed == levels:
        return "right", "✓", "right"
    if agreed and agreed == levels - 1:
        return "close", "≈", "same parent class"
    return "wrong", "✗", "wrong"


def _labels(path: tuple[str, ...], agreed: int) -> str:
    """The label path; the part that agrees with the query is set back."""
    same = " / ".join(path[:agreed])
    rest = " / ".join(path[agreed:])
    between = " / " if same and rest else ""
    return f'<span class="same">{escape(same + between)}</span><b>{escape(rest)}</b>'


def _image(report: Report, path: Path) -> str:
    uri = report.thumbnails.get(path)
    return f'<img src="{uri}" alt="" loading="lazy">' if uri else '<div class="gone">no photo</div>'


def _confusion(report: Report) -> str:
    rankings, points = report.rankings, report.points
    pairs = most_confused(points, rankings)
    rows = []
    for pair in pairs:
        query = points.query_photos[pair.example].path
        found = points.gallery_photos[int(rankings.nearest[pair.example, 0])].path
        shared = next(
            (i for i, (a, b) in enumerate(zip(pair.wanted, pair.found, strict=True)) if a != b), rankings.levels
        )
        rows.append(
            f'<tr><td><div class="pair">{_image(report, query)}→{_image(report, found)}</div></td>'
            f"<td>{escape(' / '.join(pair.wanted))}<br>→ {_labels(pair.found, shared)}</td>"
            f'<td class="n">{pair.count} of {pair.asked}</td>'
            f'<td class="n optional">{pair.count / pair.asked:.0%}</td></tr>'
        )
    table = (
        '<div class="wide"><table><thead><tr><th>example</th><th>class → taken for</th>'
        '<th class="n">queries</th><th class="n optional">share</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        if rows
        else "<p>Every first neighbour is of the right class.</p>"
    )
    level = coarse_level(rankings.levels)
    matrix = confusion_matrix(points, rankings, level)
    right = int(matrix.counts.diagonal().sum()) / max(1, int(matrix.counts.sum()))
    left_out = f" {matrix.left_out} classes that are confused least are left out." if matrix.left_out else ""
    return (
        f'<p class="soft">By the class of the first neighbour.</p><h3>Most confused pairs</h3>{table}'
        f"<h3>Level {level} of the label path: {escape('coarse classes' if rankings.levels > 1 else 'classes')}</h3>"
        f'<p class="soft small">Rows: the query. Columns: its first neighbour. Shares of the row; '
        f'{right:.1%} lie on the diagonal.{left_out}</p><div class="wide">{matrix_chart(matrix)}</div>'
    )


def _recipe(report: Report) -> str:
    versions = "".join(
        f"<tr><td>{escape(name)}</td><td><code>{escape(version)}</code></td></tr>"
        for name, version in report.versions.items()
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in report.data.notes)
    return (
        f'<p class="soft">recipe.toml of the run folder, as run.</p><pre>{escape(report.recipe_text)}</pre>'
        + (f"<h3>Notes on the data</h3><ul>{notes}</ul>" if notes else "")
        + f"<h3>Versions that made this report</h3><table><tbody>{versions}</tbody></table>"
    )
