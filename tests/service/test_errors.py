"""Whatever a client sends, the answer is a problem that says what is wrong, and never a server error."""

import base64
import io
import json
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from PIL import Image

from .conftest import draw, encoded

PHOTO = encoded(draw(1))
JPEG = encoded(draw(1), "JPEG")
JSON_TYPE = {"Content-Type": "application/json"}


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    content: dict[str, Any] = response.json()
    assert (response.status_code, content["code"]) == (status, code), content
    assert response.headers["content-type"] == "application/problem+json"
    assert content["status"] == status
    assert content["request_id"] == response.headers["x-request-id"]
    assert {"type", "title", "detail", "instance"} <= set(content)
    return content


def huge_png(width: int, height: int) -> bytes:
    """A small file whose header announces a huge picture."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [header, b"IDAT" + zlib.compress(bytes(100)), b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


POISON = {
    "empty": (b"", 422, "empty_file"),
    "text": (b"not an image at all", 415, "unsupported_format"),
    "html": (b"<html><script>alert(1)</script></html>", 415, "unsupported_format"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', 415, "unsupported_format"),
    "truncated": (JPEG[: len(JPEG) // 2], 422, "undecodable_image"),
    "truncated png": (PHOTO[: len(PHOTO) // 2], 422, "undecodable_image"),
    "header only": (JPEG[:20], 415, "unsupported_format"),
    "one pixel": (encoded(draw(1, (1, 1))), 422, "image_too_small"),
    "thin": (encoded(draw(1, (400, 2))), 422, "image_too_small"),
    "bomb": (huge_png(60_000, 60_000), 413, "image_too_large"),
    "just too many": (huge_png(10_001, 5_000), 413, "image_too_large"),
    "zeros": (bytes(1000), 415, "unsupported_format"),
}
UNUSUAL = {
    "cmyk": lambda image: encoded(image.convert("CMYK"), "JPEG"),
    "16 bit": lambda image: encoded(image.convert("L").convert("I;16")),
    "palette": lambda image: encoded(image.convert("P"), "GIF"),
    "alpha": lambda image: encoded(image.convert("RGBA")),
    "grey": lambda image: encoded(image.convert("L")),
    "animated": lambda image: encoded(image, "GIF", save_all=True, append_images=[draw(2)]),
    "webp": lambda image: encoded(image, "WEBP"),
    "tiff": lambda image: encoded(image, "TIFF"),
}


@pytest.mark.parametrize("name", POISON)
def test_poison_photos(client: httpx.Client, name: str) -> None:
    photo, status, code = POISON[name]
    as_form = problem(client.post("/v1/search", files={"file": ("x.jpg", photo)}), status, code)
    if photo:
        body = {"query": {"image": base64.b64encode(photo).decode()}}
        as_json = problem(client.post("/v1/search", json=body), status, code)
        assert as_json["detail"] == as_form["detail"]


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_photos_are_searched(client: httpx.Client, name: str) -> None:
    answer = client.post("/v1/search", files={"file": UNUSUAL[name](draw(1))}, data={"limit": "1"})
    assert len(answer.json()["hits"]) == 1


def test_exif_rotation_is_followed(client: httpx.Client) -> None:
    upright = draw(3, (90, 60))
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    files = [encoded(upright), encoded(turned, exif=exif)]
    answers = [client.post("/v1/search", files={"file": file}, data={"limit": "1000"}).json() for file in files]
    assert len(answers[0]["hits"]) > 1
    assert answers[0] == answers[1]


def test_mutated_photos_never_break_the_server(client: httpx.Client) -> None:
    rng = random.Random(0)
    outcomes = set()
    for base in (JPEG, PHOTO, encoded(draw(1), "GIF"), encoded(draw(1), "WEBP"), encoded(draw(1), "TIFF")):
        for _ in range(12):
            data = bytearray(base)
            for _ in range(rng.randint(1, 40)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            response = client.post("/v1/search", files={"file": bytes(data[: rng.randint(1, len(data))])})
            assert response.status_code in {200, 413, 415, 422}, response.text
            outcomes.add(response.status_code)
    assert outcomes >= {415, 422}


MALFORMED = [
    (b"", 400, "malformed_json"),
    (b"{", 400, "malformed_json"),
    (b'{"query": }', 400, "malformed_json"),
    (b"\xff\xfe\x00", 400, "malformed_json"),
    (b'{"query": {"item_id": "\\ud800"}}', 400, "malformed_json"),
    (b"[" * 100_000, 400, "malformed_json"),
    (b'{"query": ' * 5_000 + b"1" + b"}" * 5_000, 400, "malformed_json"),
    (b"[]", 422, "invalid_request"),
    (b"null", 422, "invalid_request"),
    (b"{}", 422, "invalid_request"),
    (b'{"query": {}}', 422, "invalid_request"),
    (b'{"query": {"item_id": ""}}', 422, "invalid_request"),
    (b'{"query": {"item_id": 7}}', 422, "invalid_request"),
    (b'{"query": {"item_id": "Fruit", "image": "AAAA"}}', 422, "invalid_request"),
    (b'{"query": {"url": "http://127.0.0.1/"}}', 403, "urls_disabled"),
    (b'{"query": {"item_id": "Fruit"}, "limt": 3}', 422, "invalid_request"),
    (b'{"query": {"item_id": "Fruit"}, "limit": 0}', 422, "invalid_request"),
    (b'{"query": {"item_id": "Fruit"}, "limit": 1001}', 422, "invalid_request"),
    (b'{"query": {"item_id": "Fruit"}, "limit": "5"}', 422, "invalid_request"),
    (b'{"query": {"item_id": "Fruit"}, "limit": true}', 422, "invalid_request"),
    (b'{"query": {"item_id": "Fruit"}, "limit": 2.5}', 422, "invalid_request"),
    (b'{"query": {"item_id": "Fruit"}, "limit": 1' + b"0" * 400 + b"}", 422, "invalid_request"),
    (b'{"query": {"item_id": "Fruit"}, "limit": 1' + b"0" * 9000 + b"}", 400, "malformed_json"),
    (b'{"query": {"item_id": "Fruit"}, "max_distance": NaN}', 422, "invalid_request"),
    (b'{"query": {"item_id": "Fruit"}, "max_distance": Infinity}', 422, "invalid_request"),
    (b'{"query": {"item_id": "Fruit"}, "max_distance": 1e999}', 422, "invalid_request"),
    (b'{"query": {"item_id": "Fruit"}, "max_distance": -1}', 422, "invalid_request"),
    (b'{"query": {"item_id": "Fruit"}, "include": ["everything"]}', 422, "invalid_request"),
    (b'{"query": {"item_id": "a\\u0000b"}}', 404, "item_not_found"),
    (b'{"query": {"item_id": "../../etc/passwd"}}', 404, "item_not_found"),
    (b'{"query": {"image": "no base64!"}}', 422, "invalid_base64"),
    (b'{"query": {"image": "data:image/png,raw"}}', 422, "invalid_base64"),
    (b'{"query": {"image": "data:"}}', 422, "invalid_base64"),
    ('{"query": {"image": "ä"}}'.encode(), 422, "invalid_base64"),
    (b'{"query": {"image": "file:///etc/passwd"}}', 422, "invalid_base64"),
    (b'{"query": {"embedding": [1, 2]}}', 422, "wrong_dimension"),
    (b'{"query": {"embedding": []}}', 422, "invalid_request"),
    (b'{"query": {"embedding": [' + b"NaN," * 15 + b"1]}}", 422, "invalid_request"),
    (b'{"query": {"embedding": [' + b"1e300," * 15 + b"1]}}", 422, "invalid_point"),
    (b'{"query": {"embedding": [' + b'"x",' * 60_000 + b"1]}}", 422, "invalid_request"),
]


@pytest.mark.parametrize(("body", "status", "code"), MALFORMED)
def test_malformed_json(client: httpx.Client, body: bytes, status: int, code: str) -> None:
    content = problem(client.post("/v1/search", content=body, headers=JSON_TYPE), status, code)
    assert len(json.dumps(content)) < 10_000


@pytest.mark.parametrize("magnitude", [1e2, 1e6, 1e12, 1e18, 1e25, 3e38])
def test_points_far_out_are_answered_or_refused(client: httpx.Client, magnitude: float) -> None:
    response = client.post("/v1/search", json={"query": {"embedding": [magnitude] * 16}, "limit": 3})
    if response.status_code == 200:
        distances = [hit["distance"] for hit in response.json()["hits"]]
        assert len(distances) == 3
        assert all(isinstance(distance, float) for distance in distances)
    else:
        problem(response, 422, "invalid_point")


def test_each_bad_field_is_named(client: httpx.Client) -> None:
    body = {"query": {"item_id": "Fruit"}, "limit": 0, "max_distance": -1, "colour": "red"}
    content = problem(client.post("/v1/search", json=body), 422, "invalid_request")
    assert {error["pointer"] for error in content["errors"]} == {"/limit", "/max_distance", "/colour"}
    assert {error["location"] for error in content["errors"]} == {"body"}
    assert "and 2 more" in content["detail"]


MULTIPART: list[tuple[dict[str, Any], int, str]] = [
    ({"files": {"photo": PHOTO}}, 422, "invalid_request"),
    ({"files": {"file": PHOTO, "other": PHOTO}}, 413, "too_many_images"),
    ({"files": [("file", PHOTO), ("file", PHOTO)]}, 413, "too_many_images"),
    ({"files": {"file": PHOTO}, "data": {"limit": "many"}}, 422, "invalid_request"),
    ({"files": {"file": PHOTO}, "data": {"limit": ["1", "2"]}}, 422, "invalid_request"),
    ({"files": {"file": PHOTO}, "data": {"limit": "0"}}, 422, "invalid_request"),
    ({"files": {"file": PHOTO}, "data": {"max_distance": "nan"}}, 422, "invalid_request"),
    ({"files": {"file": PHOTO}, "data": {"include": "path,all"}}, 422, "invalid_request"),
    ({"files": {"file": PHOTO}, "data": {"colour": "red"}}, 422, "invalid_request"),
    ({"files": {"file": (None, "text")}}, 422, "invalid_request"),
    ({"files": {"file": PHOTO}, "data": {"limit": "1" * 5000}}, 422, "invalid_request"),
    ({"files": {"file": PHOTO}, "data": {f"f{i}": "1" for i in range(40)}}, 400, "malformed_multipart"),
]


@pytest.mark.parametrize(("request_", "status", "code"), MULTIPART)
def test_wrong_multipart(client: httpx.Client, request_: dict[str, Any], status: int, code: str) -> None:
    problem(client.post("/v1/search", **request_), status, code)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=", b"--\r\n"),
        ("multipart/form-data; boundary=a", b""),
        ("multipart/form-data; boundary=a", b"--b\r\nnothing"),
        (
            "multipart/form-data; boundary=a",
            b'--a\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nx',
        ),
        ("multipart/form-data; boundary=a", b"--a\r\nContent-Disposition: form-data\r\n\r\nx\r\n--a--\r\n"),
        ("multipart/form-data; boundary=a", b"--a\r\n" + b"X: y\r\n" * 10_000 + b"\r\n\r\n--a--"),
        ("multipart/form-data; boundary=a; charset=nonsense", b"--a\r\n\xff: \xff\r\n\r\n\xff\r\n--a--\r\n"),
        ("multipart/form-data; boundary=" + "b" * 3000, b"--b"),
    ],
)
def test_broken_multipart(client: httpx.Client, content_type: str, body: bytes) -> None:
    response = client.post("/v1/search", content=body, headers={"Content-Type": content_type})
    assert response.status_code in {400, 422}, response.text
    problem(response, response.status_code, response.json()["code"])


def test_other_media_types_are_told_what_to_send(client: httpx.Client) -> None:
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "image/jpeg", "application/xml"):
        response = client.post("/v1/search", content=b"x=1", headers={"Content-Type": content_type})
        assert "curl -F file=@photo.jpg" in problem(response, 415, "unsupported_media_type")["detail"]
    problem(client.post("/v1/search"), 415, "unsupported_media_type")


def test_framework_errors_are_problems_too(client: httpx.Client) -> None:
    problem(client.get("/nowhere"), 404, "not_found")
    problem(client.get("/v1/nowhere"), 404, "not_found")
    problem(client.get("/web/../cli.py"), 404, "not_found")
    problem(client.get("/web/%2e%2e/cli.py"), 404, "not_found")
    wrong_method = client.get("/v1/search")
    problem(wrong_method, 405, "method_not_allowed")
    assert wrong_method.headers["allow"] == "POST"
    problem(client.post("/v1/collections/none/search", json={}), 404, "collection_not_found")
    query = client.get("/v1/collections/default/items/Fruit/thumbnail?size=5000")
    assert problem(query, 422, "invalid_request")["errors"][0]["location"] == "query"
    body = client.post("/v1/collections/default/items/scroll", content=b"{", headers=JSON_TYPE)
    problem(body, 400, "malformed_json")


def test_a_crash_is_a_problem_without_its_secrets(
    engine: Any, with_settings: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastapi.testclient import TestClient

    from service.app import create_app

    monkeypatch.setattr(engine, "scroll", lambda *_: 1 / 0)
    with TestClient(create_app(engine, with_settings()), base_url="http://localhost") as client:
        response = client.post("/v1/collections/default/items/scroll", json={}, headers={"X-Request-ID": "my-id.7"})
    content = problem(response, 500, "internal_error")
    assert content["request_id"] == "my-id.7"
    assert "division" not in response.text


def test_request_ids_cannot_forge_log_lines(client: httpx.Client) -> None:
    for given in ("a" * 65, "a b", "a=b", 'x"y'):
        assert client.get("/livez", headers={"X-Request-ID": given}).headers["x-request-id"] != given
    assert client.get("/livez", headers={"X-Request-ID": "ok-1"}).headers["x-request-id"] == "ok-1"


def test_form_photo_may_be_named_anything(client: httpx.Client) -> None:
    for name in ("../../etc/passwd", "ä\n.jpg", "", "a" * 2000):
        files = {"file": (name or "x", io.BytesIO(PHOTO))}
        assert client.post("/v1/search", files=files).status_code == 200
