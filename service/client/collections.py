"""Collections, by the client."""

from typing import Any

from service.client.base import Base, calls, quoted
from service.client.transport import parse
from service.schemas.collections import CollectionAnswer, CollectionRequest, CollectionsAnswer


class CollectionMethods(Base):
    """Made, looked at, deleted."""

    @calls("list_collections")
    def collections(self) -> CollectionsAnswer:
        """All collections that are served."""
        return parse(CollectionsAnswer, self._get("/v1/collections"))

    @calls("collection")
    def collection(self, name: str) -> CollectionAnswer:
        """A collection as it stands."""
        return parse(CollectionAnswer, self._get(f"/v1/collections/{quoted(name)}"))

    @calls("create_collection")
    def create_collection(self, name: str, **settings: Any) -> CollectionAnswer:
        """An empty collection, or the one that is there with these settings (:class:`CollectionRequest`)."""
        body = CollectionRequest(**settings)
        return parse(CollectionAnswer, self._transport.request("PUT", f"/v1/collections/{quoted(name)}", body))

    @calls("delete_collection")
    def delete_collection(self, name: str) -> None:
        """Delete a collection with everything in it."""
        self._transport.request("DELETE", f"/v1/collections/{quoted(name)}")
