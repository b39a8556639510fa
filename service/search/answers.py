"""What was found, as clients get it. Blocking; written as plain JSON values, which a test holds to the schemas."""

import math
from typing import Any

from index.distances import radii
from service.collections import Served
from service.hierarchy.answers import TreeTeller
from service.schemas.search import SearchOptions
from service.search.pages import Page
from service.state import item_url


def answer(served: Served, options: SearchOptions, page: Page) -> dict[str, Any]:
    """A page as :class:`~service.schemas.search.SearchAnswer` describes it."""
    collection, include = served.collection, options.include
    with_path, with_metadata, with_thumbnail = "path" in include, "metadata" in include, "thumbnail" in include
    grouped = options.group_by is not None or options.group_level is not None
    hits = []
    for found in page.hits:
        item = found.item
        hit: dict[str, Any] = {"id": item.id, "distance": found.distance, "score": 1.0 / (1.0 + found.distance)}
        if grouped:
            hit["group"] = found.group
        if with_path:
            hit["path"] = item.labels
        if with_metadata:
            hit["metadata"] = item.metadata
        if with_thumbnail and item.image is not None:
            hit["thumbnail"] = item_url(collection, item, "thumbnail")
        hits.append(hit)
    query: dict[str, Any] = {"radius": float(radii(page.space.astype(float), collection.c))}
    if "specificity" in include:
        _add_specificities(served, page, hits, query)
    return {
        "hits": hits,
        "next_cursor": page.next_cursor,
        "query": query,
        "generation": page.generation,
        "exact": page.proven,
    }


def _add_specificities(served: Served, page: Page, hits: list[dict[str, Any]], query: dict[str, Any]) -> None:
    """What the tree says of the query and of each hit, as far as it is in memory: null where there is none."""
    view = served.tree.glance()
    if view is None:
        query |= {"specificity": None, "path": None}
        for hit in hits:
            hit["specificity"] = None
        return
    described = view.describe(page.space)
    path = TreeTeller(view, served.collection).path(described.path)
    query |= {"specificity": described.specificity, "path": path.model_dump(mode="json")}
    found = view.specificities([each.item.row for each in page.hits]).tolist()
    for hit, specificity in zip(hits, found, strict=True):
        hit["specificity"] = None if math.isnan(specificity) else specificity  # NaN for what it does not know
