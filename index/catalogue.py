"""Catalogue: items, points and metadata of one collection in SQLite. It is the truth; FAISS files are its
cache."""

import json
import logging
import os
import sqlite3
import threading
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from index.errors import CatalogueError, ModelMismatchError, PointError
from index.points import some, valid_points

if TYPE_CHECKING:
    from index.lorentz_index import LorentzIndex

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
APPLICATION_ID = 0x4C484945  # "LHIE", so that any other SQLite file is told apart
MAX_ID_LENGTH = 1024
PAGE = 5000  # rows fetched at a time

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE items (
    row INTEGER PRIMARY KEY AUTOINCREMENT,  -- a deleted row's number is never given again
    id TEXT NOT NULL UNIQUE,
    space BLOB NOT NULL,                    -- d little-endian float32
    labels TEXT NOT NULL,                   -- JSON list, most general first
    metadata TEXT NOT NULL,                 -- JSON object
    image TEXT,                             -- posix path below image_root
    checksum INTEGER NOT NULL,              -- CRC-32 of all of the above
    sequence INTEGER NOT NULL               -- the write that last changed the row
);
CREATE INDEX items_by_sequence ON items (sequence);
CREATE TABLE deletions (row INTEGER PRIMARY KEY, sequence INTEGER NOT NULL);
CREATE INDEX deletions_by_sequence ON deletions (sequence);
"""
# Made with the first upload: most collections have none.
INDEX_OF_UPLOADS = "CREATE INDEX IF NOT EXISTS items_by_upload ON items (image) WHERE image GLOB 'upload:*'"
_COLUMNS = "row, id, space, labels, metadata, image, checksum, sequence"


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One photo of a collection: its point, where it belongs, and where its file lies."""

    id: str
    space: npt.NDArray[np.float32]
    labels: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    image: str | None = None
    row: int = 0
    sequence: int = 0


@dataclass(frozen=True, slots=True)
class Put:
    """Where a written item is, and whether its id is new."""

    row: int
    created: bool


@dataclass(frozen=True, slots=True, eq=False)
class Changes:
    """What happened after some sequence number: rows to take out, then points to put in."""

    sequence: int
    removed: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    space: npt.NDArray[np.float32]

    def apply(self, index: "LorentzIndex") -> None:
        """Bring an index up to :attr:`sequence`."""
        index.remove(np.concatenate([self.removed, self.rows]))
        index.add(self.space, self.rows)


