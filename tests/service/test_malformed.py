"""What no client should send, at every operation with a body: a problem that conforms, never a server error."""

import json
from collections.abc import Iterator

import httpx
import jsonschema
import pytest

from .conftest import draw, encoded
from .operations import Operation, document, operations

JSON = "application/json"
FORM = "multipart/form-data"
PROBLEM = {"$ref": "#/components/schemas/ProblemAnswer", "components": document()["components"]}
DEEP = 100_000

BODIES: dict[str, bytes] = {
    "nothing": b"",
    "blank": b" \n",
    "half": b'{"',
    "single quotes": b"{'limit': 1}",
    "trailing comma": b'{"limit": 1,}',
    "comment": b'{"limit": 1 /* one */}',
    "two values": b"{}{}",
    "no UTF-8": b"\xff\xfe\x00",
    "byte order mark": b"\xef\xbb\xbf[]",
    "overlong UTF-8": b'"\xc0\xaf"',
    "NUL": b"\x00",
    "control character": b'{"a": "\x01"}',
    "lone surrogate": b'{"\\ud800": "\\udfff"}',
    "deep arrays": b"[" * DEEP,
    "deep closed arrays": b"[" * DEEP + b"]" * DEEP,
    "deep objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "null": b"null",
    "array": b"[]",
    "number": b"1",
    "NaN alone": b"NaN",
    "huge integer alone": b"1" + b"0" * 10_000,
    "huge exponent": b"1e999999999",
    "many keys": b"{" + b",".join(b'"k%d":1' % i for i in range(20_000)) + b"}",
    "one long string": b'"' + b"a" * 1_000_000 + b'"',
}
# In the place of one value of a body that is right otherwise.
VALUES: dict[str, bytes] = {
    "NaN": b"NaN",
    "Infinity": b"Infinity",
    "-Infinity": b"-Infinity",
    "too large a float": b"1e999",
    "2**63": b"9223372036854775808",
    "-2**63-1": b"-9223372036854775809",
    "400 digits": b"1" + b"0" * 400,
    "10,000 digits": b"1" + b"0" * 10_000,
    "lone surrogate": b'"\\ud800"',
    "NUL in a string": b'"a\\u0000b"',
    "null": b"null",
    "empty object": b"{}",
    "deep": b"[" * 5_000 + b"]" * 5_000,
    "long string": b'"' + b"a" * 300_000 + b'"',
    "empty string": b'""',
    "path": b'"../../../etc/passwd"',
    "right-to-left override": '"\u202e\uffff"'.encode(),
    "array of NaN": b"[NaN, -Infinity]",
    "array of arrays": b"[[[[[]]]]]",
    "negative zero": b"-0.0",
    "true": b"true",
}


def with_json() -> list[Operation]:
    return [operation for operation in operations() if JSON in operation.consumes]


def with_form() -> list[Operation]:
    return [operation for operation in operations() if FORM in operation.consumes]


def fields(operation: Operation) -> list[str]:
    """The names of the fields of an operation's JSON body."""
    schema = operation.description["requestBody"]["content"][JSON]["schema"]
    names: list[str] = []
    for part in schema.get("anyOf", schema.get("oneOf", [schema])):
        resolved = document()["components"]["schemas"][part["$ref"].rsplit("/", 1)[1]] if "$ref" in part else part
        names += resolved.get("properties", {})
    return names


@pytest.fixture(scope="module")
def client(disposable: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=disposable, timeout=30) as client:
        yield client


def check(response: httpx.Response, *, success: bool = False) -> None:
    """A problem that conforms; or, where a strange value may stand there, ``success`` with JSON that all can read."""
    if success and response.status_code < 400:
        if response.content and response.headers.get("content-type") == JSON:
            json.loads(response.content, parse_constant=pytest.fail)  # NaN and Infinity are no JSON
        return
    assert 400 <= response.status_code < 500, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    jsonschema.validate(problem, PROBLEM)
    assert problem["status"] == response.status_code
    assert problem["request_id"] == response.headers["x-request-id"]
    assert len(response.content) < 20_000  # what was sent is not sent back at length


