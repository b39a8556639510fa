"""Chapter hierarchy: trees over photos never seen, the answers taken from them, and the controls without curvature."""

from matplotlib.figure import Figure

from benchmarks.chapters.shared import OURS, PEER, Result, markdown, mean_and_sd, percent, verdict

TITLE = "Hierarchy"
BASELINE = "PA + SC"
OUR_METHODS = ("default", "hierarchy", "hierarchy + cones", "pseudo-path")
COLUMNS = {
    "grocery": {
        "Trees over the test photos, none of them trained on (purity by level, average linkage; Ward beside it)": {
            "recall_at_1": "R@1",
            "map_at_r": "MAP@R",
            "coarse_map_at_r": "coarse MAP@R",
            "purity_fine": "fine",
            "purity_coarse": "coarse",
            "purity_super": "super",
            "purity_ward_super": "super (Ward)",
            "ancestor_radius_spearman": "Spearman of radius with level",
        },
        "Paths of test photos, in the tree over the training photos, fitted on val.txt": {
            "accuracy_super": "super right",
            "accuracy_coarse": "coarse right",
            "accuracy_fine": "fine right",
            "accuracy_nearest": "fine right by nearest photo",
            "accuracy_coverage_area": "area under accuracy-coverage",
            "stopped_at_root": "stopped at the root",
            "ancestor_level_right": "common ancestor's level right",
            "correct_auroc": "AUROC of being right, specificity",
            "correct_auroc_nearest": "by nearest distance",
        },
        "Probabilities: expected calibration error on test photos; precision at the theta chosen for 95 % on val.txt": {
            "ece_super": "super",
            "ece_coarse": "coarse",
            "ece_fine": "fine",
            "ece_nodes": "nodes",
            "precision_validation": "on val.txt",
            "precision": "on test",
            "answered": "answered",
            "node_precision": "nodes, on test",
        },
    },
    "held_out": {
        "Trees over photos of 27 classes never trained on, and how such photos are told from those of known classes": {
            "purity_fine": "fine",
            "purity_coarse": "coarse",
            "purity_super": "super",
            "near_auroc": "near: AUROC, specificity",
            "near_auroc_nearest": "by nearest distance",
            "near_fpr95": "near: FPR95, specificity",
            "far_auroc": "far: AUROC, specificity",
            "far_auroc_nearest": "by nearest distance",
        },
    },
    "specimens": {
        "Species never trained on: tree distance against true distance (Spearman), over photos and over species": {
            "recall_at_1": "R@1",
            "map_at_r": "MAP@R",
            "purity_fine": "species purity",
            "purity_coarse": "genus purity",
            "true_spearman": "photos",
            "true_spearman_ward": "photos (Ward)",
            "true_spearman_species": "species",
            "true_spearman_species_ward": "species (Ward)",
        },
    },
}
# What the hierarchy's design asks: setting, method, figure, at least so many points above PA + SC in the same run.
GOALS = (
    ("grocery", "default", "recall_at_1", 0.5),
    ("grocery", "default", "map_at_r", 1.0),
    ("grocery", "default", "coarse_map_at_r", 6.0),
    ("grocery", "hierarchy", "coarse_map_at_r", 10.0),
    *(
        ("grocery", method, figure, least)
        for method in ("default", "hierarchy")
        for figure, least in (
            ("purity_fine", -1.5), ("purity_coarse", 10.0), ("purity_super", 25.0), ("ancestor_radius_spearman", 12.0)
        )
    ),
    ("held_out", "default", "purity_super", 12.0),
    ("held_out", "hierarchy", "purity_super", 12.0),
    ("grocery", "pseudo-path", "purity_super", 20.0),
    ("grocery", "pseudo-path", "coarse_map_at_r", 3.0),
)  # fmt: skip
# Setting, figure, its rival in the same row, at least so many points above it.
RIVALS = (
    ("grocery", "correct_auroc", "correct_auroc_nearest", 6.0),
    ("held_out", "near_auroc", "near_auroc_nearest", 1.0),
    ("held_out", "far_auroc", "far_auroc_nearest", -1.0),
)
MOST_ECE = 0.05
LEAST_CUT = 2 / 3


