"""The OpenAPI document: what FastAPI derives from the routes, made true where it cannot know.

``python -m service.openapi`` prints it; ``service/openapi.json`` is that text, and a test compares them.
"""

import json
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service.access import Table
from service.schemas.common import ProblemAnswer

KEYS = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "The read key, or the write key."},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same, in another header."},
}
SCHEMAS = "#/components/schemas/{model}"


def operation_id(route: APIRoute) -> str:
    """The name of the function that answers: a client's method names read well, and stay when paths move."""
    return route.name


def complete(app: FastAPI, modules: Iterable[ModuleType]) -> None:
    """Have ``app.openapi`` describe what routes of ``modules`` read by hand, and errors as the problems they are.

    A module of routes names the models that only its hand-written descriptions refer to in ``BODY_MODELS``.
    """
    models: list[type[BaseModel]] = [ProblemAnswer]
    for module in modules:
        models += getattr(module, "BODY_MODELS", ())
    generate = app.openapi
    table = Table(modules)

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            _, extra = models_json_schema([(model, "validation") for model in models], ref_template=SCHEMAS)
            schemas = document["components"]["schemas"]
            schemas.update(extra["$defs"])
            # FastAPI describes its own 422; here every error is a problem.
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            for operation in operations(document):
                if "HTTPValidationError" in json.dumps(operation["responses"].get("422", "")):
                    del operation["responses"]["422"]
            document["components"]["securitySchemes"] = KEYS
            for path, methods in document["paths"].items():
                for method, operation in methods.items():
                    # Which key, where keys are set; the layers around the application ask the same table.
                    operation["x-key"] = table.described(method.upper(), path).key
                    operation["security"] = [] if operation["x-key"] == "open" else [{name: []} for name in KEYS]
        assert app.openapi_schema is not None  # noqa: S101 - set by generate()
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every operation of ``document``."""
    for path in document["paths"].values():
        yield from (operation for method, operation in path.items() if method != "parameters")


def text(document: dict[str, Any]) -> str:
    """``document`` as it is committed: sorted where order says nothing, one line per value, so that changes read."""
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    import sys

    from service.app import create_api

    sys.stdout.write(text(create_api().openapi()))
