"""What all methods of the client share: paths, parameters, and which operation each calls."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel

from service.client.transport import Transport, parse
from service.schemas.info import Info

Method = TypeVar("Method", bound=Callable[..., Any])


def calls(*operations: str) -> Callable[[Method], Method]:
    """Say which operations of the OpenAPI document a method calls; a test looks whether any is left out."""

    def declare(method: Method) -> Method:
        method.operations = operations  # type: ignore[attr-defined]
        return method

    return declare


class Base:
    """A transport, and what every method needs to know of the server."""

    _default: str | None = None

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @calls("info")
    def info(self) -> Info:
        """Version, model, limits and collections."""
        return parse(Info, self._get("/v1/info"))

    def _in(self, collection: str | None) -> str:
        if collection is None:
            # Only search has a path of its own for the default collection.
            self._default = self._default or self.info().default_collection
            collection = self._default
        return f"/v1/collections/{quoted(collection)}"

    def _item(self, item_id: str, collection: str | None) -> str:
        return f"{self._in(collection)}/items/{quoted(item_id)}"

    def _get(self, path: str, **query: Any) -> httpx.Response:
        return self._transport.request("GET", path, params=given(**query))

    def _tree(self, collection: str | None, part: str, **query: Any) -> httpx.Response:
        return self._get(f"{self._in(collection)}/hierarchy/{part}", **query)

    def _post(self, collection: str | None, part: str, body: BaseModel) -> httpx.Response:
        return self._transport.request("POST", f"{self._in(collection)}/{part}", body)


def given(**values: Any) -> dict[str, Any]:
    """Those that are not None: the others are left to the server."""
    return {name: value for name, value in values.items() if value is not None}


def as_tuple(values: Iterable[Any] | None) -> tuple[Any, ...] | None:
    """None stays None."""
    return None if values is None else tuple(values)


def quoted(text: str) -> str:
    """``text`` as one part of a path."""
    return quote(text, safe="")
