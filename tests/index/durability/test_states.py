"""A collection against a dictionary: any sequence of writes, searches, saves, rebuilds, crashes and snapshots.

The suite tries few sequences; LHIER_STATE_RUNS=500 python -m pytest tests/index/durability/test_states.py tries more.
"""

import math
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from index.backup import create_snapshot, restore_snapshot
from index.catalogue import Item
from index.collection import Collection, Hit
from index.plan import Plan, write_request

RUNS = int(os.environ.get("LHIER_STATE_RUNS", "40"))
STEPS = 25
MEMORY = Path("/dev/shm")  # noqa: S108 - thousands of synced writes, and no power cut among what is tried
DIM = 3

names = st.sampled_from([f"item-{n}" for n in range(12)])
# Points that touch, points of one line, points near the origin and at radius 9 and beyond it.
coordinates = st.sampled_from([0.0, 1e-6, -0.5, 1.0, 1.0000001, 30.0, -4000.0]) | st.floats(-3, 3, width=32)
points = st.lists(coordinates, min_size=DIM, max_size=DIM).map(lambda values: np.array(values, dtype=np.float32))
contents = st.dictionaries(names, st.tuples(points, st.integers(0, 9)), min_size=1, max_size=6)


class Searched(RuleBasedStateMachine):
    """A collection, and the dictionary that it must agree with."""

    distances: Callable[[np.ndarray, np.ndarray, float], np.ndarray]

    @initialize(c=st.sampled_from([0.1, 1.0, 2.5]), kind=st.sampled_from(["flat", "ivf", "ivf_sq8"]))
    def start(self, c: float, kind: str) -> None:
        self.work = Path(tempfile.mkdtemp(prefix="lhier-states-", dir=MEMORY if MEMORY.is_dir() else None))
        self.store, self.c, self.number = self.work / "store", c, 0
        self.expected: dict[str, tuple[np.ndarray, int]] = {}
        self.collection = Collection.create(self.store, embedding_dim=DIM, c=c, model_hash="abc")
        write_request(self.collection.folder, Plan(requested=kind, requested_nlist=2).request())  # type: ignore[arg-type]

    def teardown(self) -> None:
        if hasattr(self, "work"):
            self.collection.close()
            shutil.rmtree(self.work)

    @rule(items=contents)
    def add_or_update(self, items: dict[str, tuple[np.ndarray, int]]) -> None:
        self.collection.upsert([Item(id_, space, (str(n),), {"n": n}) for id_, (space, n) in items.items()])
        self.expected |= items

    @rule(ids=st.lists(names, max_size=5))
    def remove(self, ids: list[str]) -> None:
        assert self.collection.delete(ids) == len(self.expected.keys() & set(ids))
        for id_ in ids:
            self.expected.pop(id_, None)

    @rule(query=points, k=st.integers(1, 14))
    def search(self, query: np.ndarray, k: int) -> None:
        truth, tolerance = self.truth(query)
        hits = self.collection.search(query, k, exact=True)
        assert all(hit.exact for hit in hits)
        self.compare(hits, truth, tolerance)
        np.testing.assert_allclose([hit.distance for hit in hits], sorted(truth.values())[:k], rtol=0, atol=tolerance)

    @rule(query=points, radius=st.floats(0, 12))
    def search_within(self, query: np.ndarray, radius: float) -> None:
        truth, tolerance = self.truth(query)
        hits = self.collection.range_search(query, radius)
        self.compare(hits, truth, tolerance)
        found = {hit.item.id for hit in hits}
        assert {id_ for id_, distance in truth.items() if distance < radius - tolerance} <= found
        assert found <= {id_ for id_, distance in truth.items() if distance <= radius + tolerance}

    @precondition(lambda self: self.expected)
    @rule(data=st.data())
    def search_for_an_item(self, data: st.DataObject) -> None:
        id_ = data.draw(st.sampled_from(sorted(self.expected)))
        (hit,) = self.collection.search(self.expected[id_][0], 1, exact=True)
        assert hit.distance == 0
        assert np.array_equal(self.expected[hit.item.id][0], self.expected[id_][0])

    @rule()
    def save(self) -> None:
        self.collection.snapshot()

    @rule()
    def rebuild(self) -> None:
        self.collection.rebuild()

    @rule()
    def close_and_load(self) -> None:
        self.collection.close()
        self.collection = Collection.open(self.store)

    @rule()
    def crash(self) -> None:
        """What lies on the disk now is opened elsewhere; the process that wrote it never closed anything."""
        self.number += 1
        image = self.work / f"crashed-{self.number}"
        while not image.exists():
            try:
                shutil.copytree(self.store, image)
            except shutil.Error:  # a rebuild in the background removed a generation meanwhile: no moment's state
                shutil.rmtree(image)
        self.collection.close()
        shutil.rmtree(self.store)
        self.store = image
        self.collection = Collection.open(self.store)

    @rule(trusted=st.booleans())
    def snapshot_and_restore(self, trusted: bool) -> None:
        self.number += 1
        taken = create_snapshot(self.store, out=self.work / f"{self.number}.tar")
        assert taken.left_out == ()
        self.collection.upsert([Item("after", np.ones(DIM, np.float32))])  # not in the snapshot
        self.collection.close()
        self.collection = restore_snapshot(taken.path, self.store, replace=True, trusted=trusted)

    @invariant()
    def holds_what_is_expected(self) -> None:
        if not hasattr(self, "work"):
            return
        items = self.collection.items(limit=100)
        assert {item.id: (item.space.tobytes(), item.metadata["n"]) for item in items if item.metadata} == {
            id_: (space.tobytes(), n) for id_, (space, n) in self.expected.items()
        }
        assert self.collection.count == len(self.collection.index) == len(self.expected)

    def truth(self, query: np.ndarray) -> tuple[dict[str, float], float]:
        """All distances, and what the chord's form of them may lose to rounding at that radius."""
        if not self.expected:
            return {}, 0.0
        space = np.stack([point for point, _ in self.expected.values()])
        distances = type(self).distances(query[None], space, self.c)[0]
        farthest = math.sqrt(1 / self.c + max(float((s.astype(float) ** 2).sum()) for s in (query, *space)))
        return dict(zip(self.expected, distances.tolist(), strict=True)), 1e-7 + math.sqrt(1e-14) * farthest

    def compare(self, hits: list[Hit], truth: dict[str, float], tolerance: float) -> None:
        assert len({hit.item.id for hit in hits}) == len(hits)
        assert [hit.distance for hit in hits] == sorted(hit.distance for hit in hits)
        for hit in hits:
            assert hit.distance == pytest.approx(truth[hit.item.id], rel=0, abs=tolerance)


@pytest.mark.slow
def test_any_sequence_of_operations_agrees_with_a_dictionary(brute_force: Callable[..., np.ndarray]) -> None:
    Searched.distances = staticmethod(brute_force)
    run_state_machine_as_test(
        Searched,
        settings=settings(
            max_examples=RUNS,
            stateful_step_count=STEPS,
            derandomize="LHIER_STATE_RUNS" not in os.environ,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
