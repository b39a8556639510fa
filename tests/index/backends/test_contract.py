"""One contract, held by every backend: answers are those of brute force in float64, writes are what they say.

The oracle is tests/index/conftest.py's `brute_force`, which shares no code with the backends.
"""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from index.backends.connect import create_backend, open_backend
from index.backends.interface import About, Backend, BackendError
from index.errors import PointError

DIM, K = 16, 10
NAMES = (f"contract_{number}" for number in itertools.count())


@pytest.fixture(params=["faiss", "milvus", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "faiss":
        return tmp_path.as_uri()
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
def make(url: str) -> Iterator[Callable[..., Backend]]:
    """A new backend; closed after the test."""
    made: list[Backend] = []

    def one(c: float = 1.0, **more: str) -> Backend:
        made.append(create_backend(url, next(NAMES), About(DIM, c, "fa4e00000001", **more)))
        return made[-1]

    yield one
    for backend in made:
        backend.close()


@pytest.fixture(scope="module")
def small() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(60, DIM)).astype(np.float32)


def hold(backend: Backend, points: dict[int, np.ndarray], brute_force: Callable, k: int = K) -> None:
    """The backend answers like brute force over these points, for queries among them and beside them."""
    assert backend.count == len(points)
    ids = np.array(sorted(points))
    space = np.stack([points[id_] for id_ in ids.tolist()])
    queries = np.concatenate([space[:3], space[-2:] * np.float32(1.1)])
    answer = backend.search(queries, k)
    assert answer.exact.all()
    truth = brute_force(queries, space, backend.about.c)
    for row, all_distances in enumerate(truth):
        order = np.lexsort((ids, all_distances))[:k]
        assert answer.ids[row, : len(order)].tolist() == ids[order].tolist()
        np.testing.assert_allclose(answer.distances[row, : len(order)], all_distances[order], rtol=1e-8, atol=1e-7)
        assert (answer.ids[row, len(order) :] == -1).all()
        assert np.isinf(answer.distances[row, len(order) :]).all()


@pytest.mark.parametrize("radius", [1, 3, 5, 8.3])
def test_neighbours_are_those_of_brute_force(
    make: Callable, radius: float, grow_tree: Callable, brute_force: Callable
) -> None:
    points = grow_tree(radius, 400, count=2000, dim=DIM)
    backend = make()
    ids = np.random.default_rng(1).permutation(len(points)) + 10**15
    backend.upsert(ids, points)
    rng = np.random.default_rng(2)
    members = points[rng.choice(len(points), 8, replace=False)]
    queries = np.concatenate([members, members * rng.normal(1, 0.05, size=members.shape).astype(np.float32)])
    truth = brute_force(queries, points, 1.0)

    answer = backend.search(queries, K)

    assert answer.exact.all()
    place = {int(id_): column for column, id_ in enumerate(ids)}
    for row, found in enumerate(answer.ids):
        assert len(set(found.tolist())) == K
        # Ties of the oracle at the k-th place, up to its own rounding: 1e-9 of a distance at radius 8.3.
        kth = np.sort(truth[row])[K - 1] * (1 + 1e-9)
        assert all(truth[row, place[int(id_)]] <= kth for id_ in found)
    np.testing.assert_allclose(answer.distances, np.sort(truth, axis=1)[:, :K], rtol=1e-8, atol=1e-7)
    assert (answer.distances[:8, 0] == 0).all()
    alone = [backend.search(query[None], K) for query in queries[:2]]
    assert [one.ids[0].tolist() for one in alone] == answer.ids[:2].tolist()


def test_writes_are_what_they_say(make: Callable, small: np.ndarray, brute_force: Callable) -> None:
    backend = make(c=0.3)
    points = dict(enumerate(small[:40]))
    backend.upsert(list(points), small[:40])
    hold(backend, points, brute_force)
    # Moved and new ones in one write, rows at both ends of int64.
    moved = {3: small[50], 5: small[51], 0: small[52], 2**63 - 1: small[53]}
    backend.upsert(list(moved), np.stack(list(moved.values())))
    points |= moved
    hold(backend, points, brute_force)
    assert backend.delete([3, 7, 7, 999, 2**63 - 1]) == 3
    assert backend.delete([3]) == 0
    assert backend.delete([]) == 0
    for gone in (3, 7, 2**63 - 1):
        del points[gone]
    hold(backend, points, brute_force)
    backend.upsert([3], small[59:60])  # an id that was deleted can come back
    points[3] = small[59]
    hold(backend, points, brute_force)
    hold(backend, points, brute_force, k=len(points) + 7)


def test_empty(make: Callable, small: np.ndarray) -> None:
    backend = make()
    assert backend.count == 0
    for queries in (small[:2], small[:0]):
        answer = backend.search(queries, 3)
        assert answer.ids.shape == answer.distances.shape == (len(queries), 3)
        assert (answer.ids == -1).all()
        assert np.isinf(answer.distances).all()
        assert answer.exact.shape == (len(queries),)
        assert answer.exact.all()
    backend.upsert([], np.zeros((0, DIM)))
    assert backend.count == 0
    assert backend.delete([1]) == 0


@pytest.mark.parametrize(
    ("ids", "space", "told"),
    [
        ([1, 1], np.zeros((2, DIM)), "unique ids, got 1 more than once"),
        ([-1, 2], np.zeros((2, DIM)), "0 .. 2"),
        ([1], np.zeros((2, DIM)), "one id per point"),
        (["a", "b"], np.zeros((2, DIM)), "int64 ids"),
        ([1, 2], np.zeros((2, DIM + 1)), rf"shape \(n, {DIM}\)"),
        ([1, 2], np.full((2, DIM), np.nan), "finite"),
        ([1, 2], np.full((2, DIM), 1e39), "finite"),
    ],
    ids=["twice", "negative", "too few ids", "no numbers", "shape", "nan", "beyond float32"],
)
def test_bad_points_change_nothing(
    make: Callable, small: np.ndarray, ids: list, space: np.ndarray, told: str, brute_force: Callable
) -> None:
    backend = make()
    points = dict(enumerate(small[:12]))
    backend.upsert(list(points), small[:12])
    with pytest.raises(PointError, match=told):
        backend.upsert(ids, space)
    hold(backend, points, brute_force)


def test_bad_queries_are_refused(make: Callable, small: np.ndarray) -> None:
    backend = make()
    backend.upsert([1], small[:1])
    for queries, k, told in ((small[0], 1, "shape"), (small[:1] * np.nan, 1, "finite"), (small[:1], 0, "expected k")):
        with pytest.raises(PointError, match=told):
            backend.search(queries, k)


def test_ties_come_in_the_order_of_their_ids(make: Callable, small: np.ndarray) -> None:
    """More of them than one round proposes, so that the proof has to go on."""
    backend = make()
    ids = np.random.default_rng(3).permutation(400)
    backend.upsert(ids, np.concatenate([np.repeat(small[:1], 200, axis=0), np.repeat(small[1:2], 200, axis=0)]))
    answer = backend.search(small[:1], 5)
    assert answer.exact.all()
    assert (answer.distances == 0).all()
    assert answer.ids[0].tolist() == sorted(ids[:200].tolist())[:5]


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e6, 1e18, 3e38])
def test_extreme_points_are_answered(make: Callable, small: np.ndarray, scale: float) -> None:
    backend = make()
    unit = small / np.linalg.norm(small, axis=1, keepdims=True)
    backend.upsert(np.arange(len(unit)), unit * scale)
    answer = backend.search(unit[:3] * scale, 5)
    assert answer.exact.all()  # there are few enough to compare them all
    assert np.isfinite(answer.distances).all()
    if scale:
        assert answer.ids[:, 0].tolist() == [0, 1, 2]


