"""The catalogue keeps what was written, says what changed, and refuses what it cannot trust."""

import sqlite3
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from index.catalogue import Catalogue, Item
from index.errors import CatalogueError, ModelMismatchError, PointError


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    with Catalogue.create(
        tmp_path / "catalogue.sqlite", embedding_dim=4, c=0.1, model_hash="abc", image_root=Path("/photos")
    ) as catalogue:
        yield catalogue


def reopen(catalogue: Catalogue, **options: str) -> Catalogue:
    catalogue.close()
    return Catalogue.open(catalogue.path, **options)


def test_what_was_written_is_read_again(catalogue: Catalogue, items: list[Item]) -> None:
    rows = catalogue.upsert(items)
    assert rows == sorted(set(rows))
    with reopen(catalogue, model_hash="abc") as again:
        assert (again.count(), again.sequence, again.c, again.embedding_dim) == (20, 1, 0.1, 4)
        assert (again.image_root, again.checkpoint) == (Path("/photos"), None)
        for item, row in zip(items, rows, strict=True):
            found = again.get(item.id)
            assert found is not None
            assert np.array_equal(found.space, item.space)
            assert found.space.dtype == np.float32
            assert (found.labels, found.metadata, found.image) == (item.labels, item.metadata, item.image)
            assert (found.row, found.sequence) == (row, 1)
        assert again.get("nobody") is None
        some = again.get_rows(np.array([rows[3], 999, rows[0]]))
        assert [item.id if item else None for item in some] == ["item-3", None, "item-0"]
        assert [item.row for item in again.items(after=rows[4], limit=3)] == rows[5:8]
        assert again.faults() == []


def test_an_upsert_keeps_the_row_and_a_deleted_row_never_returns(catalogue: Catalogue, items: list[Item]) -> None:
    rows = catalogue.upsert(items)
    changed = replace(items[2], labels=("z",), space=items[2].space + 1, metadata={})
    assert catalogue.upsert([changed]) == [rows[2]]
    assert catalogue.get("item-2").labels == ("z",)
    assert catalogue.delete(["item-19", "item-0", "nobody", "item-0"]) == 2
    assert catalogue.count() == 18
    assert catalogue.upsert([items[19]]) > [rows[19]]
    assert catalogue.sequence == 4


def test_changes_since_a_sequence_number(catalogue: Catalogue, items: list[Item]) -> None:
    rows = catalogue.upsert(items)  # 1
    catalogue.upsert([replace(items[5], space=items[5].space * 2)])  # 2
    catalogue.delete(["item-7", "item-8"])  # 3
    catalogue.upsert([replace(items[7])])  # 4
    everything = catalogue.changes()
    assert everything.sequence == 4
    assert everything.rows.tolist() == [row for row in rows if row not in (rows[7], rows[8])] + [22]
    assert everything.space.shape == (19, 4)
    assert everything.space.dtype == np.float32
    later = catalogue.changes(1)
    assert later.removed.tolist() == [rows[7], rows[8]]
    assert later.rows.tolist() == [rows[5], 22]
    assert np.array_equal(later.space, [items[5].space * 2, items[7].space])
    nothing = catalogue.changes(4)
    assert (nothing.sequence, len(nothing.removed), nothing.space.shape) == (4, 0, (0, 4))


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (Item("x", np.zeros(5, np.float32)), "one shape"),
        (Item("x", np.array([0, 0, 0, np.nan])), "finite"),
        (Item("x", np.array([0, 0, 0, 1e39])), "finite"),
        (Item("", np.zeros(4)), "1 to 1024 characters"),
        (Item("x" * 1025, np.zeros(4)), "1 to 1024 characters"),
        (Item("a\0b", np.zeros(4)), "1 to 1024 characters"),
        (Item("\ud800", np.zeros(4)), "Unicode"),
        (Item("x", np.zeros(4), metadata={"price": float("nan")}), "JSON"),
        (Item("x", np.zeros(4), metadata={"when": object()}), "JSON"),
        (Item("x", np.zeros(4), labels=("\ud800",)), "JSON"),
        (Item("item-0", np.zeros(4)), "more than once"),
    ],
)
def test_one_bad_item_leaves_everything_as_it_was(
    catalogue: Catalogue, items: list[Item], bad: Item, said: str
) -> None:
    with pytest.raises(PointError, match=said):
        catalogue.upsert([*items, bad])
    assert (catalogue.count(), catalogue.sequence) == (0, 0)
    catalogue.upsert(items)


