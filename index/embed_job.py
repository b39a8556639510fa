"""What is done of an embedding job, kept on the disk so that the job goes on after any kill.

While it runs, job.jsonl holds its identity and a line per finished part. The manifest replaces it at the end. A part
counts as done while its file has the hash written down and its photos have the stamps they had.
"""

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from index.embeddings import FAILURES, MANIFEST, Manifest, Part, read_manifest
from index.errors import EmbeddingsError
from index.files import sha256, sync, write_json
from index.sources import Photo

logger = logging.getLogger(__name__)

JOB = "job.jsonl"
_WORDS = {
    "format_version": "another format",
    "model_hash": "another checkpoint",
    "source": "another source of photos",
    "photos_sha256": "another list of photos",
    "runtime": "another runtime",
    "precision": "another precision",
    "draft": "another way of decoding",
    "part_size": "another shard size",
}
Failure = dict[str, str]
"""path, code, error."""


class Identity(BaseModel):
    """What must be the same for a job to go on."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format_version: int
    model_hash: str
    source: str
    photos_sha256: str
    runtime: str
    precision: str
    draft: bool
    part_size: int


class Entry(BaseModel):
    """A finished part, and the photos of it that could not be read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    part: Part
    failures: list[Failure]


class Job:
    """The finished parts of one job in one folder. Made by :func:`open_job`."""

    def __init__(self, out: Path, identity: Identity, done: dict[int, Entry], *, finished: bool) -> None:
        self.out = out
        self.identity = identity
        self.done = done
        self.finished = finished

    def add(self, entry: Entry) -> None:
        """Write down a part whose file is on the disk."""
        self.done[entry.number] = entry
        _append(self.out / JOB, [entry.model_dump()])
        _append(self.out / FAILURES, entry.failures)

    def finish(self, *, checkpoint: Path, embedding_dim: int, c: float, image_root: Path | None) -> Manifest:
        """Write the manifest; the job is done once it is there."""
        entries = self._entries()
        failures = self.failures()
        _replace_lines(self.out / FAILURES, failures)
        manifest = Manifest(
            **self.identity.model_dump(),
            checkpoint=str(checkpoint.resolve()),
            embedding_dim=embedding_dim,
            c=c,
            image_root=image_root,
            count=sum(entry.part.rows for entry in entries),
            failed=len(failures),
            parts=[entry.part for entry in entries],
        )
        write_json(self.out / MANIFEST, manifest.model_dump(mode="json"))
        (self.out / JOB).unlink()
        self.finished = True
        return manifest

    def failures(self) -> list[Failure]:
        """Every photo that could not be read, in the order of the photos' parts."""
        return [failure for entry in self._entries() for failure in entry.failures]

    def _entries(self) -> list[Entry]:
        return [self.done[number] for number in sorted(self.done)]


def photos_sha256(photos: Sequence[Photo]) -> str:
    """Names a list of photos by their ids, in order."""
    return _hash("\0".join(photo.id for photo in photos))


def fingerprint(photos: Sequence[Photo]) -> str:
    """Names the photos of a part as they are now: 16 hex digits that change when a file, a path or a label does."""
    return _hash(json.dumps([(photo.id, photo.path, photo.labels, photo.stamp) for photo in photos]))[:16]


@contextmanager
def open_job(out: Path, identity: Identity, fingerprints: Sequence[str]) -> Iterator[Job]:
    """The job in ``out``: new, or what an earlier run left of it. Another process that embeds there is refused.

    Parts whose photos changed since, or where a file could not be had, are to be done again. Raises
    :class:`EmbeddingsError` where the folder belongs to another job, or is damaged.
    """
    out.mkdir(parents=True, exist_ok=True)
    with _locked(out):
        finished = (out / MANIFEST).exists()
        entries = _from_manifest(out, identity) if finished else _from_job(out, identity)
        done = {
            entry.number: entry
            for entry in entries
            if entry.number < len(fingerprints)
            and entry.part.fingerprint == fingerprints[entry.number]
            and _intact(out, entry.part)
            and not (finished and any(failure["code"] == "unreadable_file" for failure in entry.failures))
        }
        job = Job(out, identity, done, finished=finished and len(done) == len(fingerprints))
        if job.finished:
            (out / JOB).unlink(missing_ok=True)
        else:
            # In this order: as long as there is a manifest, it is read first, and its failures with it.
            kept = [done[number] for number in sorted(done)]
            _replace_lines(out / JOB, [identity.model_dump(), *(entry.model_dump() for entry in kept)])
            if finished:
                (out / MANIFEST).unlink()
                sync(out)
            _replace_lines(out / FAILURES, job.failures())
        yield job


