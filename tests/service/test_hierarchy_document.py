"""The operations of the tree, with what schemathesis makes of them, where there is a tree: answers are as described."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from service.server import running_server
from service.settings import Settings

from .conftest import INFERENCE, Trip
from .grove import build_tree
from .operations import document

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
ITEMS = ({"item_id": "Fruit"}, {"item_id": "scroll"})

schema = schemathesis.openapi.from_dict(document()).include(path_regex="/hierarchy/")
schema.config.generation.update(modes=[GenerationMode.POSITIVE])
answered: set[str] = set()


@pytest.fixture(scope="module")
def wooded(trip: Trip, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A server whose default collection has a tree, and a node of that."""
    store = shutil.copytree(trip.store, Path(tmp_path_factory.mktemp("wooded")) / "store")
    build_tree(store / "collections" / "default")
    with running_server(Settings(checkpoint=trip.checkpoint, store=store, port=0, inference=INFERENCE)) as url:
        yield url, httpx.get(f"{url}/v1/collections/default/hierarchy/nodes").json()["nodes"][1]["id"]


@pytest.mark.slow
@schema.parametrize()
@settings(
    max_examples=16, phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
def test_operation(case: schemathesis.Case, wooded: tuple[str, str]) -> None:
    url, node = wooded
    case.path_parameters["collection"] = "default"
    if "node_id" in case.path_parameters:
        case.path_parameters["node_id"] = node
    for name in {"node", "parent", "cursor"} & case.query.keys():
        if name == "cursor" or len(case.query[name]) % 2:
            del case.query[name]
    if case.media_type == "application/json" and isinstance(case.body, dict):  # what is asked about exists
        asked = {"queries": list(ITEMS), "query": ITEMS[0], "to": ITEMS[1]}
        # A new body: that of an example is the document's own.
        case.body = case.body | {name: items for name, items in asked.items() if name in case.body}
    response = case.call_and_validate(base_url=url, checks=CHECKS, timeout=30)
    if response.status_code == 200:
        answered.add(case.operation.label)


@pytest.mark.slow
def test_every_operation_was_answered(wooded: tuple[str, str]) -> None:
    assert answered == {operation.ok().label for operation in schema.get_all_operations()}
