"""Chapter serving_soak: memory over half an hour of mixed use."""

from benchmarks.chapters.shared import Result, markdown, verdict

TITLE = "Long use"
GROWTH_GOAL = 0.01


def tables(result: Result) -> str:
    """Memory by the minute, and its growth."""
    memory = [row for row in result["rows"] if row["what"] == "memory"]
    (summary,) = (row for row in result["rows"] if row["what"] == "summary")
    lines = [[f"{row['minute']:.0f}", f"{row['resident_bytes'] / 1e6:.1f}"] for row in memory[::5]]
    growth = summary["growth_per_10_minutes"]
    return "\n\n".join(
        [
            f"Searches, lists, photos, writes, deletions and bad requests of 8 clients. Growth per 10 minutes after "
            f"{result['parameters']['warm_up']:g} minutes: {100 * growth:.2f} % (goal <= {100 * GROWTH_GOAL:g} %): "
            f"{verdict(growth <= GROWTH_GOAL)}.",
            markdown(["minute", "resident, MB"], lines),
        ]
    )
