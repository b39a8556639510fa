"""What each operation asks for and how it behaves: its key, whether it streams, whether the store may grow.

One table serves the layers around the application and the OpenAPI document, so that they cannot differ::

    @router.post("/scroll")
    @access("read")          # without it, a POST asks for the write key
    def scroll(...): ...
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from re import Pattern
from types import ModuleType
from typing import Literal, TypeVar

from fastapi import APIRouter
from fastapi.routing import APIRoute

Key = Literal["open", "read", "write"]
Endpoint = TypeVar("Endpoint", bound=Callable[..., object])

PROTECTED = "/v1/"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
UNMATCHED = "unmatched"
_ATTRIBUTE = "access"


@dataclass(frozen=True, slots=True)
class Declared:
    """What a route says of itself; None: by its method."""

    key: Literal["read", "write"] | None = None
    streams: bool = False
    grows: bool | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """What the request at hand asks for. ``route`` is the template, of bounded number, for metrics.

    A request that ``streams`` holds no place and has no deadline while its body comes, which may be as large as
    ``limits.upload_bytes``. One that ``grows`` the store is refused when a quota is used up.
    """

    route: str
    key: Key
    streams: bool = False
    grows: bool = False


def access(
    key: Literal["read", "write"] | None = None, *, streams: bool = False, grows: bool | None = None
) -> Callable[[Endpoint], Endpoint]:
    """Say what the operation behind an endpoint asks for; stands below the router's decorator.

    Without it GET asks for the read key and everything else for the write key; whatever asks for the write key and
    is no DELETE is taken to let the store grow.
    """

    def declare(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _ATTRIBUTE, Declared(key, streams, grows))
        return endpoint

    return declare


def operation_of(method: str, route: str, endpoint: Callable[..., object] | None) -> Operation:
    """What ``method`` on the path template ``route`` asks for; ``endpoint`` None where nothing answers it."""
    declared: Declared = getattr(endpoint, _ATTRIBUTE, Declared())
    if not route.startswith(PROTECTED):
        return Operation(route, "open", declared.streams)
    key = declared.key or ("read" if method in SAFE_METHODS else "write")
    grows = declared.grows if declared.grows is not None else key == "write" and method != "DELETE"
    return Operation(route, key, declared.streams, grows and endpoint is not None)


@dataclass(frozen=True, slots=True)
class _Row:
    pattern: Pattern[str]
    methods: frozenset[str]
    route: str
    endpoint: Callable[..., object]


class Table:
    """The operations of some modules of routes, found as the application finds them: the first that matches."""

    def __init__(self, modules: Iterable[ModuleType]) -> None:
        self._rows = [
            _Row(route.path_regex, frozenset(route.methods or ()), route.path.replace(":path}", "}"), route.endpoint)
            for router in (module.router for module in modules)
            for route in _routes(router)
        ]

    def find(self, method: str, path: str) -> Operation:
        """The operation that answers ``method`` on ``path``, as it is routed. Where none does, what it would ask
        for: nobody without a key learns what there is below ``/v1``."""
        route = None
        for row in self._rows:
            if row.pattern.match(path):
                if method in row.methods:
                    return operation_of(method, row.route, row.endpoint)
                route = route or row.route
        if route is None:
            route = PROTECTED + UNMATCHED if path.startswith(PROTECTED) else UNMATCHED
        return operation_of(method, route, None)

    def described(self, method: str, route: str) -> Operation:
        """The operation of a template, as the OpenAPI document writes it. Raises ``StopIteration`` for none."""
        row = next(row for row in self._rows if row.route == route and method in row.methods)
        return operation_of(method, route, row.endpoint)


def _routes(router: APIRouter) -> Iterable[APIRoute]:
    return (route for route in router.routes if isinstance(route, APIRoute))
