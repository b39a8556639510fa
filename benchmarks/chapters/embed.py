"""Chapter embed: the whole embedding job beside its encoder."""

from benchmarks.chapters.shared import Result, markdown, verdict

TITLE = "Embedding job"
SHARE_GOAL, RATIO_GOAL = 0.8, 3.0
GOAL_RUNTIME = "OpenVINO float32"


def tables(result: Result) -> str:
    """Photos per second, agreement with torch, goals, and draft decoding."""
    rows, parameters = result["rows"], result["parameters"]
    rates = {row["runtime"]: row for row in rows if row["part"] == "rate"}
    agreement = {row["runtime"]: row for row in rows if row["part"] == "agreement"}
    torchs = rates["torch float32"]["bare_per_s"]
    lines = [
        [
            name,
            f"{row['bare_per_s']:.1f}",
            f"{row['job_per_s']:.1f}" if "job_per_s" in row else "",
            f"{100 * row['job_share']:.0f} %" if "job_share" in row else "",
            f"{row['bare_per_s'] / torchs:.2f}",
            f"{agreement[name]['farthest']:.1e}" if name in agreement else "",
        ]
        for name, row in rates.items()
    ]
    (decoding,) = (row for row in rows if row["part"] == "decoding")
    width, height = parameters["photo_size"]
    parts = [
        f"{parameters['count']} photos of {width} x {height}, {parameters['backbone']} ({parameters['weights']} "
        f"weights), batches of {parameters['batch_size']}. Decoding by itself, on one thread: "
        f"{decoding['photos_per_s']:.0f} a second.",
        markdown(["photos/s", "encoder", "job", "share", "encoder of torch's", "farthest from torch"], lines),
    ]
    if GOAL_RUNTIME in rates:
        ours = rates[GOAL_RUNTIME]
        goals = [("the job's share of its encoder's rate", SHARE_GOAL, ours["job_share"])]
        goals += [
            (f"the job's rate against {name}", RATIO_GOAL, ours["job_per_s"] / rates[name]["bare_per_s"])
            for name in rates
            if name.startswith("torch float32")
        ]
        table = [[what, f"{goal:.2f}", f"{found:.2f}", verdict(found >= goal)] for what, goal, found in goals]
        parts += [f"**Goals**, {GOAL_RUNTIME}", markdown(["", "at least", "measured", ""], table)]
    drafts = [
        [
            f"{row['width']} x {row['height']}",
            f"{row['whole_ms']:.1f}",
            f"{row['draft_ms']:.1f}",
            f"{row['mean_levels']:.2f}",
            f"{row['moved_most']:.2f}",
            f"{row['apart_median']:.2f}",
        ]
        for row in rows
        if row["part"] == "draft"
    ]
    header = ["JPEG", "decoded, ms", "draft, ms", "levels of 255", "points move, at most", "photos lie apart"]
    parts += ["**Draft decoding** (`--draft`, off by default)", markdown(header, drafts)]
    parts += [f"- {row['runtime']}: {row['reason']}" for row in rows if row["part"] == "skipped"]
    return "\n\n".join(parts)
