"""Event streams end when the service is about to stop: their clients connect again, to whoever serves then."""

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.operation.lifecycle import Lifecycle

MEDIA_TYPE = "text/event-stream"


class EventStreams:
    """Tells an application that sends ``text/event-stream`` that its client has gone, once the service drains or where
    it asked for the head only, and ends the answer as a complete one."""

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle) -> None:
        self.app = app
        self.lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        streaming, complete = asyncio.Event(), False

        async def send_and_note(message: Message) -> None:
            nonlocal complete
            if message["type"] == "http.response.start":
                if Headers(raw=message["headers"]).get("content-type", "").startswith(MEDIA_TYPE):
                    streaming.set()
            elif message["type"] == "http.response.body":
                complete = not message.get("more_body", False)
            await send(message)

        async def drained() -> None:
            await streaming.wait()  # a response listens for the client's end before it begins
            if not scope["state"]["head"]:  # whoever asks for the head alone has it
                await self.lifecycle.until_draining()

        async def receive_or_drain() -> Message:
            if scope["method"] != "GET":  # as streams of events are: bodies come without a second task
                return await receive()
            received = asyncio.ensure_future(receive())
            draining = asyncio.ensure_future(drained())
            try:
                done, _ = await asyncio.wait((received, draining), return_when=asyncio.FIRST_COMPLETED)
                return received.result() if received in done else {"type": "http.disconnect"}
            finally:
                received.cancel()
                draining.cancel()

        await self.app(scope, receive_or_drain, send_and_note)
        if streaming.is_set() and not complete:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
