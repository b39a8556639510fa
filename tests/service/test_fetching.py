"""Photos by URL: real sockets, and an audit hook that sees every connection Python makes.

The only servers at hand listen on this machine, so a test lets one address through by the parameter ``allowed``;
everything else is what production does.
"""

import asyncio
import functools
import ipaddress
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.fetching import fetch as fetching
from service.fetching.addresses import Address, is_public
from service.fetching.fetch import fetch
from service.fetching.network import OVERHEAD_BYTES
from service.problems import Problem
from service.settings import UrlSettings

from .conftest import draw, encoded

PHOTO = encoded(draw(1))
OK = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n"
WHOLE = OK + b"Content-Length: %d\r\n\r\n" % len(PHOTO) + PHOTO

_watching: list[list[Any]] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect":
        for connections in _watching:
            connections.append(arguments[1])


sys.addaudithook(_audit)


@pytest.fixture
def connections() -> Iterator[list[Any]]:
    """Every address that anything in this process connected to during the test."""
    seen: list[Any] = []
    _watching.append(seen)
    yield seen
    _watching.remove(seen)


class Upstream:
    """A server that keeps the requests it got and answers each with what ``script`` sends."""

    def __init__(self, script: Callable[[socket.socket, bytes], None], context: ssl.SSLContext | None = None) -> None:
        self.script, self.requests, self.num_connections = script, list[bytes](), 0
        self._context = context
        self._connection: socket.socket | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.num_connections += 1
            self._connection = connection
            try:
                if self._context:
                    connection = self._context.wrap_socket(connection, server_side=True)
                request = b""
                while b"\r\n\r\n" not in request and (data := connection.recv(4096)):
                    request += data
                self.requests.append(request)
                self.script(connection, request)
            except OSError:
                pass  # the client had enough
            finally:
                connection.close()

    def close(self) -> None:
        if self._listener.fileno() >= 0:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        if self._connection:
            self._connection.close()  # ends a script that never looks whether anybody listens
        self._thread.join(10)
        assert not self._thread.is_alive()


