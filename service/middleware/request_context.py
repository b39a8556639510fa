"""The outermost layer: request id, timing and security headers, access log, and the last net for exceptions."""

import logging
import re
import time
import uuid
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.access import UNMATCHED
from service.operation.logs import request_id as current_request_id
from service.operation.metrics import Metrics
from service.problems import Problem

logger = logging.getLogger(__name__)
access = logging.getLogger("service.access")

# What a client may name its request: nothing that could break a log line.
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

# As labels of a metric: clients may send any word for a method.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def record_timing(scope: Scope, name: str, seconds: float) -> None:
    """Note how long a step of this request took, for its ``Server-Timing`` header."""
    scope["state"].setdefault("timings", {})[name] = seconds


class RequestContext:
    """Gives each request an id, answers HEAD as GET without a body, turns a crash into a 500 problem, and counts."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        state: MutableMapping[str, Any] = scope.setdefault("state", {})
        state["request_id"] = request_id
        remembered = current_request_id.set(request_id)
        method = scope["method"]
        state["head"] = method == "HEAD"
        if state["head"]:
            scope = {**scope, "method": "GET"}
        started = time.perf_counter()
        status = 0
        self.metrics.in_flight.inc()

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                timings = {**state.get("timings", {}), "total": time.perf_counter() - started}
                headers["Server-Timing"] = ", ".join(f"{k};dur={v * 1000:.1f}" for k, v in timings.items())
                for name, value in SECURITY_HEADERS.items():
                    headers[name] = value
            elif method == "HEAD" and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        except ClientDisconnect:
            status = 499  # nobody is left to answer; the log says so
        except Exception:
            logger.exception("event=unhandled_error request_id=%s", request_id)
            if status:
                raise  # half an answer is out: let the server cut the connection
            problem = Problem(500, "internal_error", "something went wrong here; the log has it under this request_id")
            await problem.response(scope)(scope, receive, send_with_headers)
        finally:
            seconds = time.perf_counter() - started
            self.metrics.in_flight.dec()
            route = state["operation"].route if "operation" in state else UNMATCHED
            self.metrics.request(method if method in METHODS else "other", route, status, seconds, state.get("problem"))
            client = scope.get("client")
            access.info(
                "event=request request_id=%s method=%s path=%s status=%d duration_ms=%.1f client=%s",
                request_id,
                method,
                # Percent-encoded as it came: no line break can get in.
                scope.get("raw_path", b"").decode("ascii", "replace"),
                status,
                seconds * 1000,
                client[0] if client else "-",
            )
            current_request_id.reset(remembered)
