"""Refusing a request while the application reads its body."""

from starlette.types import Message, Send

from service.problems import Problem


class Refused(Exception):  # noqa: N818 - no error of the application's
    """Raised from ``receive``: the layer that raised it answers, whatever the application makes of it."""


class Answer:
    """What the application sends, passed on until the layer around it has other plans."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False
        self.refusal: Problem | None = None

    def refuse(self, problem: Problem) -> Refused:
        """From now on the application's words are dropped; whoever made this object answers with ``refusal``."""
        self.refusal = problem
        return Refused(problem.code)

    async def send(self, message: Message) -> None:
        """ASGI."""
        if self.refusal is not None and not self.started:
            return
        self.started = True
        await self._send(message)
