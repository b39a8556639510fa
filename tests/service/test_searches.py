"""Pages, groups and filters of searches against plain Python over all items; collections without photos."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index.catalogue import Item
from index.collection import Collection
from service.collections import Served
from service.hierarchy.tree import ServedTree
from service.problems import Problem
from service.schemas.search import MAX_DEPTH, SearchOptions
from service.search.cursors import Cursor
from service.search.pages import Page, find, find_many, resume, start_of
from service.search.queries import Located

DIM, COUNT = 8, 600
QUERY = b"q" * 16


def make(store: Path, count: int = COUNT, **request: Any) -> Collection:
    """Points about the origin, some of them twice, so that distances tie."""
    rng = np.random.default_rng(5)
    space = rng.normal(0, 0.7, size=(count, DIM)).astype(np.float32)
    twins = min(40, count // 2)
    space[count // 2 : count // 2 + twins] = space[:twins]
    plan = {"kind": "flat", "memory": None, "nlist": None, "nprobe": None} | request
    collection = Collection.create(store, embedding_dim=DIM, c=0.5, model_hash="m", request=plan)
    collection.upsert([Item(f"i{n}", point, labels(n), metadata(n)) for n, point in enumerate(space)])
    if plan["kind"] != "flat":
        collection.rebuild()
    return collection


def labels(number: int) -> tuple[str, ...]:
    return ("Fruit" if number % 3 else "Veg", f"Kind {number % 7}")[: 1 + (number % 11 > 0)]


def metadata(number: int) -> dict[str, Any]:
    return {"sku": f"s{number % 50}", "big": number % 2 == 0, "size": {"cm": number % 100}} if number % 13 else {}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with make(tmp_path_factory.mktemp("store")) as collection:
        yield Served(collection, ServedTree(collection))


@pytest.fixture(scope="module")
def in_lists(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with make(tmp_path_factory.mktemp("store"), kind="ivf", nprobe=1) as collection:
        assert collection.index.kind == "ivf"
        yield Served(collection, ServedTree(collection))


@pytest.fixture
def changing(tmp_path: Path) -> Iterator[Served]:
    with make(tmp_path, 60) as collection:
        yield Served(collection, ServedTree(collection))


Ranked = list[tuple[float, Item]]


def all_ranked(collection: Collection, space: np.ndarray, leave_out: int = 0) -> Ranked:
    """Every item with its distance by the arccosh form in extended precision, nearest first, ties by row."""
    c = collection.c
    items = [item for item in collection.items(limit=10_000) if item.row != leave_out]
    x, ys = space.astype(np.longdouble), np.stack([item.space for item in items]).astype(np.longdouble)
    inner = np.sqrt(1 / c + x @ x) * np.sqrt(1 / c + (ys**2).sum(1)) - ys @ x
    distances = np.arccosh(np.maximum(c * inner, 1)) / np.sqrt(c)
    order = sorted(range(len(items)), key=lambda i: (round(float(distances[i]), 7), items[i].row))
    return [(float(distances[i]), items[i]) for i in order]


def options(**given: Any) -> SearchOptions:
    return SearchOptions.model_validate(given)


def point(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.7, size=DIM).astype(np.float32)


def ids(page: Page) -> list[str]:
    return [hit.item.id for hit in page.hits]


def check(page: Page, expected: Ranked) -> None:
    assert ids(page) == [item.id for _, item in expected]
    for hit, (distance, _) in zip(page.hits, expected, strict=True):
        assert abs(hit.distance - distance) <= 1e-6
    assert page.proven


def pages(served: Served, space: np.ndarray, *, row: int = 0, **given: Any) -> Iterator[Page]:
    page = find(served, options(**given), start_of(Located(space, row, QUERY)))
    yield page
    while page.next_cursor is not None:
        asked = options(**given, cursor=page.next_cursor)
        page = find(served, asked, resume(served.collection, asked, QUERY))
        yield page


@pytest.mark.parametrize(("limit", "most"), [(1, 30), (7, 100), (100, 100), (599, 100), (600, 100), (1000, 100)])
def test_pages_put_together_are_one_long_search(served: Served, limit: int, most: int) -> None:
    found = list(islice(pages(served, point(1), limit=limit), most))
    count = min(COUNT, limit * most)
    assert [i for page in found for i in ids(page)] == [
        item.id for _, item in all_ranked(served.collection, point(1))[:count]
    ]
    assert all(len(page.hits) == limit for page in found[:-1])


def test_a_page_may_have_another_size_than_the_one_before(served: Served) -> None:
    first = find(served, options(limit=5), start_of(Located(point(2), 0, QUERY)))
    asked = options(limit=17, include=[], cursor=first.next_cursor)
    second = find(served, asked, resume(served.collection, asked, None))
    check(second, all_ranked(served.collection, point(2))[5:22])


def test_the_item_that_asks_is_on_no_page(served: Served) -> None:
    item = served.collection.item("i7")
    assert item is not None
    found = [each for page in pages(served, item.space, row=item.row, limit=90) for each in ids(page)]
    assert found == [other.id for _, other in all_ranked(served.collection, item.space, item.row)]
    assert "i7" not in found
    assert found[0] == "i307"  # its twin


@pytest.mark.parametrize("kind", ["flat", "ivf"])
@pytest.mark.parametrize("radius", [0.0, 0.6, 1.3, 50.0])
def test_max_distance_equals_brute_force(kind: str, radius: float, request: pytest.FixtureRequest) -> None:
    served: Served = request.getfixturevalue("served" if kind == "flat" else "in_lists")
    for seed in range(10):
        expected = [each for each in all_ranked(served.collection, point(seed)) if each[0] <= radius]
        check(
            find(served, options(limit=40, max_distance=radius), start_of(Located(point(seed), 0, QUERY))),
            expected[:40],
        )
        paged = [i for page in pages(served, point(seed), limit=250, max_distance=radius) for i in ids(page)]
        assert paged == [item.id for _, item in expected]


def test_exact_is_proven_where_lists_alone_are_not(in_lists: Served) -> None:
    unproven = 0
    for seed in range(20):
        start = start_of(Located(point(seed), 0, QUERY))
        unproven += not find(in_lists, options(), start).proven
        check(find(in_lists, options(exact=True), start), all_ranked(in_lists.collection, point(seed))[:10])
    assert unproven > 0


def test_pages_of_an_index_of_lists_never_show_an_item_twice(in_lists: Served) -> None:
    for seed in range(5):
        found = [(hit.distance, hit.item.row) for page in pages(in_lists, point(seed), limit=60) for hit in page.hits]
        assert found == sorted(set(found))
        whole = [each for page in pages(in_lists, point(seed), limit=60, exact=True) for each in ids(page)]
        assert whole == [item.id for _, item in all_ranked(in_lists.collection, point(seed))]


FILTERS: list[tuple[dict[str, Any], Callable[[Item], bool]]] = [
    ({"must": [{"key": "sku", "match": "s3"}]}, lambda item: item.metadata.get("sku") == "s3"),
    ({"must": [{"key": "sku", "in": ["s3", "s4"]}]}, lambda item: item.metadata.get("sku") in ("s3", "s4")),
    ({"should": [{"key": "big", "match": True}, {"path": "Veg"}]},
     lambda item: item.metadata.get("big") is True or item.labels[0] == "Veg"),
    ({"must_not": [{"key": "size.cm", "range": {"gte": 10, "lt": 90.5}}]},
     lambda item: not 10 <= item.metadata.get("size", {}).get("cm", -1) < 90.5),
    ({"must": [{"id": ["i1", "i2", "nobody"]}]}, lambda item: item.id in ("i1", "i2")),
    ({"must": [{"path": ["Fruit", "Kind 4"]}]}, lambda item: item.labels[:2] == ("Fruit", "Kind 4")),
    ({"must": [{"must_not": [{"key": "sku", "exists": True}]}]}, lambda item: not item.metadata),
    ({"must": [{"key": "big", "match": 1}]}, lambda _: False),
    ({}, lambda _: True),
]  # fmt: skip


@pytest.mark.parametrize(("given", "holds"), FILTERS)
def test_filters_leave_the_nearest_of_what_they_let_through(
    served: Served, given: dict[str, Any], holds: Callable[[Item], bool]
) -> None:
    expected = [each for each in all_ranked(served.collection, point(3)) if holds(each[1])]
    check(find(served, options(limit=1000, filter=given), start_of(Located(point(3), 0, QUERY))), expected)
    paged = [i for page in pages(served, point(3), limit=200, filter=given) for i in ids(page)]
    assert paged == [item.id for _, item in expected]


def grouped(ranking: Ranked, name: Callable[[Item], Any]) -> list[tuple[float, Item, Any]]:
    seen: dict[Any, tuple[float, Item, Any]] = {}
    for distance, item in ranking:
        if (group := name(item)) is not None:
            seen.setdefault(group, (distance, item, group))
    return list(seen.values())


NAMES: list[tuple[dict[str, Any], Callable[[Item], Any]]] = [
    ({"group_by": "sku"}, lambda item: item.metadata.get("sku")),
    ({"group_by": "size.cm"}, lambda item: item.metadata.get("size", {}).get("cm")),
    ({"group_by": "big"}, lambda item: item.metadata.get("big")),
    ({"group_by": "nothing"}, lambda _: None),
    ({"group_level": 1}, lambda item: item.labels[:1]),
    ({"group_level": 2}, lambda item: item.labels[:2] if len(item.labels) > 1 else None),
]


@pytest.mark.parametrize(("given", "name"), NAMES)
@pytest.mark.parametrize("extra", [{}, {"max_distance": 1.2}, {"filter": {"must": [{"path": "Fruit"}]}}])
def test_groups_are_the_nearest_of_each(
    served: Served, given: dict[str, Any], name: Callable[[Item], Any], extra: dict[str, Any]
) -> None:
    ranking = [
        (distance, item)
        for distance, item in all_ranked(served.collection, point(4))
        if distance <= extra.get("max_distance", np.inf) and ("filter" not in extra or item.labels[0] == "Fruit")
    ]
    expected = grouped(ranking, name)
    for limit in (1, 6, 1000):
        page = find(served, options(limit=limit, **given, **extra), start_of(Located(point(4), 0, QUERY)))
        check(page, [(distance, item) for distance, item, _ in expected[:limit]])
        for hit, (*_, group) in zip(page.hits, expected, strict=False):
            assert hit.group == (list(group) if isinstance(group, tuple) else group)
            assert type(hit.group) is type(list(group) if isinstance(group, tuple) else group)
    paged = [i for page in pages(served, point(4), limit=9, **given, **extra) for i in ids(page)]
    assert paged == [item.id for _, item, _ in expected]


def test_one_large_group_does_not_hide_the_others(tmp_path: Path) -> None:
    """The nearest thousands are of one group: the others come after it, however far."""
    rng = np.random.default_rng(0)
    near = rng.normal(0, 0.01, size=(3000, DIM)).astype(np.float32)
    far = rng.normal(0, 1, size=(20, DIM)).astype(np.float32)
    with Collection.create(tmp_path, embedding_dim=DIM, c=0.5, model_hash="m") as collection:
        collection.upsert([Item(f"n{n}", space, (), {"shop": "large"}) for n, space in enumerate(near)])
        collection.upsert([Item(f"f{n}", space, (), {"shop": n}) for n, space in enumerate(far)])
        served = Served(collection, ServedTree(collection))
        start = start_of(Located(np.zeros(DIM, np.float32), 0, QUERY))
        page = find(served, options(limit=21, group_by="shop"), start)
        check(page, [each[:2] for each in grouped(all_ranked(collection, start.space), lambda i: i.metadata["shop"])])
        assert page.next_cursor is None


def test_several_queries_in_one_scan_are_as_each_alone(served: Served) -> None:
    starts = [start_of(Located(point(seed), 0, QUERY)) for seed in range(5)]
    item = served.collection.item("i7")
    assert item is not None
    starts.append(start_of(Located(item.space, item.row, b"i" * 16)))
    for given in ({"limit": 3}, {"limit": 40, "max_distance": 1.0}, {"filter": {"must": [{"path": "Veg"}]}}):
        together = find_many(served, options(**given), starts)
        alone = [find(served, options(**given), start) for start in starts]
        assert [[(hit.item.id, hit.distance) for hit in page.hits] for page in together] == [
            [(hit.item.id, hit.distance) for hit in page.hits] for page in alone
        ]
        assert [page.next_cursor for page in together] == [page.next_cursor for page in alone]


def refused(served: Served, query: bytes | None = None, **given: Any) -> tuple[int, str]:
    asked = options(**given)
    with pytest.raises(Problem) as caught:
        find(served, asked, resume(served.collection, asked, query))
    return caught.value.status, caught.value.code


def test_a_cursor_of_another_search_is_refused(served: Served, in_lists: Served) -> None:
    given: dict[str, Any] = {"limit": 5, "filter": {"must": [{"path": "Veg"}]}}
    cursor = find(served, options(**given), start_of(Located(point(1), 0, QUERY))).next_cursor
    assert refused(served, b"x" * 16, **given, cursor=cursor) == (422, "cursor_mismatch")
    for change in ({"filter": None}, {"max_distance": 3}, {"exact": True}, {"group_by": "sku"}, {"group_level": 1}):
        assert refused(served, **{**given, **change}, cursor=cursor) == (422, "cursor_mismatch"), change
    assert refused(in_lists, **given, cursor=cursor) == (410, "stale_cursor")


def test_a_write_makes_a_cursor_stale(changing: Served) -> None:
    collection = changing.collection
    for given in ({"limit": 5}, {"limit": 2, "group_by": "sku"}):
        start = start_of(Located(point(1), 0, QUERY))
        cursor = find(changing, options(**given), start).next_cursor
        asked = options(**given, cursor=cursor)
        assert len(find(changing, asked, resume(collection, asked, QUERY)).hits) == given["limit"]
        collection.delete(["nobody"])  # a write all the same
        assert refused(changing, **given, cursor=cursor) == (410, "stale_cursor")


def test_nothing_in_a_cursor_is_believed(served: Served) -> None:
    text = find(served, options(), start_of(Located(point(1), 0, QUERY))).next_cursor
    assert text is not None
    good = Cursor.decode(text, DIM)
    bad: list[dict[str, Any]] = [
        {"seen": 0}, {"seen": MAX_DEPTH + 1}, {"seen": MAX_DEPTH}, {"seen": 2**31 - 1},
        {"row": 0}, {"row": -1}, {"leave_out": -1},
        {"distance": float("nan")}, {"distance": float("inf")}, {"distance": -1.0},
        {"space": np.full(DIM, np.nan, np.float32)}, {"space": np.full(DIM, np.inf, np.float32)},
        {"space": np.zeros(DIM - 1, np.float32)}, {"space": np.zeros(DIM + 1, np.float32)},
    ]  # fmt: skip
    names = ("seen", "distance", "row", "leave_out", "state", "options", "query", "space")
    for change in bad:
        made = Cursor(**({name: getattr(good, name) for name in names} | change)).encode()
        assert refused(served, cursor=made) == (422, "invalid_cursor"), change
    for place in range(0, len(text), 7):  # every part of it
        other = "A" if text[place] != "A" else "B"
        assert refused(served, cursor=text[:place] + other + text[place + 1 :]) == (422, "invalid_cursor")
    for garbage in ("A", "AAAA", text[:-1], text + "AAAA", text * 2):
        assert refused(served, cursor=garbage) == (422, "invalid_cursor")


def test_pages_end_at_a_depth(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.search.pages.MAX_DEPTH", 100)
    for given in ({}, {"group_by": "size.cm"}):
        found = list(pages(served, point(1), limit=30, **given))
        whole = find(served, options(limit=1000, **given), start_of(Located(point(1), 0, QUERY)))
        assert len(whole.hits) > 90
        assert [i for page in found for i in ids(page)] == ids(whole)
        assert [len(page.hits) for page in found[:3]] == [30, 30, 30]
        assert sum(len(page.hits) for page in found) <= 100
