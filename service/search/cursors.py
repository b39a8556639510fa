"""Cursors of searches: everything that the next page needs, in the client's hands.

A cursor holds the query's point, so that no photo is embedded twice, and where the page before ended. It is not
signed: whoever makes one up gets an answer to another question, which is theirs to ask. So everything in it is checked
as what a stranger sent.
"""

import base64
import binascii
import hashlib
import json
import math
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.problems import Problem
from service.schemas.search import MAX_DEPTH

VERSION = 1
# Version; hits before; distance and row of the last of them; row of the item left out (0: none); what it goes with.
_HEAD = struct.Struct("<BIdqq16s16s16s")
_CHECK = struct.Struct("<I")


@dataclass(frozen=True, slots=True, eq=False)
class Cursor:
    """Where the next page begins: after ``seen`` hits, the last of them at ``distance`` in ``row``.

    ``space`` (d,) is the query's point, ``leave_out`` the row of the item that asked. ``state``, ``options`` and
    ``query`` are fingerprints of what the cursor was made with.
    """

    seen: int
    distance: float
    row: int
    leave_out: int
    state: bytes
    options: bytes
    query: bytes
    space: np.ndarray

    def encode(self) -> str:
        """As text for URLs and JSON."""
        head = _HEAD.pack(
            VERSION, self.seen, self.distance, self.row, self.leave_out, self.state, self.options, self.query
        )
        data = head + self.space.astype("<f4").tobytes()
        return base64.urlsafe_b64encode(data + _CHECK.pack(zlib.crc32(data))).rstrip(b"=").decode("ascii")

    @classmethod
    def decode(cls, text: str, embedding_dim: int) -> "Cursor":
        """What :meth:`encode` gave. Raises :class:`~service.problems.Problem` 422 for anything else."""
        size = _HEAD.size + 4 * embedding_dim
        try:
            data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise _garbage() from None
        if len(data) != size + _CHECK.size or _CHECK.unpack(data[size:])[0] != zlib.crc32(data[:size]):
            raise _garbage()
        version, seen, distance, row, leave_out, state, options, query = _HEAD.unpack_from(data)
        space = np.frombuffer(data[_HEAD.size : size], dtype="<f4").astype(np.float32)
        sound = math.isfinite(distance) and distance >= 0 and bool(np.isfinite(space).all())
        if version != VERSION or not sound or not 0 < seen < MAX_DEPTH or row <= 0 or leave_out < 0:
            raise _garbage()
        return cls(seen, distance, row, leave_out, state, options, query, space)


def fingerprint(*values: Any) -> bytes:
    """16 bytes that tell JSON values from others."""
    text = json.dumps(values, separators=(",", ":"), ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def photo_fingerprint(data: bytes | bytearray) -> bytes:
    """16 bytes that tell a photo from others, from its length and both its ends: a long file takes no longer."""
    ends = bytes(data[:4096]) + bytes(data[-32768:])
    return hashlib.blake2b(ends, digest_size=16, salt=struct.pack("<Q", len(data))).digest()


def stale() -> Problem:
    """The collection is not what it was when the cursor was made."""
    return Problem(410, "stale_cursor", "the collection has changed since that page: search again without a cursor")


def mismatch(what: str) -> Problem:
    """The cursor belongs to another search."""
    return Problem(
        422, "cursor_mismatch", f"cursor: it belongs to another {what}: send it as it was, or leave the cursor out"
    )


def _garbage() -> Problem:
    return Problem(422, "invalid_cursor", "cursor: expected the next_cursor of an earlier page, unchanged")
