"""Photos fetched by URL, without becoming anybody's way into the network behind this server (SSRF).

Each hop, the first as every redirect: the URL is taken apart strictly, its host resolved once, *every* address of the
answer checked, and the connection made to a checked address, so that a second answer of the name server (rebinding)
is never asked for. Nothing of the client's request travels on, and no proxy of the environment is used.
"""

import asyncio
import functools
import ipaddress
import logging
import re
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit
from weakref import WeakKeyDictionary

import httpcore
import httpx

from service.fetching.addresses import Address, is_public
from service.fetching.network import Pinned, too_large
from service.operation.load import claim
from service.problems import Problem
from service.settings import UrlSettings

logger = logging.getLogger(__name__)

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]

MAX_URL = 2048
# Name servers that do not answer hold a thread for longer than a request may last.
MAX_RESOLVING = 16
# Of one process at once, each up to `max_bytes`: one request may name many URLs, and others are to be asked gently.
MAX_FETCHING = 16

DEFAULT_PORTS = {"http": 80, "https": 443}
REDIRECTS = frozenset({301, 302, 303, 307, 308})
# binary/octet-stream is what S3 answers for a file whose type nobody set.
CONTENT_TYPES = re.compile(r"image/[a-z0-9.+-]+|(?:application|binary)/octet-stream")

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*")
# A name whose last label is a number is what resolvers read as decimal, octal, hex or shortened IPv4.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


async def system_resolver(host: str, port: int) -> list[str]:
    """Every address of ``host``, by the system's resolver, off the loop. Raises ``OSError`` or ``UnicodeError``.

    In a daemon thread of its own: a name server that keeps silent for longer than the request lasts holds neither
    the event loop's common pool nor the server's exit.
    """
    if not _resolving.acquire(blocking=False):
        raise Problem(
            503, "urls_busy", "too many host names are being looked up: try again shortly", headers={"Retry-After": "2"}
        )
    answer: Future[list[str]] = Future()

    def look_up() -> None:
        try:
            if answer.set_running_or_notify_cancel():
                found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                answer.set_result([str(entry[4][0]) for entry in found])
        except (OSError, UnicodeError) as error:  # UnicodeError: a label that the idna codec refuses
            answer.set_exception(error)
        finally:
            _resolving.release()

    threading.Thread(target=look_up, name="resolve", daemon=True).start()
    return await asyncio.wrap_future(answer)


_resolving = threading.BoundedSemaphore(MAX_RESOLVING)
_fetching: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


def _places() -> asyncio.Semaphore:
    return _fetching.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(MAX_FETCHING))


async def fetch(
    url: str,
    limits: UrlSettings,
    *,
    resolve: Resolver = system_resolver,
    allowed: Callable[[Address], bool] = is_public,
    ssl_context: ssl.SSLContext | None = None,
) -> bytes:
    """The bytes of the photo at ``url``: at most ``limits.max_bytes``, within ``limits.timeout_s`` in all.

    The bytes are not looked at: decode them as any upload. ``resolve``, ``allowed`` and ``ssl_context`` are for tests.

    Raises :class:`~service.problems.Problem`: 403 ``urls_disabled``; 422 ``url_not_allowed`` (scheme, port, host or
    address, of a redirect too), ``url_unreachable``, ``url_timeout`` and ``url_bad_answer``; 413 ``url_too_large``;
    429 where too much is kept in memory already; 503 ``urls_busy``. A name without an address and one with a blocked
    address read the same, so that no answer tells which names exist in the network behind this server.
    """
    if not limits.enabled:
        raise Problem(403, "urls_disabled", "this server fetches nothing by URL: send the photo itself")
    # Waiting for a place is not counted as the host's time; the request's own deadline bounds it.
    async with _places():
        return await _fetched(url, limits, resolve, allowed, ssl_context)


async def _fetched(
    url: str,
    limits: UrlSettings,
    resolve: Resolver,
    allowed: Callable[[Address], bool],
    ssl_context: ssl.SSLContext | None,
) -> bytes:
    started = time.perf_counter()
    host = ""
    try:
        async with asyncio.timeout(limits.timeout_s):
            for _ in range(limits.max_redirects + 1):
                target = _take_apart(url, limits)
                host = target.host
                addresses = await _addresses(target, resolve, allowed)
                found = await _ask(target, addresses, limits, ssl_context or _ssl_context())
                if isinstance(found, bytes):
                    claim.get()(len(found))
                    elapsed = time.perf_counter() - started
                    logger.info("event=url_fetched host=%s bytes=%d duration_ms=%.0f", host, len(found), elapsed * 1000)
                    return found
                url = _next(target, found)
    except TimeoutError:
        logger.info("event=url_not_fetched host=%s code=url_timeout", host)
        raise Problem(422, "url_timeout", f"the URL gave no whole photo within {limits.timeout_s:g} s") from None
    except Problem as problem:
        # The host alone: paths and parameters of URLs may be secrets. "" where the first was not even taken apart.
        logger.info("event=url_not_fetched host=%s code=%s", host, problem.code)
        raise
    raise _bad_answer(f"it leads through more than {limits.max_redirects} redirects")


