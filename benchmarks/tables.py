"""Results as Markdown tables, for plot.py."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

Result = dict[str, Any]
Row = dict[str, Any]

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
LOSS_GOAL, OPTIMISER_GOAL = 1 / 20, 2.0


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are figures."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def provenance(result: Result, link: str) -> str:
    """Machine, versions, commit and file of a result, in a line."""
    machine, versions = result["machine"], result["versions"]
    used = ", ".join(f"{name} {version}" for name, version in versions.items())
    changed = " with uncommitted changes" if result["modified"] else ""
    processor = f"{machine['cpu']} ({machine['cores']} cores, {machine['memory_gb']} GB)"
    where = f"{processor}, {machine['gpu']}" if "gpu" in machine else processor
    threads = result["parameters"].get("threads")
    count = f", {threads} thread{'s' if threads != 1 else ''}" if threads else ""
    return f"[{result['date'][:10]}]({link}), commit {result['commit']}{changed}, {where}{count}. {used}."


def mean_and_sd(
    rows: Iterable[Row], by: Sequence[str], figures: Sequence[str]
) -> dict[tuple[Any, ...], dict[str, tuple[float, float]]]:
    """Mean and sample SD (0 for one row) of each figure in each group of rows that agree on ``by``."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in by), []).append(row)
    return {
        key: {
            name: (
                statistics.mean(row[name] for row in group),
                statistics.stdev([row[name] for row in group]) if len(group) > 1 else 0.0,
            )
            for name in figures
            if all(name in row for row in group)
        }
        for key, group in groups.items()
    }


def metric_learning(result: Result) -> str:
    """A table per protocol and dimension, mean and SD over seeds in percent, then the goals."""
    raw = [row for row in result["rows"] if row["method"] == "raw features"]
    trained = [row for row in result["rows"] if row["method"] != "raw features"]
    figures = mean_and_sd(trained, ("protocol", "dim", "method"), tuple(FIGURES))
    seeds = len({row["seed"] for row in trained})
    parts = [f"Percent, mean ± SD over {seeds} seed{'s' if seeds != 1 else ''}, ranked by geodesic distance."]
    for protocol, dim in dict.fromkeys(key[:2] for key in figures):
        chosen = [(key[2], found) for key, found in figures.items() if key[:2] == (protocol, dim)]
        lines = [
            [method, *(_percent(*found[name]) if name in found else "" for name in FIGURES)] for method, found in chosen
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
            lines.append([what, f"{least:+.1f}", f"{gained:+.1f}", _reached(gained >= least)])
    if lines:
        table = markdown(["points", "at least", "measured", ""], lines)
        parts.append(f"**Goals**\n\n{table}")
    return "\n\n".join(parts)


def _percent(mean: float, sd: float) -> str:
    return f"{100 * mean:.1f} ± {100 * sd:.1f}"


def _reached(reached: bool) -> str:
    return "reached" if reached else "**missed**"


def training_step(result: Result) -> str:
    """Times of the loss per batch size, and of the optimisers."""
    parts = []
    loss = [row for row in result["rows"] if row["part"] == "loss"]
    for batch in dict.fromkeys(row["batch"] for row in loss):
        rows = [row for row in loss if row["batch"] == batch]
        parts.append(f"**Loss step, batch {batch}** (triplets per image + per proxy)\n\n{_times(rows)}")
    optimisers = [row for row in result["rows"] if row["part"] == "optimiser"]
    parameters = result["parameters"]
    shape = f"{parameters['proxies']} points of {parameters['dim']} dimensions"
    parts.append(f"**Optimiser step**, {shape}\n\n{_times(optimisers)}")
    lines = []
    for row in loss:
        if row["name"] == "LHIER, 6+3":
            words = f"loss step of the recipes, batch {row['batch']}, against the loop of {row['of'].split(', ')[1]}"
            lines.append([words, f"{LOSS_GOAL:.3f}", f"{row['ratio']:.3f}", _reached(row["ratio"] <= LOSS_GOAL)])
    for row in optimisers:
        if row["name"].startswith("Riemannian") and "ratio" in row:
            words = f"{row['name']} against {row['of']}"
            lines.append([words, f"{OPTIMISER_GOAL:.1f}", f"{row['ratio']:.2f}", _reached(row["ratio"] <= 2.0)])
    if lines:
        parts.append(f"**Goals**\n\n{markdown(['ratio of medians', 'at most', 'measured', ''], lines)}")
    return "\n\n".join(parts)


def _times(rows: Sequence[Row]) -> str:
    lines = [
        [
            row["name"],
            f"{row['median_s'] * 1e3:.2f}",
            f"{row['min_s'] * 1e3:.2f}",
            f"{row['max_s'] * 1e3:.2f}",
            f"{row['ratio']:.3f}" if "ratio" in row else "",
        ]
        for row in rows
    ]
    reference = next((row["of"] for row in rows if "of" in row), "")
    return markdown(["", "median ms", "least ms", "most ms", f"of {reference}" if reference else ""], lines)


def encoder(result: Result) -> str:
    """Images per second per batch size beside the agreement with torch float32, per backbone; what was skipped."""
    parts = []
    rows = result["rows"]
    for backbone in dict.fromkeys(row["backbone"] for row in rows):
        own = [row for row in rows if row["backbone"] == backbone]
        batches = list(dict.fromkeys(row["batch"] for row in own if row["part"] == "speed"))
        speed = {(row["runtime"], row["batch"]): row["images_per_s"] for row in own if row["part"] == "speed"}
        agree = {row["runtime"]: row for row in own if row["part"] == "agreement"}
        lines = [
            [
                runtime,
                *(f"{speed[runtime, batch]:.1f}" for batch in batches),
                f"{found['cosine_mean']:.5f}",
                f"{found['cosine_min']:.5f}",
                f"{found['relative_error']:.1e}",
                f"{found['geodesic_max']:.1e}",
            ]
            for runtime, found in agree.items()
        ]
        header = ["images/s", *(f"batch {batch}" for batch in batches)]
        table = markdown([*header, "mean cosine", "least cosine", "relative error", "farthest"], lines)
        scale = next(row["geodesic_median"] for row in own if row["part"] == "scale")
        note = f"Different images lie {scale:.2f} apart (median geodesic distance)."
        skipped = [f"- {row['runtime']}: {row['reason']}" for row in own if row["part"] == "skipped"]
        parts.append("\n\n".join([f"**{backbone}** ({own[0]['weights']} weights)", table, note, *skipped]))
    return "\n\n".join(parts)


def evaluation(result: Result) -> str:
    """Seconds, memory and figures of each ranking, against the goal."""
    parameters = result["parameters"]
    lines = [
        [
            row["ranking"],
            f"{row['seconds']:.1f}",
            f"{row['processor_seconds']:.1f}",
            f"{row['peak_bytes'] / 1e9:.2f}",
            f"{row['peak_bytes_before'] / 1e9:.2f}",
            _reached(row["seconds"] <= parameters["goal_seconds"] and row["peak_bytes"] <= parameters["goal_bytes"]),
        ]
        for row in result["rows"]
    ]
    goal = f"at most {parameters['goal_seconds']} s and {parameters['goal_bytes'] / 1e9:.0f} GB"
    table = markdown(["ranking", "seconds", "processor seconds", "peak GB", "of which before", goal], lines)
    words = f"{parameters['photos']:,} photos of {parameters['classes']:,} classes, {parameters['dim']} dimensions"
    return f"{words}, each against all others.\n\n{table}"
