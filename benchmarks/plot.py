"""Pictures and the tables of README.md, from results/*.json and nothing else.

    python -m benchmarks.plot [--results FOLDER] [--readme FILE] [--pictures FOLDER]

Of each benchmark and machine the newest result is shown. What stands between the markers in README.md is replaced.
"""

import argparse
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib as mpl

from benchmarks.chapters import (
    curvature_stability,
    embed,
    encoder,
    evaluation,
    hierarchy,
    hierarchy_scale,
    metric_learning,
    search,
    serving,
    serving_kills,
    serving_overload,
    serving_slow_clients,
    serving_soak,
    training_step,
)
from benchmarks.chapters.shared import provenance
from benchmarks.common import PROJECT, RESULTS

mpl.use("svg")
# Text as text, and the same file from the same figures.
mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "lhier", "font.size": 9, "font.family": "sans-serif"})
mpl.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "figure.constrained_layout.use": True})

BEGIN, END = "<!-- written by plot.py: begin -->", "<!-- written by plot.py: end -->"
Result = dict[str, Any]


# In the order of README.md.
CHAPTERS: dict[str, ModuleType] = {
    "metric_learning": metric_learning,
    "hierarchy": hierarchy,
    "hierarchy_scale": hierarchy_scale,
    "training_step": training_step,
    "curvature_stability": curvature_stability,
    "encoder": encoder,
    "embed": embed,
    "evaluation": evaluation,
    "search": search,
    "serving": serving,
    "serving_overload": serving_overload,
    "serving_slow_clients": serving_slow_clients,
    "serving_soak": serving_soak,
    "serving_kills": serving_kills,
}


def newest_results(folder: Path) -> dict[tuple[str, str], tuple[Path, Result]]:
    """The newest result of each (benchmark, machine) in ``folder``; kinds that plot.py does not know are left alone."""
    found: dict[tuple[str, str], tuple[Path, Result]] = {}
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(result, dict) or result.get("what") not in CHAPTERS:
            continue
        key = (result["what"], result["machine"]["name"])
        if key not in found or result["date"] > found[key][1]["date"]:
            found[key] = (path, result)
    return found


def write_readme(readme: Path, text: str) -> None:
    """Replace what stands between the markers of ``readme``. Raises ``ValueError`` where they are missing."""
    content = readme.read_text(encoding="utf-8")
    before, begin, rest = content.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{readme}: expected the lines {BEGIN} and {END}, between which the tables are written")
    readme.write_text(f"{before}{BEGIN}\n\n{text.strip()}\n\n{END}{after}", encoding="utf-8")


def main() -> None:
    """Draw every picture and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--readme", type=Path, default=PROJECT / "benchmarks" / "README.md")
    parser.add_argument("--pictures", type=Path, default=PROJECT / "benchmarks" / "pictures")
    arguments = parser.parse_args()
    newest = newest_results(arguments.results)
    parts: list[str] = []
    for what, chapter in CHAPTERS.items():
        for (kind, name), (path, result) in newest.items():
            if kind != what:
                continue
            parts += [f"### {chapter.TITLE}", provenance(result, _link(path, arguments.readme))]
            parts.append(chapter.tables(result))
            if hasattr(chapter, "picture"):
                picture = arguments.pictures / f"{what}_{name}.svg"
                picture.parent.mkdir(parents=True, exist_ok=True)
                chapter.picture(result).savefig(picture, metadata={"Date": None})
                parts.append(f"![{chapter.TITLE}]({_link(picture, arguments.readme)})")
                print(f"drew {picture}")
    write_readme(arguments.readme, "\n\n".join(parts) or "No results yet.")
    print(f"wrote {arguments.readme} from {len(newest)} results")


def _link(target: Path, readme: Path) -> str:
    return Path(os.path.relpath(target.resolve(), readme.resolve().parent)).as_posix()


if __name__ == "__main__":
    main()
