"""A typed client of the service: every operation a method, every answer one of the service's own models.

::

    with Client("http://127.0.0.1:8000", api_key="...") as client:
        for hit in client.search(photo(Path("apple.jpg")), limit=5).hits:
            print(hit.id, hit.distance)

Importing it loads neither torch nor FAISS.
"""

from types import TracebackType
from typing import Self

import httpx

from service.client.base import calls
from service.client.collections import CollectionMethods
from service.client.items import ItemMethods
from service.client.jobs import JobMethods
from service.client.queries import encoded, item, node, photo, point, url
from service.client.search import SearchMethods
from service.client.snapshots import SnapshotMethods
from service.client.transport import ClientError, Transport
from service.client.tree import TreeMethods

__all__ = ["Client", "ClientError", "encoded", "item", "node", "photo", "point", "url"]


class Client(SearchMethods, ItemMethods, CollectionMethods, TreeMethods, JobMethods, SnapshotMethods):
    """The service at ``base_url``. Collections are named by ``collection``; None is the server's default one.

    Every method raises :class:`~service.client.transport.ClientError` for a problem, and ``httpx.TransportError``
    where no answer came. ``timeout`` is in seconds, for each step of a request; a busy server (429, 503) is asked
    again as it says, until ``max_wait_s`` seconds were waited.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout: float = 60.0,
        max_wait_s: float = 30.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        super().__init__(
            Transport(base_url, api_key=api_key, timeout=timeout, max_wait_s=max_wait_s, transport=transport)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    @calls("metrics")
    def metrics(self) -> str:
        """Figures in Prometheus' text format."""
        return self._get("/metrics").text

    @calls("livez")
    def is_live(self) -> bool:
        """Whether the process is well."""
        return self._transport.request("GET", "/livez", accept=frozenset({503})).is_success

    @calls("readyz")
    def is_ready(self) -> bool:
        """Whether requests are welcome."""
        return self._transport.request("GET", "/readyz", accept=frozenset({503})).is_success
