"""Photos of a job through the encoder, in order, with a few of them ahead; whoever waits at a screen goes first."""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from hyperbolic.images import ImageError
from index.sources import Photo
from service.encoder.supervisor import EncoderUnavailableError, EncodingError, PhotoFuture
from service.jobs.context import Context
from service.jobs.photos import PhotoUnreadableError, UploadedPhotos
from service.jobs.store import Failure
from service.schemas.common import MAX_ID

AHEAD = 64  # photos
AHEAD_BYTES = 64 * 2**20
_WAIT_S = 0.2
_AGAIN_S = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """A photo with its bytes and its point (d,), or why there is none."""

    photo: Photo
    data: bytes
    space: np.ndarray | None
    failure: Failure | None


@dataclass(slots=True, eq=False)
class _Pending:
    photo: Photo
    data: bytes = b""
    future: PhotoFuture | None = None
    failure: Failure | None = None


def embedded(context: Context, source: UploadedPhotos, photos: Iterable[Photo]) -> Iterator[Embedded]:
    """Each photo in order, embedded or with its failure. Raises what :meth:`Context.check` raises."""
    todo, window = iter(photos), deque[_Pending]()
    waiting_bytes, more = 0, True
    try:
        while True:
            while more and len(window) < AHEAD and waiting_bytes < AHEAD_BYTES:
                context.check()
                if (photo := next(todo, None)) is None:
                    more = False
                    break
                window.append(pending := _submitted(context, source, photo))
                waiting_bytes += len(pending.data)
            if not window:
                return
            pending = window[0]
            space = _point(context, pending)
            window.popleft()
            waiting_bytes -= len(pending.data)
            yield Embedded(pending.photo, pending.data, space, pending.failure)
    finally:
        for pending in window:
            if pending.future is not None:
                pending.future.cancel()


def _submitted(context: Context, source: UploadedPhotos, photo: Photo) -> _Pending:
    pending = _Pending(photo)
    try:
        f"{photo.id}\n{photo.labels}".encode()
    except UnicodeEncodeError:
        shown = photo.path.encode(errors="surrogateescape").decode(errors="backslashreplace")
        pending.failure = Failure(shown, "file_name", "the file's name is not valid Unicode: rename it")
        return pending
    if len(photo.id) > MAX_ID or "\0" in photo.id:
        detail = f"expected a name of at most {MAX_ID} characters, got {len(photo.id)}"
        pending.failure = Failure(photo.id[:MAX_ID], "file_name", detail)
        return pending
    try:
        pending.data = source.read(photo)
    except PhotoUnreadableError as error:
        pending.failure = Failure(photo.id, error.code, str(error))
    else:
        _submit(context, pending)
    return pending


def _submit(context: Context, pending: _Pending) -> None:
    limits = context.settings.limits
    pending.future = context.engine.encoder.submit(
        pending.data, max_pixels=limits.image_pixels, min_side=limits.image_min_side, urgent=False
    )


def _point(context: Context, pending: _Pending) -> np.ndarray | None:
    while pending.future is not None and pending.failure is None:
        try:
            return pending.future.result(timeout=_WAIT_S)
        except TimeoutError:
            context.check()
        except ImageError as error:
            pending.failure = Failure(pending.photo.id, error.code, str(error))
        except EncodingError as error:
            pending.failure = Failure(pending.photo.id, "encoding_failed", str(error))
        except EncoderUnavailableError:  # nothing is wrong with the photo: wait for a worker, or for the end
            context.check()
            time.sleep(_AGAIN_S)
            _submit(context, pending)
    return None
