"""Pipeline and Lanes without a process: batches form while the encoder is busy, and a failure stays with its photo."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from hyperbolic.images import ImageError
from service.encoder.lanes import Lane, Lanes
from service.encoder.pipeline import Encoded, FloatArray, Outcome, Pipeline, Task

WAIT_S = 20.0


class Bench:
    """A pipeline over photos that are numbers in text; the encoder doubles them, once it may."""

    def __init__(
        self, max_batch: int, encode: Callable[[FloatArray], FloatArray] | None = None, encode_threads: int = 1
    ) -> None:
        self.batches: list[list[float]] = []
        self.answers: dict[int, float | Exception | None] = {}
        self.started, self.go_on = threading.Event(), threading.Event()
        self._answered = threading.Condition()
        self._encode = encode or (lambda inputs: 2 * inputs)
        self.pipeline = Pipeline(
            self.decode, self.encode, self.answer, decode_threads=1, max_batch=max_batch, encode_threads=encode_threads
        )

    def decode(self, task: Task) -> FloatArray:
        if task.photo == b"bad":
            raise ImageError("undecodable_image", "bad")
        return np.array([float(task.photo)], np.float32)

    def encode(self, inputs: FloatArray) -> FloatArray:
        self.batches.append(inputs[:, 0].tolist())
        self.started.set()
        assert self.go_on.wait(WAIT_S)
        return self._encode(inputs)

    def answer(self, outcome: Outcome) -> None:
        with self._answered:
            if isinstance(outcome, Encoded):
                for task, point in zip(outcome.tasks, outcome.points, strict=True):
                    assert task.number not in self.answers
                    self.answers[task.number] = float(point[0])
            else:
                assert outcome[0].number not in self.answers
                self.answers[outcome[0].number] = outcome[1]
            self._answered.notify()

    def put(self, number: int, lane: Lane = Lane.URGENT, photo: bytes | None = None) -> None:
        self.pipeline.put(Task(number, lane, photo or str(number).encode(), 1, 1))

    def wait_for_answers(self, count: int) -> None:
        with self._answered:
            assert self._answered.wait_for(lambda: len(self.answers) >= count, WAIT_S)

    def wait_until_decoded(self, count: int) -> None:
        for _ in range(2000):
            if len(self.pipeline._decoded) >= count:
                return
            threading.Event().wait(0.005)
        raise AssertionError(f"{len(self.pipeline._decoded)} of {count} were decoded")


@contextmanager
def busy(
    max_batch: int, encode: Callable[[FloatArray], FloatArray] | None = None, encode_threads: int = 1
) -> Iterator[Bench]:
    """A bench whose encoder is held in a first batch, photo 0."""
    bench = Bench(max_batch, encode, encode_threads)
    bench.put(0)
    assert bench.started.wait(WAIT_S)
    try:
        yield bench
    finally:
        bench.go_on.set()
        bench.pipeline.close()


def test_photos_that_come_meanwhile_go_together() -> None:
    with busy(4) as bench:
        for number in range(1, 11):
            bench.put(number)
        bench.wait_until_decoded(10)
        bench.go_on.set()
        bench.wait_for_answers(11)
    assert bench.answers == {number: 2.0 * number for number in range(11)}
    assert [len(batch) for batch in bench.batches] == [1, 4, 4, 2]


def test_batches_overlap_as_far_as_the_encoder_lets_them() -> None:
    with busy(2, encode_threads=2) as bench:
        bench.started.clear()
        bench.put(1)
        assert bench.started.wait(WAIT_S)
        for number in (2, 3):  # both encoders are held
            bench.put(number)
        bench.wait_until_decoded(2)
        assert bench.batches == [[0], [1]]
        bench.go_on.set()
        bench.wait_for_answers(4)
    assert bench.answers == {number: 2.0 * number for number in range(4)}
    assert bench.batches == [[0], [1], [2, 3]]


@pytest.mark.parametrize("how", ["raises", "is not finite"])
def test_a_bad_member_fails_alone(how: str) -> None:
    def encode(inputs: FloatArray) -> FloatArray:
        if how == "raises" and (inputs == 2).any():
            raise ValueError("two")
        return np.where(inputs == 2, np.nan, inputs)

    with busy(8, encode) as bench:
        for number in (1, 2, 3):
            bench.put(number)
        bench.wait_until_decoded(3)
        bench.go_on.set()
        bench.wait_for_answers(4)
    assert {number: bench.answers[number] for number in (0, 1, 3)} == {0: 0.0, 1: 1.0, 3: 3.0}
    assert isinstance(bench.answers[2], ValueError if how == "raises" else FloatingPointError)
    assert bench.batches == [[0], [1, 2, 3], [1], [2], [3]]


def test_a_photo_that_is_none_is_answered_before_the_batch_is_through() -> None:
    with busy(8) as bench:
        bench.put(1, photo=b"bad")
        bench.wait_for_answers(1)
        error = bench.answers[1]
        assert isinstance(error, ImageError)
        assert error.code == "undecodable_image"
        assert 0 not in bench.answers


def test_photos_of_callers_that_left_are_dropped() -> None:
    with busy(8) as bench:
        for number in (1, 2):
            bench.put(number)
        bench.wait_until_decoded(2)
        bench.pipeline.cancel(0)  # in the encoder already: it is answered all the same
        bench.pipeline.cancel(1)
        bench.pipeline.cancel(99)  # answered long ago, or never there
        bench.go_on.set()
        bench.wait_for_answers(3)
    assert bench.answers == {0: 0.0, 1: None, 2: 4.0}
    assert bench.batches == [[0], [2]]


def test_patient_photos_wait_for_urgent_ones_and_never_ride_with_them() -> None:
    with busy(4) as bench:
        for number, lane in ((1, Lane.PATIENT), (2, Lane.PATIENT), (3, Lane.URGENT), (4, Lane.URGENT), (5, Lane.CHECK)):
            bench.put(number, lane)
        bench.wait_until_decoded(5)
        bench.go_on.set()
        bench.wait_for_answers(6)
    assert bench.batches == [[0], [5, 3, 4], [1, 2]]


def test_lanes_keep_order_and_let_go() -> None:
    lanes = Lanes[str]()
    assert lanes.take(3) == []
    for item, lane in (("a", Lane.PATIENT), ("b", Lane.URGENT), ("c", Lane.URGENT), ("d", Lane.CHECK)):
        lanes.put(item, lane)
    assert (len(lanes), lanes.waiting(Lane.URGENT)) == (4, 2)
    assert lanes.remove("b", Lane.URGENT)
    assert not lanes.remove("b", Lane.URGENT)
    assert list(lanes) == ["d", "c", "a"]
    assert [lanes.take(1), lanes.take(9), lanes.take(9), lanes.take(9)] == [["d"], ["c"], ["a"], []]
