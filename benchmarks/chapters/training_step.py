"""Chapter training step: the loss and the optimisers."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from benchmarks.chapters.shared import OURS, PEER, Result, Row, markdown, verdict

TITLE = "Training step"
LOSS_GOAL, OPTIMISER_GOAL = 1 / 20, 2.0


def tables(result: Result) -> str:
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
            lines.append([words, f"{LOSS_GOAL:.3f}", f"{row['ratio']:.3f}", verdict(row["ratio"] <= LOSS_GOAL)])
    for row in optimisers:
        if row["name"].startswith("Riemannian") and "ratio" in row:
            words = f"{row['name']} against {row['of']}"
            lines.append(
                [words, f"{OPTIMISER_GOAL:.1f}", f"{row['ratio']:.2f}", verdict(row["ratio"] <= OPTIMISER_GOAL)]
            )
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


def picture(result: Result) -> Figure:
    """Median milliseconds of each loss and optimiser step."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in result["rows"]:
        title = f"loss step, batch {row['batch']}" if row["part"] == "loss" else "optimiser step"
        groups.setdefault(title, []).append(row)
    figure = Figure(figsize=(7.5, 0.28 * len(result["rows"]) + 0.75 * len(groups)))
    panels = figure.subplots(
        len(groups), 1, squeeze=False, height_ratios=[len(rows) + 1 for rows in groups.values()]
    ).ravel()
    for (title, rows), axes in zip(groups.items(), panels, strict=True):
        milliseconds = [row["median_s"] * 1e3 for row in rows]
        colours = [OURS if row["name"].startswith(("LHIER", "Riemannian")) else PEER for row in rows]
        bars = axes.barh([row["name"] for row in rows], milliseconds, color=colours, height=0.65)
        axes.bar_label(bars, [f" {value:.0f} ms" if value >= 100 else f" {value:.3g} ms" for value in milliseconds])
        axes.set_xlim(0, max(milliseconds) * 1.15)
        axes.set_title(title, loc="left", fontsize=9)
        axes.invert_yaxis()
    return figure