def test_points_outlast_the_connection(url: str, small: np.ndarray, brute_force: Callable) -> None:
    name, about = next(NAMES), About(DIM, 0.1 + 0.2, "fa4e00000001")  # a c with all its digits
    first = create_backend(url, name, about)
    first.upsert(np.arange(60), small)
    first.delete([5])
    first.close()
    again = open_backend(url, name)
    assert again.about == about
    hold(again, {id_: point for id_, point in enumerate(small) if id_ != 5}, brute_force)
    again.close()


def test_a_name_is_taken_once(url: str, small: np.ndarray) -> None:
    name, about = next(NAMES), About(DIM, 1.0, "fa4e00000001")
    with pytest.raises(BackendError, match="lhier backend push"):
        open_backend(url, name)
    first = create_backend(url, name, about)
    first.upsert([1, 2], small[:2])
    first.close()
    with pytest.raises(BackendError, match="--replace"):
        create_backend(url, name, about)
    other = create_backend(url, name, About(DIM, 2.0, "0123456789ab"), replace=True)
    assert other.count == 0
    other.close()
    again = open_backend(url, name)
    assert again.about.model_hash == "0123456789ab"
    again.close()
    with pytest.raises(BackendError, match="a letter first"):
        create_backend(url, 'x"; DROP TABLE y', about)
