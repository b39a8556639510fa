"""Chapter evaluation: time and memory of a whole test set."""

from benchmarks.chapters.shared import Result, markdown, verdict

TITLE = "Evaluation of a whole test set"


def tables(result: Result) -> str:
    """Seconds, memory and figures of each ranking, against the goal."""
    parameters = result["parameters"]
    lines = [
        [
            row["ranking"],
            f"{row['seconds']:.1f}",
            f"{row['processor_seconds']:.1f}",
            f"{row['peak_bytes'] / 1e9:.2f}",
            f"{row['peak_bytes_before'] / 1e9:.2f}",
            verdict(row["seconds"] <= parameters["goal_seconds"] and row["peak_bytes"] <= parameters["goal_bytes"]),
        ]
        for row in result["rows"]
    ]
    goal = f"at most {parameters['goal_seconds']} s and {parameters['goal_bytes'] / 1e9:.0f} GB"
    table = markdown(["ranking", "seconds", "processor seconds", "peak GB", "of which before", goal], lines)
    words = f"{parameters['photos']:,} photos of {parameters['classes']:,} classes, {parameters['dim']} dimensions"
    return f"{words}, each against all others.\n\n{table}"
