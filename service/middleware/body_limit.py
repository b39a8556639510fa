"""No request body larger than the limit, whether its length is announced or not."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.middleware.lookup import operation
from service.middleware.refusal import Answer, Refused
from service.problems import Problem


class BodyLimit:
    """Refuses an announced length above the limit at once, and counts what really arrives.

    The limit is ``max_bytes``, and ``max_upload_bytes`` for operations that stream what they get to the disk.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, max_upload_bytes: int) -> None:
        self.app = app
        self.max_bytes, self.max_upload_bytes = max_bytes, max_upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self.max_upload_bytes if operation(scope).streams else self.max_bytes
        problem = Problem(413, "body_too_large", f"the body is over {limit:,} bytes: send less at once")
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isascii() and announced.isdigit() and int(announced) > limit:
            await problem.response(scope)(scope, receive, send)
            return
        answer, arrived = Answer(send), 0

        async def counted_receive() -> Message:
            nonlocal arrived
            message = await receive()
            if message["type"] == "http.request":
                arrived += len(message.get("body", b""))
                if arrived > limit:
                    raise answer.refuse(problem)
            return message

        try:
            await self.app(scope, counted_receive, answer.send)
        except Refused:
            if answer.refusal is None:
                raise
        if answer.refusal is not None and not answer.started:
            await problem.response(scope)(scope, receive, send)
