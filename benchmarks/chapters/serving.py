"""Chapter serving: search by photo over HTTP beside the bare loop and LitServe."""

from benchmarks.chapters.shared import Result, Row, markdown, verdict

TITLE = "Serving"
SHARE_GOAL, RATIO_GOAL, P95_GOAL = 0.85, 3.0, 1.5
GOAL_CLIENTS = 16
SIZES = ("small", "large")


def _by_system(rows: list[Row], photos: str, clients: int) -> dict[str, Row]:
    return {row["system"]: row for row in rows if row["photos"] == photos and row["clients"] == clients}


def limit(systems: dict[str, Row]) -> Row:
    """The bare loop, at the number of threads with which it was faster."""
    return max((row for name, row in systems.items() if name.startswith("bare")), key=lambda row: row["rate_per_s"])


def tables(result: Result) -> str:
    """Rates and latencies, then the goals."""
    rows, parameters = result["rows"], result["parameters"]
    parts = [
        f"Photos as multipart uploads; a collection of {parameters['count']:,} points; {parameters['backbone']} "
        f"({parameters['weights']} weights), float32. Medians of {parameters['rounds']} rounds of "
        f"{parameters['seconds']:g} s in which the systems take turns. The bare loop decodes, embeds and searches in "
        f"one process without HTTP; with 1 client one photo after the other, else in batches."
    ]
    for photos in SIZES:
        width, height = parameters[photos]
        lines = []
        for clients in sorted({row["clients"] for row in rows if row["photos"] == photos}):
            for name, row in _by_system(rows, photos, clients).items():
                times = [f"{row[key]:.1f}" if key in row else "" for key in ("p50_ms", "p95_ms", "p99_ms")]
                lines.append([name, str(clients), f"{row['rate_per_s']:.1f}", *times, f"{row.get('other', 0):.0f}"])
        header = [f"JPEGs of {width} x {height}", "clients", "photos/s", "p50, ms", "p95, ms", "p99, ms", "not 200"]
        parts.append(markdown(header, lines))
    many, one = _by_system(rows, "small", GOAL_CLIENTS), _by_system(rows, "small", 1)
    goals = []
    if many:
        ours = many["service"]["rate_per_s"]
        share = ours / limit(many)["rate_per_s"]
        reached = verdict(share >= SHARE_GOAL)
        goals.append(["share of the bare loop's rate", f">= {SHARE_GOAL}", f"{share:.2f}", reached])
        for name, row in many.items():
            if name.startswith("LitServe"):
                ratio = ours / row["rate_per_s"]
                goals.append([f"rate against {name}", f">= {RATIO_GOAL}", f"{ratio:.2f}", verdict(ratio >= RATIO_GOAL)])
    if one:
        bare = min(row["p50_ms"] for name, row in one.items() if name.startswith("bare"))
        ratio = one["service"]["p95_ms"] / bare
        told = f"{ratio:.2f}"
        goals.append(["p95 at 1 client, of the bare loop's median", f"<= {P95_GOAL}", told, verdict(ratio <= P95_GOAL)])
    parts += [
        f"**Goals**, {parameters['small'][0]}-px photos, {GOAL_CLIENTS} clients where nothing else is said",
        markdown(["", "goal", "measured", ""], goals),
    ]
    return "\n\n".join(parts)
