"""Searches: from a point and options to a page of hits. Blocking, no HTTP; any thread may call."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from index import filters
from index.catalogue import Item
from index.collection import Collection
from index.matching import Groups, Int64
from index.ranking import Ranking
from service.collections import Served
from service.problems import Problem
from service.schemas.filters import Filter
from service.schemas.search import MAX_DEPTH, SearchOptions
from service.search.cursors import Cursor, fingerprint, mismatch, stale
from service.search.queries import Located

# A filter that is overtaken by writes is asked again; after so many times its answer is that of a moment before.
TRIES = 3
FEWEST_CANDIDATES, MOST_CANDIDATES = 64, 4096  # of one scan for groups

Group = str | bool | int | float | list[str]


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """One hit of a page."""

    item: Item
    distance: float
    group: Group | None


@dataclass(frozen=True, slots=True, eq=False)
class Page:
    """Hits by rising distance; ``next_cursor`` where there are more. ``space`` (d,) is the query's point."""

    hits: list[Found]
    space: np.ndarray
    next_cursor: str | None
    proven: bool
    generation: str


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """Where a page begins: at the query's own point, or where a cursor says."""

    space: np.ndarray
    leave_out: int
    query: bytes
    cursor: Cursor | None = None


def start_of(query: Located) -> Start:
    """The first page of a query."""
    return Start(query.space, query.row, query.fingerprint)


def resume(collection: Collection, options: SearchOptions, query: bytes | None) -> Start:
    """A further page; ``query`` is the fingerprint of what was sent beside the cursor, None for nothing.

    Raises :class:`~service.problems.Problem` 422 for a cursor that is none, or that of another search.
    """
    cursor = Cursor.decode(options.cursor or "", collection.embedding_dim)
    if cursor.options != _options_print(collection, options):
        raise mismatch("collection, or has other options")
    if query is not None and query != cursor.query:
        raise mismatch("query")
    return Start(cursor.space, cursor.leave_out, cursor.query, cursor)


def find(served: Served, options: SearchOptions, start: Start) -> Page:
    """A page of hits. Raises :class:`~service.problems.Problem` 410 where the cursor's collection has changed."""
    grouped = options.group_by is not None or options.group_level is not None
    return _groups(served, options, start) if grouped else find_many(served, options, [start])[0]


def find_many(served: Served, options: SearchOptions, starts: Sequence[Start]) -> list[Page]:
    """Pages of several queries under the same options, in one scan. No groups; not more than one with a cursor."""
    collection = served.collection
    depth = min(max(_seen(start) for start in starts) + options.limit, MAX_DEPTH)
    # One more tells whether there is a next page, and the item that asks is not its own neighbour.
    count = depth + 1 + any(start.leave_out for start in starts)
    spaces = np.stack([start.space for start in starts])
    # What the pages before showed is proven to be all that is nearer only if this page's ranking is.
    exact = options.exact or any(start.cursor is not None for start in starts)
    for _ in range(TRIES):
        allowed, sequence = _allowed(served, options)
        rankings = collection.rank(spaces, count, radius=options.max_distance, allowed=allowed, exact=exact)
        if sequence is None or rankings[0].sequence == sequence:
            break
    return _pages(collection, options, list(zip(starts, rankings, strict=True)))


def _groups(served: Served, options: SearchOptions, start: Start) -> Page:
    """The nearest item of each group, as many groups as are asked for or as there are.

    Each scan leaves out the groups that were found before, so that a large one near the query is scanned once.
    """
    collection = served.collection
    wanted = min(_seen(start) + options.limit, MAX_DEPTH) + 1
    exact = options.exact or start.cursor is not None
    for _ in range(TRIES):
        groups = _grouping(served, options)
        rows, sequence = _allowed(served, options)
        remaining = groups.rows if rows is None else np.intersect1d(groups.rows, rows, assume_unique=True)
        if start.leave_out:
            remaining = remaining[remaining != start.leave_out]
        sequences = {groups.sequence, groups.sequence if sequence is None else sequence}
        scans = _scans(collection, options, start.space, groups, remaining, wanted, exact=exact)
        sequences |= {scan.sequence for scan in scans}
        if len(sequences) == 1:
            break
    distances = np.concatenate([scan.distances for scan in scans])
    rows = np.concatenate([scan.rows for scan in scans])
    order = np.lexsort((rows, distances))
    proven = all(scan.proven for scan in scans)
    nearest = Ranking(distances[order], rows[order], proven, scans[-1].sequence, scans[-1].generation)
    return _pages(collection, options, [(start, nearest)])[0]


def _scans(
    collection: Collection,
    options: SearchOptions,
    space: np.ndarray,
    groups: Groups,
    remaining: Int64,
    wanted: int,
    *,
    exact: bool,
) -> list[Ranking]:
    """Rankings of the first of each group, those of different scans being of different groups."""
    scans: list[Ranking] = []
    found, count = 0, min(max(FEWEST_CANDIDATES, 4 * wanted), MOST_CANDIDATES)
    while True:
        ranking = collection.rank(space[None], count, radius=options.max_distance, allowed=remaining, exact=exact)[0]
        numbers = groups.of(ranking.rows)
        new, places = np.unique(numbers, return_index=True)
        places.sort()
        scans.append(
            Ranking(
                ranking.distances[places], ranking.rows[places], ranking.proven, ranking.sequence, ranking.generation
            )
        )
        found += len(new)
        if found >= wanted or len(ranking.rows) < count:
            return scans
        remaining = remaining[~np.isin(groups.of(remaining), new)]
        if not len(remaining):
            return scans
        count = min(2 * count, MOST_CANDIDATES)


