"""The read key: asked for where data is, and nowhere else."""

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from service.engine import Engine
from service.server import running_server
from service.settings import Settings

from .conftest import draw, encoded

KEY = "correct horse battery"


@pytest.fixture(scope="module")
def locked(engine: Engine, trip: object) -> Iterator[str]:
    settings = Settings(checkpoint=trip.checkpoint, store=trip.store, port=0, auth={"read_key": KEY})  # type: ignore
    with running_server(settings, engine) as url:
        yield url


REQUESTS = [
    ("GET", "/v1/info"),
    ("POST", "/v1/search"),
    ("POST", "/v1/collections/default/search"),
    ("POST", "/v1/collections/default/items/scroll"),
    ("GET", "/v1/collections/default/items/Fruit"),
    ("GET", "/v1/collections/default/items/Fruit/image"),
    ("GET", "/v1/collections/default/items/Fruit/thumbnail"),
    ("GET", "/v1/nowhere"),
    ("HEAD", "/v1/info"),
    ("GET", "/v1/%69nfo"),
    ("GET", "/%761/info"),
    ("OPTIONS", "/v1/info"),
]


@pytest.mark.parametrize(("method", "path"), REQUESTS)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": ""},
        {"X-API-Key": "wrong"},
        {"X-API-Key": KEY + "x"},
        {"X-API-Key": KEY.upper()},
        {"Authorization": KEY},
        {"Authorization": "Bearer"},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": "Bearer wrong", "X-API-Key": KEY},
        {"X-API-Key": b"\xff\xfe"},
    ],
)
def test_no_data_without_the_key(locked: str, method: str, path: str, headers: dict[str, str]) -> None:
    response = httpx.request(method, locked + path, headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert response.headers["content-type"] == "application/problem+json"
    if method != "HEAD":
        assert response.json()["code"] == "unauthorized"
        assert KEY not in response.text


@pytest.mark.parametrize(
    "headers", [{"X-API-Key": KEY}, {"Authorization": f"Bearer {KEY}"}, {"authorization": f"bearer {KEY}"}]
)
def test_the_key_opens(locked: str, headers: dict[str, str]) -> None:
    assert httpx.get(f"{locked}/v1/info", headers=headers).status_code == 200
    files = {"file": encoded(draw(1))}
    assert len(httpx.post(f"{locked}/v1/search", files=files, headers=headers).json()["hits"]) == 10
    thumbnail = httpx.get(f"{locked}/v1/collections/default/items/Fruit/thumbnail", headers=headers)
    assert thumbnail.headers["cache-control"].startswith("private")


def test_probes_page_and_documents_stay_open(locked: str) -> None:
    for path in ("/livez", "/readyz", "/healthz", "/", "/docs", "/openapi.json", "/web/main.js"):
        assert httpx.get(locked + path).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "0.0.0.0",  # noqa: S104
        "::",
        "192.168.1.5",
        "example.org",
        "",
        "127.0.0.1.example.org",
    ],
)
def test_no_open_door_without_a_key(with_settings: Callable[..., Settings], host: str) -> None:
    with pytest.raises(ValueError, match="LHIER_AUTH__READ_KEY"):
        with_settings(host=host)
    assert with_settings(host=host, auth={"read_key": KEY}).host == host
    assert with_settings(host=host, auth={"allow_anonymous": True}).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost"])
def test_loopback_needs_no_key(with_settings: Callable[..., Settings], host: str) -> None:
    assert with_settings(host=host).auth.read_key is None


def test_the_key_is_not_printed(with_settings: Callable[..., Settings]) -> None:
    assert KEY not in repr(with_settings(auth={"read_key": KEY}))


READ, WRITE, FORMER_READ, FORMER_WRITE = "read key 1234", "write key 5678", "former read 1", "former write 1"
SENT = {
    "none": {},
    "wrong": {"X-API-Key": "a wrong key"},
    "read": {"X-API-Key": READ},
    "write": {"Authorization": f"Bearer {WRITE}"},
    "former read": {"X-API-Key": FORMER_READ},
    "former write": {"X-API-Key": FORMER_WRITE},
}
ALL = {
    "read_key": READ, "write_key": WRITE, "former_read_keys": [FORMER_READ], "former_write_keys": [FORMER_WRITE],
}  # fmt: skip


