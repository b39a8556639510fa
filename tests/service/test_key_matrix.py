"""Every operation of the OpenAPI document x every key: none passes without the key that this file asks for."""

import http.client
import shutil
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from service.server import running_server
from service.settings import Settings

from .conftest import Trip
from .operations import Operation, operations

READ, WRITE = "read-key-1234", "write-key-5678"
OPEN = {"livez", "readyz", "metrics"}
# They change nothing although they are no GET. Whatever is not listed here or in OPEN, and is no GET, writes.
READ_POSTS = {
    "search", "search_collection", "search_batch", "scroll", "count", "embeddings", "ancestors", "common_ancestor",
    "zoom", "traverse",
}  # fmt: skip
KEYS: dict[str, dict[str, str]] = {
    "no key": {},
    "wrong key": {"Authorization": "Bearer wrong key 123"},
    "read key": {"Authorization": f"Bearer {READ}"},
    "write key": {"X-API-Key": WRITE},
}


def asks_for(operation: Operation) -> str:
    if operation.id in OPEN:
        return "open"
    return "read" if operation.method == "GET" or operation.id in READ_POSTS else "write"


@pytest.fixture(scope="module")
def locked(trip: Trip, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    store = shutil.copytree(trip.store, tmp_path_factory.mktemp("locked") / "store")
    auth = {"read_key": READ, "write_key": WRITE}
    with running_server(Settings(checkpoint=trip.checkpoint, store=store, port=0, auth=auth)) as url:  # type: ignore[arg-type]
        yield url


@pytest.fixture(scope="module")
def client(locked: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=locked, timeout=30) as client:
        yield client


def send(client: httpx.Client, method: str, path: str, headers: dict[str, str]) -> int:
    """The status alone, of a stream too: it is not read to its end."""
    body = {} if method in {"GET", "HEAD"} else {"json": {}}
    with client.stream(method, path, headers=headers, **body) as response:  # type: ignore[arg-type]
        return response.status_code


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("operation", operations(), ids=lambda operation: operation.id)
def test_every_operation_with_every_key(client: httpx.Client, operation: Operation, key: str) -> None:
    # A collection that does not exist: whatever comes through changes nothing.
    status = send(client, operation.method, operation.url(collection="none"), KEYS[key])
    asked = asks_for(operation)
    if asked == "open":
        assert status == 200
    elif key in {"no key", "wrong key"}:
        assert status == 401
    elif asked == "write" and key == "read key":
        assert status == 403
    else:
        assert status not in {401, 403}


def spellings(path: str) -> list[str]:
    """Other ways to write a path, one of which a layer above the routes might fail to recognise."""
    head, rest = path[:4], path[4:]
    return [
        f"/{path}", f"//{path}", f"{path}/", f"{path}//", f"{path}?key={WRITE}", f"{path}%3F", f"{path};a=b",
        f"{path}%00", f"{path}.json", f"/livez/..{path}", f"/livez/%2e%2e{path}", f"/web/..{path}", f"/./{path[1:]}",
        f"/%2e{path}", f"{head}./{rest}", f"{head}/{rest}", f"/V1/{rest}", f"/%76%31/{rest}", f"/v%31/{rest}",
        f"/v1%2F{rest}",
        f"/%2Fv1/{rest}", f"/v1\\{rest}", f"/v1%5C{rest}", path.replace("collections", "%63ollections"),
        path.replace("/items", "%2Fitems"), path.upper(), f"{path}%20", f"{path}%0a", f"{path}#",
    ]  # fmt: skip


def raw_status(locked: str, method: str, target: str, headers: dict[str, str]) -> int:
    """As a client that changes nothing about the path, unlike httpx."""
    connection = http.client.HTTPConnection(urlsplit(locked).netloc, timeout=30)
    try:
        connection.putrequest(method, target, skip_accept_encoding=True)
        body = b"" if method in {"GET", "HEAD"} else b"{}"
        for name, value in {**headers, "Content-Length": str(len(body)), "Content-Type": "application/json"}.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize("operation", [o for o in operations() if asks_for(o) != "open"], ids=lambda o: o.id)
def test_no_spelling_of_a_path_goes_round_the_key(locked: str, operation: Operation) -> None:
    refused = {401, 403, 404, 405, 400}
    for target in spellings(operation.url(collection="none")):
        assert raw_status(locked, operation.method, target, {}) in refused, target
        if asks_for(operation) == "write":
            status = raw_status(locked, operation.method, target, KEYS["read key"])
            assert status in refused, target


@pytest.mark.parametrize("operation", [o for o in operations() if asks_for(o) == "write"], ids=lambda o: o.id)
def test_no_header_makes_a_read_of_a_write(locked: str, operation: Operation) -> None:
    for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X-Original-URL", "X-Rewrite-URL"):
        value = "/livez" if "URL" in name else "GET"
        headers = {**KEYS["read key"], name: value}
        assert raw_status(locked, operation.method, operation.url(collection="none"), headers) == 403


@pytest.mark.parametrize("operation", [o for o in operations() if asks_for(o) != "open"], ids=lambda o: o.id)
@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"])
def test_no_method_tells_anything_without_a_key(locked: str, operation: Operation, method: str) -> None:
    assert raw_status(locked, method, operation.url(), {}) in {401, 400}


@pytest.mark.parametrize("path", ["/v1/nowhere", "/v1/", "/v1/collections", "/v1/collections/default/nowhere", "/v1//"])
def test_what_is_not_there_is_not_told_without_a_key(locked: str, path: str) -> None:
    assert raw_status(locked, "GET", path, {}) == 401


def test_the_lists_here_name_operations_that_exist() -> None:
    """So that a route that is renamed is looked at again."""
    by_id = {operation.id: operation for operation in operations()}
    assert len(by_id) == len(operations())
    missing = (OPEN | READ_POSTS) - set(by_id)
    assert not missing, f"{missing} are gone: name the operations that took their place"
    assert all(by_id[name].method != "GET" for name in READ_POSTS)
