"""What the alerts, their tests and the dashboard in docker/ ask for is what the service exports."""

import json
import re
from pathlib import Path

import httpx
import yaml
from prometheus_client.parser import text_string_to_metric_families

DOCKER = Path(__file__).parents[2] / "docker"


def asked() -> dict[str, set[str]]:
    """Metric names and the labels that the selectors on them name, of every file that holds expressions."""
    dashboard = json.loads((DOCKER / "grafana" / "dashboards" / "lhier.json").read_text())
    alerts = yaml.safe_load((DOCKER / "prometheus" / "alerts.yml").read_text())
    tests = yaml.safe_load((DOCKER / "prometheus" / "alerts_test.yml").read_text())["tests"]
    expressions = [
        *(target["expr"] for panel in dashboard["panels"] for target in panel["targets"]),
        *(rule["expr"] for group in alerts["groups"] for rule in group["rules"]),
        *(series["series"] for test in tests for series in test["input_series"]),
    ]
    found: dict[str, set[str]] = {}
    for expression in expressions:
        for name, selector in re.findall(r"\b(lhier_\w+)(\{[^}]*(?:\{[^}]*\}[^}]*)*\})?", expression):
            found.setdefault(name, set()).update(re.findall(r'(\w+)\s*(?:=~|=)\s*"', selector))
    return found


def test_every_metric_that_is_asked_for_is_exported_with_its_labels(disposable: str) -> None:
    with httpx.Client(base_url=disposable, timeout=30) as client:
        client.get("/v1/info")
        client.post("/v1/collections/nowhere/search", json={"query": {"item_id": "x"}})
        told = client.get("/metrics").raise_for_status().text
    exported: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(told):
        exported.setdefault(f"{family.name}_total" if family.type == "counter" else family.name, set())
        for sample in family.samples:
            exported.setdefault(sample.name, set()).update(sample.labels)
    wanted = asked()
    assert len(wanted) > 15
    assert sorted(set(wanted) - set(exported)) == []
    of_prometheus = {"job", "instance"}
    # What nothing was counted under yet has no labels to compare with.
    wrong = {name: labels - exported[name] - of_prometheus for name, labels in wanted.items() if exported[name]}
    assert {name: labels for name, labels in wrong.items() if labels} == {}
    assert exported["lhier_jobs"] == {"state"}