@pytest.mark.parametrize(
    ("auth", "reads", "writes"),
    [
        ({}, dict.fromkeys(SENT, 200), dict.fromkeys(SENT, 404)),
        (
            {"read_key": READ},
            {"none": 401, "wrong": 401, "read": 200, "write": 401},
            {"none": 401, "wrong": 401, "read": 403, "write": 401},
        ),
        (
            {"write_key": WRITE},
            {"none": 200, "wrong": 200, "read": 200, "write": 200},
            {"none": 401, "wrong": 401, "read": 401, "write": 404},
        ),
        (
            ALL,
            {"none": 401, "wrong": 401, "read": 200, "write": 200, "former read": 200, "former write": 200},
            {"none": 401, "wrong": 401, "read": 403, "write": 404, "former read": 403, "former write": 404},
        ),
    ],
)
def test_which_key_opens_what(
    engine: Engine, with_settings: Callable[..., Settings], auth: dict[str, object],
    reads: dict[str, int], writes: dict[str, int],
) -> None:  # fmt: skip
    """404: let in, and the collection is not there."""
    with running_server(with_settings(auth=auth), engine) as url, httpx.Client(base_url=url) as client:
        for who, expected in reads.items():
            assert client.get("/v1/info", headers=SENT[who]).status_code == expected, who
        for who, expected in writes.items():
            answer = client.delete("/v1/collections/none", headers=SENT[who])
            assert answer.status_code == expected, who
            if expected == 403:
                assert answer.json()["code"] == ("forbidden" if "write_key" in auth else "read_only")


def test_keys_from_files(with_settings: Callable[..., Settings], tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{READ}\n")
    auth = with_settings(auth={"read_key_file": tmp_path / "key", "write_key": WRITE}).auth
    assert auth.read_key is not None
    assert auth.read_key.get_secret_value() == READ
    assert auth.secrets() == (READ, WRITE)
    for wrong, why in (
        ({"read_key_file": tmp_path / "none"}, "cannot be read"),
        ({"read_key_file": tmp_path / "key", "read_key": READ}, "both"),
        ({"former_read_keys": [FORMER_READ]}, "without a read_key"),
        ({"write_key": "short"}, "8"),
    ):
        with pytest.raises(ValueError, match=why):
            with_settings(auth=wrong)


def test_keys_beyond_ascii(engine: Engine, with_settings: Callable[..., Settings]) -> None:
    with running_server(with_settings(auth={"read_key": "Schlüssel-Ω"}), engine) as url:
        assert httpx.get(f"{url}/v1/info", headers={"X-API-Key": "Schlüssel-Ω".encode()}).status_code == 200
        assert httpx.get(f"{url}/v1/info", headers={"X-API-Key": "Schlüssel-".encode()}).status_code == 401


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1:80", "127.9.9.9", "[::1]:1", "LOCALHOST:8000", "photos.test"])
def test_names_of_this_machine(engine: Engine, with_settings: Callable[..., Settings], name: str) -> None:
    with running_server(with_settings(auth={"hosts": ["Photos.test"]}), engine) as url:
        assert httpx.get(f"{url}/v1/info", headers={"Host": name}).status_code == 200


@pytest.mark.parametrize(
    "name", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "192.168.1.5:8000", "", "[", "a@b:1"]
)
def test_a_name_that_was_pointed_here(server: str, name: str) -> None:
    """DNS rebinding: for the browser, a page of evil.example asks its own server."""
    for path in ("/v1/info", "/", "/metrics", "/openapi.json"):
        answer = httpx.get(server + path, headers={"Host": name})
        assert (answer.status_code, answer.json()["code"]) == (403, "unknown_host")


FOREIGN = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:1"},
    {"Sec-Fetch-Site": "anything"},
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1"},
]


@pytest.mark.parametrize("headers", FOREIGN)
def test_a_foreign_page_changes_nothing(server: str, headers: dict[str, str]) -> None:
    for method, path in (
        ("POST", "/v1/search"),
        ("DELETE", "/v1/collections/none"),
        ("PUT", "/v1/collections/default/items"),
        ("PATCH", "/v1/collections/default/hierarchy/nodes/x"),
    ):
        answer = httpx.request(method, server + path, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "cross_site")
    assert httpx.get(f"{server}/v1/info", headers=headers).status_code == 200  # which the browser shows to nobody


def test_the_own_page_and_programs_may(server: str) -> None:
    for headers in ({}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}, {"Origin": server}):
        assert httpx.delete(f"{server}/v1/collections/none", headers=headers).status_code == 404


def test_with_keys_pages_elsewhere_may_ask(locked: str) -> None:
    """A key is what a foreign page does not have; a proxy may name the service as it likes."""
    headers = {"X-API-Key": KEY, "Host": "photos.example", "Origin": "https://app.example"}
    assert httpx.post(f"{locked}/v1/collections/default/items/scroll", json={}, headers=headers).status_code == 200
