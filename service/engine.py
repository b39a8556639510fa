"""Engine: an embedder and the collections that hold its points. No HTTP in here."""

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hyperbolic.embedder import Embedder
from hyperbolic.images import MAX_PIXELS, MIN_SIDE, read_image
from index.catalogue import Item
from index.collection import Collection, Hit

logger = logging.getLogger(__name__)

DEFAULT_COLLECTION = "default"


class UnknownCollectionError(LookupError):
    """A collection that this engine does not serve."""


class UnknownItemError(LookupError):
    """An item that the collection does not hold."""


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Answer to one query: hits by rising distance, and what the answer rests on.

    ``radius`` is the geodesic distance of the query to the origin; ``exact`` says that every hit was certified.
    """

    hits: list[Hit]
    radius: float
    exact: bool
    generation: str


class Engine:
    """Photos -> points -> neighbours, in the collections of one store that one checkpoint made.

    ``embed`` may be called from one thread at a time, everything else from any number.
    """

    def __init__(self, embedder: Embedder, collections: Sequence[Collection]) -> None:
        if not collections:
            raise ValueError("expected at least one collection to serve")
        self.embedder = embedder
        self._collections = {collection.name: collection for collection in collections}
        names = list(self._collections)
        self.default = DEFAULT_COLLECTION if DEFAULT_COLLECTION in names else names[0]

    @classmethod
    def open(
        cls, checkpoint: Path, store: Path, names: Sequence[str] = (), *, device: str = "cpu", batch_size: int = 16
    ) -> Self:
        """Load a checkpoint and open collections (all of the store's where none is named).

        Raises ``CheckpointError``, and ``StoreError``: ``CollectionNotFoundError`` for a missing collection,
        ``ModelMismatchError`` for one that another checkpoint embedded.
        """
        from index.collection import list_collections
        from index.errors import CollectionNotFoundError

        names = list(dict.fromkeys(names)) or list_collections(store)
        if not names:
            raise CollectionNotFoundError(
                f"no collection in {store}: make one with 'lhier embed' and 'lhier index build'"
            )
        embedder = Embedder.load(checkpoint, device=device, batch_size=batch_size)
        opened: list[Collection] = []
        try:
            for name in names:
                opened.append(Collection.open(store, name, model_hash=embedder.model_hash))  # noqa: PERF401
        except Exception:
            for collection in opened:
                collection.close()
            raise
        engine = cls(embedder, opened)
        engine.warm_up()
        return engine

    @property
    def collections(self) -> list[Collection]:
        """The collections served, in the order they were named."""
        return list(self._collections.values())

    def collection(self, name: str | None = None) -> Collection:
        """A collection by name, or the default one. Raises :class:`UnknownCollectionError`."""
        try:
            return self._collections[self.default if name is None else name]
        except KeyError:
            raise UnknownCollectionError(
                f"no collection {name!r} is served here: expected one of {', '.join(self._collections)}"
            ) from None

    def warm_up(self) -> None:
        """Embed a grey square, so the first real photo does not pay for lazy initialisation."""
        self.embed([self.embedder.preprocessing(Image.new("RGB", (64, 64), "grey"))])

    def prepare(self, data: bytes, max_pixels: int = MAX_PIXELS, min_side: int = MIN_SIDE) -> Tensor:
        """Bytes of a photo -> the encoder's input (3, s, s). Raises :class:`~hyperbolic.images.ImageError`."""
        tensor: Tensor = self.embedder.preprocessing(read_image(data, max_pixels=max_pixels, min_side=min_side))
        return tensor

    def embed(self, prepared: Sequence[Tensor]) -> np.ndarray:
        """Prepared photos -> float32 space parts (n, d)."""
        return self.embedder.embed_tensors(torch.stack(list(prepared)))

    def neighbours(
        self,
        collection: Collection,
        space: np.ndarray,
        limit: int,
        *,
        max_distance: float | None = None,
        leave_out: str | None = None,
    ) -> Neighbours:
        """The at most ``limit`` items nearest to the point with space part ``space`` (d,), by geodesic distance.

        ``max_distance`` drops farther ones; ``leave_out`` names one item to pass over (the query itself).
        """
        found = collection.search(space, limit + (leave_out is not None))
        hits = [hit for hit in found if hit.item.id != leave_out][:limit]
        if max_distance is not None:
            hits = [hit for hit in hits if hit.distance <= max_distance]
        return Neighbours(
            hits=hits,
            radius=float(collection.radius(space)),
            exact=all(hit.exact for hit in found),
            generation=collection.generation,
        )

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

    def close(self) -> None:
        """Close every collection."""
        for collection in self._collections.values():
            collection.close()


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
