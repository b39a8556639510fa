"""What is the engines' own: other coordinates, approximate indexes, what is unproven, and how they fail."""

import itertools
import logging
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from index.backends.connect import create_backend, open_backend
from index.backends.engine import Engine, Proposals
from index.backends.interface import About, BackendError, without_secrets
from index.errors import PointError

DIM, K = 16, 10
NAMES = (f"engines_{number}" for number in itertools.count())
Edit = Callable[[np.ndarray, np.ndarray], np.ndarray]


@pytest.fixture(params=["milvus", "postgres"])
def engine_url(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
def make(engine_url: str) -> Iterator[Callable[..., Any]]:
    made = []

    def one(**choices: str) -> Any:
        made.append(create_backend(engine_url, next(NAMES), About(DIM, 1.0, "fa4e00000001", **choices)))
        return made[-1]

    yield one
    for backend in made:
        backend.close()


def kept(answer: Any, truth: np.ndarray) -> np.ndarray:
    """Where an answer's distances are those of the nearest points, and else surely no nearer."""
    nearest = np.sort(truth, axis=1)[:, :K]
    assert (answer.distances >= nearest * (1 - 1e-8) - 1e-7).all()
    for row, ids in enumerate(answer.ids):  # whatever is proven, the distances are the points' own
        np.testing.assert_allclose(answer.distances[row], truth[row, ids], rtol=1e-8, atol=1e-7)
    return np.isclose(answer.distances, nearest, rtol=1e-8, atol=1e-7).all(axis=1)


@pytest.mark.parametrize("radius", [1, 3])
def test_lorentz_coordinates_are_exact_near_the_origin(
    make: Callable, radius: float, grow_tree: Callable, brute_force: Callable
) -> None:
    points = grow_tree(radius, 200, count=1000, dim=DIM)
    backend = make(coordinates="lorentz")
    backend.upsert(np.arange(len(points)), points)
    queries = points[::100] * np.float32(1.02)
    answer = backend.search(queries, K)
    assert answer.exact.all()
    assert kept(answer, brute_force(queries, points, 1.0)).all()


def test_lorentz_coordinates_say_what_they_cannot_prove(
    make: Callable, grow_tree: Callable, brute_force: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At radius 8.3 float32 inner products find the wrong candidates: the flag must not hide it."""
    points = grow_tree(8.3, 500, count=1500, dim=DIM)
    backend = make(coordinates="lorentz")
    backend.upsert(np.arange(len(points)), points)
    monkeypatch.setattr(type(backend), "max_candidates", 60)
    answer = backend.search(points[::100], K)
    right = kept(answer, brute_force(points[::100], points, 1.0))
    assert not right.all()
    assert not answer.exact.any()
    monkeypatch.undo()
    answer = backend.search(points[::100], K)  # as many as there are: all compared in float64
    assert answer.exact.all()
    assert kept(answer, brute_force(points[::100], points, 1.0)).all()


def test_lorentz_coordinates_refuse_what_would_overflow(make: Callable) -> None:
    backend = make(coordinates="lorentz")
    with pytest.raises(PointError, match="use the coordinates 'ball'"):
        backend.upsert([1], np.full((1, DIM), 1e20))
    with pytest.raises(PointError, match="use the coordinates 'ball'"):
        backend.search(np.full((1, DIM), 1e20), 1)
    assert backend.count == 0


def test_a_graph_finds_neighbours_and_proves_nothing(
    make: Callable, grow_tree: Callable, brute_force: Callable
) -> None:
    # One cluster: of many tight ones PostgreSQL's graph, another in every build, loses a whole one now and then.
    points = grow_tree(5, 1000, count=1000, dim=DIM)
    backend = make(scan="hnsw")
    backend.upsert(np.arange(len(points)), points)
    answer = backend.search(points[::50], K)
    assert not answer.exact.any()
    assert kept(answer, brute_force(points[::50], points, 1.0)).mean() >= 0.9
    with pytest.raises(PointError, match="16384"):
        backend.search(points[:1], 20_000)


def test_a_foreign_graph_does_not_make_exact_scans_approximate(postgres_url: str, grow_tree: Callable) -> None:
    """An index somebody adds is what PostgreSQL would use, and of 1 candidate at a time."""
    import psycopg

    points = grow_tree(3, 100, count=3000, dim=DIM)
    url, name = f"{postgres_url}&options=-c%20hnsw.ef_search%3D1", next(NAMES)
    backend = create_backend(url, name, About(DIM, 1.0, "fa4e00000001"))
    backend.upsert(np.arange(len(points)), points)
    before = backend.search(points[::500], K)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE INDEX ON lhier_{name} USING hnsw (row vector_l2_ops) WITH (m = 2)")
        connection.execute(f"ANALYZE lhier_{name}")
        plan = connection.execute(
            f"EXPLAIN SELECT id FROM lhier_{name} ORDER BY row <-> %s::vector LIMIT 30",  # noqa: S608
            (str([0.0] * DIM),),
        ).fetchall()
    assert "Index Scan" in str(plan)
    after = backend.search(points[::500], K)
    assert before.exact.all()
    assert after.exact.all()
    assert (before.ids == after.ids).all()
    backend.close()


class Numpy(Engine):
    """An engine in memory, whose arithmetic the tests choose."""

    name = "numpy"
    max_candidates = 500
    max_numbers = 10_000

    def __init__(self, score: Edit) -> None:
        super().__init__(About(DIM, 1.0, "fa4e00000001"))
        self.score = score
        self.asked: list[int] = []

    def _write(self, ids: np.ndarray, rows: np.ndarray, points: np.ndarray) -> None:
        self.ids, self.stored, self.points = ids, rows, points

    def _delete(self, ids: np.ndarray) -> int:
        raise NotImplementedError

    def _nearest(self, rows: np.ndarray, count: int) -> list[Proposals]:
        self.asked.append(count)
        found = []
        for row in rows:
            scores = self.score(row, self.stored)
            order = np.argsort(scores, kind="stable")[:count]
            found.append(Proposals(self.ids[order], scores[order].astype(np.float64), self.points[order]))
        return found

    @property
    def count(self) -> int:
        return len(self.ids)

    def close(self) -> None:
        """Nothing to let go of."""


def by_differences(row: np.ndarray, stored: np.ndarray) -> np.ndarray:
    return np.sqrt(((stored - row) ** 2).sum(axis=1))


def by_norms(row: np.ndarray, stored: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum((stored**2).sum(axis=1) - 2 * stored @ row + row @ row, 0))


def in_half(row: np.ndarray, stored: np.ndarray) -> np.ndarray:
    return by_differences(row, stored.astype(np.float16).astype(np.float32))


def far_points(grow_tree: Callable) -> np.ndarray:
    return grow_tree(8.3, 1000, count=4000, dim=DIM)


def test_float32_by_differences_is_proven(grow_tree: Callable, brute_force: Callable) -> None:
    points = far_points(grow_tree)
    engine = Numpy(by_differences)
    engine.upsert(np.arange(len(points)), points)
    queries = points[::200]
    answer = engine.search(queries, K)
    assert answer.exact.all()
    assert kept(answer, brute_force(queries, points, 1.0)).all()
    first = len(engine.asked)
    engine.search(queries, K)
    assert engine.asked[first:] == [30]  # the usual distance is known by now: one round, about the right centre


def test_two_rounds_prove_an_answer() -> None:
    """A 4-dimensional sheet at radii 1 to 6: about the query itself and not the centre of its ball, some take three."""
    rng = np.random.default_rng(0)
    directions = np.zeros((4000, DIM))
    directions[:, :4] = rng.normal(size=(4000, 4))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    points = (directions * np.sinh(rng.uniform(1, 6, size=(4000, 1)))).astype(np.float32)
    for query in points[::200]:
        engine = Numpy(by_differences)  # a new one, that has learnt no usual distance
        engine.upsert(np.arange(len(points)), points)
        assert engine.search(query[None], K).exact[0]
        assert max(engine.asked) <= 120


@pytest.mark.parametrize("score", [by_norms, in_half])
def test_other_arithmetic_is_noticed(
    score: Edit, grow_tree: Callable, brute_force: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    points = far_points(grow_tree)
    engine = Numpy(score)
    engine.upsert(np.arange(len(points)), points)
    with caplog.at_level(logging.WARNING):
        answer = engine.search(points[::200], K)
    right = kept(answer, brute_force(points[::200], points, 1.0))
    assert not right.all()  # there is something to notice
    assert not answer.exact[~right].any()
    assert not answer.exact.any()
    assert "nothing_proven" in caplog.text


def test_more_is_asked_for_until_the_bound_and_no_further(grow_tree: Callable) -> None:
    points = np.repeat(far_points(grow_tree)[:2], 1000, axis=0)  # 1,000 at one place: no proof before all are seen
    engine = Numpy(by_differences)
    engine.upsert(np.arange(len(points)), points)
    answer = engine.search(points[:1], K)
    assert engine.asked == [30, 120, 480, 500]
    assert not answer.exact[0]
    assert (answer.distances == 0).all()


@pytest.mark.parametrize(
    "url",
    [
        "http://lhier:hunter2@127.0.0.1:1",
        "postgresql://lhier:hunter2@127.0.0.1:1/photos",
        "postgresql://127.0.0.1:1/photos?password=hunter2",
    ],
)
def test_nobody_there(url: str, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("pymilvus" if url.startswith("http") else "psycopg")
    with caplog.at_level(logging.DEBUG), pytest.raises(BackendError, match=r"127\.0\.0\.1:1") as caught:
        open_backend(url, "photos")
    told = "".join(traceback.format_exception(caught.value)) + caplog.text
    assert "start it there, or correct the URL" in str(caught.value)
    assert "hunter2" not in told


def test_what_is_no_backend_is_told_so() -> None:
    for url in ("store", "mysql://root:hunter2@db/photos"):
        with pytest.raises(BackendError, match="expected the URL of a backend") as caught:
            open_backend(url, "photos")
        assert "hunter2" not in str(caught.value)
    assert without_secrets("http://a:hunter2@h:1/p?token=hunter2&x=1") == "http://a:***@h:1/p?token=***&x=1"


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for url, package, extra in (("http://h", "pymilvus", "milvus"), ("postgresql://h", "psycopg", "postgres")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(BackendError, match=rf'pip install "lhier\[{extra}\]"'):
            open_backend(url, "photos")


def test_a_lost_connection_is_told_and_made_anew(postgres_url: str, grow_tree: Callable) -> None:
    import psycopg

    points = grow_tree(3, 10, count=20, dim=DIM)
    backend = create_backend(postgres_url, next(NAMES), About(DIM, 1.0, "fa4e00000001"))
    backend.upsert(np.arange(20), points)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        others = "FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = 'postgres'"
        connection.execute(f"SELECT pg_terminate_backend(pid) {others}")
    with pytest.raises(BackendError, match="failed"):
        backend.search(points[:1], 1)
    assert backend.search(points[:1], 1).ids.tolist() == [[0]]
    backend.close()


def test_a_write_that_fails_changes_nothing_in_postgres(postgres_url: str, grow_tree: Callable) -> None:
    """The transaction is the server's: a column that refuses the last row refuses them all."""
    import psycopg

    points, name = grow_tree(3, 10, count=20, dim=DIM), next(NAMES)
    backend = create_backend(postgres_url, name, About(DIM, 1.0, "fa4e00000001"))
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"ALTER TABLE lhier_{name} ADD CHECK (id < 15)")
    with pytest.raises(BackendError, match="failed"):
        backend.upsert(np.arange(20), points)
    assert backend.count == 0
    backend.upsert(np.arange(10), points[:10])
    assert backend.count == 10
    backend.close()


def test_a_table_of_somebody_else_is_refused(postgres_url: str) -> None:
    import psycopg

    name = next(NAMES)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE TABLE lhier_{name} (id int)")
    with pytest.raises(BackendError, match="was not made by lhier"):
        open_backend(postgres_url, name)


def test_a_database_without_pgvector_is_told_so(postgres_url: str) -> None:
    """Only a superuser may create the extension, and this user is none."""
    import psycopg

    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE ROLE visitor LOGIN")
        connection.execute("CREATE DATABASE bare")
    url = postgres_url.replace("postgres@/postgres", "visitor@/bare")
    with pytest.raises(BackendError, match=r"has no pgvector .*CREATE EXTENSION vector"):
        create_backend(url, next(NAMES), About(DIM, 1.0, "fa4e00000001"))
