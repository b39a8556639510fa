"""The client's patience and its errors, before a server that answers as it is told."""

from collections.abc import Callable
from contextlib import suppress

import httpx
import pytest

from service.client import transport as client_transport
from service.client.transport import ClientError, Transport


class Script:
    """Answers one of ``answers`` after the other, and keeps what it was asked."""

    def __init__(self, *answers: httpx.Response) -> None:
        self.answers, self.requests = list(answers), list[httpx.Request]()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        return self.answers.pop(0)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that would have been made."""
    made: list[float] = []
    monkeypatch.setattr(client_transport.time, "sleep", made.append)
    return made


def busy(status: int = 429, retry_after: str | None = None) -> httpx.Response:
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    problem = {"code": "overloaded", "detail": "too much", "request_id": "r1"}
    return httpx.Response(status, json=problem, headers=headers)


@pytest.fixture
def transport() -> Callable[..., Transport]:
    return lambda script, **options: Transport("http://test", transport=httpx.MockTransport(script), **options)


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again_when_it_says(
    status: int, transport: Callable[..., Transport], pauses: list[float]
) -> None:
    script = Script(busy(status, "2"), busy(status), httpx.Response(200, json={}))
    answer = transport(script).request("POST", "/v1/search", prepare=lambda: {"content": b"body"})
    assert answer.status_code == 200
    assert [request.content for request in script.requests] == [b"body"] * 3
    assert 2 <= pauses[0] <= 2.5
    assert 0.5 <= pauses[1] <= 0.625


def test_patience_ends(transport: Callable[..., Transport], pauses: list[float]) -> None:
    script = Script(*(busy(429, "4") for _ in range(9)))
    with pytest.raises(ClientError) as error:
        transport(script, max_wait_s=10).request("GET", "/")
    assert (error.value.status, error.value.code, error.value.detail, error.value.request_id) == (
        429, "overloaded", "too much", "r1",
    )  # fmt: skip
    assert len(script.requests) == 3
    assert sum(pauses) <= 10
    script = Script(busy(429, "3600"))
    with pytest.raises(ClientError):
        transport(script).request("GET", "/")
    assert len(script.requests) == 1


@pytest.mark.parametrize(("status", "attempts"), [(429, 2), (503, 1)])
def test_what_must_not_happen_twice_is_asked_again_only_when_it_was_refused_unread(
    status: int, attempts: int, transport: Callable[..., Transport], pauses: list[float]
) -> None:
    script = Script(busy(status, "0"), httpx.Response(202, json={}))
    with suppress(ClientError):
        transport(script).request("POST", "/v1/collections/default/jobs", idempotent=False)
    assert len(script.requests) == attempts


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 500, 504, 507])
def test_other_problems_are_told_at_once(status: int, transport: Callable[..., Transport], pauses: list[float]) -> None:
    script = Script(busy(status, "1"))
    with pytest.raises(ClientError) as error:
        transport(script).request("GET", "/")
    assert error.value.status == status
    assert pauses == []


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(502, html="<h1>Bad Gateway</h1>", headers={"X-Request-ID": "r2"}),
        httpx.Response(502, json=["no", "problem"], headers={"X-Request-ID": "r2"}),
        httpx.Response(502, json={"error": "no problem"}, headers={"X-Request-ID": "r2"}),
    ],
)
def test_what_is_no_problem_document_is_told_as_well(
    answer: httpx.Response, transport: Callable[..., Transport]
) -> None:
    with pytest.raises(ClientError, match="502") as error:
        transport(Script(answer)).request("GET", "/")
    assert (error.value.code, error.value.detail, error.value.request_id) == ("", "Bad Gateway", "r2")


def test_the_key_is_sent(transport: Callable[..., Transport]) -> None:
    script = Script(httpx.Response(200), httpx.Response(200))
    transport(script, api_key="secret key").request("GET", "/")
    transport(script).request("GET", "/")
    assert [request.headers.get("authorization") for request in script.requests] == ["Bearer secret key", None]


def test_a_stream_that_is_a_problem_is_an_error(transport: Callable[..., Transport]) -> None:
    with pytest.raises(ClientError) as error, transport(Script(busy(404))).stream("GET", "/"):
        pytest.fail("nothing is to be read")
    assert error.value.status == 404
