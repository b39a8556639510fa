"""Keys: the read key where data is shown, the write key where something changes; probes, page and docs stay open."""

import hashlib
import hmac
from collections.abc import Iterable

from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.middleware.lookup import operation
from service.problems import Problem
from service.settings import AuthSettings

HOW_TO = "send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'"


class Authentication:
    """Lets a request through when it brings the key that its operation asks for.

    Without any key set everything is open. With a write key alone, reading is. With a read key alone nobody may
    change anything. The write key opens both, former keys what they opened.
    """

    def __init__(self, app: ASGIApp, auth: AuthSettings) -> None:
        self.app = app
        self._readers = _digests(auth.read_key, auth.former_read_keys)
        self._writers = _digests(auth.write_key, auth.former_write_keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        problem = self._refusal(scope) if scope["type"] == "http" else None
        if problem is None:
            await self.app(scope, receive, send)
        else:
            await problem.response(scope)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Problem | None:
        asked = operation(scope).key
        if asked == "open" or not (self._readers or self._writers):
            return None
        key = presented_key(Headers(scope=scope))
        digest = b"" if key is None else _digest(key.encode("latin-1"))  # as it came over the wire
        # Both always, each to its end: the time taken tells nothing about which key was nearly right.
        reads, writes = _is_among(digest, self._readers), _is_among(digest, self._writers)
        if asked == "read":
            return None if reads or writes or not self._readers else _unauthorized(key, "a key")
        if writes:
            return None
        if not self._writers and reads:
            return Problem(403, "read_only", "nothing can be changed here: this service has no write key")
        if reads:
            return Problem(403, "forbidden", f"changing something asks for the write key: {HOW_TO}")
        return _unauthorized(key, "a key" if self._readers else "a key for whoever changes something")


def _unauthorized(key: str | None, what: str) -> Problem:
    said = f"this service asks for {what}" if key is None else "this key is not the one expected"
    return Problem(401, "unauthorized", f"{said}: {HOW_TO}", headers={"WWW-Authenticate": 'Bearer realm="lhier"'})


def presented_key(headers: Headers) -> str | None:
    """The key that a request brings; of two, the bearer token."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return headers.get("x-api-key")


def _is_among(digest: bytes, expected: Iterable[bytes]) -> bool:
    found = False
    for each in expected:
        found |= hmac.compare_digest(digest, each)
    return found


def _digests(key: SecretStr | None, former: Iterable[SecretStr]) -> tuple[bytes, ...]:
    return tuple(_digest(each.get_secret_value().encode()) for each in (key, *former) if each is not None)


def _digest(key: bytes) -> bytes:
    # Equal lengths, so the constant-time comparison does not tell how long the key is.
    return hashlib.sha256(key).digest()