@pytest.fixture
def upstream() -> Iterator[Callable[..., Upstream]]:
    servers: list[Upstream] = []

    def start(script: Callable[[socket.socket, bytes], None] | bytes, **options: Any) -> Upstream:
        send = (lambda connection, _: connection.sendall(script)) if isinstance(script, bytes) else script
        servers.append(Upstream(send, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def only_this_machine(address: Address) -> bool:
    """The one address that a test lets through."""
    return address == ipaddress.ip_address("127.0.0.1")


def answering(*answers: Sequence[str]) -> tuple[Callable[..., Any], list[str]]:
    """A resolver that gives one of ``answers`` after the other (the last for ever), and the names it was asked."""
    asked: list[str] = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return answers[min(len(asked), len(answers)) - 1]

    return resolve, asked


def get(url: str, *, port: int = 80, **options: Any) -> bytes:
    """Fetch ``url``; ``resolve``, ``allowed`` and ``ssl_context`` go to ``fetch``, the rest are settings."""
    to_fetch = {name: options.pop(name) for name in ("resolve", "allowed", "ssl_context") if name in options}
    limits = UrlSettings(**{"enabled": True, "allowed_ports": (80, 443, port), **options})
    return asyncio.run(fetch(url, limits, **to_fetch))


def refused(url: str, **options: Any) -> Problem:
    with pytest.raises(Problem) as problem:
        get(url, **options)
    return problem.value


def local(server: Upstream, **options: Any) -> dict[str, Any]:
    """Options with which ``http://photos.example`` is ``server``."""
    resolve, _ = answering(["127.0.0.1"])
    return {"port": server.port, "resolve": resolve, "allowed": only_this_machine, **options}


# --- what is let through ---


def test_a_photo_is_fetched_and_nothing_of_ours_is_told(upstream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server = upstream(WHOLE)
    proxy = upstream(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 5\r\n\r\nproxy")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")

    assert get(f"http://Photos.example:{server.port}/Äpfel/a%20b.png?x=1&y=ü#part", **local(server)) == PHOTO

    (request,) = server.requests
    assert request.split(b"\r\n") == [
        b"GET /%C3%84pfel/a%20b.png?x=1&y=%C3%BC HTTP/1.1",
        f"Host: photos.example:{server.port}".encode(),
        b"Accept: image/*",
        b"Accept-Encoding: identity",
        b"User-Agent: lhier",
        b"Connection: close",
        b"",
        b"",
    ]
    assert proxy.num_connections == 0


def test_off_by_default(upstream: Any, connections: list[Any]) -> None:
    server = upstream(WHOLE)
    problem = refused(f"http://photos.example:{server.port}/", **local(server, enabled=UrlSettings().enabled))
    assert (problem.status, problem.code) == (403, "urls_disabled")
    assert connections == []


def test_the_defaults_are_those_of_the_contract() -> None:
    limits = UrlSettings()
    assert (limits.timeout_s, limits.max_bytes, limits.max_redirects) == (3, 10_000_000, 3)
    assert limits.allowed_ports == (80, 443)


def test_https_checks_the_name_of_the_url_not_the_address(upstream: Any, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=photos.example", "-addext", "subjectAltName=DNS:photos.example",
         "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    names: list[str | None] = []
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate, key)
    serving.sni_callback = lambda _socket, name, _context: names.append(name)
    server = upstream(WHOLE, context=serving)
    trusting = ssl.create_default_context(cafile=certificate)

    assert get(f"https://photos.example:{server.port}/", **local(server, ssl_context=trusting)) == PHOTO
    assert names == ["photos.example"]

    other = refused(f"https://other.example:{server.port}/", **local(server, ssl_context=trusting))
    unknown_authority = refused(f"https://photos.example:{server.port}/", **local(server))
    assert (other.code, unknown_authority.code) == ("url_unreachable", "url_unreachable")
    assert len(server.requests) == 1  # nothing was asked of the two


def test_the_next_address_is_tried(upstream: Any) -> None:
    server = upstream(WHOLE)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.2", server.port))  # bound, not listening: connections are refused
        resolve, _ = answering(["127.0.0.2", "127.0.0.1"])
        loopback = lambda address: address.is_loopback  # noqa: E731
        assert (
            get(f"http://photos.example:{server.port}/", port=server.port, resolve=resolve, allowed=loopback) == PHOTO
        )


def test_redirects_are_followed_up_to_the_limit(upstream: Any) -> None:
    def script(connection: socket.socket, request: bytes) -> None:
        hop = int(request.split()[1][1:])
        where = b"Location: /%d\r\nContent-Length: 0\r\n\r\n" % (hop - 1)
        connection.sendall(WHOLE if hop == 0 else b"HTTP/1.1 302 Found\r\n" + where)

    server = upstream(script)
    assert get(f"http://photos.example:{server.port}/3", **local(server)) == PHOTO
    problem = refused(f"http://photos.example:{server.port}/4", **local(server))
    assert (problem.status, problem.code) == (422, "url_bad_answer")
    assert server.num_connections == 4 + 4  # a loop ends in the same way: after the fourth answer nobody is asked


def test_only_the_hosts_of_the_list(upstream: Any, connections: list[Any]) -> None:
    server = upstream(WHOLE)
    hosts = {"allowed_hosts": ("Photos.example",)}
    assert get(f"http://photos.example:{server.port}/", **local(server, **hosts)) == PHOTO
    connections.clear()
    for host in ("evil.example", "photos.example.evil.example", "xphotos.example", "127.0.0.1"):
        assert refused(f"http://{host}:{server.port}/", **local(server, **hosts)).code == "url_not_allowed"
    assert connections == []


# --- what is not: 0 connections ---

FORMS_OF_LOOPBACK = [
    "127.0.0.1", "localhost", "LOCALHOST", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1",
    "0177.0000.0000.0001", "017700000001", "127.0.0.0x1", "0", "0.0.0.0", "127.127.127.127", "127.0.0.1.", "localhost.",  # noqa: S104
    "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[0:0:0:0:0:ffff:127.0.0.1]",
    "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[::1%25lo]", "[::1%lo]", "%31%32%37.0.0.1", "①②⑦.⓪.⓪.①", "１２７.0.0.1",
    "127。0。0。1", "ⓛocalhost", "loc\u00adalhost", "127.0.0.1\u2044", "127.0.0.1%00.example", "a@127.0.0.1",
    "photos.example@127.0.0.1", "photos.example:80@127.0.0.1", "127.0.0.1\\@photos.example", "127.0.0.1\t",
    " 127.0.0.1", "127.0.0.1\n", "127.0.0.1\r\nX: y",
]  # fmt: skip


@pytest.mark.parametrize("host", FORMS_OF_LOOPBACK)
def test_no_form_of_loopback_is_connected_to(host: str, upstream: Any, connections: list[Any]) -> None:
    server = upstream(WHOLE)
    problem = refused(f"http://{host}:{server.port}/", port=server.port)  # the real resolver, the real rule
    assert (problem.status, problem.code) == (422, "url_not_allowed")
    assert (server.num_connections, connections) == (0, [])
    assert "127.0.0" not in problem.detail


def test_the_count_would_see_a_connection(upstream: Any, connections: list[Any]) -> None:
    server = upstream(WHOLE)
    get(f"http://localhost:{server.port}/", port=server.port, allowed=only_this_machine,
        resolve=answering(["127.0.0.1"])[0])  # fmt: skip
    assert server.num_connections == 1
    assert [tuple(address[:2]) for address in connections] == [("127.0.0.1", server.port)]


# One of each row of IANA's special-purpose registries, and of what embeds an IPv4 address.
BLOCKED = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.127.255.255", "100.100.100.200", "127.0.0.1",  # noqa: S104
    "169.254.169.254", "169.254.0.1", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.192", "192.0.2.1",
    "192.88.99.1", "192.168.0.1", "192.168.255.255", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1",
    "168.63.129.16", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:8.8.8.8",
    "::ffff:0:127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "100::1", "2001::1",
    "2001:0:7f00:1:0:0:80ff:fffe", "2001:2::1", "2001:10::1", "2001:20::1", "2001:db8::1", "2002:7f00:1::",
    "2002:a00:1::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%lo", "fec0::1", "ff02::1",
    "ff0e::1", "4000::1",
]  # fmt: skip


@pytest.mark.parametrize("address", BLOCKED)
def test_no_blocked_address_is_connected_to(address: str, connections: list[Any]) -> None:
    literal = f"[{address}]" if ":" in address else address
    details = set()
    for url, answers in [
        (f"http://{literal}/", [["93.184.215.14"]]),
        ("http://photos.example/", [[address]]),
        ("http://photos.example/", [["93.184.215.14", address]]),  # one bad address spoils the answer
        ("https://photos.example/", [[address, "93.184.215.14"]]),
    ]:
        problem = refused(url, resolve=answering(*answers)[0])
        assert (problem.status, problem.code) == (422, "url_not_allowed")
        details.add(problem.detail)
    assert connections == []
    nothing = refused("http://photos.example/", resolve=answering([])[0])
    # Whether a name exists in the network behind the server cannot be told from the answer.
    assert nothing.detail in details
    assert all(address not in detail for detail in details)


PUBLIC = ["1.1.1.1", "8.8.8.8", "93.184.215.14", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1", "9.9.9.9",
          "11.0.0.1", "169.253.0.1", "192.167.0.1", "223.255.255.254", "2606:4700:4700::1111", "2a00:1450:4001::1",
          "2001:4860:4860::8888"]  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6), st.ip_addresses(v=6, network="2000::/3")))
