"""The recall probe: whether searches in a live index still find what a look at every stored point finds."""

from collections.abc import Iterator

import numpy as np

from index.catalogue import Item
from index.collection import Collection
from index.distances import distances

QUERIES = 16
NEIGHBOURS = 10
MOST_COMPARED = 20_000
PAGE = 500


def probe(collection: Collection, rng: np.random.Generator) -> float | None:
    """Share of true neighbours that the index finds for stored items drawn at random; None for an empty collection.

    True is what float64 distances to at most 20,000 items say: each of them that is nearer to a query than the
    farthest of the ten answers must be among the answers. Items that change meanwhile count for nothing.
    """
    compared = list(_drawn(collection, rng))
    if not compared:
        return None
    points = np.stack([item.space for item in compared]).astype(np.float64)
    found = expected = 0
    for number in rng.choice(len(compared), min(QUERIES, len(compared)), replace=False):
        hits = collection.search(compared[number].space, NEIGHBOURS)
        answers = {hit.item.row for hit in hits}
        farthest = hits[-1].distance if len(hits) == NEIGHBOURS else np.inf
        # Who is as far as the last answer may stand behind it.
        nearer = distances(points[number][None], points[None], collection.c)[0] < farthest * (1 - 1e-9)
        for place in np.flatnonzero(nearer):
            item = compared[place]
            if item.row in answers:
                found += 1
            elif _is_still(collection, item):
                expected += 1
    return found / (found + expected) if found + expected else None


def _drawn(collection: Collection, rng: np.random.Generator) -> Iterator[Item]:
    """Everything in a small collection, else pages from all over it."""
    count = collection.count
    pages = max(1, MOST_COMPARED // PAGE)
    if count <= MOST_COMPARED:
        after = 0
        while page := collection.items(after=after, limit=PAGE):
            yield from page
            after = page[-1].row
        return
    starts = np.sort(rng.choice(count // PAGE, pages, replace=False)) * PAGE
    after = -1
    for start in starts:
        page = [item for item in collection.items(after=int(start), limit=PAGE) if item.row > after]
        yield from page
        after = page[-1].row if page else after


def _is_still(collection: Collection, item: Item) -> bool:
    now = collection.item(item.id)
    return now is not None and now.row == item.row and np.array_equal(now.space, item.space)
