"""Without keys, being on this machine is what lets one in, and any web page in a browser here is: keep pages out."""

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.access import SAFE_METHODS
from service.problems import Problem
from service.settings import is_loopback


class LocalOnly:
    """For a service without keys: refuses what a page of another origin sends, and foreign names for this machine.

    Browsers say where a request comes from (``Sec-Fetch-Site``, ``Origin``); whoever says nothing is no browser. A
    page whose own name was pointed at 127.0.0.1 (DNS rebinding) is of the same origin for the browser, but its
    ``Host`` is neither loopback nor in ``hosts``. With ``hosts`` None, any name is taken.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str] | None) -> None:
        self.app = app
        self.hosts = None if hosts is None else frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        problem = self._refusal(scope["method"], Headers(scope=scope)) if scope["type"] == "http" else None
        if problem is None:
            await self.app(scope, receive, send)
        else:
            await problem.response(scope)(scope, receive, send)

    def _refusal(self, method: str, headers: Headers) -> Problem | None:
        host = headers.get("host", "")
        if self.hosts is not None and (name := _name(f"//{host}")) not in self.hosts and not is_loopback(name):
            return Problem(
                403,
                "unknown_host",
                f"this service answers on this machine only, not as {host!r:.80}: ask for http://127.0.0.1, set keys, "
                "or name the host in LHIER_AUTH__HOSTS",
            )
        if method in SAFE_METHODS:
            return None
        site = headers.get("sec-fetch-site")
        foreign = site not in {"same-origin", "none"} if site is not None else not _is_own(headers.get("origin"), host)
        if foreign:
            return Problem(403, "cross_site", "without keys, pages of other origins may not send anything here")
        return None


def _is_own(origin: str | None, host: str) -> bool:
    return origin is None or origin.lower() in {f"http://{host.lower()}", f"https://{host.lower()}"}


def _name(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""