def test_whatever_python_calls_special_is_not_public(address: Address) -> None:
    special = (address.is_private or address.is_loopback or address.is_link_local or address.is_multicast
               or address.is_reserved or address.is_unspecified)  # fmt: skip
    if isinstance(address, ipaddress.IPv6Address):
        special = special or bool(address.ipv4_mapped or address.sixtofour or address.teredo or address.is_site_local)
    assert not (special and is_public(address))


def test_a_name_is_resolved_once_and_the_checked_address_is_used(upstream: Any, connections: list[Any]) -> None:
    checked, rebound = upstream(WHOLE), upstream(WHOLE)
    resolve, asked = answering(["127.0.0.1"], ["127.0.0.2"])  # "public" first, "private" at every later question
    assert get(f"http://photos.example:{checked.port}/", **local(checked, resolve=resolve)) == PHOTO
    assert asked == ["photos.example"]
    assert [tuple(address) for address in connections] == [("127.0.0.1", checked.port)]
    # And asked again, in a redirect to itself, the private answer is seen and refused.
    loop = upstream(b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n")
    resolve, asked = answering(["127.0.0.1"], ["127.0.0.2"])
    connections.clear()
    assert refused(f"http://photos.example:{loop.port}/", **local(loop, resolve=resolve)).code == "url_not_allowed"
    assert asked == ["photos.example"] * 2
    assert [tuple(address) for address in connections] == [("127.0.0.1", loop.port)]
    assert rebound.num_connections == 0


REDIRECTED_TO = ["http://10.0.0.1/", "http://169.254.169.254/latest/meta-data/", "http://[::1]:{port}/",
                 "http://127.0.0.2:{port}/", "//127.0.0.2:{port}/", "http://2130706434:{port}/", "http://0x7f.2:{port}/",
                 "file:///etc/passwd", "ftp://photos.example/", "gopher://127.0.0.1:{port}/",
                 "data:image/png;base64,AA", "http://photos.example:22/", "http://user:word@photos.example:{port}/", "http://[::1",
                 "http://photos.example\\@127.0.0.2:{port}/", "\x85http://127.0.0.2:{port}/"]  # fmt: skip


@pytest.mark.parametrize("target", REDIRECTED_TO)
def test_every_hop_is_checked(target: str, upstream: Any, connections: list[Any]) -> None:
    inside = upstream(WHOLE)
    location = target.format(port=inside.port).encode("latin-1")
    server = upstream(b"HTTP/1.1 302 Found\r\nLocation: " + location + b"\r\nContent-Length: 0\r\n\r\n")
    options = local(server, allowed_ports=(80, 443, server.port, inside.port))
    problem = refused(f"http://photos.example:{server.port}/", **options)
    assert problem.status == 422
    assert problem.code in {"url_not_allowed", "url_bad_answer"}
    assert [tuple(address) for address in connections] == [("127.0.0.1", server.port)]
    assert inside.num_connections == 0


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "FILE:///etc/passwd", "file://localhost/etc/passwd", "ftp://photos.example/a", "unix:/x", "",
     "data:image/png;base64,AAAA", "javascript:1", "//photos.example/a", "photos.example/a", "http:photos.example",
     "http:///a", "http://", "http://:80/", "http://photos.example:22/", "http://photos.example:0/",
     "http://photos.example:99999/", "http://photos.example:8o/", "http://photos.example:-80/", "http://[::1/",
     "http://photos..example/", "http://-photos.example/", "http://" + "a" * 64 + ".example/", "http://photos.example./",
     "http://" + "a." * 127 + "example/", "http://photos.example/" + "a" * 2048, "http://photos.example/\ud800",
     "http://user@photos.example/", "http://user:word@photos.example/", "http://@photos.example/", "http://münchen.de/",
     "http://photos.example /", "http://photos.example\x00/", "http://[v1.fe]/", "http://[127.0.0.1]/", "http://1.2.3/",
     "http://1.2.3.4.5/", "http://256.1.1.1/", "http://photos.0x/", "http://1.1.1.0x1/"],
)  # fmt: skip
def test_malformed_and_foreign_urls_are_refused_unasked(url: str, connections: list[Any]) -> None:
    resolve, asked = answering(["93.184.215.14"])
    problem = refused(url, resolve=resolve)
    assert (problem.status, problem.code) == (422, "url_not_allowed")
    assert (asked, connections) == ([], [])


