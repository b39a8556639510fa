"""Chapter serving_kills: SIGKILL under write load."""

from benchmarks.chapters.shared import Result, markdown

TITLE = "Killed while writing"


def tables(result: Result) -> str:
    """What was acknowledged, looked up and found wrong."""
    (row,) = result["rows"]
    lines = [[name.replace("_", " "), f"{value:g}"] for name, value in row.items() if isinstance(value, int | float)]
    return markdown(["", ""], lines)
