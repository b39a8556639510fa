"""The committed OpenAPI document is the application's, and says what a reader of it needs."""

from pathlib import Path
from typing import Any

import pytest

import service.openapi
from service.schemas.common import ProblemAnswer

from .operations import Operation, document, operations

COMMITTED = Path(service.openapi.__file__).with_name("openapi.json")


def test_the_committed_document_is_the_applications() -> None:
    text = service.openapi.text(document())
    assert COMMITTED.read_text(encoding="utf-8") == text, (
        "routes and service/openapi.json differ: python -m service.openapi > service/openapi.json, and read the change"
    )


def test_operation_ids_are_unique() -> None:
    ids = [operation.id for operation in operations()]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("operation", operations(), ids=lambda operation: operation.id)
def test_every_operation_is_described(operation: Operation) -> None:
    described = operation.description
    assert described["summary"]
    assert len(described["description"]) > 10, "a docstring that teaches"
    assert described["tags"]
    success = {status: answer for status, answer in described["responses"].items() if status.startswith("2")}
    assert success
    for status, answer in success.items():
        content = answer.get("content", {})
        assert content or status == "204", "what comes back"
        for media_type, body in content.items():
            assert media_type != "application/json" or body["schema"], "a model of the answer"
    problems = {
        status: answer for status, answer in described["responses"].items() if not status.startswith(("2", "3"))
    }
    assert problems
    if described["tags"] == ["probes"]:
        problems.pop("503", None)  # what a probe says when something is wrong is its answer
    for answer in problems.values():
        (schema,) = (body["schema"] for body in answer["content"].values())
        assert (list(answer["content"]), schema) == (
            ["application/problem+json"],
            {"$ref": "#/components/schemas/ProblemAnswer"},
        )


def unbounded(schema: dict[str, Any], at: str, seen: frozenset[str] = frozenset()) -> list[str]:
    """Where a request may hold an unknown field, or a number, text or list of any size."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return [] if name in seen else unbounded(document()["components"]["schemas"][name], at, seen | {name})
    if "enum" in schema or "const" in schema:
        return []
    found: list[str] = []
    for part in (each for key in ("anyOf", "oneOf", "allOf") for each in schema.get(key, ())):
        found += unbounded(part, at, seen)
    match schema.get("type"):
        case "object" if "properties" in schema:
            found += [] if schema.get("additionalProperties") is False else [f"{at}: unknown fields"]
            for name, part in schema["properties"].items():
                found += unbounded(part, f"{at}/{name}", seen)
        case "array":
            found += [] if "maxItems" in schema else [f"{at}: items"]
            found += unbounded(schema.get("items", {}), f"{at}[]", seen)
        case "string" if not {"maxLength", "pattern", "format"} & set(schema):
            found += [f"{at}: characters"]
        case "integer" if not {"maximum", "exclusiveMaximum"} & set(schema):
            found += [f"{at}: maximum"]
    return found


# Bounded by the size of a photo, or of the body.
PHOTOS = ("/image", "/images[]")
# Fields and files of a form are bounded by whoever reads it, in number and in bytes: tests/service/test_malformed.py.
BY_THE_READER = ": characters", ": items"


@pytest.mark.parametrize(
    "operation", [each for each in operations() if each.consumes], ids=lambda operation: operation.id
)
def test_requests_are_bounded_and_closed(operation: Operation) -> None:
    found = []
    for media_type, body in operation.description["requestBody"]["content"].items():
        for each in unbounded(body["schema"], media_type):
            by_reader = media_type == "multipart/form-data" and each.endswith(BY_THE_READER)
            if not by_reader and not each.partition(":")[0].endswith(PHOTOS):
                found.append(each)
    assert found == []


def test_a_boundless_request_would_be_seen() -> None:
    boundless = {
        "type": "object",
        "properties": {"a": {"type": "string"}, "b": {"type": "array", "items": {"type": "integer"}}},
    }
    assert unbounded(boundless, "") == [": unknown fields", "/a: characters", "/b: items", "/b[]: maximum"]


def test_problems_are_in_the_document() -> None:
    described = document()["components"]["schemas"]["ProblemAnswer"]
    assert set(described["properties"]) == set(ProblemAnswer.model_fields)
