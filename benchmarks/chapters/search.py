"""Chapter search: rates, recall, build time and memory of every engine, and the goals of the index."""

from collections.abc import Callable

from benchmarks.chapters.shared import Result, Row, markdown, verdict

TITLE = "Search"
OURS = ("flat", "ivf", "ivf_exact", "ivf_sq8")


def tables(result: Result) -> str:
    """A table per set, then radius searches, the certificate's cost, and the goals."""
    rows, parameters = result["rows"], result["parameters"]
    parts = [
        f"Recall at {parameters['k']} against float64 over all points, {parameters['queries']} queries. Rates are "
        f"queries a second, medians of {parameters['repeats']} rounds over all engines. Memory is of the rows in "
        "float32; LHIER's exact points lie in a mapped file and are not counted."
    ]
    sets = list(dict.fromkeys(row["set"] for row in rows))
    for name in sets:
        found = [row for row in rows if row["set"] == name and row["part"] == "search"]
        lines = [
            [
                row["name"] + ("" if row["setting"] is None else f" ({row['setting']})"),
                f"{row['recall_at_10']:.4f}",
                f"{1 / row['single_s']:.0f}",
                f"{1 / row['batch_s']:.0f}",
                f"{row['build_s']:.1f}",
                f"{row['memory_of_flat']:.2f}",
            ]
            for row in found
        ]
        title = f"**{name}**, {found[0]['count']:,} x {found[0]['dim']}"
        header = ["", "recall", "one by one", f"by {found[0]['batch']}", "built in s", "memory"]
        parts += [title, markdown(header, lines)]
    radius = [row for row in rows if row["part"] == "radius"]
    if radius:
        lines = [
            [f"{row['set']}, {row['engine']}", *(str(row[key]) for key in ("hits", "missed", "spurious"))]
            for row in radius
        ]
        parts += ["**Radius search**", markdown(["", "hits", "missed", "spurious"], lines)]
    certificates = [row for row in rows if row["part"] == "certificate"]
    if certificates:
        lines = [
            [
                f"{row['set']}, {row['engine']} ({row['generator']})",
                f"{100 * row['cost']:+.0f} %",
                f"{100 * row['uncertified']:.1f} %",
            ]
            for row in certificates
        ]
        parts += ["**The certificate**", markdown(["", "time it adds", "queries scanned again"], lines)]
    goals = [line for name in sets for line in _goals(name, rows)]
    if goals:
        parts += ["**Goals**", markdown(["", "goal", "measured", ""], goals)]
    return "\n\n".join(parts)


def _goals(name: str, rows: list[Row]) -> list[list[str]]:
    """The figures that index.md asks for, of those that this set and these engines can tell."""
    engines = {row["engine"]: row for row in rows if row["set"] == name and row["part"] == "search"}
    kind = name.partition(":")[0]
    lines = []

    def ratio(what: str, one: str, other: str, key: str, least: float) -> None:
        if one in engines and other in engines:
            found = engines[other][key] / engines[one][key]
            lines.append([f"{name}, {what}", f">= {least:g}x", f"{found:.2f}x", verdict(found >= least)])

    def figure(what: str, engine: str, key: str, goal: float, holds: Callable[[float, float], bool], sign: str) -> None:
        if engine in engines:
            found = engines[engine][key]
            lines.append([f"{name}, {what}", f"{sign} {goal:g}", f"{found:.4f}", verdict(holds(found, goal))])

    figure("recall, flat", "flat", "recall_at_10", 1.0, float.__ge__, ">=")
    if kind.startswith("r8.3"):
        ratio("flat against plain flat L2, by 100", "flat", "faiss_l2", "batch_s", 0.5)
        figure("recall, ivf exact", "ivf_exact", "recall_at_10", 1.0, float.__ge__, ">=")
        ratio("ivf exact against float64 brute force, one by one", "ivf_exact", "float64", "single_s", 30)
    if kind in ("tree", "m12"):
        figure("recall, ivf", "ivf", "recall_at_10", 0.99, float.__ge__, ">=")
        figure("recall, ivf_sq8", "ivf_sq8", "recall_at_10", 0.99, float.__ge__, ">=")
        ratio("ivf against FAISS IVF-IP, by 100", "ivf", "faiss_ivf", "batch_s", 1.8 if kind == "tree" else 0.8)
        figure("memory, ivf", "ivf", "memory_of_flat", 1.05, float.__le__, "<=")
        figure("memory, ivf_sq8", "ivf_sq8", "memory_of_flat", 0.30, float.__le__, "<=")
    if kind == "tree":
        large = engines and next(iter(engines.values()))["count"] >= 1_000_000
        ratio("ivf against flat, one by one", "ivf", "faiss_ip", "single_s", 100 if large else 40)
        ratio("ivf against BLAS-flat, by 100", "ivf", "faiss_ip", "batch_s", 15 if large else 6)
        ratio("ivf against NGT, one by one", "ivf", "ngt", "single_s", 2)
        ratio("build of ivf against NGT", "ivf", "ngt", "build_s", 20)
        ratio("ivf against geoopt distance + topk, one by one", "ivf", "geoopt", "single_s", 300)
    lines += [
        [
            f"{name}, radius search, {row['engine']}: missed and spurious",
            "0, 0",
            f"{row['missed']}, {row['spurious']}",
            verdict(row["missed"] == row["spurious"] == 0),
        ]
        for row in rows
        if row["set"] == name and row["part"] == "radius"
    ]
    lines += [
        [
            f"{name}, the certificate's cost, {row['engine']}",
            "<= 10 %",
            f"{100 * row['cost']:+.0f} %",
            verdict(row["cost"] <= 0.1),
        ]
        for row in rows
        if row["set"] == name and row["part"] == "certificate" and not kind.startswith(("r7", "r8"))
    ]
    return lines