def test_a_write_that_fails_in_the_middle_is_taken_back(catalogue: Catalogue, items: list[Item]) -> None:
    catalogue._connection.execute(
        "CREATE TRIGGER full BEFORE INSERT ON items WHEN new.id = 'item-9' BEGIN SELECT RAISE(FAIL, 'disk full'); END"
    )
    with pytest.raises(CatalogueError, match=r"disk full.*nothing was changed"):
        catalogue.upsert(items)
    assert (catalogue.count(), catalogue.sequence) == (0, 0)


def test_writes_are_durable_settings(catalogue: Catalogue) -> None:
    assert catalogue._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert catalogue._connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_two_connections_see_each_other(catalogue: Catalogue, items: list[Item]) -> None:
    with Catalogue.open(catalogue.path) as other:
        catalogue.upsert(items)
        assert other.sequence == 1
        other.delete(["item-1"])
        assert catalogue.get("item-1") is None
        assert catalogue.sequence == 2


def test_many_threads(catalogue: Catalogue, items: list[Item]) -> None:
    catalogue.upsert(items)
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for number in range(10):
                catalogue.upsert([replace(items[seed], id=f"{seed}-{number}")])
                assert catalogue.get(f"{seed}-{number}") is not None
                assert len(catalogue.changes().rows) >= 20
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    assert (catalogue.count(), catalogue.sequence) == (80, 61)


def test_another_model_is_refused(catalogue: Catalogue) -> None:
    with pytest.raises(ModelMismatchError, match="model abc, but model xyz") as caught:
        reopen(catalogue, model_hash="xyz")
    assert (caught.value.expected, caught.value.found) == ("xyz", "abc")


def test_files_that_are_no_catalogue(tmp_path: Path, catalogue: Catalogue, items: list[Item]) -> None:
    with pytest.raises(CatalogueError, match="found none: run 'lhier index build'"):
        Catalogue.open(tmp_path / "nothing.sqlite")
    (tmp_path / "text.sqlite").write_text("this is no database at all, it only has the name" * 100)
    with pytest.raises(CatalogueError, match="cannot be read"):
        Catalogue.open(tmp_path / "text.sqlite")
    (tmp_path / "empty.sqlite").touch()
    with pytest.raises(CatalogueError, match="another program"):
        Catalogue.open(tmp_path / "empty.sqlite")
    other = sqlite3.connect(tmp_path / "other.sqlite")
    other.execute("CREATE TABLE meta (key, value)")
    other.close()
    with pytest.raises(CatalogueError, match="another program"):
        Catalogue.open(tmp_path / "other.sqlite")
    with pytest.raises(CatalogueError, match="exists already"):
        Catalogue.create(catalogue.path, embedding_dim=4, c=1.0, model_hash="abc")
    catalogue._connection.execute("UPDATE meta SET value = '7' WHERE key = 'format_version'")
    with pytest.raises(CatalogueError, match=r"catalogue format 7, this version of lhier reads 1"):
        reopen(catalogue)


def test_damage_is_noticed(catalogue: Catalogue, items: list[Item], damage: Callable[[Path, str], None]) -> None:
    catalogue.upsert(items)
    path = catalogue.path
    catalogue.close()
    data = path.read_bytes()
    place = data.index(items[3].space.astype("<f4").tobytes())
    path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    with Catalogue.open(path) as flipped:
        assert flipped._connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)  # SQLite does not see it
        assert ["item-3" in fault for fault in flipped.faults()] == [True]
        with pytest.raises(CatalogueError, match=r"'item-3'.*damaged"):
            flipped.get("item-3")
        with pytest.raises(CatalogueError, match=r"'item-3'.*damaged"):
            flipped.changes()
        assert flipped.get("item-4") is not None
        flipped.upsert([items[3]])
        assert flipped.faults() == []
    damage(path, "truncated")
    with pytest.raises(CatalogueError):
        Catalogue.open(path).changes()


def test_bad_parameters(tmp_path: Path) -> None:
    for dim, c in ((0, 1.0), (4, 0.0), (4, float("nan"))):
        with pytest.raises(ValueError, match="embedding_dim >= 1 and a finite c > 0"):
            Catalogue.create(tmp_path / "x.sqlite", embedding_dim=dim, c=c, model_hash="abc")
    assert not (tmp_path / "x.sqlite").exists()
