"""Encoder: photos -> points in a worker process that is watched, and replaced when it dies or is stuck."""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np

from hyperbolic.images import MAX_PIXELS, MIN_SIDE, ImageError, ImageErrorCode
from service.encoder.frames import EncoderInfo, Frame, FrameError, Kind, Setup
from service.encoder.lanes import Lane, Lanes
from service.encoder.process import WorkerProcess
from service.settings import InferenceSettings

logger = logging.getLogger(__name__)

FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
Message = tuple[Kind, dict[str, Any], bytes]
Status = Literal["starting", "alive", "restarting", "stuck", "closed"]

START_S = 900.0
"""How long a worker may take to load: the first one on a machine makes and checks the runtime's graph."""
GIVE_UP_S = 15.0
"""For how long photos that somebody waits for queue while there is no worker; later ones are refused."""
WINDOW_BYTES = 64 * 2**20
AT_ONCE_BYTES = 64 * 2**10
"""Well below what Linux buffers in a socket pair (208 KB), so that sending does not wait for the worker."""
LONGEST_BACKOFF_S = 30.0
LIVES = 2
"""How many workers a photo may take with it while no other is under way."""


class EncoderStartError(RuntimeError):
    """The encoder cannot be started: the text says why. ``error`` names the exception of the worker."""

    def __init__(self, message: str, error: str = "") -> None:
        super().__init__(message)
        self.error = error


class EncoderUnavailableError(RuntimeError):
    """There is no worker at present, or the service is closing."""


class EncodingError(RuntimeError):
    """A photo that was decoded but not encoded: nothing that its sender can do about."""


class PhotoFuture(Future[FloatArray]):
    """The point (d,) of one photo, float32; and, once it is there, how long decoding and its batch took."""

    decode_s: float = 0.0
    encode_s: float = 0.0
    batch_size: int = 0


@dataclass(frozen=True, slots=True)
class BatchSeen:
    """A batch that went through the encoder: what an observer is told."""

    size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class EncoderState:
    """How the encoder stands.

    ``down_s``: for how long there has been no worker, 0 while there is one. ``stalled_s``: for how long photos have
    been waiting without any being answered. ``oldest_s``: age of the oldest unanswered photo. ``batch_sizes``: how
    many batches of which size there have been. ``live`` is what ``/livez`` tells: a worker is there, or has not been
    away for long, and photos that wait are being answered.
    """

    status: Status
    live: bool
    pid: int | None
    down_s: float
    stalled_s: float
    oldest_s: float
    waiting_urgent: int
    waiting_patient: int
    under_way: int
    restarts: int
    batch_sizes: dict[int, int]


@dataclass(slots=True, eq=False)
class _Photo:
    number: int
    data: bytes
    limits: dict[str, int]
    lane: Lane
    came: float
    future: PhotoFuture = field(default_factory=PhotoFuture)
    suspect: bool = False  # it was under way when a worker died
    deaths: int = 0  # of workers that had nothing else under way


@dataclass(slots=True, eq=False)
class _Life:
    """A worker and what is known of it."""

    process: WorkerProcess
    gone: bool = False
    ready: bool = False
    window: int = 0
    progress: float = field(default_factory=time.monotonic)
    answers: int = 0


