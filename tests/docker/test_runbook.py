"""The runbook's figures are those of the result files that it quotes, and its code and settings exist."""

import ast
import json
import re
from typing import Any

from lhier.cli import COMMANDS
from service.settings import ENV_PREFIX, Settings

from .test_images import DOCKER, ROOT

RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()


def quoted(what: str) -> list[dict[str, Any]]:
    """Rows of the one result of a benchmark that the runbook links to."""
    (link,) = set(re.findall(rf"\]\(\.\./(benchmarks/results/{what}_[^)]*\.json)\)", RUNBOOK))
    rows: list[dict[str, Any]] = json.loads((ROOT / link).read_text())["rows"]
    return rows


def test_sizes_are_those_of_the_benchmark() -> None:
    found = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in RUNBOOK.splitlines()
        if re.match(r"\| [\d,]+ \|", line)
    ]
    assert found == [
        [
            f"{row['items']:,}",
            row["kind"],
            f"{row['open_mb'] * 2**20 / 1e6:,.0f} MB",
            *(f"{row[f'{name}_bytes'] / 1e6:,.0f} MB" for name in ("catalogue", "generation", "snapshot")),
        ]
        for row in quoted("store_size")
    ]


def test_figures_in_prose_are_those_of_the_benchmarks() -> None:
    engine = next(row for row in quoted("search") if row.get("engine") == "ivf_sq8" and row["count"] == 200_000)
    assert (
        f"`ivf_sq8` takes {engine['memory_of_flat']:.2f} of flat's memory at recall {engine['recall_at_10']:.3f}"
        in (" ".join(RUNBOOK.split()))
    )
    rates = {row["runtime"]: row["bare_per_s"] for row in quoted("embed") if row["part"] == "rate"}
    said = f"{rates['OpenVINO float32']:.0f} in OpenVINO, {rates['torch float32']:.0f} in torch"
    assert said in " ".join(RUNBOOK.split())


def test_every_command_variable_and_metric_exists() -> None:
    commands = set(re.findall(r"^(?:LHIER_\S+ )*lhier ([a-z]+)", RUNBOOK, re.MULTILINE))
    assert commands >= {"embed", "index", "snapshot", "serve", "hierarchy"}
    assert commands <= set(COMMANDS)
    of_compose = set(re.findall(r"\$\{([A-Z_]+)", (DOCKER / "compose.yaml").read_text()))
    for name in set(re.findall(rf"\b{ENV_PREFIX}[A-Z_]+\b", RUNBOOK)) - of_compose:
        section, _, field = name.removeprefix(ENV_PREFIX).lower().partition("__")
        assert section in Settings.model_fields, name
        if field:
            inner = Settings.model_fields[section].annotation
            assert inner is not None
            assert field in inner.model_fields, name


def test_its_python_is_python() -> None:
    blocks = re.findall(r"```python\n(.*?)```", RUNBOOK, re.DOTALL)
    assert len(blocks) == 1
    ast.parse(blocks[0])


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", RUNBOOK):
        assert (ROOT / "docs" / target).is_file(), target
