"""The read key: asked for where data is, and nowhere else."""

from collections.abc import Callable, Iterator

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
