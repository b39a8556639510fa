"""PostgreSQL with the extension pgvector."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, LiteralString, Self

import numpy as np

from index.backends.engine import Engine, Proposals
from index.backends.interface import (
    About,
    BackendError,
    BackendMissingError,
    BackendNotFoundError,
    Frame,
    table_name,
    told,
    without_secrets,
)
from index.exact_points import Float32, Int64

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import Composable, Composed

OPERATORS: dict[Frame, tuple[LiteralString, str]] = {
    "ball": ("<->", "vector_l2_ops"),
    "lorentz": ("<#>", "vector_ip_ops"),
}
CONNECT_SECONDS = 10


class PostgresBackend(Engine):
    """Points in a table ``lhier_<name>`` of a PostgreSQL database: id bigint, row vector, space bytea.

    `row` is what pgvector searches (``<->`` over ball, ``<#>`` over Lorentz coordinates), `space` the exact point,
    little-endian float32. "exact" scans compare every row, also where somebody has put an index on the table. "hnsw"
    uses one, proves nothing, and returns at most 1,000 rows. A write is one transaction.

    Safe for any number of threads, one after the other; after a lost connection, the next call connects again.
    Tested with pgvector 0.8.5 on PostgreSQL 18.
    """

    name = "postgres"
    max_candidates: ClassVar[int] = 16_384
    max_numbers: ClassVar[int] = 65_536

    def __init__(self, url: str, table: str, about: About, connection: "Connection[Any]") -> None:
        super().__init__(about)
        self._url = url
        self._table = table
        self._open = connection
        self._lock = threading.Lock()

    @classmethod
    def create(cls, url: str, name: str, about: About, *, replace: bool = False) -> Self:
        """A new, empty table; :class:`BackendError` where there is one, unless `replace`."""
        table, where = table_name(name), without_secrets(url)
        with _opening(url) as connection:
            from psycopg import Error, sql

            with connection.transaction():
                try:
                    with connection.transaction():
                        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
                except Error as error:
                    raise BackendError(
                        f"the database at {where} has no pgvector ({told(error, url)}): install it on the server, and "
                        "have somebody who may run 'CREATE EXTENSION vector' in the database"
                    ) from error
                if replace:
                    connection.execute(_for(table, "DROP TABLE IF EXISTS {table}"))
                elif _exists(connection, table):
                    raise BackendError(f"{where} has a table {table} already: push with --replace")
                columns = (
                    "CREATE TABLE {table} (id bigint PRIMARY KEY, row vector({width}) NOT NULL, space bytea NOT NULL)"
                )
                width = sql.Literal(about.embedding_dim + (about.coordinates == "lorentz"))
                connection.execute(_for(table, columns, width=width))
                if about.scan == "hnsw":
                    graph = "CREATE INDEX ON {table} USING hnsw (row {operators})"
                    connection.execute(_for(table, graph, operators=sql.Identifier(OPERATORS[about.coordinates][1])))
                comment = "COMMENT ON TABLE {table} IS {about}"
                connection.execute(_for(table, comment, about=sql.Literal(about.to_json())))
        return cls(url, table, about, connection)

    @classmethod
    def open(cls, url: str, name: str) -> Self:
        """An existing table."""
        table, where = table_name(name), without_secrets(url)
        with _opening(url) as connection:
            if not _exists(connection, table):
                raise BackendNotFoundError(f"{where} has no table {table}: run 'lhier backend push'")
            query = "SELECT obj_description(to_regclass(%s), 'pg_class')"
            about = About.from_json(
                connection.execute(query, (table,)).fetchall()[0][0], f"the table {table} of {where}"
            )
        return cls(url, table, about, connection)

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._open.close()

    @property
    def count(self) -> int:
        """How many points there are."""
        with self._connection() as connection:
            return int(connection.execute(_for(self._table, "SELECT count(*) FROM {table}")).fetchall()[0][0])

    def _write(self, ids: Int64, rows: Float32, points: Float32) -> None:
        blobs = points.astype("<f4")
        with self._connection() as connection, connection.cursor() as cursor:
            cursor.execute(_for(self._table, "CREATE TEMPORARY TABLE incoming (LIKE {table}) ON COMMIT DROP"))
            with cursor.copy("COPY incoming (id, row, space) FROM STDIN") as copy:
                for id_, row, blob in zip(ids.tolist(), rows, blobs, strict=True):
                    copy.write_row((id_, _text(row), blob.tobytes()))
            cursor.execute(
                _for(
                    self._table,
                    "INSERT INTO {table} SELECT * FROM incoming "
                    "ON CONFLICT (id) DO UPDATE SET row = excluded.row, space = excluded.space",
                )
            )

    def _delete(self, ids: Int64) -> int:
        with self._connection() as connection:
            gone = connection.execute(_for(self._table, "DELETE FROM {table} WHERE id = ANY(%s)"), (ids.tolist(),))
            return int(gone.rowcount)

    def _nearest(self, rows: Float32, count: int) -> list[Proposals]:
        from psycopg import sql

        query = _for(
            self._table,
            "SELECT id, row {nearer} %s::vector AS score, space FROM {table} ORDER BY score LIMIT %s",
            nearer=sql.SQL(OPERATORS[self.about.coordinates][0]),
        )
        found = []
        with self._connection() as connection:
            if self.about.scan == "exact":
                connection.execute("SET LOCAL enable_indexscan = off")
            else:
                # ef_search bounds what an index scan returns.
                connection.execute(f"SET LOCAL hnsw.ef_search = {min(max(count, 40), 1000)}")
            for row in rows:
                cursor = connection.cursor(binary=True)
                found.append(self._proposals(cursor.execute(query, (_text(row), count)).fetchall()))
        return found

    def _proposals(self, found: list[tuple[int, float, bytes]]) -> Proposals:
        ids = np.array([id_ for id_, _, _ in found], dtype=np.int64)
        scores = np.array([score for _, score, _ in found], dtype=np.float64)
        points = np.frombuffer(b"".join(space for _, _, space in found), dtype="<f4").astype(np.float32)
        signed = scores if self.about.coordinates == "ball" else -scores  # <#> is the negative inner product
        return Proposals(ids, signed, points.reshape(len(ids), self.about.embedding_dim))

    @contextmanager
    def _connection(self) -> Iterator["Connection[Any]"]:
        """The connection inside one transaction, made anew where it was lost."""
        with self._lock:
            if self._open.closed:
                self._open = _connect(self._url)
            with _failures(self._url), self._open.transaction():
                yield self._open


def _connect(url: str) -> "Connection[Any]":
    try:
        import psycopg
    except ImportError as error:
        raise BackendMissingError("the PostgreSQL backend", "postgres") from error
    try:
        return psycopg.connect(url, autocommit=True, connect_timeout=CONNECT_SECONDS)
    except psycopg.Error as error:
        raise BackendError(
            f"cannot connect to PostgreSQL at {without_secrets(url)} ({told(error, url)}): start it there, or correct "
            "the URL (postgresql://user:password@host:5432/database)"
        ) from None


@contextmanager
def _opening(url: str) -> Iterator["Connection[Any]"]:
    """A connection that stays open, unless what is done with it first fails."""
    connection = _connect(url)
    try:
        with _failures(url):
            yield connection
    except BaseException:
        connection.close()
        raise


@contextmanager
def _failures(url: str) -> Iterator[None]:
    from psycopg import Error

    try:
        yield
    except Error as error:
        raise BackendError(f"PostgreSQL at {without_secrets(url)} failed: {told(error, url)}") from error


def _exists(connection: "Connection[Any]", table: str) -> bool:
    found = connection.execute("SELECT to_regclass(%s)", (table,)).fetchall()
    return found[0][0] is not None


def _for(table: str, query: LiteralString, **parts: "Composable") -> "Composed":
    from psycopg import sql

    return sql.SQL(query).format(table=sql.Identifier(table), **parts)


def _text(row: Float32) -> str:
    """What pgvector reads as exactly this row: digits enough to tell it from its neighbours."""
    return json.dumps(row.tolist())
