"""Uploads of any size, written to the disk as they come: never held in memory, gone if they do not come whole."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from service.multipart import Form, Part, parse_form
from service.problems import Problem

MAX_UPLOADS = 8
"""At once; each holds a thread for a moment and as much memory as ``_FLUSH``."""
_FLUSH = 1 << 20
_ASK_EVERY = 64 * 2**20  # bytes between looks at the quotas
_MAX_FILENAME = 255


@dataclass(frozen=True, slots=True)
class Upload:
    """What came: the form's fields, and a file on the disk with its name, size and SHA-256."""

    fields: dict[str, str]
    filename: str
    size: int
    sha256: str


@dataclass(slots=True, eq=False)
class _Sink:
    """A file that bytes are put into, hashed, in a thread."""

    file: IO[bytes]
    require: Callable[[int], None]
    buffer: bytearray = field(default_factory=bytearray)
    size: int = 0
    asked: int = 0
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    async def flush(self, *, least: int = _FLUSH) -> None:
        if len(self.buffer) >= least:
            data, self.buffer = self.buffer, bytearray()
            await run_in_threadpool(self._write, data)

    def _write(self, data: bytearray) -> None:
        self.file.write(data)
        self.digest.update(data)
        self.size += len(data)
        if self.size - self.asked >= _ASK_EVERY:
            self.asked = self.size
            self.require(0)

    async def finish(self) -> None:
        await self.flush(least=1)
        await run_in_threadpool(self._sync)

    def _sync(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())


class _FileForm(Form):
    """A form whose one file goes to a sink."""

    def __init__(self, sink: _Sink) -> None:
        super().__init__(max_file_bytes=0, max_files=1)
        self._sink = sink

    def headers_finished(self) -> None:
        if any(part.is_file for part in self.parts):
            raise Problem(422, "invalid_request", "expected one file, in the field 'file', got several")
        super().headers_finished()
        if self.part.is_file and self.part.name != "file":
            raise Problem(422, "invalid_request", f"expected the file in the field 'file', got {self.part.name!r:.80}")

    def part_data(self, data: bytes, start: int, end: int) -> None:
        if self.part.is_file:
            self._sink.buffer += data[start:end]
        else:
            super().part_data(data, start, end)


class Uploads:
    """Takes at most :data:`MAX_UPLOADS` at once; belongs to one event loop. ``require`` refuses what has no room."""

    def __init__(self, require: Callable[[int], None]) -> None:
        self._require = require
        self._under_way = 0

    async def receive(self, request: Request, target: Path) -> Upload:
        """Write the body's file, multipart or as it is, to the new file ``target``, on the disk when this returns.

        A body that breaks off raises ``ClientDisconnect``; the caller deletes what there is of the file. Raises
        :class:`~service.problems.Problem`: 400, 422, 429, 507.
        """
        if self._under_way >= MAX_UPLOADS:
            raise Problem(
                429,
                "too_many_uploads",
                f"{self._under_way} files are being uploaded: try again in a moment",
                headers={"Retry-After": "5"},
            )
        self._under_way += 1
        try:
            with target.open("xb") as file:
                return await self._receive(request, _Sink(file, self._require))
        finally:
            self._under_way -= 1

    async def _receive(self, request: Request, sink: _Sink) -> Upload:
        content_type = request.headers.get("content-type", "")
        parts: list[Part] = []
        if content_type.partition(";")[0].strip().lower() == "multipart/form-data":
            form = _FileForm(sink)
            await parse_form(content_type, _flushed(request, sink), form)
            parts = form.parts
            if not any(part.is_file for part in parts):
                raise Problem(422, "invalid_request", "expected a file in the field 'file': curl -F file=@photos.zip")
        else:
            async for chunk in _flushed(request, sink):
                sink.buffer += chunk
        await sink.finish()
        fields: dict[str, str] = {}
        for part in parts:
            if not part.is_file:
                if part.name in fields:
                    raise Problem(422, "invalid_request", f"expected the field {part.name!r:.80} once")
                fields[part.name] = part.text
        filename = next((part.filename or "" for part in parts if part.is_file), "")
        return Upload(fields, filename[-_MAX_FILENAME:], sink.size, sink.digest.hexdigest())


async def _flushed(request: Request, sink: _Sink) -> AsyncIterator[bytes]:
    """The body's chunks; what became of each is on its way to the disk before the next is asked for."""
    async for chunk in request.stream():
        yield chunk
        await sink.flush()
    await asyncio.sleep(0)
