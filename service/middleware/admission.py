"""How many requests are worked on at once, how many may wait, and for how long: load is shed, not piled up."""

import asyncio
import math

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.problems import Problem


class Admission:
    """At most ``in_flight`` requests to ``/v1`` under way and ``queued`` waiting; further ones get 429.

    ``deadline_s`` covers waiting, upload and work, up to the first byte of the answer: a slow reader of a
    large image neither runs into it nor keeps a place. Past it the answer is 504.
    """

    def __init__(self, app: ASGIApp, in_flight: int, queued: int, deadline_s: float) -> None:
        self.app = app
        self.in_flight, self.queued, self.deadline_s = in_flight, queued, deadline_s
        self._places = asyncio.Semaphore(in_flight)
        self._waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self.app(scope, receive, send)
            return
        if self._places.locked() and self._waiting >= self.queued:
            problem = Problem(
                429,
                "too_many_requests",
                f"{self.in_flight} requests are under way and {self.queued} wait: try again in a moment",
                headers={"Retry-After": str(math.ceil(min(5.0, self.deadline_s)))},
            )
            await problem.response(scope)(scope, receive, send)
            return
        answering = placed = False

        def give_up_place() -> None:
            nonlocal placed
            if placed:
                placed = False
                self._places.release()

        async def send_and_let_go(message: Message) -> None:
            nonlocal answering
            if message["type"] == "http.response.start":
                answering = True
                deadline.reschedule(None)
                give_up_place()
            await send(message)

        try:
            async with asyncio.timeout(self.deadline_s) as deadline:
                self._waiting += 1
                try:
                    await self._places.acquire()
                finally:
                    self._waiting -= 1
                placed = True
                await self.app(scope, receive, send_and_let_go)
        except TimeoutError:
            if answering or not deadline.expired():
                raise
            problem = Problem(504, "deadline_exceeded", f"no answer within {self.deadline_s:g} s: try again later")
            await problem.response(scope)(scope, receive, send)
        finally:
            give_up_place()
