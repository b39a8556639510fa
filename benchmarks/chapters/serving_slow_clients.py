"""Chapter serving_slow_clients: what clients that send or read slowly cost the others."""

from benchmarks.chapters.shared import Result, markdown, verdict

TITLE = "Slow clients"
P99_GOAL = 1.5


def tables(result: Result) -> str:
    """p99 of others beside each kind."""
    lines = []
    for row in result["rows"]:
        ratio = row.get("p99_ratio")
        told = ["", ""] if ratio is None else [f"{ratio:.2f}", verdict(ratio <= P99_GOAL and row["always_ready"])]
        lines.append([row["what"], f"{row['rate']:.1f}", f"{row['p50_ms']:.1f}", f"{row['p99_ms']:.1f}", *told])
    return markdown(["", "photos/s", "p50, ms", "p99, ms", f"of alone (<= {P99_GOAL})", ""], lines)