def test_https_alone_can_be_asked_for(upstream: Any, connections: list[Any]) -> None:
    server = upstream(WHOLE)
    options = local(server, allowed_schemes=("https",))
    assert refused(f"http://photos.example:{server.port}/", **options).code == "url_not_allowed"
    assert connections == []


# --- hosts that mean ill ---


def endless(head: bytes, piece: bytes, pause_s: float = 0.0) -> Callable[[socket.socket, bytes], None]:
    def script(connection: socket.socket, request: bytes) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(piece)
            time.sleep(pause_s)

    return script


def test_a_body_without_end_is_left_at_the_limit(upstream: Any) -> None:
    sent = 0
    block = bytes(2**16)

    def script(connection: socket.socket, request: bytes) -> None:
        nonlocal sent
        connection.sendall(OK + b"\r\n")
        while True:
            connection.sendall(block)
            sent += len(block)

    server = upstream(script)
    problem = refused(f"http://photos.example:{server.port}/", **local(server, max_bytes=1_000_000))
    assert (problem.status, problem.code) == (413, "url_too_large")
    server.close()
    assert sent < 1_000_000 + OVERHEAD_BYTES + 8 * 2**20  # the rest lay in the kernel's socket buffers


@pytest.mark.parametrize("num_bytes", [0, -1, 1])
def test_the_limit_is_exact(num_bytes: int, upstream: Any) -> None:
    body = bytes(300_000 + num_bytes)
    server = upstream(OK + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n")
    options = local(server, max_bytes=300_000)
    if num_bytes <= 0:
        assert get(f"http://photos.example:{server.port}/", **options) == body
    else:
        assert refused(f"http://photos.example:{server.port}/", **options).code == "url_too_large"


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (OK + b"Content-Length: 10000001\r\n\r\n", "url_too_large"),
        (OK + b"Content-Length: 99999999999999999999\r\n\r\n", "url_too_large"),
        (OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", "url_bad_answer"),
        (OK + b"Content-Length: -1\r\n\r\n", "url_bad_answer"),
        (OK + b"Content-Length: 100\r\n\r\nshort", "url_bad_answer"),
        (OK + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\x1f\x8b", "url_bad_answer"),
        (OK + b"X: " + b"a" * 200_000 + b"\r\n\r\n", "url_bad_answer"),
        (OK + b"X: a\r\n" * 50_000 + b"\r\n", "url_bad_answer"),
        (endless(OK + b"X: ", b"a" * 4096), "url_bad_answer"),
        (endless(OK, b"X: a\r\n"), "url_bad_answer"),
        (endless(b"", b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n" * 50), "url_too_large"),
        (endless(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n" * 500), "url_too_large"),
        (endless(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1;" + b"x" * 9000 + b"\r\na\r\n"), "url_too_large"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 1\r\n\r\na", "url_bad_answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na", "url_bad_answer"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Type: image/png\r\nContent-Length: 1\r\n\r\na", "url_bad_answer"),
        (b"HTTP/1.1 206 Partial\r\nContent-Type: image/png\r\nContent-Length: 1\r\n\r\na", "url_bad_answer"),
        (b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", "url_bad_answer"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "url_bad_answer"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "url_bad_answer"),
        (b"", "url_bad_answer"),
    ],
)  # fmt: skip
def test_bad_answers(script: Any, code: str, upstream: Any) -> None:
    server = upstream(script)
    started = time.monotonic()
    problem = refused(f"http://photos.example:{server.port}/", **local(server, max_bytes=1_000_000, timeout_s=20))
    assert (problem.code, problem.status) == (code, 413 if code == "url_too_large" else 422)
    assert time.monotonic() - started < 15
    assert server.num_connections == 1


@pytest.mark.parametrize(
    "script",
    [
        endless(b"", b"", 0.05),  # silence
        endless(b"H", b"", 0.05),
        endless(OK + b"Content-Length: 1000000\r\n\r\n", b"a", 0.02),
        endless(b"HTTP/1.1 200 OK\r\n", b"X: a\r\n", 0.02),
        endless(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", 0.02),
    ],
)
def test_slow_hosts_end_with_the_time(script: Any, upstream: Any) -> None:
    server = upstream(script)
    started = time.monotonic()
    problem = refused(f"http://photos.example:{server.port}/", **local(server, timeout_s=0.3))
    assert (problem.status, problem.code) == (422, "url_timeout")
    assert 0.3 <= time.monotonic() - started < 2


def test_the_time_is_that_of_all_hops_together(upstream: Any) -> None:
    def script(connection: socket.socket, request: bytes) -> None:
        time.sleep(1.5)
        connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n")

    server = upstream(script)
    started = time.monotonic()
    assert refused(f"http://photos.example:{server.port}/", **local(server, timeout_s=2.5)).code == "url_timeout"
    assert time.monotonic() - started < 3.5
    assert server.num_connections == 2


def test_nobody_listening() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        options = {"port": port, "resolve": answering(["127.0.0.1"])[0], "allowed": only_this_machine}
        assert refused(f"http://photos.example:{port}/", **options).code == "url_unreachable"


def test_a_silent_name_server_holds_neither_the_loop_nor_the_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def silent(*_: Any, **__: Any) -> list[Any]:
        released.wait(20)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    limits = UrlSettings(enabled=True, timeout_s=0.2)
    monkeypatch.setattr(fetching, "MAX_FETCHING", 100)

    async def many() -> list[Any]:
        urls = [f"http://photos-{i}.example/" for i in range(fetching.MAX_RESOLVING + 4)]
        return await asyncio.gather(*(fetch(url, limits) for url in urls), return_exceptions=True)

    try:
        started = time.monotonic()
        codes = [problem.code for problem in asyncio.run(many())]
        assert time.monotonic() - started < 2
    finally:
        released.set()
    assert codes.count("url_timeout") == fetching.MAX_RESOLVING
    assert codes.count("urls_busy") == 4
    waiting = [thread for thread in threading.enumerate() if thread.name == "resolve"]
    assert all(thread.daemon for thread in waiting)
    for thread in waiting:
        thread.join(5)
    monkeypatch.undo()
    assert refused("http://localhost/").code == "url_not_allowed"  # the places are free again


def test_not_too_many_at_once(upstream: Any) -> None:
    under_way = most = 0

    async def resolve(host: str, port: int) -> list[str]:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.05)
        under_way -= 1
        return ["127.0.0.1"]

    server = upstream(WHOLE)
    options = local(server, resolve=resolve)
    limits = UrlSettings(enabled=True, allowed_ports=(server.port,), timeout_s=20)

    async def many() -> list[bytes]:
        url = f"http://photos.example:{server.port}/"
        asked = (fetch(url, limits, resolve=resolve, allowed=options["allowed"]) for _ in range(40))
        return await asyncio.gather(*asked)

    assert asyncio.run(many()) == [PHOTO] * 40
    assert most == fetching.MAX_FETCHING


def test_the_log_names_hosts_and_no_more(upstream: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="service.fetching.fetch")
    server = upstream(WHOLE)
    get(f"http://photos.example:{server.port}/secret-path?signature=abc", **local(server))
    refused("http://127.0.0.1/secret-path")
    refused("http://user:secret-word@photos.example/")
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith(f"event=url_fetched host=photos.example bytes={len(PHOTO)} ")
    assert said[1:] == [
        "event=url_not_fetched host=127.0.0.1 code=url_not_allowed",
        "event=url_not_fetched host= code=url_not_allowed",
    ]
    assert "secret" not in caplog.text


# --- over HTTP ---


def test_searching_and_storing_by_url(
    engine: Any, with_settings: Any, upstream: Any, connections: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from service.server import running_server

    server = upstream(WHOLE)
    settings = with_settings(urls={"enabled": True, "allowed_ports": [server.port]})
    with running_server(settings, engine) as base, httpx.Client(base_url=base, timeout=30) as client:
        inside = f"http://127.0.0.1:{server.port}/"
        problem = client.post("/v1/search", json={"query": {"url": inside}})
        assert (problem.status_code, problem.json()["code"]) == (422, "url_not_allowed")
        item = {"id": "by-url", "url": inside}
        stored = client.put("/v1/collections/default/items", json={"items": [item]}).json()
        assert (stored["written"], stored["results"][0]["error"]["code"]) == (0, "url_not_allowed")
        assert server.num_connections == 0
        opened = functools.partial(fetch, resolve=answering(["127.0.0.1"])[0], allowed=only_this_machine)
        monkeypatch.setattr("service.search.queries.fetch", opened)
        url = f"http://photos.example:{server.port}/a.png"
        by_url = client.post("/v1/search", json={"query": {"url": url}}, headers={"X-Secret": "of the client"})
        by_file = client.post("/v1/search", files={"file": PHOTO})
        assert by_url.status_code == 200
        assert by_url.json()["hits"] == by_file.json()["hits"]
        (request,) = server.requests
        assert b"secret" not in request.lower()


def test_what_is_fetched_counts_as_uploaded(
    engine: Any, with_settings: Any, upstream: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from service.server import running_server

    server = upstream(WHOLE)
    limits = {"body_bytes": len(PHOTO), "buffered_bytes": len(PHOTO)}
    settings = with_settings(urls={"enabled": True, "allowed_ports": [server.port]}, limits=limits)
    opened = functools.partial(fetch, resolve=answering(["127.0.0.1"])[0], allowed=only_this_machine)
    monkeypatch.setattr("service.search.queries.fetch", opened)
    with running_server(settings, engine) as base, httpx.Client(base_url=base, timeout=30) as client:
        for _ in range(2):  # what is refused is not kept
            refused = client.post("/v1/search", json={"query": {"url": f"http://photos.example:{server.port}/a.png"}})
            assert (refused.status_code, refused.json()["code"]) == (429, "too_many_uploads")
        nearly_all = b'{"query": {"item_id": "Fruit"}}'.ljust(len(PHOTO))
        headers = {"Content-Type": "application/json"}
        assert client.post("/v1/search", content=nearly_all, headers=headers).status_code == 200