class Encoder:
    """Photos -> points. Any thread may use it; it belongs to no event loop (``asyncio.wrap_future`` its futures).

    The worker starts with the constructor; :meth:`ready` waits for it. When it dies or makes no progress for
    ``stuck_s``, it is replaced, and what it had not answered goes to the next one, each photo alone: one that takes
    two workers with it fails with code ``crashed_decoder``, its neighbours succeed.
    """

    def __init__(self, checkpoint: Path, inference: InferenceSettings) -> None:
        self._setup = Setup(
            checkpoint=str(checkpoint),
            device=inference.device,
            runtime=inference.runtime,
            precision=inference.precision,
            max_batch=inference.max_batch,
            decode_threads=inference.decode_threads,
            threads=inference.threads,
            log_level=max(logging.INFO, logging.getLogger().getEffectiveLevel()),
        )
        self._stuck_s = inference.stuck_s
        self._lock = threading.RLock()
        self._sendable = threading.Condition(self._lock)  # the writer's: photos came, or room for them
        self._turning = threading.Condition(self._lock)  # workers come and go, or all ends
        self._waiting = Lanes[_Photo]()
        self._suspects: deque[_Photo] = deque()
        self._under_way: dict[int, _Photo] = {}
        self._bytes_under_way = 0
        self._dropped: deque[int] = deque()
        self._number = 0
        self._sending = False  # the writer is in the middle of a message
        self._life: _Life | None = None
        self._info: EncoderInfo | None = None
        self._refusal: EncoderStartError | None = None
        self._closed = False
        self._down_since: float | None = time.monotonic()
        self._answered = time.monotonic()
        self._restarts = 0
        self._fruitless = 0  # lives in a row that answered nothing
        self._batch_sizes: Counter[int] = Counter()
        self._observers: list[Callable[[BatchSeen], None]] = []
        self._threads = [
            threading.Thread(target=target, name=f"encoder-{name}", daemon=True)
            for name, target in (("supervisor", self._supervise), ("writer", self._write))
        ]
        for thread in self._threads:
            thread.start()

    # -- for callers

    def ready(self) -> EncoderInfo:
        """Wait for the first worker; what it loaded. Raises :class:`EncoderStartError`."""
        with self._lock:
            self._turning.wait_for(lambda: self._info or self._refusal or self._closed)
            if self._info is not None:
                return self._info
            raise self._refusal or EncoderStartError("the encoder was closed before it was ready")

    @property
    def info(self) -> EncoderInfo:
        """What the encoder is; the same for as long as it lives. Raises as :meth:`ready`."""
        return self.ready()

    def submit(
        self, photo: bytes, *, max_pixels: int = MAX_PIXELS, min_side: int = MIN_SIDE, urgent: bool = True
    ) -> PhotoFuture:
        """Queue the bytes of a photo. A future that is cancelled takes its photo out of the queue.

        ``urgent=False`` is for jobs: such photos are encoded only while no urgent one waits. The future raises
        :class:`~hyperbolic.images.ImageError` for a photo that is none, :class:`EncodingError` for one that could not
        be encoded, and :class:`EncoderUnavailableError` where no worker can be had.
        """
        return self._queue(photo, max_pixels, min_side, Lane.URGENT if urgent else Lane.PATIENT)

    def check(self, photo: bytes) -> PhotoFuture:
        """:meth:`submit`, before all others: for the service's check of itself, which no load may hold up."""
        return self._queue(photo, MAX_PIXELS, MIN_SIDE, Lane.CHECK)

    def observe(self, observer: Callable[[BatchSeen], None]) -> Callable[[], None]:
        """Have ``observer`` called with every batch, in a thread of this encoder, until what is returned is called.

        It must be quick.
        """
        with self._lock:
            self._observers = [*self._observers, observer]

        def stop() -> None:
            with self._lock:
                self._observers = [each for each in self._observers if each is not observer]

        return stop

    def state(self) -> EncoderState:
        """How things stand now. Takes no time and waits for nothing."""
        now = time.monotonic()
        with self._lock:
            pending = [*self._waiting, *self._suspects, *self._under_way.values()]
            oldest = min((photo.came for photo in pending if not photo.future.done()), default=now)
            stalled = now - max(oldest, self._answered) if oldest < now else 0.0
            down = 0.0 if self._down_since is None else now - self._down_since
            alive = self._life is not None and self._life.ready
            status: Status = (
                "closed" if self._closed
                else "stuck" if stalled > self._stuck_s
                else "alive" if alive
                else "restarting" if self._info is not None
                else "starting"
            )  # fmt: skip
            return EncoderState(
                status=status,
                live=status not in {"closed", "stuck"} and down <= self._stuck_s,
                pid=self._life.process.pid if self._life is not None else None,
                down_s=down,
                stalled_s=stalled,
                oldest_s=now - oldest,
                waiting_urgent=self._waiting.waiting(Lane.URGENT) + len(self._suspects),
                waiting_patient=self._waiting.waiting(Lane.PATIENT),
                under_way=len(self._under_way),
                restarts=self._restarts,
                batch_sizes=dict(self._batch_sizes),
            )

    def close(self) -> None:
        """End the worker; whatever was not answered fails with :class:`EncoderUnavailableError`."""
        with self._lock:
            self._closed = True
            self._turn()
        for thread in self._threads:
            thread.join()
        with self._lock:
            left = [*self._waiting, *self._suspects, *self._under_way.values()]
            self._waiting, self._under_way = Lanes(), {}
            self._suspects.clear()
        for photo in left:
            _fail(photo, EncoderUnavailableError("the service is closing"))

    # -- queueing and sending

    def _queue(self, data: bytes, max_pixels: int, min_side: int, lane: Lane) -> PhotoFuture:
        now = time.monotonic()
        with self._lock:
            self._number += 1
            photo = _Photo(self._number, data, {"max_pixels": max_pixels, "min_side": min_side}, lane, now)
            long_down = self._down_since is not None and now - self._down_since > GIVE_UP_S
            if self._closed or (long_down and lane == Lane.URGENT and self._info is not None):
                photo.future.set_exception(
                    EncoderUnavailableError("the service is closing" if self._closed else "the encoder is restarting")
                )
                return photo.future
            idle = not (self._waiting or self._suspects or self._dropped or self._sending)
            self._waiting.put(photo, lane)
            # What the socket surely takes at once is sent from here: that spares a change of threads.
            at_once = idle and self._bytes_under_way + len(data) <= AT_ONCE_BYTES
            life, message = (self._life, self._next_message()) if at_once else (None, None)
            if message is None:
                self._sendable.notify()
        if message is not None:
            self._send(life, message)
        photo.future.add_done_callback(lambda future: self._forget(photo) if future.cancelled() else None)
        return photo.future

    def _forget(self, photo: _Photo) -> None:
        """Its caller gave up."""
        with self._lock:
            if photo.number in self._under_way:
                self._dropped.append(photo.number)
                self._sendable.notify()
            else:
                self._waiting.remove(photo, photo.lane)

    def _write(self) -> None:
        while True:
            with self._lock:
                while not self._closed and (message := self._next_message()) is None:
                    self._sendable.wait()
                if self._closed or message is None:
                    return
                life, self._sending = self._life, True
            self._send(life, message)
            with self._lock:
                self._sending = False

    @staticmethod
    def _send(life: _Life | None, message: Message) -> None:
        try:
            if life is not None:
                life.process.link.send(*message)
        except OSError:  # the worker has gone: its photos go to the next one
            logger.debug("event=encoder_link_broken")

    def _next_message(self) -> Message | None:
        if self._life is None or not self._life.ready:
            return None
        if self._dropped:
            return Kind.CANCEL, {"number": self._dropped.popleft()}, b""
        if (photo := self._next_photo(self._life)) is None:
            return None
        if not self._under_way:
            self._life.progress = time.monotonic()
        self._under_way[photo.number] = photo
        self._bytes_under_way += len(photo.data)
        return Kind.PHOTO, {"number": photo.number, "lane": photo.lane, **photo.limits}, photo.data

    def _next_photo(self, life: _Life) -> _Photo | None:
        while self._suspects and self._suspects[0].future.done():  # its caller gave up meanwhile
            self._suspects.popleft()
        if self._suspects:  # each alone: the next death tells which
            return self._suspects.popleft() if not self._under_way else None
        if any(photo.suspect for photo in islice(self._under_way.values(), 1)):
            return None
        if len(self._under_way) >= life.window or (self._under_way and self._bytes_under_way > WINDOW_BYTES):
            return None
        return next(iter(self._waiting.take()), None)

    # -- receiving

    def _read(self, life: _Life) -> None:
        try:
            while (frame := life.process.link.receive()) is not None:
                self._take(life, frame)
        except (FrameError, KeyError, TypeError, ValueError):
            logger.exception("event=encoder_not_understood pid=%d", life.process.pid)
        finally:
            with self._lock:
                life.gone = True
                self._turn()

    def _take(self, life: _Life, frame: Frame) -> None:
        head = frame.head
        if frame.kind == Kind.READY:
            self._welcome(life, EncoderInfo(**head["info"]), head["window"])
        elif frame.kind == Kind.REFUSED:
            self._refuse(EncoderStartError(str(head["detail"]), str(head["error"])))
        elif frame.kind == Kind.POINTS:
            self._points(life, head, frame.body)
        elif (photo := self._answered_by(life, [head["number"]])[0]) is None:
            return
        elif frame.kind == Kind.BAD_PHOTO:
            code = head["code"] if head["code"] in get_args(ImageErrorCode) else "undecodable_image"
            _fail(photo, ImageError(cast(ImageErrorCode, code), str(head["detail"])))
        elif frame.kind == Kind.FAILED:
            _fail(photo, EncodingError(str(head["detail"])))

    def _points(self, life: _Life, head: dict[str, Any], body: bytes) -> None:
        assert self._info is not None  # noqa: S101 - READY came first
        numbers, seconds = head["numbers"], float(head["encode_s"])
        points = np.frombuffer(body, "<f4").astype(np.float32).reshape(len(numbers), self._info.embedding_dim)
        with self._lock:
            self._batch_sizes[len(numbers)] += 1
        for photo, point, decode_s in zip(self._answered_by(life, numbers), points, head["decode_s"], strict=True):
            if photo is not None:
                photo.future.decode_s, photo.future.encode_s = float(decode_s), seconds
                photo.future.batch_size = len(numbers)
                _succeed(photo, point.copy())
        for observer in self._observers:
            try:
                observer(BatchSeen(len(numbers), seconds))
            except Exception:  # not the worker's fault
                logger.exception("event=observer_failed")

    def _answered_by(self, life: _Life, numbers: list[int]) -> list[_Photo | None]:
        with self._lock:
            photos = [self._under_way.pop(number, None) for number in numbers]
            self._bytes_under_way -= sum(len(photo.data) for photo in photos if photo is not None)
            self._answered = life.progress = time.monotonic()
            life.answers += 1
            self._sendable.notify()
            return photos

    # -- lives of workers

    def _turn(self) -> None:
        self._turning.notify_all()
        self._sendable.notify()

    def _supervise(self) -> None:
        while True:
            backoff = min(LONGEST_BACKOFF_S, 2.0 ** (self._fruitless - 1)) if self._fruitless else 0.0
            with self._lock:
                if self._turning.wait_for(lambda: self._closed, backoff):
                    return
            try:
                life = _Life(WorkerProcess(self._setup))
            except OSError as error:
                logger.exception("event=encoder_not_started")
                self._refuse(EncoderStartError(f"no process can be started for the encoder: {error}"))
                self._fruitless += 1
                continue
            reader = threading.Thread(target=self._read, args=(life,), name="encoder-reader", daemon=True)
            reader.start()
            self._attend(life)
            status = life.process.end() if self._closed else life.process.kill()
            reader.join()
            if self._closed:
                return
            self._bury(life, status)

    def _attend(self, life: _Life) -> None:
        """Until the worker has gone, or is stuck, or is to end."""
        with self._lock:
            self._life = life
        pause = min(1.0, self._stuck_s / 4)
        while True:
            with self._lock:
                if self._turning.wait_for(lambda: self._closed or life.gone, pause):
                    return
                waited = time.monotonic() - life.progress
                loading = not life.ready and waited > START_S
                stuck = life.ready and bool(self._under_way) and waited > self._stuck_s
            if loading or stuck:
                logger.error("event=encoder_stuck pid=%d seconds=%.0f action=replace", life.process.pid, waited)
                return

    def _welcome(self, life: _Life, info: EncoderInfo, window: int) -> None:
        with self._lock:
            if self._info is not None and self._info != info:
                # The collections that are open belong to the first: another model must not answer for it.
                logger.error("event=encoder_changed expected=%s found=%s action=refuse", self._info, info)
                life.gone = True
                self._turn()
                return
            self._info = info
            life.ready, life.window, life.progress = True, window, time.monotonic()
            self._down_since = None
            self._turn()
        logger.info(
            "event=encoder_ready pid=%d model_hash=%s runtime=%s precision=%s device=%s",
            *(life.process.pid, info.model_hash, info.runtime, info.precision, info.device),
        )

    def _refuse(self, refusal: EncoderStartError) -> None:
        """A first start that fails is told to whoever waits; a later one is tried again."""
        logger.error("event=encoder_refused error=%s detail=%r", refusal.error, str(refusal))
        with self._lock:
            if self._info is None:
                self._refusal = refusal
                self._closed = True
            self._turn()

    def _bury(self, life: _Life, status: int) -> None:
        doomed: list[_Photo] = []
        with self._lock:
            left = sorted(self._under_way.values(), key=lambda photo: photo.number)
            if len(left) == 1:
                left[0].deaths += 1
            self._under_way, self._bytes_under_way, self._life = {}, 0, None
            self._dropped.clear()
            for photo in left:
                photo.suspect = True
                if photo.deaths >= LIVES:
                    doomed.append(photo)
                elif not photo.future.done():
                    self._suspects.append(photo)
            self._restarts += 1
            # A photo taken along explains a death; one without any, or before the first answer, will come again.
            self._fruitless = 0 if life.ready and (life.answers or left) else self._fruitless + 1
            if self._down_since is None:
                self._down_since = time.monotonic()
        logger.error(
            "event=encoder_died pid=%d status=%d answers=%d under_way=%d action=%s",
            *(life.process.pid, status, life.answers, len(left), "restart" if self._info else "give_up"),
        )
        for photo in doomed:
            logger.error("event=photo_crashes_encoder bytes=%d action=refused", len(photo.data))
            _fail(
                photo, ImageError("crashed_decoder", "this image makes the decoder crash: save it in another program")
            )
        if self._info is None:
            self._refuse(EncoderStartError(f"the encoder ended with status {status} before it was ready: see the log"))


def _fail(photo: _Photo, error: Exception) -> None:
    try:
        photo.future.set_exception(error)
    except InvalidStateError:  # its caller gave up at this moment
        logger.debug("event=answer_unwanted")


def _succeed(photo: _Photo, point: FloatArray) -> None:
    try:
        photo.future.set_result(point)
    except InvalidStateError:
        logger.debug("event=answer_unwanted")
