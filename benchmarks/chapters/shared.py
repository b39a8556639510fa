"""What the chapters share: Markdown tables, means over seeds, the line on where a result comes from."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

Result = dict[str, Any]
Row = dict[str, Any]
OURS, PEER = "#1f6f8b", "#b0b7bf"


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


def percent(mean: float, sd: float) -> str:
    """Mean and SD of a fraction, in percent."""
    return f"{100 * mean:.1f} ± {100 * sd:.1f}"


def verdict(reached: bool) -> str:
    """A goal's verdict."""
    return "reached" if reached else "**missed**"
