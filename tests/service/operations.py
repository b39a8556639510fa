"""The operations of the OpenAPI document, for tests that must hold for every one of them."""

from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import quote

from service.app import create_api

# What stands for a path parameter: something that exists where a body is to be looked at, else something that may not.
EXISTING = {"collection": "default", "item_id": "Fruit"}


@dataclass(frozen=True)
class Operation:
    """One operation; ``consumes`` are the media types of its body."""

    id: str
    method: str
    path: str
    consumes: tuple[str, ...]
    description: dict[str, Any]

    def url(self, **values: str) -> str:
        """The path with its parameters filled in, an existing collection and item where nothing else is given."""
        names = [part.partition("}")[0].removesuffix(":path") for part in self.path.split("{")[1:]]
        path = self.path
        for name in names:
            path = path.replace("{" + name + "}", quote({**EXISTING, **values}.get(name, "none"), safe=""))
        return path


@cache
def document() -> dict[str, Any]:
    """The OpenAPI document of the routes."""
    return deepcopy(create_api().openapi())  # parts of it are the routes' own: what a test changes stays in that test


def operations() -> list[Operation]:
    """All of them."""
    return [
        Operation(each["operationId"], method.upper(), path,
                  tuple(each.get("requestBody", {}).get("content", ())), each)
        for path, item in document()["paths"].items()
        for method, each in item.items()
    ]  # fmt: skip
