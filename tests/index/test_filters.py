"""Filters against plain Python over all items: any items, any conditions, indexes or none."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from index.catalogue import Catalogue, Item
from index.errors import CatalogueError, PointError
from index.filters import Exists, Filter, HasId, InRows, Match, Range, Under, field_columns, is_plain, where
from index.matching import Matching

KEYS = ("a", "b", "a.b", "b.c.d", "with space", "ünïcode", "x-y", "0", "it's")
NAMES = ("a", "b", "c", "d", "with space", "ünïcode", "x-y", "0", "it's", 'quo"te', "back\\slash", "new\nline", "a.b")
LABELS = ("Fruit", "Fruit,", "Ap ple", "Äpfel", 'a"b', "a/b", "", "-", "\u2028")
TEXTS = (
    "",
    "a",
    "b",
    "ab",
    "1",
    "true",
    "null",
    "Ä",
    "\U0001f34e",
    "a'b",
    '["a"]',
    "x\0y",
    "\x1f",
    "'; DROP TABLE items",
)
NUMBERS = (0, 1, -1, 2, 0.1, 0.5, 1.0, 1e300, 5e-324, -2.5, 2**53, 2**53 + 1, 2**63 - 1, -(2**63), 2**70, 10**400)

# Mostly from a few values, so that conditions and items meet, and stand right at each other's bounds.
FEW = ("a", "b", "1", 0, 1, 1.0, 0.5, True, False)
few = st.sampled_from(FEW)
texts = st.sampled_from(TEXTS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
numbers = st.sampled_from(NUMBERS[:-2]) | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-5, 5)
scalars = few | few | texts | numbers | st.sampled_from(NUMBERS) | st.booleans()
wanted = few | few | texts.filter(lambda text: "\0" not in text) | numbers | st.booleans()
values = st.recursive(
    scalars | few | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=4,
)
ITEM_IDS = ("0", "1", "a", "Fruit/Äpfel/1.png", "it's")
items = st.lists(
    st.tuples(
        st.sampled_from((*ITEM_IDS, *(f"item {i}" for i in range(20)))),
        st.lists(st.sampled_from(LABELS), max_size=3),
        st.fixed_dictionaries({}, optional={"a": values, "b": values} | dict.fromkeys(NAMES[4:], values)),
    ),
    min_size=4,
    max_size=10,
    unique_by=lambda each: each[0],
)


@st.composite
def ranges(draw: st.DrawFn) -> Range:
    plain = texts.filter(lambda text: "\0" not in text)
    kind = draw(st.sampled_from([st.sampled_from((0, 0.5, 1)), st.sampled_from(("a", "b", "1")), numbers, plain]))
    names = draw(st.lists(st.sampled_from(("gt", "gte", "lt", "lte")), min_size=1, max_size=4, unique=True))
    return Range(draw(st.sampled_from(("a", "a", "b", *KEYS))), **{name: draw(kind) for name in names})


keys = st.sampled_from(("a", "a", "b", *KEYS))
leaves = (
    st.builds(Match, keys, st.lists(wanted, min_size=1, max_size=4).map(tuple))
    | ranges()
    | st.builds(Exists, keys, st.booleans())
    | st.builds(HasId, st.lists(st.sampled_from(ITEM_IDS), min_size=1, max_size=3).map(tuple))
    | st.builds(Under, st.lists(st.sampled_from(LABELS), min_size=1, max_size=2).map(tuple))
    | st.builds(InRows, st.lists(st.integers(1, 12), max_size=5).map(np.array))
)
conditions = st.recursive(
    leaves,
    lambda inner: st.builds(Filter, *[st.lists(inner, max_size=2).map(tuple)] * 3),
    max_leaves=6,
)
filters = st.builds(Filter, *[st.lists(conditions, max_size=3).map(tuple)] * 3)


def holds(condition: Any, item: Item) -> bool:
    """The oracle: what the documentation of ``index.filters`` says, over a Python object."""
    match condition:
        case Filter(must, should, must_not):
            return (
                all(holds(each, item) for each in must)
                and (not should or any(holds(each, item) for each in should))
                and not any(holds(each, item) for each in must_not)
            )
        case HasId(ids):
            return item.id in ids
        case Under(labels):
            return item.labels[: len(labels)] == labels
        case InRows(rows):
            return item.row in rows.tolist()
        case Exists(key, there):
            return (_field(item.metadata, key) is not MISSING) == there
    value = _field(item.metadata, condition.key)
    return any(_fits(condition, each) for each in (value if isinstance(value, list) else [value]))


MISSING = object()


def _field(metadata: dict[str, Any], key: str) -> Any:
    value: Any = metadata
    for name in key.split("."):
        if not isinstance(value, dict) or name not in value:
            return MISSING
        value = value[name]
    return value


def _fits(condition: Match | Range, value: Any) -> bool:
    value = _comparable(value)
    if isinstance(condition, Match):
        return value is not None and value in [_comparable(each) for each in condition.values]
    bounds = [
        (_comparable(bound), test)
        for bound, test in (
            (condition.gt, lambda x, y: x > y),
            (condition.gte, lambda x, y: x >= y),
            (condition.lt, lambda x, y: x < y),
            (condition.lte, lambda x, y: x <= y),
        )
        if bound is not None
    ]
    return (
        value is not None
        and value[0] != "truth"
        and all(bound is not None and value[0] == bound[0] and test(value[1], bound[1]) for bound, test in bounds)
    )


def _comparable(value: Any) -> tuple[str, Any] | None:
    if isinstance(value, bool):
        return "truth", value
    if isinstance(value, str):
        return "text", value.split("\0")[0]
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        try:
            return "number", float(value)
        except OverflowError:
            return "number", float("inf") if value > 0 else float("-inf")
    return ("number", value) if isinstance(value, int | float) else None


def make(folder: Path, given_items: list[tuple[str, list[str], dict[str, Any]]], *, indexed: bool) -> Catalogue:
    path = folder / "catalogue.sqlite"
    for stale in folder.glob("catalogue.sqlite*"):
        stale.unlink()
    catalogue = Catalogue.create(path, embedding_dim=2, c=1.0, model_hash="m")
    point = np.zeros(2, np.float32)
    catalogue.upsert([Item(item_id, point, tuple(labels), metadata) for item_id, labels, metadata in given_items])
    if indexed:
        with closing(sqlite3.connect(path)) as connection:
            for number, key in enumerate(filter(is_plain, KEYS)):
                connection.execute(f"CREATE INDEX field_{number} ON items ({field_columns(key)})")
            connection.commit()
    return catalogue


@given(items=items, asked=filters, indexed=st.booleans())
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_filters_let_through_what_plain_python_does(
    tmp_path: Path, items: list[tuple[str, list[str], dict[str, Any]]], asked: Filter, indexed: bool
) -> None:
    with make(tmp_path, items, indexed=indexed) as catalogue:
        expected = [item.row for item in catalogue.items(limit=100) if holds(asked, item)]
        found = Matching().rows(catalogue, asked)
        assert found.rows.tolist() == expected
        assert found.sequence == catalogue.sequence


def test_every_kind_of_value_against_every_kind_of_condition(tmp_path: Path) -> None:
    """All pairs of few values: what random items and filters seldom put together."""
    held = [*FEW, "c", "", -1, 2, 10**400, None, [], ["a", 1], [True], [["a"]], {"a": 1}, {}, '["a"]', "0"]
    names = ("gt", "gte", "lt", "lte")
    asked = [
        *(Match("a", (value,)) for value in (*FEW, "c", '["a"]', "0", 2)),
        *(Match("a", pair) for pair in (("a", "b"), (1, "b"), (True, 0.5), (False, "1"), (0, 1, "c"))),
        *(Range("a", **{name: value}) for name in names for value in (0, 0.5, 1, 2, "", "a", "b", "1")),
        *(Range("a", gt=low, lte=high) for low, high in ((0, 1), ("a", "b"), (1, 0))),
        Exists("a"),
        Exists("a", there=False),
        Exists("a.a"),
        Match("a.a", (1,)),
        *(Under(labels) for labels in (("Fruit",), ("Fruit", "Fruit,"), ("Ap ple",), ("",))),
    ]
    paths = [
        ["Fruit"],
        ["Fruit", "Fruit,"],
        ["Fruit,"],
        ["Fruit-x", "y"],
        [""],
        [],
        ["Ap ple", ""],
        ["Fruit", "Fruit,", ""],
    ]
    made = [(f"{number}", paths[number % len(paths)], {"a": value}) for number, value in enumerate(held)]
    with make(tmp_path, [*made, ("without", [], {"b": 1})], indexed=False) as catalogue:
        items = catalogue.items(limit=100)
        for condition in asked:
            for whole in (Filter(must=(condition,)), Filter(should=(condition,)), Filter(must_not=(condition,))):
                expected = [item.row for item in items if holds(whole, item)]
                assert Matching().rows(catalogue, whole).rows.tolist() == expected, whole


SHOP = [(f"{i}", ["Fruit", f"Kind {i % 3}"], {"sku": f"s{i % 5}", "price": i / 2, "on": i % 2 == 0}) for i in range(40)]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Catalogue]:
    with make(tmp_path, SHOP, indexed=False) as catalogue:
        yield catalogue


def test_a_declared_field_is_found_by_its_index(tmp_path: Path) -> None:
    with make(tmp_path, SHOP, indexed=True) as catalogue, closing(sqlite3.connect(catalogue.path)) as connection:
        for condition in (Match("a", ("x",)), Match("b", (1, 2, "x")), Range("a", gte=2), Range("x-y", lt="2026")):
            sql, parameters = where(Filter(must=(condition,)))
            query = f"EXPLAIN QUERY PLAN SELECT row FROM items WHERE {sql}"  # noqa: S608 - the very thing under test
            plan = connection.execute(query, parameters).fetchall()
            steps = [step for *_, step in plan]
            assert any("USING INDEX field_" in step for step in steps), steps
            assert not any(step.startswith("SCAN items") for step in steps), steps


@pytest.mark.parametrize("key", ["", ".", "a..b", "a.", 'a"b', "a\\b", "a\0", "a\nb", "x" * 300, ".".join("abcdefghi")])
def test_a_key_that_no_path_can_lead_to_is_refused(shop: Catalogue, key: str) -> None:
    for condition in (Match(key, ("x",)), Range(key, gt=1), Exists(key)):
        with pytest.raises(PointError, match="metadata field"):
            Matching().rows(shop, Filter(must_not=(condition,)))
    with pytest.raises(PointError):
        field_columns(key)


def test_values_never_become_sql(shop: Catalogue) -> None:
    evil = "' OR 1=1; DROP TABLE items; --"
    for condition in (Match(evil, (evil,)), HasId((evil,)), Under((evil,)), Range(evil, gt=evil)):
        sql, parameters = where(Filter(must=(condition,)))
        assert "DROP" not in sql
        assert any(evil in str(value) for value in parameters.values())
        assert Matching().rows(shop, Filter(must=(condition,))).rows.tolist() == []
    assert shop.count() == len(SHOP)


def test_rows_are_remembered_until_the_next_write(shop: Catalogue) -> None:
    matching, asked = Matching(), Filter(must=(Match("sku", ("s1",)),))
    first = matching.rows(shop, asked)
    assert matching.rows(shop, Filter(must=(Match("sku", ("s1",)),))) is first
    assert matching.rows(shop, Filter(must=(Match("sku", ("s2",)),))) is not first
    shop.upsert([Item("new", np.zeros(2, np.float32), (), {"sku": "s1"})])
    later = matching.rows(shop, asked)
    assert later.rows.tolist() == [*first.rows.tolist(), 41]
    assert later.sequence == first.sequence + 1


def test_what_is_remembered_is_bounded(shop: Catalogue) -> None:
    matching = Matching(max_bytes=3 * 8 * 8)  # of three answers with 8 rows
    asked = [Filter(must=(Match("sku", (f"s{i}",)),)) for i in range(5)]
    found = [matching.rows(shop, each) for each in asked]
    assert [len(each.rows) for each in found] == [8] * 5
    assert [matching.rows(shop, each) is before for each, before in zip(asked[2:], found[2:], strict=True)] == [
        True
    ] * 3
    assert matching.rows(shop, asked[0]) is not found[0]


def test_groups_by_field_and_by_level(shop: Catalogue) -> None:
    groups = Matching().by_field(shop, "sku")
    assert groups.rows.tolist() == list(range(1, 41))
    by_row = dict(zip(groups.rows.tolist(), groups.numbers.tolist(), strict=True))
    assert all((by_row[i + 1] == by_row[j + 1]) == (i % 5 == j % 5) for i in range(40) for j in range(40))
    assert groups.of(np.array([1, 41, 6, 0])).tolist() == [by_row[1], -1, by_row[6], -1]
    level = Matching().by_level(shop, 2)
    kinds = dict(zip(level.rows.tolist(), level.numbers.tolist(), strict=True))
    assert all((kinds[i + 1] == kinds[j + 1]) == (i % 3 == j % 3) for i in range(40) for j in range(40))
    assert len(set(Matching().by_level(shop, 1).numbers.tolist())) == 1
    assert len(Matching().by_level(shop, 3).rows) == 0


def test_groups_tell_text_numbers_and_truth_apart(tmp_path: Path) -> None:
    kinds: list[Any] = [1, 1.0, "1", True, "true", 2, None, ["1"], {"a": 1}]
    made = [(f"i{number}", [], {"k": value}) for number, value in enumerate(kinds)]
    with make(tmp_path, [*made, ("none", [], {})], indexed=False) as catalogue:
        groups = Matching().by_field(catalogue, "k")
        assert groups.rows.tolist() == [1, 2, 3, 4, 5, 6]
        numbers = groups.numbers.tolist()
        assert numbers[0] == numbers[1]
        assert len(set(numbers[1:])) == 5


def test_a_long_read_keeps_nobody_waiting(shop: Catalogue) -> None:
    """Another thread's writes and reads go through while a scan is held up, and the scan sees one state."""
    inside, leave = threading.Event(), threading.Event()
    found: list[tuple[int, list[tuple[Any, ...]]]] = []
    with shop._reader() as connection:

        def hold(_: Any) -> int:
            inside.set()
            leave.wait(10)
            return 1

        connection.create_function("hold", 1, hold)
    reader = threading.Thread(target=lambda: found.append(shop.select("row", "hold(row)", {})))
    reader.start()
    assert inside.wait(10)
    shop.upsert([Item("meanwhile", np.zeros(2, np.float32))])
    assert shop.get("meanwhile") is not None
    leave.set()
    reader.join(10)
    ((sequence, rows),) = found
    assert (sequence, len(rows)) == (shop.sequence - 1, len(SHOP))


def test_a_replaced_file_is_told(shop: Catalogue, tmp_path: Path) -> None:
    with make_other(tmp_path / "other") as other:
        other.path.replace(shop.path)
    with pytest.raises(CatalogueError, match="replaced"):
        Matching().rows(shop, Filter())


def make_other(folder: Path) -> Catalogue:
    folder.mkdir()
    return make(folder, SHOP, indexed=False)
