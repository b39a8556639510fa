"""The read key, asked for on every path that shows data; probes, the page's own files and the docs stay open."""

import hashlib
import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.problems import Problem

PROTECTED = "/v1/"


class Authentication:
    """Lets a request for ``/v1`` through when it brings the key, as bearer token or as ``X-API-Key``."""

    def __init__(self, app: ASGIApp, read_key: str) -> None:
        self.app = app
        self._digest = _digest(read_key)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http" and scope["path"].startswith(PROTECTED):
            key = _presented_key(Headers(scope=scope))
            if key is None or not hmac.compare_digest(_digest(key), self._digest):
                what = "this service asks for a key" if key is None else "this key is not the one expected"
                problem = Problem(
                    401,
                    "unauthorized",
                    f"{what}: send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'",
                    headers={"WWW-Authenticate": 'Bearer realm="lhier"'},
                )
                await problem.response(scope)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _presented_key(headers: Headers) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return headers.get("x-api-key")


def _digest(key: str) -> bytes:
    # Equal lengths, so the constant-time comparison does not tell how long the key is.
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