@pytest.mark.parametrize("operation", with_json(), ids=lambda operation: operation.id)
def test_malformed_json(client: httpx.Client, operation: Operation) -> None:
    for name, body in BODIES.items():
        response = client.request(operation.method, operation.url(), content=body, headers={"Content-Type": JSON})
        assert response.status_code >= 400 or name == "nothing", name
        check(response, success=name == "nothing")


@pytest.mark.parametrize("operation", with_json(), ids=lambda operation: operation.id)
def test_strange_values(client: httpx.Client, operation: Operation) -> None:
    for field in [*fields(operation), "unknown"]:
        for body in VALUES.values():
            response = client.request(
                operation.method, operation.url(),
                content=b'{"%s": %s}' % (field.encode(), body), headers={"Content-Type": JSON},
            )  # fmt: skip
            check(response, success=field != "unknown")


@pytest.mark.parametrize("operation", with_json(), ids=lambda operation: operation.id)
def test_duplicate_keys(client: httpx.Client, operation: Operation) -> None:
    for field in fields(operation):
        body = b'{"%s": 1, "%s": "x", "%s": null}' % ((field.encode(),) * 3)
        response = client.request(operation.method, operation.url(), content=body, headers={"Content-Type": JSON})
        check(response, success=True)


OTHER_TYPES = [
    "text/plain",
    "application/xml",
    "application/x-www-form-urlencoded",
    "",
    "application/json/x",
    "a" * 5000,
]


@pytest.mark.parametrize("operation", with_json(), ids=lambda operation: operation.id)
def test_other_media_types(client: httpx.Client, operation: Operation) -> None:
    for content_type in OTHER_TYPES:
        headers = {"Content-Type": content_type}
        check(client.request(operation.method, operation.url(), content=b'{"a": 1}', headers=headers))


def part(head: bytes, body: bytes = b"x") -> bytes:
    return b"--a\r\n" + head + b"\r\n\r\n" + body + b"\r\n"


PHOTO = encoded(draw(1, (16, 16)))
FILE = b'Content-Disposition: form-data; name="file"; filename="f"'
FORMS: dict[str, tuple[str, bytes]] = {
    "no boundary": (FORM, part(FILE) + b"--a--"),
    "empty boundary": (f"{FORM}; boundary=", part(FILE) + b"--a--"),
    "long boundary": (f"{FORM}; boundary=" + "b" * 5000, b"--b"),
    "another boundary": (f"{FORM}; boundary=b", part(FILE) + b"--a--"),
    "nothing": (f"{FORM}; boundary=a", b""),
    "no parts": (f"{FORM}; boundary=a", b"--a--\r\n"),
    "truncated in a header": (f"{FORM}; boundary=a", b"--a\r\nContent-Dispo"),
    "truncated in a body": (f"{FORM}; boundary=a", part(FILE)[:-2]),
    "no last boundary": (f"{FORM}; boundary=a", part(FILE)),
    "no disposition": (f"{FORM}; boundary=a", part(b"X: y") + b"--a--\r\n"),
    "no name": (f"{FORM}; boundary=a", part(b"Content-Disposition: form-data") + b"--a--\r\n"),
    "huge header": (f"{FORM}; boundary=a", part(b"X: " + b"y" * 1_000_000) + b"--a--\r\n"),
    "many headers": (f"{FORM}; boundary=a", part(b"X: y\r\n" * 100_000 + FILE) + b"--a--\r\n"),
    "no UTF-8": (f"{FORM}; boundary=a", part(b'Content-Disposition: form-data; name="\xff"') + b"--a--\r\n"),
    "thousands of parts": (f"{FORM}; boundary=a",
     b"".join(part(b'Content-Disposition: form-data; name="f%d"' % i) for i in range(5000)) + b"--a--\r\n"),
    "thousands of files": (f"{FORM}; boundary=a", part(FILE) * 5000 + b"--a--\r\n"),
    "a long field": (f"{FORM}; boundary=a",
     part(b'Content-Disposition: form-data; name="limit"', b"1" * 1_000_000) + b"--a--\r\n"),
    "a nested form": (f"{FORM}; boundary=a",
     part(FILE + b"\r\nContent-Type: multipart/mixed; boundary=b", b"--b\r\n\r\n--b--") + b"--a--\r\n"),
    "an unknown encoding": (f"{FORM}; boundary=a",
     part(FILE + b"\r\nContent-Transfer-Encoding: base64", b"eA==") + b"--a--\r\n"),
    "JSON": (f"{FORM}; boundary=a", b'{"query": {}}'),
}  # fmt: skip