def _from_manifest(out: Path, identity: Identity) -> list[Entry]:
    manifest = read_manifest(out)
    _refuse_another(out, identity, manifest.model_dump())
    failures = _read_failures(out)
    entries = []
    for number, part in enumerate(manifest.parts):
        entries.append(Entry(number=number, part=part, failures=failures[: part.failed]))
        failures = failures[part.failed :]
    return entries


def _from_job(out: Path, identity: Identity) -> list[Entry]:
    job = out / JOB
    if not job.exists():
        if any(out.glob("part-*.parquet")):
            raise EmbeddingsError(f"{out} holds parts of an unknown job: choose another --out, or empty it")
        return []
    # The interruption may have come in the middle of a letter.
    lines = _lines(job.read_text(encoding="utf-8", errors="replace"))
    try:
        _refuse_another(out, identity, json.loads(lines[0]))
        # What stands behind the last line's end was cut by the interruption; of two lines for a part, the later holds.
        entries = (Entry.model_validate_json(line) for line in lines[1:-1])
        return list({entry.number: entry for entry in entries}.values())
    except (IndexError, AttributeError, json.JSONDecodeError, ValidationError) as error:
        raise EmbeddingsError(f"{job} is damaged ({error}): empty {out} and start again") from error


def _refuse_another(out: Path, identity: Identity, found: dict[str, Any]) -> None:
    for key, expected in identity.model_dump().items():
        if found.get(key) != expected:
            raise EmbeddingsError(
                f"{out} belongs to a job with {_WORDS[key]} ({key} {found.get(key)!s:.80}, now {expected!s:.80}): "
                f"choose another --out, or empty it"
            )


def _intact(out: Path, part: Part) -> bool:
    path = out / part.file
    return path.is_file() and sha256(path) == part.sha256


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """The folder itself is locked, so that no file is left behind."""
    descriptor = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise EmbeddingsError(
                f"another process is embedding into {out}: wait for it, or choose another --out"
            ) from error
        yield
    finally:
        os.close(descriptor)


def _read_failures(out: Path) -> list[Failure]:
    try:
        return [json.loads(line) for line in _lines((out / FAILURES).read_text(encoding="utf-8")) if line]
    except (OSError, ValueError) as error:
        raise EmbeddingsError(f"{out / FAILURES} cannot be read: {error}") from error


def _lines(text: str) -> list[str]:
    """What stands before, between and after line ends. Only those: U+0085 and U+2028, at which str.splitlines would
    cut as well, may be in a photo's name."""
    return text.split("\n")


def _append(path: Path, values: Iterable[dict[str, Any]]) -> None:
    """Add JSON lines and force them onto the disk."""
    with path.open("a", encoding="utf-8") as file:
        _write_lines(file, values)


def _replace_lines(path: Path, values: Iterable[dict[str, Any]]) -> None:
    temporary = path.with_name(f".{path.name}.writing")
    with temporary.open("w", encoding="utf-8") as file:
        _write_lines(file, values)
    temporary.replace(path)
    sync(path.parent)


def _write_lines(file: Any, values: Iterable[dict[str, Any]]) -> None:
    file.writelines(json.dumps(value, ensure_ascii=False) + "\n" for value in values)
    file.flush()
    os.fsync(file.fileno())


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
