"""Engine: an encoder and the collections that hold its points. No HTTP in here."""

import logging
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np

from index.catalogue import Item
from index.collection import Collection
from index.faiss_library import faiss
from index.gpu import Device
from service.collections import Collections
from service.encoder.frames import EncoderInfo
from service.encoder.selfcheck import SelfCheck
from service.encoder.supervisor import Encoder
from service.settings import InferenceSettings

logger = logging.getLogger(__name__)


class UnknownItemError(LookupError):
    """An item that the collection does not hold."""


class Engine:
    """Photos -> points -> neighbours, in the collections of one store that one checkpoint made.

    Any thread may call it. Points are made in a process of their own: see :class:`~service.encoder.supervisor.Encoder`.
    """

    def __init__(self, encoder: Encoder, collections: Collections) -> None:
        self.encoder = encoder
        self.collections = collections
        self.self_check = SelfCheck(encoder, collections)

    @classmethod
    def open(
        cls,
        checkpoint: Path,
        store: Path,
        names: Sequence[str] = (),
        *,
        inference: InferenceSettings | None = None,
        image_root: Path | None = None,
        search_device: Device = "cpu",
    ) -> Self:
        """Load a checkpoint and open collections (all of the store's where none is named; there may be none yet).

        One that cannot be opened is served as broken, while another can. Raises ``EncoderStartError`` where the
        checkpoint, the device or the runtime cannot be used, and ``StoreError`` where no collection can be opened:
        ``CollectionNotFoundError`` for one that is missing, ``ModelMismatchError`` for one of another checkpoint.
        """
        encoder = Encoder(checkpoint, inference or InferenceSettings())
        try:
            model_hash = encoder.ready().model_hash
            collections = Collections(store, model_hash, names, image_root=image_root, device=search_device)
            collections.open_all()
            # Requests are searched for side by side; inside one, threads that wait for each other while the encoder
            # has the cores take longer than one alone.
            faiss().omp_set_num_threads(1)
            engine = cls(encoder, collections)
            engine.self_check.start()
        except BaseException:  # Ctrl-C as well: the worker is to end with us
            encoder.close()
            raise
        return engine

    @property
    def model(self) -> EncoderInfo:
        """What the encoder is."""
        return self.encoder.info

    def collection(self, name: str | None = None) -> Collection:
        """A collection by name, or the default one. Raises as :meth:`Collections.use` does."""
        return self.collections.get(name)

    def item(self, collection: Collection, item_id: str) -> Item:
        """An item by id. Raises :class:`UnknownItemError`."""
        item = collection.item(item_id)
        if item is None:
            raise UnknownItemError(f"collection {collection.name!r} holds no item {item_id!r}")
        return item

    def scroll(self, collection: Collection, limit: int, after: int = 0) -> tuple[list[Item], int | None]:
        """The next ``limit`` items in stored order, and where to go on (None at the end)."""
        items = collection.items(after=after, limit=limit + 1)
        return items[:limit], items[limit - 1].row if len(items) > limit else None

    def sample(self, collection: Collection, limit: int) -> list[Item]:
        """At most ``limit`` different items drawn at random, in no order: a glance at what is there."""
        last = _last_row(collection)
        if last <= limit:
            items = collection.items(limit=limit)
            random.shuffle(items)
            return items
        drawn: dict[int, Item] = {}
        # Rows have gaps where items were deleted: each draw takes the next item that exists.
        for row in random.sample(range(last), limit):
            for item in collection.items(after=row, limit=1):
                drawn[item.row] = item
        return list(drawn.values())

    def among(
        self, collection: Collection, rows: np.ndarray, limit: int, after: int = 0, *, shuffled: bool = False
    ) -> tuple[list[Item], int | None]:
        """:meth:`scroll`, or with ``shuffled`` :meth:`sample`, among the items of ``rows``, ascending."""
        if shuffled:
            chosen = random.sample(rows.tolist(), min(limit, len(rows)))
            return _there(collection, chosen), None
        first = int(np.searchsorted(rows, after, side="right"))
        chosen = rows[first : first + limit].tolist()
        more = first + limit < len(rows)
        return _there(collection, chosen), chosen[-1] if more else None

    def close(self) -> None:
        """End the encoder and close every collection."""
        self.self_check.close()
        self.encoder.close()
        self.collections.close()


def _there(collection: Collection, rows: Sequence[int]) -> list[Item]:
    """The items of rows, in that order; one deleted meanwhile is passed over."""
    return [item for item in collection.catalogue.get_rows(rows) if item is not None]


def _last_row(collection: Collection) -> int:
    """Highest row in use, by bisection on "is there an item after this row"."""
    low, high = 0, max(1, collection.count)
    while collection.items(after=high, limit=1):
        low, high = high, 2 * high
    while low < high:
        middle = (low + high) // 2
        if collection.items(after=middle, limit=1):
            low = middle + 1
        else:
            high = middle
    return low
