"""Chapter serving_overload: four times as many requests as can be answered."""

from benchmarks.chapters.shared import Result, markdown, verdict

TITLE = "Overload"
P99_GOAL, REFUSAL_GOAL_MS = 2.0, 50.0


def tables(result: Result) -> str:
    """Before and during, then the goals."""
    rows = [row for row in result["rows"] if "status" in row]
    (summary,) = (row for row in result["rows"] if row["what"] == "summary")
    lines = [
        [row["what"], str(row["status"]), f"{row['rate']:.1f}", *(f"{row[p]:.1f}" for p in ("p50_ms", "p99_ms"))]
        for row in rows
        if row.get("p50_ms") is not None
    ]
    ratio, refused = summary["p99_ratio"], summary["refused_p99_ms"]
    goals = [
        [
            "p99 of what was accepted, of 16 clients' alone",
            f"<= {P99_GOAL}",
            f"{ratio:.2f}",
            verdict(ratio <= P99_GOAL),
        ],
        [
            "only 200 and 429",
            "yes",
            "yes" if summary["only_200_and_429"] else "no",
            verdict(summary["only_200_and_429"]),
        ],
        ["readyz always 200", "yes", "yes" if summary["always_ready"] else "no", verdict(summary["always_ready"])],
    ]
    if refused is not None:
        reached = verdict(refused <= REFUSAL_GOAL_MS)
        goals.append(["p99 of refusals, ms", f"<= {REFUSAL_GOAL_MS:g}", f"{refused:.1f}", reached])
    return "\n\n".join(
        [
            f"16 clients' rate, then {summary['offered_rate']:.0f} requests a second, whatever comes back, for "
            f"{result['parameters']['seconds']:g} s.",
            markdown(["", "status", "a second", "p50, ms", "p99, ms"], lines),
            markdown(["**Goals**", "goal", "measured", ""], goals),
        ]
    )
