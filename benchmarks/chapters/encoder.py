"""Chapter encoder: runtimes on a CPU."""

from matplotlib.figure import Figure

from benchmarks.chapters.shared import OURS, Result, markdown

TITLE = "Encoder on a CPU"


def tables(result: Result) -> str:
    """Images per second per batch size beside the agreement with torch float32, per backbone; what was skipped."""
    parts = []
    rows = result["rows"]
    for backbone in dict.fromkeys(row["backbone"] for row in rows):
        own = [row for row in rows if row["backbone"] == backbone]
        batches = list(dict.fromkeys(row["batch"] for row in own if row["part"] == "speed"))
        speed = {(row["runtime"], row["batch"]): row["images_per_s"] for row in own if row["part"] == "speed"}
        agree = {row["runtime"]: row for row in own if row["part"] == "agreement"}
        lines = [
            [
                runtime,
                *(f"{speed[runtime, batch]:.1f}" for batch in batches),
                f"{found['cosine_mean']:.5f}",
                f"{found['cosine_min']:.5f}",
                f"{found['relative_error']:.1e}",
                f"{found['geodesic_max']:.1e}",
            ]
            for runtime, found in agree.items()
        ]
        header = ["images/s", *(f"batch {batch}" for batch in batches)]
        table = markdown([*header, "mean cosine", "least cosine", "relative error", "farthest"], lines)
        scale = next(row["geodesic_median"] for row in own if row["part"] == "scale")
        note = f"Different images lie {scale:.2f} apart (median geodesic distance)."
        skipped = [f"- {row['runtime']}: {row['reason']}" for row in own if row["part"] == "skipped"]
        parts.append("\n\n".join([f"**{backbone}** ({own[0]['weights']} weights)", table, note, *skipped]))
    return "\n\n".join(parts)


def picture(result: Result) -> Figure:
    """Images per second: a panel per backbone, a group per runtime, a bar per batch size."""
    speed = [row for row in result["rows"] if row["part"] == "speed"]
    backbones, runtimes, batches = (
        list(dict.fromkeys(row[key] for row in speed)) for key in ("backbone", "runtime", "batch")
    )
    figure = Figure(figsize=(4.4 * len(backbones) + 1.6, 0.5 * len(runtimes) + 1.4))
    panels = figure.subplots(1, len(backbones), squeeze=False, sharey=True).ravel()
    shades = [0.35 + 0.65 * (i + 1) / len(batches) for i in range(len(batches))]
    height = 0.8 / len(batches)
    for backbone, axes in zip(backbones, panels, strict=True):
        rate = {(r["runtime"], r["batch"]): r["images_per_s"] for r in speed if r["backbone"] == backbone}
        for number, (batch, shade) in enumerate(zip(batches, shades, strict=True)):
            places = [i + (number - (len(batches) - 1) / 2) * height for i in range(len(runtimes))]
            values = [rate.get((runtime, batch), 0.0) for runtime in runtimes]
            bars = axes.barh(places, values, height=height * 0.9, color=OURS, alpha=shade, label=f"batch {batch}")
            axes.bar_label(bars, [f" {value:.0f}" if value else "" for value in values], fontsize=7)
        axes.set_yticks(range(len(runtimes)), runtimes)
        axes.set_title(backbone, loc="left", fontsize=9)
        axes.set_xlabel("images/s")
        axes.margins(x=0.12)
    panels[0].invert_yaxis()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=len(batches))
    return figure
