"""Which operation a request asks for, found before anything is decided about it."""

from starlette.types import ASGIApp, Receive, Scope, Send

from service.access import Operation, Table


class Lookup:
    """Notes the :class:`~service.access.Operation` of each request, for the layers below and for the metrics."""

    def __init__(self, app: ASGIApp, table: Table) -> None:
        self.app = app
        self.table = table

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http":
            scope["state"]["operation"] = self.table.find(scope["method"], scope["path"])
        await self.app(scope, receive, send)


def operation(scope: Scope) -> Operation:
    """The operation that the request of ``scope`` asks for."""
    found = scope["state"]["operation"]
    assert isinstance(found, Operation)  # noqa: S101 - Lookup stands above whoever asks
    return found
