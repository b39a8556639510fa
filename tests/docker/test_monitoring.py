"""Alerts, their tests, the dashboard and the runbook speak of the same things, and of what the service exports."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings

from .test_images import DOCKER, ROOT, run_tool

RULES = DOCKER / "prometheus" / "alerts.yml"
DASHBOARD = DOCKER / "grafana" / "dashboards" / "lhier.json"


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def dashboard_expressions() -> list[str]:
    return [each["expr"] for panel in json.loads(DASHBOARD.read_text())["panels"] for each in panel["targets"]]


@pytest.mark.parametrize(
    "arguments", ["check config prometheus.yml", "check rules alerts.yml", "test rules alerts_test.yml"]
)
def test_promtool_is_content(arguments: str) -> None:
    *words, file = arguments.split()
    assert "SUCCESS" in run_tool("promtool", *words, DOCKER / "prometheus" / file)


def test_every_alert_is_tested_firing_and_silent() -> None:
    cases = yaml.safe_load((RULES.parent / "alerts_test.yml").read_text())["tests"]
    seen = {(case["alertname"], bool(case["exp_alerts"])) for test in cases for case in test["alert_rule_test"]}
    assert seen == {(rule["alert"], fires) for rule in alerts() for fires in (True, False)}


def test_every_alert_has_its_section_in_the_runbook() -> None:
    runbook = (ROOT / "docs" / "runbook.md").read_text()
    sections = {heading.lower() for heading in re.findall(r"^#+ (Lhier\w+)$", runbook, re.MULTILINE)}
    linked = {rule["annotations"]["runbook"] for rule in alerts()}
    assert linked == {f"docs/runbook.md#{rule['alert'].lower()}" for rule in alerts()}
    assert sections == {rule["alert"].lower() for rule in alerts()}


def test_the_disks_threshold_lies_above_the_limit_it_warns_of() -> None:
    settings = Settings(checkpoint=Path("c"), store=Path("s"))
    last = {rule["alert"]: rule["expr"].split()[-1] for rule in alerts()}
    assert float(last["LhierDiskNearlyFull"]) > 2 * settings.quotas.free_disk_bytes


def test_grafana_finds_its_data_source_and_its_dashboards() -> None:
    sources = yaml.safe_load((DOCKER / "grafana/provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    dashboard = json.loads(DASHBOARD.read_text())
    used = {each["datasource"]["uid"] for panel in dashboard["panels"] for each in [panel, *panel["targets"]]}
    assert used == {source["uid"] for source in sources}
    provider = yaml.safe_load((DOCKER / "grafana/provisioning/dashboards/lhier.yaml").read_text())["providers"][0]
    mounts = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]["grafana"]["volumes"]
    assert f"./{Path('grafana/dashboards')}:{provider['options']['path']}:ro" in mounts


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
