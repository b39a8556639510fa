"""Searches and embeddings, by the client."""

from collections.abc import Iterable, Sequence

from service.client.base import Base, as_tuple, calls, given, quoted
from service.client.queries import Photo, encoded
from service.client.transport import parse
from service.schemas.embeddings import EmbeddingsAnswer, EmbeddingsRequest, Encoding, Space
from service.schemas.filters import Filter
from service.schemas.query import Query
from service.schemas.search import BatchAnswer, BatchRequest, Include, SearchAnswer, SearchRequest


class SearchMethods(Base):
    """Neighbours of a query, points of photos."""

    @calls("search", "search_collection")
    def search(
        self,
        query: Query | None = None,
        *,
        collection: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
        filter: Filter | None = None,  # noqa: A002 - the request's name for it
        max_distance: float | None = None,
        group_by: str | None = None,
        group_level: int | None = None,
        exact: bool | None = None,
        include: Sequence[Include] | None = None,
    ) -> SearchAnswer:
        """The items nearest to ``query``; ``cursor`` asks for the page after an answer's, all else the same."""
        body = SearchRequest(
            **given(query=query, limit=limit, cursor=cursor, filter=filter, max_distance=max_distance,
                    group_by=group_by, group_level=group_level, exact=exact, include=as_tuple(include))
        )  # fmt: skip
        path = "/v1/search" if collection is None else f"/v1/collections/{quoted(collection)}/search"
        return parse(SearchAnswer, self._transport.request("POST", path, body))

    @calls("search_batch")
    def search_batch(self, searches: Iterable[SearchRequest], *, collection: str | None = None) -> BatchAnswer:
        """Up to 32 searches at once, each with a status of its own."""
        body = BatchRequest(searches=list(searches))
        return parse(BatchAnswer, self._post(collection, "search/batch", body))

    @calls("embeddings")
    def embeddings(
        self,
        photos: Iterable[Photo],
        *,
        space: Space | None = None,
        encoding: Encoding | None = None,
        time: bool | None = None,
        collection: str | None = None,
    ) -> EmbeddingsAnswer:
        """The points of photos; with a ``collection`` also how specific its tree finds them."""
        options = given(space=space, encoding=encoding, time=time, collection=collection)
        body = EmbeddingsRequest(images=[encoded(photo) for photo in photos], **options)
        return parse(EmbeddingsAnswer, self._transport.request("POST", "/v1/embeddings", body))
