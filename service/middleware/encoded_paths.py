"""Item ids may hold slashes: keep the percent-encoding of a collection's paths until they are routed."""

from starlette.types import ASGIApp, Receive, Scope, Send

PREFIX = "/v1/collections/"


class EncodedPaths:
    """Routes ``/v1/collections/...`` by the path as it was sent.

    Servers hand over decoded paths, in which ``items/a%2Fimage`` (item "a/image") and ``items/a/image`` (the image
    of item "a") look the same. With the encoding kept they differ, and the routes decode their parameters.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        raw = scope.get("raw_path")
        if scope["type"] == "http" and raw and scope["path"].startswith(PREFIX):
            scope = {**scope, "path": raw.decode("ascii", "replace")}
        await self.app(scope, receive, send)