class Catalogue:
    """The items of one collection.

    A write is one transaction under one new sequence number, and is on the disk (WAL, `synchronous=FULL`)
    when the call returns. Safe for use from many threads; writers of other processes are waited for.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._lock = threading.RLock()
        self._second: sqlite3.Connection | None = None
        self._second_lock = threading.Lock()
        self._file = _identity(path)
        meta = self._read_meta()
        self.embedding_dim = int(meta["embedding_dim"])
        self.c = float(meta["c"])
        self.model_hash = meta["model_hash"]
        self.image_root = Path(meta["image_root"]) if "image_root" in meta else None
        self.checkpoint = Path(meta["checkpoint"]) if "checkpoint" in meta else None

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        embedding_dim: int,
        c: float,
        model_hash: str,
        image_root: Path | None = None,
        checkpoint: Path | None = None,
    ) -> Self:
        """A new, empty catalogue. :class:`CatalogueError` where `path` exists."""
        if path.exists():
            raise CatalogueError(f"{path} exists already: open it, or choose another path")
        if embedding_dim < 1 or not (np.isfinite(c) and c > 0):
            raise ValueError(f"expected embedding_dim >= 1 and a finite c > 0, got {embedding_dim} and {c}")
        meta = {
            "format_version": str(FORMAT_VERSION),
            "embedding_dim": str(embedding_dim),
            "c": repr(float(c)),
            "model_hash": model_hash,
        }
        meta |= {"image_root": str(image_root)} if image_root is not None else {}
        meta |= {"checkpoint": str(checkpoint)} if checkpoint is not None else {}
        connection = _connect(path)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(f"BEGIN; PRAGMA application_id = {APPLICATION_ID}; {SCHEMA}")
            connection.executemany("INSERT INTO meta VALUES (?, ?)", [*meta.items(), ("sequence", "0")])
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        return cls(path, connection)

    @classmethod
    def open(cls, path: Path, *, model_hash: str | None = None) -> Self:
        """An existing catalogue; where its folder may not be written to, as it stands, and never to be written;
        where the disk is full, for this process alone.

        Raises :class:`CatalogueError` for a missing, foreign, damaged or newer file, and
        :class:`ModelMismatchError` where it holds points of another model than `model_hash`.
        """
        if not path.is_file():
            raise CatalogueError(f"expected a catalogue at {path}, found none: run 'lhier index build'")
        connection = None
        try:
            connection = _connect(path, frozen=_is_frozen(path))
            application = connection.execute("PRAGMA application_id").fetchone()[0]
            if application != APPLICATION_ID:
                raise CatalogueError(f"{path} is a database of another program, not a catalogue of lhier")
            catalogue = cls(path, connection)
        except (sqlite3.DatabaseError, KeyError, ValueError) as error:
            if connection is not None:
                connection.close()
            raise CatalogueError(
                f"{path} cannot be read ({error}): restore it from a backup, or run 'lhier index build --replace'"
            ) from error
        except BaseException:
            if connection is not None:
                connection.close()
            raise
        if model_hash is not None and model_hash != catalogue.model_hash:
            catalogue.close()
            raise ModelMismatchError(str(path.parent), expected=model_hash, found=catalogue.model_hash)
        return catalogue

    def close(self) -> None:
        """Close the database; the object is of no use afterwards."""
        with self._second_lock, self._lock:
            for connection in (self._connection, self._second):
                if connection is not None:
                    connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def sequence(self) -> int:
        """The number of the last committed write, also of another process."""
        return int(self._rows("SELECT value FROM meta WHERE key = 'sequence'")[0][0])

    def count(self) -> int:
        """How many items there are."""
        return int(self._rows("SELECT count(*) FROM items")[0][0])

    def upsert(self, items: Sequence[Item]) -> list[int]:
        """Add items, or overwrite those whose id exists (they keep their row). Returns their rows.

        All of them in one transaction, or none: :class:`PointError` for a bad point, id or metadata.
        """
        return [put.row for put in self.put(items)]

    def put(self, items: Sequence[Item]) -> list[Put]:
        """:meth:`upsert`, telling which were there before."""
        if not items:
            return []
        ids = [valid_id(item.id) for item in items]
        if len(set(ids)) != len(ids):
            twice = [id_ for id_, times in Counter(ids).items() if times > 1]
            raise PointError(f"expected each id once in a write, got {some(twice)} more than once")
        try:
            space = np.stack([np.asarray(item.space) for item in items])
        except ValueError as error:
            raise PointError(f"expected space parts of one shape ({self.embedding_dim},): {error}") from error
        blobs = valid_points(space, self.embedding_dim).astype("<f4")
        values = []
        for item, blob in zip(items, blobs, strict=True):
            row = (
                item.id,
                blob.tobytes(),
                _json(list(item.labels), item.id),
                _json(item.metadata, item.id),
                item.image,
            )
            values.append((*row, _checksum(*row)))
        with self._write() as sequence:
            # Rows are never given again: what is new comes after all there ever were.
            last = self._rows("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'items'")[0][0]
            self._connection.executemany(
                "INSERT INTO items (id, space, labels, metadata, image, checksum, sequence) "
                "VALUES (?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET space = excluded.space, labels = excluded.labels, "
                "metadata = excluded.metadata, image = excluded.image, checksum = excluded.checksum, "
                "sequence = excluded.sequence",
                [(*value, sequence) for value in values],
            )
            rows = dict(self._by("id", ids, "id, row"))
        return [Put(rows[id_], created=rows[id_] > last) for id_ in ids]

    def delete(self, ids: Sequence[str]) -> int:
        """Delete items by id; ids that do not exist are passed over. Returns how many were deleted."""
        if not ids:
            return 0
        with self._write() as sequence:
            rows = [row for (row,) in self._by("id", sorted(set(ids)), "row")]
            self._connection.executemany("DELETE FROM items WHERE row = ?", [(row,) for row in rows])
            self._connection.executemany("INSERT INTO deletions VALUES (?, ?)", [(row, sequence) for row in rows])
        return len(rows)

    def get(self, item_id: str) -> Item | None:
        """The item of that id, if there is one."""
        found = self._rows(f"SELECT {_COLUMNS} FROM items WHERE id = ?", (item_id,))  # noqa: S608 - our own names
        return self._item(found[0]) if found else None

    def get_rows(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> list[Item | None]:
        """The items of those rows, in that order; None where a row does not exist."""
        wanted = [int(row) for row in rows]
        with self._lock:
            found = {values[0]: self._item(values) for values in self._by("row", wanted, _COLUMNS)}
        return [found.get(row) for row in wanted]

    def images_of(self, ids: Sequence[str]) -> set[str]:
        """What the items of those ids refer to as their photos."""
        return {image for (image,) in self._by("id", ids, "image") if image is not None}

    def refers_to(self, upload: str) -> bool:
        """Whether any item has that uploaded photo (:mod:`index.uploads`).

        Raises :class:`CatalogueError` where the file was replaced since it was opened: then nobody knows.
        """
        self.require_current()
        query = "SELECT 1 FROM items WHERE image = ? AND image GLOB 'upload:*' LIMIT 1"  # as in INDEX_OF_UPLOADS
        return bool(self._rows(query, (upload,)))

    def add_indexes(self, statements: Sequence[str]) -> None:
        """Run ``CREATE INDEX IF NOT EXISTS`` statements. No new sequence number."""
        with self._transaction():
            for statement in statements:
                self._connection.execute(statement)

    def items(self, after: int = 0, limit: int = 100) -> list[Item]:
        """Items in the order of their rows, from the first row above `after`."""
        query = f"SELECT {_COLUMNS} FROM items WHERE row > ? ORDER BY row LIMIT ?"  # noqa: S608
        return [self._item(values) for values in self._rows(query, (after, limit))]

    def select(self, columns: str, where: str, values: Mapping[str, str | int]) -> tuple[int, list[tuple[Any, ...]]]:
        """`columns` of the items for which `where` holds, in any order, and the sequence number they are of.

        Both are SQL of our own (:mod:`index.filters`), with `values` for its parameters. A long scan keeps nobody
        else waiting: it has a connection of its own, where the file lets it.
        """
        with self._reader() as connection:
            try:
                connection.execute("BEGIN")  # one state of the database for both queries
                sequence = connection.execute("SELECT value FROM meta WHERE key = 'sequence'").fetchone()[0]
                query = f"SELECT {columns} FROM items WHERE {where}"  # noqa: S608 - our own names, no values
                return int(sequence), connection.execute(query, values).fetchall()
            except sqlite3.DatabaseError as error:
                raise self._damaged(error) from error
            finally:
                if connection.in_transaction:
                    connection.execute("COMMIT")

    def changes(self, after: int = 0) -> Changes:
        """Everything a copy at sequence `after` lacks; with 0, the whole collection."""
        with self._lock:
            self._connection.execute("BEGIN")  # one state of the database for all three queries
            try:
                sequence = self.sequence
                removed = self._rows("SELECT row FROM deletions WHERE sequence > ? ORDER BY row", (after,))
                query = f"SELECT {_COLUMNS} FROM items WHERE sequence > ? ORDER BY row"  # noqa: S608
                rows, blobs = [], []
                for values in self._connection.execute(query, (after,)):
                    self._check(values)
                    rows.append(values[0])
                    blobs.append(values[2])
            except sqlite3.DatabaseError as error:
                raise self._damaged(error) from error
            finally:
                self._connection.execute("COMMIT")
        space = np.frombuffer(b"".join(blobs), dtype="<f4").reshape(len(rows), self.embedding_dim)
        return Changes(
            sequence,
            np.array([row for (row,) in removed], dtype=np.int64),
            np.array(rows, dtype=np.int64),
            space.astype(np.float32),
        )

    def copy_to(self, path: Path) -> None:
        """Copy the catalogue, as it stands at one moment, into a new file. Writers of other connections go on."""
        with self._lock, closing(sqlite3.connect(path)) as copy:
            try:
                self._connection.backup(copy)
            except sqlite3.Error as error:
                raise CatalogueError(f"{self.path} could not be copied to {path} ({error})") from error

    def relocate(self, *, image_root: Path | None, checkpoint: Path | None) -> None:
        """Note where the photos and the checkpoint lie; None forgets the place. No new sequence number."""
        places = {"image_root": image_root, "checkpoint": checkpoint}
        with self._transaction():
            for key, place in places.items():
                self._connection.execute("DELETE FROM meta WHERE key = ?", (key,))
                if place is not None:
                    self._connection.execute("INSERT INTO meta VALUES (?, ?)", (key, str(place)))
        self.image_root, self.checkpoint = image_root, checkpoint

    def require_current(self) -> None:
        """:class:`CatalogueError` if the file was replaced since it was opened, as a restored snapshot does."""
        if _identity(self.path) != self._file:
            raise CatalogueError(
                f"{self.path} was replaced or removed since it was opened: open the collection again "
                f"(a running service: start it again); nothing was written"
            )

    def faults(self) -> list[str]:
        """What is wrong with the file, in words: SQLite's own check, and the checksum of every item."""
        try:
            faults = [str(text) for (text,) in self._rows("PRAGMA integrity_check(10)") if text != "ok"]
            after = 0
            while found := self._rows(
                f"SELECT {_COLUMNS} FROM items WHERE row > ? ORDER BY row LIMIT ?",  # noqa: S608
                (after, PAGE),
            ):
                after = found[-1][0]
                for values in found:
                    try:
                        self._item(values)
                    except CatalogueError as error:
                        faults.append(str(error))
        except CatalogueError as error:
            return [str(error)]
        return faults

    def _item(self, values: tuple[Any, ...]) -> Item:
        self._check(values)
        row, item_id, space, labels, metadata, image, _, sequence = values
        point = np.frombuffer(space, dtype="<f4").astype(np.float32)
        names, values_by_name = json.loads(f"[{labels},{metadata}]")  # one call takes two thirds of the time of two
        return Item(item_id, point, tuple(names), values_by_name, image, row, sequence)

    def _check(self, values: tuple[Any, ...]) -> None:
        """Refuse a row whose bytes are not those that were written."""
        if _checksum(*values[1:6]) != values[6] or len(values[2]) != 4 * self.embedding_dim:
            raise CatalogueError(f"{self.path}: item {values[1]!r} (row {values[0]}) is damaged: write it again")

    def _by(self, column: str, values: Sequence[Any], wanted: str) -> Iterator[tuple[Any, ...]]:
        """Columns of the items whose `column` is among `values`, asked for in portions SQLite takes."""
        for start in range(0, len(values), 500):
            part = values[start : start + 500]
            marks = ", ".join("?" * len(part))
            yield from self._rows(f"SELECT {wanted} FROM items WHERE {column} IN ({marks})", part)  # noqa: S608

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._lock:
            try:
                return self._connection.execute(query, values).fetchall()
            except sqlite3.DatabaseError as error:
                raise self._damaged(error) from error

    @contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        """A connection for a long read, held by this caller alone."""
        with self._second_lock:
            if self._second is None:
                with self._lock:
                    mode = self._connection.execute("PRAGMA locking_mode").fetchone()[0]
                    if mode == "exclusive":  # the file is this one connection's
                        yield self._connection
                        return
                    try:
                        second = _connected(self.path, frozen=_is_frozen(self.path))
                    except sqlite3.Error as error:
                        raise self._damaged(error) from error
                    if _identity(self.path) != self._file:
                        second.close()
                        self.require_current()
                    self._second = second
            yield self._second

    def _damaged(self, error: Exception) -> CatalogueError:
        return CatalogueError(f"{self.path} cannot be read ({error})")

    @contextmanager
    def _write(self) -> Iterator[int]:
        """One transaction under a new sequence number, which it yields."""
        with self._transaction():
            sequence = self.sequence + 1
            self._connection.execute("UPDATE meta SET value = ? WHERE key = 'sequence'", (str(sequence),))
            yield sequence

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                # SQLite would write on into a file that has gone, and lose it with the last who has it open.
                self.require_current()
                yield
                self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                self._roll_back()
                raise CatalogueError(f"{self.path} could not be written ({error}): nothing was changed") from error
            except BaseException:
                self._roll_back()
                raise

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def _read_meta(self) -> dict[str, str]:
        meta = dict(self._connection.execute("SELECT key, value FROM meta").fetchall())
        if (version := meta.get("format_version")) != str(FORMAT_VERSION):
            raise CatalogueError(
                f"{self.path} has catalogue format {version}, this version of lhier reads {FORMAT_VERSION}: "
                f"use the version that wrote it, or run 'lhier index build --replace'"
            )
        return meta


