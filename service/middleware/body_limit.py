"""No request body larger than the limit, whether its length is announced or not."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.problems import Problem


class BodyLimit:
    """Refuses an announced length above ``max_bytes`` at once, and counts what really arrives."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isascii() and announced.isdigit() and int(announced) > self.max_bytes:
            await self._too_large().response(scope)(scope, receive, send)
            return
        arrived = 0

        async def counted_receive() -> Message:
            nonlocal arrived
            message = await receive()
            if message["type"] == "http.request":
                arrived += len(message.get("body", b""))
                if arrived > self.max_bytes:
                    raise self._too_large()
            return message

        await self.app(scope, counted_receive, send)

    def _too_large(self) -> Problem:
        return Problem(413, "body_too_large", f"the body is over {self.max_bytes:,} bytes: send a smaller photo")