def tables(result: Result) -> str:
    """Percent, mean and SD over seeds, per setting; then the goals."""
    rows = result["rows"]
    seeds = len({row["seed"] for row in rows})
    parts = [f"Percent, mean ± SD over {seeds} seed{'s' if seeds != 1 else ''}."]
    names = sorted({name for row in rows for name, value in row.items() if isinstance(value, int | float)})
    figures = mean_and_sd(rows, ("setting", "method"), names)
    for setting, groups in COLUMNS.items():
        for words, columns in groups.items():
            lines = [
                [method, *(percent(*found[name]) if name in found else "" for name in columns)]
                for (of, method), found in figures.items()
                if of == setting and any(name in found for name in columns)
            ]
            if lines:
                parts.append(f"**{words}**\n\n{markdown(['', *columns.values()], lines)}")
    lines = _goals(figures)
    if lines:
        parts.append(f"**Goals**\n\n{markdown(['points', 'goal', 'measured', ''], lines)}")
    return "\n\n".join(parts)


def _goals(figures: dict[tuple[str, ...], dict[str, tuple[float, float]]]) -> list[list[str]]:
    lines = []
    for setting, method, name, least in GOALS:
        ours, theirs = figures.get((setting, method), {}), figures.get((setting, BASELINE), {})
        if name in ours and name in theirs:
            gained = 100 * (ours[name][0] - theirs[name][0])
            what = f"{setting}, {method} against {BASELINE}, {_words(setting, name)}"
            lines.append([what, f"at least {least:+.1f}", f"{gained:+.1f}", verdict(gained >= least)])
    for setting, name, rival, least in RIVALS:
        for method in ("default", "hierarchy"):
            found = figures.get((setting, method), {})
            if name in found:
                gained = 100 * (found[name][0] - found[rival][0])
                what = f"{setting}, {method}, {_words(setting, name)} against nearest distance"
                lines.append([what, f"at least {least:+.1f}", f"{gained:+.1f}", verdict(gained >= least)])
    for method in ("default", "hierarchy"):
        found, before = figures.get(("grocery", method), {}), figures.get(("grocery", BASELINE), {})
        for level in ("super", "coarse", "fine"):
            if (name := f"ece_{level}") in found:
                error = found[name][0]
                what = f"grocery, {method}, expected calibration error, {level}"
                lines.append([what, f"at most {100 * MOST_ECE:.1f}", f"{100 * error:.1f}", verdict(error <= MOST_ECE)])
        if "stopped_at_root" in found and "stopped_at_root" in before:
            cut = 1 - found["stopped_at_root"][0] / max(before["stopped_at_root"][0], 1e-9)
            what = f"grocery, {method}, paths stopped at the root, cut against {BASELINE}"
            lines.append([what, f"at least {100 * LEAST_CUT:.0f} %", f"{100 * cut:.0f} %", verdict(cut >= LEAST_CUT)])
    violations = max(
        (found["order_violations"][0] for found in figures.values() if "order_violations" in found), default=0
    )
    lines.append(
        ["nodes nearer the origin than their parent, any tree", "0", f"{violations:.0f}", verdict(not violations)]
    )
    return lines


def _words(setting: str, name: str) -> str:
    group = next(words for columns in COLUMNS[setting].values() for key, words in columns.items() if key == name)
    return f"{group} purity" if name.startswith("purity") and "purity" not in group else group


def picture(result: Result) -> Figure:
    """What a tree is worth: purity of its most general level, retrieval, and the true tree of specimens."""
    panels = (
        ("grocery", "map_at_r", "MAP@R, %"),
        ("grocery", "purity_super", "super-class purity of the test tree, %"),
        ("held_out", "purity_super", "... of classes never trained on, %"),
        ("specimens", "true_spearman", "Spearman with the true tree, %"),
    )
    groups = mean_and_sd(result["rows"], ("setting", "method"), tuple(dict.fromkeys(name for _, name, _ in panels)))
    methods = list(dict.fromkeys(method for _, method in groups))
    figure = Figure(figsize=(2.6 * len(panels) + 1.8, 0.24 * len(methods) + 1.0))
    drawn = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for (setting, name, words), axes in zip(panels, drawn, strict=True):
        for place, method in enumerate(methods):
            found = groups.get((setting, method), {})
            if name not in found:
                continue
            mean, sd = found[name]
            colour = OURS if method in OUR_METHODS else PEER
            axes.errorbar(100 * mean, place, xerr=100 * sd, fmt="o", ms=5, color=colour, capsize=2)
        axes.set_yticks(range(len(methods)), methods)
        axes.set_xlabel(words)
        axes.grid(axis="x", color="#e6e9ec")
        axes.set_axisbelow(True)
    drawn[0].invert_yaxis()  # shared by all
    return figure
