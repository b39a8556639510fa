"""HTTP for the client: a key, problems as exceptions, and patience with a busy server."""

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel

Parsed = TypeVar("Parsed", bound=BaseModel)

# Retried when the server says that it took no notice of the request, or that it is busy.
BUSY = frozenset({429, 503})
FIRST_PAUSE_S = 0.25


class ClientError(Exception):
    """An answer other than success. ``code`` is the service's, stable; "" where something else answered."""

    def __init__(
        self, status: int, code: str, detail: str, request_id: str | None, errors: list[dict[str, Any]] | None = None
    ) -> None:
        super().__init__(f"{status} {code}: {detail}" + (f" (request {request_id})" if request_id else ""))
        self.status, self.code, self.detail, self.request_id = status, code, detail, request_id
        self.errors = errors or []


class Transport:
    """HTTP with a key, problems as :class:`ClientError`, and patience with a busy server.

    A 429, or a 503, is asked again after its Retry-After (or a growing pause) until ``max_wait_s`` seconds of pauses
    are spent. A request that changes something and is not idempotent is asked again after a 429 only: the server
    refuses with it before it looks at the request.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout: float = 60.0,
        max_wait_s: float = 30.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(base_url=base_url, headers=headers, timeout=timeout, transport=transport)
        self._max_wait_s = max_wait_s

    def request(
        self,
        method: str,
        path: str,
        body: BaseModel | None = None,
        *,
        idempotent: bool = True,
        prepare: Callable[[], Mapping[str, Any]] | None = None,
        accept: frozenset[int] = frozenset(),
        **options: Any,
    ) -> httpx.Response:
        """One operation; ``accept`` are statuses above 399 to return, ``prepare`` makes httpx's arguments of a body.

        Raises :class:`ClientError`, and ``httpx.TransportError`` where no answer came.
        """
        headers = dict(options.pop("headers", None) or {})
        if body is not None:
            headers["Content-Type"] = "application/json"
            options["content"] = body.model_dump_json(exclude_unset=True).encode()
        waited, pause = 0.0, FIRST_PAUSE_S
        while True:
            sent = {**options, **(prepare() if prepare else {})}
            response = self._http.request(method, path, headers=headers, **sent)
            if response.status_code < httpx.codes.BAD_REQUEST or response.status_code in accept:
                return response
            wait = _retry_after(response.headers, pause)
            again = response.status_code in BUSY and (
                idempotent or response.status_code == httpx.codes.TOO_MANY_REQUESTS
            )
            if not again or waited + wait > self._max_wait_s:
                raise error_of(response)
            time.sleep(wait)
            waited, pause = waited + wait, 2 * pause

    @contextmanager
    def stream(self, method: str, path: str, **options: Any) -> Iterator[httpx.Response]:
        """An answer that is read bit by bit, asked for once. Raises :class:`ClientError`."""
        with self._http.stream(method, path, **options) as response:
            if response.status_code >= httpx.codes.BAD_REQUEST:
                response.read()
                raise error_of(response)
            yield response

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


def error_of(response: httpx.Response) -> ClientError:
    """What a problem answer says."""
    try:
        problem = response.json()
        return ClientError(
            response.status_code,
            str(problem["code"]),
            str(problem["detail"]),
            problem.get("request_id"),
            problem.get("errors"),
        )
    except (ValueError, KeyError, TypeError, AttributeError):  # a proxy's answer, not the service's
        return ClientError(response.status_code, "", response.reason_phrase, response.headers.get("x-request-id"))


def parse(kind: type[Parsed], response: httpx.Response) -> Parsed:
    """The JSON of an answer as ``kind``. Raises ``pydantic.ValidationError`` where it is none."""
    return kind.model_validate_json(response.content)


def _retry_after(headers: Mapping[str, str], pause: float) -> float:
    """Seconds to wait. Spread a little, so that the clients of a busy server do not come back together."""
    given = headers.get("retry-after", "")
    return (float(given) if given.isdecimal() else pause) * random.uniform(1.0, 1.25)