def _pages(collection: Collection, options: SearchOptions, found: Sequence[tuple[Start, Ranking]]) -> list[Page]:
    """The page of each ranking; the items of all of them are fetched together."""
    shown: list[tuple[list[float], Int64, str | None]] = []
    for start, ranking in found:
        state = _current(collection, start, ranking)
        kept = ranking.rows != start.leave_out  # 0, which is no row, for nothing
        distances, rows = ranking.distances[kept], ranking.rows[kept]
        first = _first(start.cursor, distances, rows)
        end = min(first + options.limit, MAX_DEPTH)
        cursor = None
        if end < min(len(rows), MAX_DEPTH):
            cursor = _next(collection, options, start, end, distances[end - 1], rows[end - 1], state)
        shown.append((distances[first:end].tolist(), rows[first:end], cursor))
    items = iter(collection.catalogue.get_rows(np.concatenate([rows for _, rows, _ in shown])))
    pages = []
    for (start, ranking), (distances_shown, _, cursor) in zip(found, shown, strict=True):
        # A row deleted since the scan has no item any more. Distances first: an item too many would be lost.
        hits = [
            Found(item, distance, _group(options, item))
            for distance, item in zip(distances_shown, items, strict=False)
            if item is not None
        ]
        pages.append(Page(hits, start.space, cursor, ranking.proven, ranking.generation))
    return pages


def _grouping(served: Served, options: SearchOptions) -> Groups:
    catalogue = served.collection.catalogue
    if options.group_by is not None:
        return served.matching.by_field(catalogue, options.group_by)
    assert options.group_level is not None  # noqa: S101 - one of them is given
    return served.matching.by_level(catalogue, options.group_level)


def compiled(served: Served, asked: Filter) -> filters.Filter:
    """A filter as the index has it. Raises :class:`~service.problems.Problem` 404 for a node that is not there.

    The caller has had the tree loaded, if the filter names a node.
    """

    def rows_under(node_id: str) -> Int64:
        hierarchy = served.tree.latest().hierarchy
        try:
            return hierarchy.rows[hierarchy.positions(hierarchy.index_of(node_id))]
        except KeyError:
            raise Problem(404, "node_not_found", f"filter: the tree has no node {node_id!r:.80}") from None

    return asked.compiled(rows_under)


def rows_let_through(served: Served, asked: Filter) -> Int64:
    """The rows of the items that a filter lets through, ascending. Raises as :func:`compiled` does."""
    return served.matching.rows(served.collection.catalogue, compiled(served, asked)).rows


def ids_let_through(served: Served, asked: Filter) -> list[str]:
    """Their ids, in any order."""
    _, found = served.collection.catalogue.select("id", *filters.where(compiled(served, asked)))
    return [item_id for (item_id,) in found]


def _allowed(served: Served, options: SearchOptions) -> tuple[Int64 | None, int | None]:
    """The rows that the filter lets through, and the write that they are of; None where there is no filter."""
    if options.filter is None:
        return None, None
    matching = served.matching.rows(served.collection.catalogue, compiled(served, options.filter))
    return matching.rows, matching.sequence


def _current(collection: Collection, start: Start, ranking: Ranking) -> bytes:
    """The fingerprint of the state that was searched, which the cursor must be of."""
    state = fingerprint(collection.name, ranking.sequence, ranking.generation)
    if start.cursor is not None and start.cursor.state != state:
        raise stale()
    return state


def _first(cursor: Cursor | None, distances: np.ndarray, rows: Int64) -> int:
    """How many of a ranking the pages before have shown, or passed."""
    if cursor is None:
        return 0
    passed = (distances < cursor.distance) | ((distances == cursor.distance) & (rows <= cursor.row))
    return int(np.count_nonzero(passed | (rows == cursor.row)))


def _next(
    collection: Collection, options: SearchOptions, start: Start, seen: int, distance: float, row: int, state: bytes
) -> str:
    prints = state, _options_print(collection, options), start.query
    return Cursor(seen, float(distance), int(row), start.leave_out, *prints, start.space).encode()


def _options_print(collection: Collection, options: SearchOptions) -> bytes:
    """What decides which hits come in which order; pages may differ in size and in what they include."""
    order = options.max_distance, options.group_by, options.group_level, options.exact
    chosen = None if options.filter is None else options.filter.model_dump(mode="json")
    return fingerprint(collection.name, *order, chosen)


def _seen(start: Start) -> int:
    return 0 if start.cursor is None else start.cursor.seen


def _group(options: SearchOptions, item: Item) -> Group | None:
    if options.group_level is not None:
        return list(item.labels[: options.group_level])
    if options.group_by is None:
        return None
    value: Any = item.metadata
    for name in options.group_by.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, str | int | float) else None
