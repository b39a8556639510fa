"""Chapter hierarchy at scale: what a tree over many items costs."""

from benchmarks.chapters.shared import Result, markdown, verdict

TITLE = "Hierarchy at scale"
# Of 100,000 items: seconds, MB and milliseconds that the tree may take.
MOST_ITEMS, MOST_SECONDS, MOST_MB, MOST_ATTACH_MS = 100_000, 120.0, 4_000.0, 5.0
COLUMNS = {
    "items": "items",
    "nodes": "nodes",
    "build_s": "build, s",
    "peak_mb": "peak, MB",
    "attach_ms": "attach, ms",
    "attach_batch_ms": "attach 256 at a time, ms each",
    "remove_ms": "remove, ms",
    "load_s": "load, s",
    "right_owner": "attached to its own leaf",
}


def tables(result: Result) -> str:
    """A row per size, and the goals at 100,000."""
    lines = []
    for row in result["rows"]:
        shown = [f"{row[name]:,}" if isinstance(row[name], int) else f"{row[name]:.2f}" for name in COLUMNS]
        lines.append(shown)
    parts = [markdown(list(COLUMNS.values()), lines)]
    goals = []
    for row in result["rows"]:
        if row["items"] == MOST_ITEMS:
            for name, most in (("build_s", MOST_SECONDS), ("peak_mb", MOST_MB), ("attach_ms", MOST_ATTACH_MS)):
                goals.append([COLUMNS[name], f"{most:g}", f"{row[name]:.2f}", verdict(row[name] <= most)])
            violations = row["order_violations"]
            goals.append(["nodes nearer the origin than their parent", "0", str(violations), verdict(not violations)])
    if goals:
        parts.append(f"**Goals, {MOST_ITEMS:,} items**\n\n{markdown(['', 'at most', 'measured', ''], goals)}")
    return "\n\n".join(parts)
