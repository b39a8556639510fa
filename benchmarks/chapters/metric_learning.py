"""Chapter metric learning: all losses in one harness."""

from matplotlib.figure import Figure

from benchmarks.chapters.shared import OURS, PEER, Result, markdown, mean_and_sd, percent, verdict

TITLE = "Metric learning"


OUR_METHODS = (
    "SC",
    "SC small gain",
    "PA + SC",
    "0.3 PA + SC",
    "LHIER (paper)",
    "default",
    "default path 0.3",
)
FIGURES = {
    "recall_at_1": "R@1",
    "map_at_r": "MAP@R",
    "coarse_map_at_r": "coarse MAP@R",
    "recall_at_1_cosine": "R@1 by cosine",
}
# What issue 3 asks of a run: protocol, dimensions, method, compared with, figure, at least so many points better.
GOALS = (
    ("P2", 128, "default", "HIER", "map_at_r", 3.0),
    ("P2", 128, "default", "HIER", "recall_at_1", 0.5),
    ("P2", 128, "default", "HIER", "coarse_map_at_r", 3.0),
    ("P2", 128, "default", "Hyp", "recall_at_1", -0.5),
    ("P2", 128, "default", "Hyp", "map_at_r", 1.5),
    ("P2", 32, "default", "HIER", "recall_at_1", 1.0),
    ("P2", 32, "default", "HIER", "map_at_r", 3.0),
    ("P2", 8, "default", "HIER", "recall_at_1", 10.0),
    ("P2", 8, "default", "Hyp", "recall_at_1", -1.0),
    ("P1", 8, "SC small gain", "HIER", "recall_at_1", 8.0),
    ("P1", 8, "SC small gain", "Hyp", "recall_at_1", 2.0),
    ("P1", 128, "default", "HIER", "recall_at_1", -0.5),
)


def tables(result: Result) -> str:
    """A table per protocol and dimension, mean and SD over seeds in percent, then the goals."""
    raw = [row for row in result["rows"] if row["method"] == "raw features"]
    trained = [row for row in result["rows"] if row["method"] != "raw features"]
    figures = mean_and_sd(trained, ("protocol", "dim", "method"), tuple(FIGURES))
    seeds = len({row["seed"] for row in trained})
    parts = [f"Percent, mean ± SD over {seeds} seed{'s' if seeds != 1 else ''}, ranked by geodesic distance."]
    for protocol, dim in dict.fromkeys(key[:2] for key in figures):
        chosen = [(key[2], found) for key, found in figures.items() if key[:2] == (protocol, dim)]
        lines = [
            [method, *(percent(*found[name]) if name in found else "" for name in FIGURES)] for method, found in chosen
        ]
        for row in raw:
            if row["protocol"] == protocol:
                cells = [f"{100 * row[name]:.1f}" if name in row else "" for name in FIGURES]
                lines.append([f"*raw features ({row['dim']}-d, cosine)*", *cells])
        parts.append(f"**{protocol}, {dim} dimensions**\n\n{markdown(['', *FIGURES.values()], lines)}")
    lines = []
    for protocol, dim, method, other, name, least in GOALS:
        ours, theirs = figures.get((protocol, dim, method)), figures.get((protocol, dim, other))
        if ours and theirs:
            gained = 100 * (ours[name][0] - theirs[name][0])
            what = f"{protocol} {dim}-d, {method} against {other}, {FIGURES[name]}"
            lines.append([what, f"{least:+.1f}", f"{gained:+.1f}", verdict(gained >= least)])
    if lines:
        table = markdown(["points", "at least", "measured", ""], lines)
        parts.append(f"**Goals**\n\n{table}")
    return "\n\n".join(parts)


def picture(result: Result) -> Figure:
    """MAP@R of every method, mean and SD over seeds: protocols down, dimensions across."""
    trained = [row for row in result["rows"] if row["method"] != "raw features"]
    groups = mean_and_sd(trained, ("protocol", "dim", "method"), ("map_at_r",))
    protocols, dims, methods = (list(dict.fromkeys(key[i] for key in groups)) for i in range(3))
    size = (3.4 * len(dims) + 1.2, (0.22 * len(methods) + 0.9) * len(protocols))
    figure = Figure(figsize=size)
    panels = figure.subplots(len(protocols), len(dims), squeeze=False, sharey=True)
    for protocol, line in zip(protocols, panels, strict=True):
        for dim, axes in zip(dims, line, strict=True):
            for position, method in enumerate(methods):
                if (protocol, dim, method) not in groups:
                    continue
                mean, sd = groups[protocol, dim, method]["map_at_r"]
                colour = OURS if method in OUR_METHODS else PEER
                axes.errorbar(100 * mean, position, xerr=100 * sd, fmt="o", ms=5, color=colour, capsize=2)
            axes.set_yticks(range(len(methods)), methods)
            axes.set_title(f"{protocol}, {dim} dimensions", loc="left", fontsize=9)
            axes.grid(axis="x", color="#e6e9ec")
            axes.set_axisbelow(True)
    panels[0, 0].invert_yaxis()  # shared by all
    for axes in panels[-1]:
        axes.set_xlabel("MAP@R, %")
    return figure
