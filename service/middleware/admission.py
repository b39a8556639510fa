"""How many requests are worked on at once, how many may wait, and for how long: load is shed, not piled up."""

import asyncio
import math

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.middleware.lookup import operation
from service.middleware.refusal import Answer, Refused
from service.operation.load import Load, claim
from service.problems import Problem
from service.settings import LimitSettings

WITH_BODY = frozenset({"POST", "PUT", "PATCH"})


class Admission:
    """Gives requests to ``/v1`` places, and those that :class:`~service.operation.load.Load` refuses 429.

    A request takes its place when its body is there and gives it back when its answer begins: who sends or reads
    slowly holds up nobody. ``deadline_s`` covers upload, waiting and work up to that moment, past it the answer is
    504; it begins with the end of the body for operations that stream it. All bodies that are being kept together
    have at most ``buffered_bytes``, what they had fetched included.
    """

    def __init__(self, app: ASGIApp, limits: LimitSettings, load: Load) -> None:
        self.app = app
        self.limits, self.load = limits, load
        self._places = asyncio.Semaphore(limits.in_flight)
        self._buffered = 0
        self.placed: dict[_Visit, None] = {}  # in order of arrival

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or operation(scope).key == "open":
            await self.app(scope, receive, send)
            return
        if self.refuses():
            await self.too_many().response(scope)(scope, receive, send)
            return
        visit = _Visit(self, scope, receive, send)
        outer = claim.set(visit.claim)
        try:
            await visit.run()
        finally:
            claim.reset(outer)
            visit.leave(done=False)
            self._buffered -= visit.buffered

    def refuses(self) -> bool:
        """Whether a request that comes now is to be refused; where load is shed from now on, the latest are as well."""
        shedding = self.load.shedding
        refused = self.load.refuses()
        if self.load.shedding and not shedding:
            for visit in [*reversed(self.placed)][: self.load.excess]:
                visit.shed()
        return refused

    async def take_place(self) -> None:
        """Wait for a place."""
        self.load.enter()
        try:
            await self._places.acquire()
        except BaseException:
            self.load.leave(done=False)
            raise

    def give_back_place(self, *, done: bool) -> None:
        """Let another have the place; ``done`` where it was used for an answer."""
        self._places.release()
        self.load.leave(done=done)

    def keep(self, size: int) -> bool:
        """Whether ``size`` more bytes of bodies may be kept."""
        self._buffered += size
        return self._buffered <= self.limits.buffered_bytes

    def too_many(self) -> Problem:
        """What a request that is refused is told."""
        wait = self.load.expected_s or 1.0
        return Problem(
            429,
            "too_many_requests",
            f"{self.load.present} requests are being worked on, more than can be answered soon: try again in a moment",
            headers={"Retry-After": str(math.ceil(min(max(wait, 1.0), self.limits.deadline_s)))},
        )


class _Visit:
    """One request on its way through :class:`Admission`."""

    def __init__(self, admission: Admission, scope: Scope, receive: Receive, send: Send) -> None:
        self.admission, self.scope = admission, scope
        self.buffered = 0
        self._receive, self._send = receive, send
        self._answer = Answer(send)
        self._streams, self._key = operation(scope).streams, operation(scope).key
        self._shed = False
        self._placed = False
        self._deadline = asyncio.timeout(None if self._streams else admission.limits.deadline_s)

    async def run(self) -> None:
        """To the end of the answer."""
        late = False
        try:
            async with self._deadline:
                if self.scope["method"] not in WITH_BODY or not _has_body(Headers(scope=self.scope)):
                    await self._arrived()
                await self.admission.app(self.scope, self._receive_and_take_place, self._send_and_leave)
        except Refused:
            if self._answer.refusal is None:
                raise
        except TimeoutError:
            late = self._deadline.expired() and not self._answer.started
            if not late:
                raise
        problem = self._answer.refusal
        if late and self._shed:
            problem = self.admission.too_many()
        elif late:
            seconds = self.admission.limits.deadline_s
            problem = Problem(504, "deadline_exceeded", f"no answer within {seconds:g} s: try again later")
        if problem is not None and not self._answer.started:
            self.leave(done=False)
            await problem.response(self.scope)(self.scope, self._receive, self._send)

    def claim(self, size: int) -> None:
        """Keep ``size`` more bytes until this request is answered. Raises :class:`Problem` 429."""
        self.buffered += size
        if not self.admission.keep(size):
            detail = "too much is being uploaded at once: try again in a moment"
            raise Problem(429, "too_many_uploads", detail, headers={"Retry-After": "1"})

    def shed(self) -> None:
        """Give up, with 429, unless the answer has begun."""
        if not self._answer.started:
            self._shed = True
            self._deadline.reschedule(asyncio.get_running_loop().time())

    def leave(self, *, done: bool) -> None:
        """Have no place any more."""
        self.admission.placed.pop(self, None)
        if self._placed:
            self._placed = False
            self.admission.give_back_place(done=done)

    async def _arrived(self) -> None:
        if self.admission.refuses():
            raise self._answer.refuse(self.admission.too_many())
        if self._streams:
            self._deadline.reschedule(asyncio.get_running_loop().time() + self.admission.limits.deadline_s)
        if self._key == "read":  # what changes something is not broken off
            self.admission.placed[self] = None
        await self.admission.take_place()
        self._placed = True

    async def _receive_and_take_place(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request" and not (self._placed or self._answer.started):
            try:
                self.claim(0 if self._streams else len(message.get("body", b"")))
            except Problem as problem:
                raise self._answer.refuse(problem) from None
            if not message.get("more_body", False):
                await self._arrived()
        return message

    async def _send_and_leave(self, message: Message) -> None:
        if message["type"] == "http.response.start" and self._answer.refusal is None and not self._deadline.expired():
            self._deadline.reschedule(None)
            self.leave(done=True)
        await self._answer.send(message)


def _has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0").strip() != "0"
