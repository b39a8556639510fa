"""Pictures and the tables of README.md, from results/*.json and nothing else.

    python -m benchmarks.plot [--results FOLDER] [--readme FILE] [--pictures FOLDER]

Of each benchmark and machine the newest result is shown. What stands between the markers in README.md is replaced.
"""

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

from benchmarks import tables
from benchmarks.common import PROJECT, RESULTS

mpl.use("svg")
# Text as text, and the same file from the same figures.
mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "lhier", "font.size": 9, "font.family": "sans-serif"})
mpl.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "figure.constrained_layout.use": True})

from matplotlib.figure import Figure  # noqa: E402 - after the backend is chosen

BEGIN, END = "<!-- written by plot.py: begin -->", "<!-- written by plot.py: end -->"
OURS, PEER = "#1f6f8b", "#b0b7bf"
Result = dict[str, Any]


@dataclass(frozen=True)
class Chapter:
    """How one benchmark is shown."""

    title: str
    tables: Callable[[Result], str]
    picture: Callable[[Result], Figure] | None


def metric_learning_picture(result: Result) -> Figure:
    """MAP@R of every method, mean and SD over seeds: protocols down, dimensions across."""
    trained = [row for row in result["rows"] if row["method"] != "raw features"]
    groups = tables.mean_and_sd(trained, ("protocol", "dim", "method"), ("map_at_r",))
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
                colour = OURS if method in tables.OUR_METHODS else PEER
                axes.errorbar(100 * mean, position, xerr=100 * sd, fmt="o", ms=5, color=colour, capsize=2)
            axes.set_yticks(range(len(methods)), methods)
            axes.set_title(f"{protocol}, {dim} dimensions", loc="left", fontsize=9)
            axes.grid(axis="x", color="#e6e9ec")
            axes.set_axisbelow(True)
    panels[0, 0].invert_yaxis()  # shared by all
    for axes in panels[-1]:
        axes.set_xlabel("MAP@R, %")
    return figure


def training_step_picture(result: Result) -> Figure:
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


def encoder_picture(result: Result) -> Figure:
    """Images per second: a panel per backbone, a group per runtime, a bar per batch size."""
    speed = [row for row in result["rows"] if row["part"] == "speed"]
    backbones, runtimes, batches = (
        list(dict.fromkeys(row[key] for row in speed)) for key in ("backbone", "runtime", "batch")
    )
    figure = Figure(figsize=(4.4 * len(backbones) + 1.6, 0.5 * len(runtimes) + 1.4))
    panels = figure.subplots(1, len(backbones), squeeze=False, sharey=True).ravel()
    shades = [0.35 + 0.65 * (i + 1) / len(batches) for i in range(len(batches))]
    height = 0.8 / len(batches)
    for backbone, axes in zip(backbones, panels, strict=True):
        rate = {(r["runtime"], r["batch"]): r["images_per_s"] for r in speed if r["backbone"] == backbone}
        for number, (batch, shade) in enumerate(zip(batches, shades, strict=True)):
            places = [i + (number - (len(batches) - 1) / 2) * height for i in range(len(runtimes))]
            values = [rate.get((runtime, batch), 0.0) for runtime in runtimes]
            bars = axes.barh(places, values, height=height * 0.9, color=OURS, alpha=shade, label=f"batch {batch}")
            axes.bar_label(bars, [f" {value:.0f}" if value else "" for value in values], fontsize=7)
        axes.set_yticks(range(len(runtimes)), runtimes)
        axes.set_title(backbone, loc="left", fontsize=9)
        axes.set_xlabel("images/s")
        axes.margins(x=0.12)
    panels[0].invert_yaxis()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=len(batches))
    return figure


CHAPTERS = {
    "metric_learning": Chapter("Metric learning", tables.metric_learning, metric_learning_picture),
    "training_step": Chapter("Training step", tables.training_step, training_step_picture),
    "encoder": Chapter("Encoder on a CPU", tables.encoder, encoder_picture),
    "evaluation": Chapter("Evaluation of a whole test set", tables.evaluation, None),
}


def newest_results(folder: Path) -> dict[tuple[str, str], tuple[Path, Result]]:
    """The newest result of each (benchmark, machine) in ``folder``; kinds that plot.py does not know are left alone."""
    found: dict[tuple[str, str], tuple[Path, Result]] = {}
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(result, dict) or result.get("what") not in CHAPTERS:
            continue
        key = (result["what"], result["machine"]["name"])
        if key not in found or result["date"] > found[key][1]["date"]:
            found[key] = (path, result)
    return found


def write_readme(readme: Path, text: str) -> None:
    """Replace what stands between the markers of ``readme``. Raises ``ValueError`` where they are missing."""
    content = readme.read_text(encoding="utf-8")
    before, begin, rest = content.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{readme}: expected the lines {BEGIN} and {END}, between which the tables are written")
    readme.write_text(f"{before}{BEGIN}\n\n{text.strip()}\n\n{END}{after}", encoding="utf-8")


def main() -> None:
    """Draw every picture and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--readme", type=Path, default=PROJECT / "benchmarks" / "README.md")
    parser.add_argument("--pictures", type=Path, default=PROJECT / "benchmarks" / "pictures")
    arguments = parser.parse_args()
    newest = newest_results(arguments.results)
    parts: list[str] = []
    for what, chapter in CHAPTERS.items():
        for (kind, name), (path, result) in newest.items():
            if kind != what:
                continue
            parts += [f"### {chapter.title}", tables.provenance(result, _link(path, arguments.readme))]
            parts.append(chapter.tables(result))
            if chapter.picture is not None:
                picture = arguments.pictures / f"{what}_{name}.svg"
                picture.parent.mkdir(parents=True, exist_ok=True)
                chapter.picture(result).savefig(picture, metadata={"Date": None})
                parts.append(f"![{chapter.title}]({_link(picture, arguments.readme)})")
                print(f"drew {picture}")
    write_readme(arguments.readme, "\n\n".join(parts) or "No results yet.")
    print(f"wrote {arguments.readme} from {len(newest)} results")


def _link(target: Path, readme: Path) -> str:
    return Path(os.path.relpath(target.resolve(), readme.resolve().parent)).as_posix()


if __name__ == "__main__":
    main()
