"""Items, by the client."""

from collections.abc import Iterable, Iterator
from typing import Literal

from service.client.base import Base, calls, given
from service.client.transport import parse
from service.schemas.items import (
    CountAnswer,
    CountRequest,
    DeleteRequest,
    ItemAnswer,
    ItemWrite,
    ScrollAnswer,
    ScrollRequest,
    UpsertAnswer,
    UpsertRequest,
)

Size = Literal["160", "320", "640"]


class ItemMethods(Base):
    """Written, read, listed, deleted."""

    @calls("upsert")
    def upsert(
        self,
        items: Iterable[ItemWrite],
        *,
        atomic: bool = False,
        model_hash: str | None = None,
        collection: str | None = None,
    ) -> UpsertAnswer:
        """Write items. Unless ``atomic``, those that are fine are written even if others are not: see the results."""
        body = UpsertRequest(items=list(items), **given(model_hash=model_hash))
        path = f"{self._in(collection)}/items"
        answer = self._transport.request("PUT", path, body, params={"atomic": str(atomic).lower()})
        return parse(UpsertAnswer, answer)

    @calls("delete_item")
    def delete_item(self, item_id: str, *, collection: str | None = None) -> None:
        """Delete an item."""
        self._transport.request("DELETE", self._item(item_id, collection))

    @calls("delete")
    def delete(self, item_ids: Iterable[str], *, collection: str | None = None) -> int:
        """Delete several items; how many there were."""
        return parse(CountAnswer, self._post(collection, "items/delete", DeleteRequest(ids=list(item_ids)))).count

    @calls("count")
    def count(self, *, collection: str | None = None) -> int:
        """How many items there are."""
        return parse(CountAnswer, self._post(collection, "items/count", CountRequest())).count

    @calls("item_by_id")
    def item(self, item_id: str, *, collection: str | None = None) -> ItemAnswer:
        """A stored item."""
        return parse(ItemAnswer, self._get(self._item(item_id, collection)))

    @calls("image")
    def image(self, item_id: str, *, collection: str | None = None) -> bytes:
        """The photo of an item, as the file it came from."""
        return self._get(self._item(item_id, collection) + "/image").content

    @calls("thumbnail")
    def thumbnail(self, item_id: str, *, size: Size = "320", collection: str | None = None) -> bytes:
        """The photo of an item as a small JPEG."""
        return self._get(self._item(item_id, collection) + "/thumbnail", size=size).content

    @calls("scroll")
    def scroll(self, *, collection: str | None = None, page: int = 100) -> Iterator[ItemAnswer]:
        """All items in stored order, asked for ``page`` at a time."""
        cursor = None
        while True:
            body = ScrollRequest(limit=page, **given(cursor=cursor))
            answer = parse(ScrollAnswer, self._post(collection, "items/scroll", body))
            yield from answer.items
            if (cursor := answer.next_cursor) is None:
                return

    @calls("scroll")
    def sample(self, limit: int = 100, *, collection: str | None = None) -> list[ItemAnswer]:
        """At most ``limit`` items drawn at random."""
        body = ScrollRequest(limit=limit, order="random")
        return parse(ScrollAnswer, self._post(collection, "items/scroll", body)).items