def _is_frozen(path: Path) -> bool:
    """Whether the catalogue lies where this process may not write, with nothing left in the write-ahead log.

    SQLite must write beside a database in WAL mode even to read it, unless it is told that the file cannot change.
    So writes of a process with more rights are seen by the next opening only.
    """
    log = path.with_name(f"{path.name}-wal")
    writable = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    return not writable and not (log.exists() and log.stat().st_size)


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells the file of that name from one put there later."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _connect(path: Path, *, frozen: bool = False) -> sqlite3.Connection:
    try:
        return _connected(path, frozen=frozen)
    except sqlite3.OperationalError as error:
        # On a full disk there is no room for the memory that processes share; alone, SQLite takes this one's own.
        if not error.sqlite_errorname.startswith("SQLITE_IOERR_SHM"):
            raise
        logger.warning("event=catalogue_opened_alone path=%s error=%s", path, error.sqlite_errorname)
        return _connected(path, alone=True)


def _connected(path: Path, *, frozen: bool = False, alone: bool = False) -> sqlite3.Connection:
    # Python's own transactions are off (isolation_level=None): BEGIN and COMMIT are where they are written.
    where = f"{path.absolute().as_uri()}?mode=ro&immutable=1" if frozen else str(path)
    connection = sqlite3.connect(where, timeout=30, isolation_level=None, check_same_thread=False, uri=frozen)
    try:
        if alone:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # the first to need shared memory
    except BaseException:
        connection.close()
        raise
    return connection


def valid_id(item_id: str) -> str:
    """The id, if it can be one. Raises :class:`PointError`."""
    if not isinstance(item_id, str) or not 1 <= len(item_id) <= MAX_ID_LENGTH or "\0" in item_id:
        raise PointError(f"expected an id of 1 to {MAX_ID_LENGTH} characters, got {item_id!r:.80}")
    try:
        item_id.encode()
    except UnicodeEncodeError as error:
        raise PointError(f"expected an id that is valid Unicode, got {item_id!r:.80}") from error
    return item_id


def _json(value: Any, item_id: str) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        text.encode()
    except (TypeError, ValueError) as error:
        raise PointError(f"item {item_id!r}: labels and metadata must be JSON values ({error})") from error
    return text


def _checksum(item_id: str, space: bytes, labels: str, metadata: str, image: str | None) -> int:
    return zlib.crc32(space, zlib.crc32(f"{item_id}\0{labels}\0{metadata}\0{image or ''}".encode()))