@dataclass(frozen=True, slots=True)
class _Target:
    """A URL taken apart; ``host`` lower case, without brackets."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


@dataclass(frozen=True, slots=True)
class _Redirect:
    location: str


def _next(target: _Target, redirect: _Redirect) -> str:
    try:
        return urljoin(target.url, redirect.location)
    except ValueError:
        raise _bad_answer("it redirects to something that is no URL") from None


def _take_apart(url: str, limits: UrlSettings) -> _Target:
    # Control characters, blanks and backslashes are what parsers disagree about.
    if len(url) > MAX_URL or re.search(r"[\x00-\x20\x7f\\]", url) or not url.isprintable():
        raise _not_allowed(
            f"it must have at most {MAX_URL} characters, none of them a blank, a backslash or unprintable"
        )
    try:
        parts = urlsplit(url)
        scheme, netloc, port = parts.scheme, parts.netloc, parts.port
    except ValueError:
        raise _not_allowed("it is not well formed") from None
    if scheme not in limits.allowed_schemes:
        raise _not_allowed(f"only {' and '.join(limits.allowed_schemes)} URLs are fetched")
    if "@" in netloc:
        raise _not_allowed("a user name or password has no place in it")
    if not netloc.isascii():
        raise _not_allowed("write the host in ASCII (international names as xn--...)")
    host = _host(re.sub(r":[0-9]*$", "", netloc).lower())
    if limits.allowed_hosts and host not in {name.lower() for name in limits.allowed_hosts}:
        raise _not_allowed("its host is not on this server's list")
    port = DEFAULT_PORTS[scheme] if port is None else port
    if port not in limits.allowed_ports:
        raise _not_allowed(f"only ports {' and '.join(map(str, limits.allowed_ports))} are asked")
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._[]")
    if parts.query:
        path += "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~-._?[]")
    return _Target(scheme, host, port, path)


def _host(text: str) -> str:
    """The host of a URL: a name, or an address in its one usual form. Raises the problem of any other form."""
    try:
        if text.startswith("[") and text.endswith("]") and "%" not in text:
            return str(ipaddress.IPv6Address(text[1:-1]))
        if _NUMBER.fullmatch(text.rpartition(".")[2]):
            return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise _not_allowed("its host is a number in a form that is not the usual one") from None
    if not _HOST_NAME.fullmatch(text):
        raise _not_allowed("its host is no host name")
    return text


async def _addresses(target: _Target, resolve: Resolver, allowed: Callable[[Address], bool]) -> list[Address]:
    """All addresses of the host, each of them checked."""
    try:
        literal = ipaddress.ip_address(target.host)
    except ValueError:
        try:
            found = [ipaddress.ip_address(text) for text in await resolve(target.host, target.port)]
        except (OSError, ValueError):  # UnicodeError is one
            found = []
    else:
        found = [literal]
    if not found or not all(allowed(address) for address in found):
        raise _not_allowed("its host has no address, or one that is not on the public internet")
    return list(dict.fromkeys(found))


async def _ask(
    target: _Target, addresses: Sequence[Address], limits: UrlSettings, ssl_context: ssl.SSLContext
) -> bytes | _Redirect:
    """One GET, to the first of the checked ``addresses`` that takes the connection."""
    headers = [("Host", _host_header(target)), ("Accept", "image/*"), ("Accept-Encoding", "identity"),
               ("User-Agent", "lhier"), ("Connection", "close")]  # fmt: skip
    backend = Pinned(target.host, addresses, limits)
    try:
        async with (
            httpcore.AsyncConnectionPool(ssl_context=ssl_context, network_backend=backend) as pool,
            pool.stream("GET", target.url, headers=headers) as response,
        ):
            fields = {name.lower(): value.decode("latin-1").strip() for name, value in response.headers}
            if response.status in REDIRECTS and fields.get(b"location"):
                return _Redirect(fields[b"location"])
            _check_head(response.status, fields, limits)
            body = bytearray()
            async for chunk in response.aiter_stream():
                body += chunk
                if len(body) > limits.max_bytes:
                    raise too_large(limits)
            return bytes(body)
    except (httpcore.NetworkError, httpcore.TimeoutException, OSError):
        raise Problem(422, "url_unreachable", "the URL's host could not be reached, or broke the connection") from None
    except (httpcore.ProtocolError, httpcore.UnsupportedProtocol):
        raise _bad_answer("its host does not speak proper HTTP") from None


def _host_header(target: _Target) -> str:
    host = f"[{target.host}]" if ":" in target.host else target.host
    return host if target.port == DEFAULT_PORTS[target.scheme] else f"{host}:{target.port}"


def _check_head(status: int, fields: dict[bytes, str], limits: UrlSettings) -> None:
    if status != 200:
        raise _bad_answer(f"its host answered {status}, not 200")
    # Asked for identity, so that what is counted is what is decoded: no decompression bomb to unpack.
    if fields.get(b"content-encoding", "identity").lower() != "identity":
        raise _bad_answer("its host sent a Content-Encoding that was not asked for")
    if not CONTENT_TYPES.fullmatch(fields.get(b"content-type", "").partition(";")[0].strip().lower()):
        raise _bad_answer("its Content-Type is no photo's: image/* and application/octet-stream are taken")
    # h11 has refused what is no number of at most twenty digits.
    if int(fields.get(b"content-length", "0")) > limits.max_bytes:
        raise too_large(limits)


@functools.cache
def _ssl_context() -> ssl.SSLContext:
    """The usual authorities, host names checked; made once, as it takes tens of milliseconds."""
    return httpx.create_ssl_context(trust_env=False)


def _not_allowed(why: str) -> Problem:
    return Problem(422, "url_not_allowed", f"this URL is not fetched: {why}")


def _bad_answer(why: str) -> Problem:
    return Problem(422, "url_bad_answer", f"the URL leads to no photo: {why}")
