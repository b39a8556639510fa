"""Writes that the quotas leave no room for are refused before their body is read."""

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.middleware.lookup import operation
from service.operation.quotas import Quotas
from service.problems import Problem


class Quota:
    """Asks the quotas about every request that lets the store grow, by the length it announces."""

    def __init__(self, app: ASGIApp, quotas: Quotas) -> None:
        self.app = app
        self.quotas = quotas

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http" and operation(scope).grows:
            announced = Headers(scope=scope).get("content-length", "")
            size = int(announced) if announced.isascii() and announced.isdigit() else 0
            try:
                await run_in_threadpool(self.quotas.require, size)
            except Problem as problem:
                await problem.response(scope)(scope, receive, send)
                return
        await self.app(scope, receive, send)
