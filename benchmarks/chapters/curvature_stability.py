"""Chapter curvature stability: the aware step beside the naive order."""

from benchmarks.chapters.shared import Result, Row, markdown, verdict

TITLE = "Learned curvature, a thousand steps"
GOAL = 1e-5


def tables(result: Result) -> str:
    """Worst violation of the constraints over all steps, for each order of steps, precision and start."""
    lines = [
        [
            f"{row['order']}, {row['precision']}, {row['start'].replace('_', ' ')}",
            f"{row['worst_point_violation']:.1e}",
            f"{row['worst_tangent_violation']:.1e}",
            str(row["first_step_not_finite"] or "none"),
            f"{row['c_min']:.2f} to {row['c_max']:.2f}",
            _judge(row),
        ]
        for row in result["rows"]
    ]
    steps = result["parameters"]["steps"]
    words = f"Worst relative error of the time entries of points and momenta in {steps:,} steps; goal: {GOAL:.0e}."
    header = ["order, precision, start", "points", "momentum", "first step not finite", "c", ""]
    return f"{words}\n\n{markdown(header, lines)}"


def _judge(row: Row) -> str:
    if row["order"] != "aware":
        return "for comparison"
    worst = max(row["worst_point_violation"], row["worst_tangent_violation"])
    return verdict(row["first_step_not_finite"] is None and worst <= GOAL)