@pytest.mark.parametrize("operation", with_form(), ids=lambda operation: operation.id)
@pytest.mark.parametrize("name", FORMS)
def test_broken_forms(client: httpx.Client, operation: Operation, name: str) -> None:
    content_type, body = FORMS[name]
    headers = {"Content-Type": content_type}
    response = client.request(operation.method, operation.url(), content=body, headers=headers)
    # An upload of several photos tells of each: that one is no photo is no failure of the whole.
    check(response, success="results" in response.json())


STRANGE_FIELDS = [
    b"", b"\x00", b"\xff\xfe", b"NaN", b"Infinity", b"-1", b"1" * 400, b"true", b"null", b"[]", b"{}", b"[" * 3000,
    b'"\\ud800"', b'["\\ud800"]', b'{"a": NaN}', b'{"a": 1e999}', b'[{"id": "a", "metadata": {"a": -Infinity}}]',
    b'[{"id": "\\udfff"}]', b'{"must": [{}]}', "\u202e\uffff".encode(), b"a, b,,", b"../../etc/passwd",
]  # fmt: skip


@pytest.mark.parametrize("operation", with_form(), ids=lambda operation: operation.id)
def test_strange_fields_of_forms(client: httpx.Client, operation: Operation) -> None:
    names = operation.description["requestBody"]["content"][FORM]["schema"]["properties"]
    headers = {"Content-Type": f"{FORM}; boundary=a"}
    for name in [each.encode() for each in [*names, "unknown"] if each != "file"]:
        field = b'Content-Disposition: form-data; name="%s"' % name
        for value in STRANGE_FIELDS:
            for times in (1, 2):
                body = part(FILE, PHOTO) + part(field, value) * times + b"--a--\r\n"
                response = client.request(operation.method, operation.url(), content=body, headers=headers)
                check(response, success=name != b"unknown" or operation.id == "search_batch")


STRANGE_TEXTS = [
    "\x00", "%00", "%zz", "%", "..", "../..", "a/../../b", "\ud7ff\U0010ffff", "a" * 5000, "%ff%fe", "\r\nX: y", "?",
    "#", "{}", "' OR 1=1 --", "CON", "~", "*", "-1", "1" * 400, "\u202e",
]  # fmt: skip


@pytest.mark.parametrize("operation", operations(), ids=lambda operation: operation.id)
def test_strange_paths_and_parameters(client: httpx.Client, operation: Operation) -> None:
    names = [part.partition("}")[0] for part in operation.path.split("{")[1:]]
    parameters = [each["name"] for each in operation.description.get("parameters", ()) if each["in"] == "query"]
    for value in STRANGE_TEXTS:
        for name in names:
            check(client.request(operation.method, operation.url(**{name: value}), json={}), success=True)
        for name in parameters:
            check(client.request(operation.method, operation.url(), params={name: value}, json={}), success=True)


def test_every_operation_with_a_body_is_tried() -> None:
    """That the lists above are not empty by a change in how bodies are described."""
    bodies = {operation.id for operation in operations() if operation.description.get("requestBody")}
    assert {"search", "scroll"} <= {operation.id for operation in with_json()} <= bodies
    assert "search" in {operation.id for operation in with_form()}
