"""Connections to addresses that were checked, whatever a name means by now, with every byte counted that comes back."""

import asyncio
import ssl
from collections.abc import Iterable, Sequence
from typing import NoReturn

import httpcore

from service.fetching.addresses import Address
from service.problems import Problem
from service.settings import UrlSettings

SocketOptions = Iterable[httpcore.SOCKET_OPTION]

# What status lines, headers, chunk frames and TLS may add to the photo itself before the whole is refused.
OVERHEAD_BYTES = 128 * 1024
# Every address of an answer is checked; this many are tried.
MAX_ATTEMPTS = 3


class Pinned(httpcore.AsyncNetworkBackend):
    """Connects to the checked addresses whatever name it is given, and counts every byte that comes back."""

    def __init__(self, host: str, addresses: Sequence[Address], limits: UrlSettings) -> None:
        self._host, self._addresses, self._limits = host, addresses[:MAX_ATTEMPTS], limits
        self._sockets = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: SocketOptions | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first checked address that answers. Raises as httpcore's own backend does."""
        if host != self._host:
            raise httpcore.ConnectError("a host that nobody checked")  # no URL of ours comes here
        # An address that swallows packets must leave time for the next.
        share = self._limits.timeout_s / len(self._addresses)
        for address in self._addresses[:-1]:
            try:
                return await self._connect(address, port, share, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await self._connect(self._addresses[-1], port, timeout, socket_options)

    async def _connect(
        self, address: Address, port: int, timeout: float | None, socket_options: SocketOptions | None
    ) -> httpcore.AsyncNetworkStream:
        stream = await self._sockets.connect_tcp(str(address), port, timeout, None, socket_options)
        return _Counted(stream, self._limits)

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: SocketOptions | None = None
    ) -> NoReturn:
        """Refused: no URL leads to a local socket."""
        raise httpcore.UnsupportedProtocol("no local sockets")

    async def sleep(self, seconds: float) -> None:
        """Between attempts of httpcore's, of which there are none here."""
        await asyncio.sleep(seconds)


class _Counted(httpcore.AsyncNetworkStream):
    """A connection that refuses to go on once more has come than a photo and its framing can need."""

    def __init__(self, stream: httpcore.AsyncNetworkStream, limits: UrlSettings) -> None:
        self._stream, self._limits = stream, limits
        self._left = limits.max_bytes + OVERHEAD_BYTES

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = await self._stream.read(max_bytes, timeout)
        self._left -= len(data)
        if self._left < 0:
            raise too_large(self._limits)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        return _Counted(await self._stream.start_tls(ssl_context, server_hostname, timeout), self._limits)

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)


def too_large(limits: UrlSettings) -> Problem:
    """More came than a photo may have."""
    return Problem(413, "url_too_large", f"the photo at the URL is over {limits.max_bytes:,} bytes")
