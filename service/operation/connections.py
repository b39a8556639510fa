"""Connections: no client holds one for long without sending or reading, and all of them together are bounded."""

import asyncio
import logging
import math
from dataclasses import dataclass, field
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.settings import LimitSettings

logger = logging.getLogger(__name__)

GRACE_S = 5.0
"""What a body may take before its rate is looked at."""
LINGER_S = 5.0
"""For how long what is left of a refused body is read and thrown away: a client that is cut off while it sends often
never sees the answer."""
STALL_S = 2.0
"""What may lie between two sweeps; longer, and this process was held up: what clients sent then waits in the kernel."""


@dataclass(slots=True)
class Guard:
    """What all connections of a server share; :meth:`sweep` is to be called about once a second."""

    limits: LimitSettings
    draining: bool = False
    connections: set["GuardedProtocol"] = field(default_factory=set)
    _stalled_s: float = 0.0
    _swept: float = math.inf

    def time(self) -> float:
        """The running loop's time without our own stalls, for which no client is to blame."""
        return asyncio.get_running_loop().time() - self._stalled_s

    def make_room(self) -> bool:
        """Whether one more fits; of too many, the one that has been without a request for longest is closed."""
        if len(self.connections) < self.limits.connections:
            return True
        idle = [connection for connection in self.connections if connection.idle_since is not None]
        if not idle:
            return False
        min(idle, key=lambda connection: connection.idle_since or 0.0).transport.abort()
        return True

    def sweep(self) -> None:
        """Close connections whose clients are too slow."""
        self._stalled_s += max(0.0, self.time() - self._swept - STALL_S)
        now = self._swept = self.time()
        for connection in list(self.connections):
            reason = connection.fault(now)
            if reason is not None:
                logger.info("event=connection_closed reason=%s client=%s", reason, (connection.client or ("-",))[0])
                connection.transport.abort()

    def drain(self) -> None:
        """Have every connection end with the answer that it waits for, and with the next one that it asks for."""
        self.draining = True
        for connection in self.connections:
            connection.finish()

    def close_idle(self) -> None:
        """Close those that no part of a request has come on."""
        for connection in list(self.connections):
            if connection.is_idle:
                connection.transport.close()


class GuardedProtocol(HttpToolsProtocol):
    """Uvicorn's HTTP/1.1, with an eye on the time that its client takes."""

    def __init__(self, *args: Any, guard: Guard, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.guard = guard
        self.idle_since: float | None = None  # no head has been complete since
        self._head_since: float | None = None  # it began to come, or had to
        self._body_bytes, self._body_s, self._swept = 0, 0.0, 0.0
        self._begun = False  # a head
        self._receiving = False  # a body
        self._lingering_since: float | None = None
        self._read_at, self._unread = 0.0, 0  # by the client, of what we sent

    # -- what uvicorn and its parser call

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        self.idle_since = self._head_since = self._swept = self._read_at = self.guard.time()
        room = self.guard.make_room()
        super().connection_made(transport)
        self.guard.connections.add(self)
        if not room:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        self.guard.connections.discard(self)
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self._begun = True
        if self._head_since is None:
            self._head_since = self.guard.time()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its head is there."""
        self.idle_since = self._head_since = None
        self._swept = self.guard.time()
        self._begun, self._receiving, self._body_bytes, self._body_s = False, True, 0, 0.0
        super().on_headers_complete()
        # What it writes and closes by the cycle goes through here.
        self.cycle.transport = _LingeringTransport(self, self.cycle.transport)  # type: ignore[assignment]
        if self.guard.draining:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """A part of its body."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Its end."""
        self._receiving = False
        super().on_message_complete()
        if self._lingering_since is not None:
            self._lingering_since = None
            if not self.cycle.keep_alive:
                self.transport.close()

    def on_response_complete(self) -> None:
        """It is answered."""
        super().on_response_complete()
        if self.cycle.response_complete:  # else it is the next one of a pipeline
            self.idle_since = self.guard.time()
            if self._receiving:
                self._lingering_since = self.idle_since

    def resume_writing(self) -> None:
        """The client has read most of what waited for it."""
        self._read_at = self.guard.time()
        super().resume_writing()

    # -- what the guard asks

    @property
    def is_idle(self) -> bool:
        """Whether nothing of a request has come since the connection was made or the last answer ended."""
        return self.idle_since is not None and not (self._begun or self._receiving)

    def finish(self) -> None:
        """Close after the answer that is under way."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False

    def fault(self, now: float) -> str | None:
        """What the client takes too long over; None where it does not."""
        limits = self.guard.limits
        passed, self._swept = now - self._swept, now
        unread = self.transport.get_write_buffer_size()
        if unread == 0 or unread < self._unread:
            self._read_at = now
        self._unread = unread
        if self._head_since is not None and now - self._head_since > limits.header_s:
            return "slow_head"
        if self._lingering_since is not None:
            return "refused_body" if now - self._lingering_since > LINGER_S else None
        if self._receiving:
            if not self.flow.read_paused:
                self._body_s += passed
            if self._body_bytes < limits.upload_rate * (self._body_s - GRACE_S):
                return "slow_body"
        return "slow_reader" if now - self._read_at > limits.read_s else None


class _LingeringTransport:
    """A transport that, told to close in the middle of a body, says so to the client and reads the body's rest."""

    def __init__(self, protocol: GuardedProtocol, transport: asyncio.Transport) -> None:
        self._protocol, self._transport = protocol, transport

    def write(self, data: bytes) -> None:
        if not self._transport.is_closing():  # uvloop raises for what was cut off a moment ago
            self._transport.write(data)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        if self._protocol._receiving and self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()
        else:
            self._transport.close()
