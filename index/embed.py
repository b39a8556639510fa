"""The embedding job: a folder of photos -> an embedding folder, in parts, so that an interrupted job goes
on."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from index.embeddings import FAILURES, FORMAT_VERSION, MANIFEST, Manifest, Part, read_manifest, write_part
from index.errors import EmbeddingsError
from index.files import sha256, sync, write_json
from index.points import valid_points

if TYPE_CHECKING:
    from hyperbolic.images import ImageError

logger = logging.getLogger(__name__)

JOB = "job.jsonl"  # what is finished of an unfinished job: its identity, then a line per part
PART_SIZE = 1024  # photos; an interruption costs at most so many
STEP = 128  # photos between two reports of progress


class PhotoEmbedder(Protocol):
    """What the job needs of :class:`hyperbolic.embedder.Embedder`."""

    model_hash: str
    embedding_dim: int
    c: float

    def embed_files(
        self, paths: Sequence[Path], on_error: "Callable[[Path, ImageError], None] | None" = None
    ) -> tuple[list[Path], npt.NDArray[np.float32]]:
        """Readable photos and their points; the others go to `on_error`."""


@dataclass(frozen=True, slots=True)
class EmbedReport:
    """How a job ended: `failures` are {path, code, error}; `reused` photos were embedded by an earlier,
    interrupted run."""

    folder: Path
    count: int
    failures: list[dict[str, str]]
    reused: int


def embed_photos(
    embedder: PhotoEmbedder,
    root: Path,
    out: Path,
    *,
    checkpoint: Path,
    photos: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    part_size: int = PART_SIZE,
) -> EmbedReport:
    """Embed the photos below `root` (all of them, or the relative posix paths `photos`) into the folder
    `out`.

    A photo that cannot be read is reported, not fatal. Called again after an interruption, with the same
    photos and checkpoint, it goes on after the last finished part; with others it refuses
    (:class:`EmbeddingsError`). `progress` is called with (photos done, photos in all).
    """
    if photos is None:
        from hyperbolic.images import find_images  # imports torch, which building an index does without

        photos = [path.relative_to(root).as_posix() for path in find_images(root)]
    if not photos:
        raise EmbeddingsError(f"{root} holds no photos: expected .jpg, .png, .webp, ... files in it or below it")
    digest = hashlib.sha256("\0".join(photos).encode(errors="surrogateescape")).hexdigest()
    identity = {
        "format_version": FORMAT_VERSION,
        "model_hash": embedder.model_hash,
        "image_root": str(root.resolve()),
        "photos_sha256": digest,
        "part_size": part_size,
    }
    out.mkdir(parents=True, exist_ok=True)
    if (out / MANIFEST).exists():
        manifest = read_manifest(out)
        _refuse_another(out, identity | {"part_size": None}, manifest.model_dump() | {"part_size": None})
        if progress:
            progress(len(photos), len(photos))
        return EmbedReport(out, manifest.count, _read_failures(out), manifest.count)
    done = _finished_parts(out, identity)
    reused = sum(len(photos[start : start + part_size]) for start in done)
    handled = reused
    for start in range(0, len(photos), part_size):
        if start in done:
            continue
        names, points, failures = [], [np.zeros((0, embedder.embedding_dim), np.float32)], []
        for step in range(start, min(start + part_size, len(photos)), STEP):
            chunk = photos[step : min(step + STEP, start + part_size, len(photos))]
            kept, space, failed = _embed_chunk(embedder, root, chunk)
            names += kept
            points.append(space)
            failures += failed
            handled += len(chunk)
            if progress:
                progress(handled, len(photos))
        part = None
        if names:
            part = write_part(out / f"part-{start // part_size:05d}.parquet", names, np.concatenate(points))
        done[start] = {"start": start, "part": part.model_dump() if part else None, "failures": failures}
        _append(out / JOB, done[start])
    return _finish(out, identity, done, embedder=embedder, checkpoint=checkpoint, reused=reused)


def read_list(path: Path, root: Path) -> list[str]:
    """Relative posix paths from a text file, one a line, each once; what follows a comma is ignored.

    `train/Fruit/Apple/a.jpg, 0, 0` names `train/Fruit/Apple/a.jpg`, unless a file has the whole line as its
    name.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EmbeddingsError(f"{path} cannot be read as a list of photos: {error}") from error
    photos: dict[str, None] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        photo = text if "," in text and (root / text).is_file() else text.partition(",")[0].strip()
        if not photo:
            continue
        pure = PurePosixPath(photo)
        if pure.is_absolute() or ".." in pure.parts:
            raise EmbeddingsError(f"{path}, line {number}: expected a path below {root}, got {photo!r}")
        photos[pure.as_posix()] = None
    return list(photos)


def _embed_chunk(
    embedder: PhotoEmbedder, root: Path, chunk: Sequence[str]
) -> tuple[list[str], npt.NDArray[np.float32], list[dict[str, str]]]:
    failures: list[dict[str, str]] = []

    def failed(name: str, code: str, error: str) -> None:
        failures.append({"path": name, "code": code, "error": error})
        logger.warning("event=photo_skipped path=%r code=%s error=%r", name, code, error)

    wanted = []
    for name in chunk:
        try:
            name.encode()
        except UnicodeEncodeError:
            # Bytes that are no UTF-8 cannot be an id; show them without losing any.
            shown = name.encode(errors="surrogateescape").decode(errors="backslashreplace")
            failed(shown, "file_name", "the file's name is not valid Unicode: rename it")
        else:
            wanted.append(name)
    paths = [root / name for name in wanted]
    names = dict(zip(paths, wanted, strict=True))
    kept, space = embedder.embed_files(paths, lambda path, error: failed(names[path], error.code, str(error)))
    valid_points(space, embedder.embedding_dim)
    return [names[path] for path in kept], space, failures


def _finished_parts(out: Path, identity: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """What an interrupted run of this very job left behind: start of the part -> its line."""
    job = out / JOB
    if not job.exists():
        if any(out.glob("part-*.parquet")):
            raise EmbeddingsError(f"{out} holds parts of an unknown job: choose another --out, or empty it")
        _append(job, identity)
        return {}
    # The interruption may have come in the middle of a letter.
    lines = job.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    done: dict[int, dict[str, Any]] = {}
    try:
        _refuse_another(out, identity, json.loads(lines[0]))
        for line in lines[1:]:
            if not line.endswith("\n"):
                continue  # the interruption came in the middle of this line
            entry = json.loads(line)
            part = Part.model_validate(entry["part"]) if entry["part"] else None
            if part is None or ((out / part.file).is_file() and sha256(out / part.file) == part.sha256):
                done[int(entry["start"])] = entry
    except (IndexError, KeyError, TypeError, json.JSONDecodeError, ValidationError) as error:
        raise EmbeddingsError(f"{job} is damaged ({error}): empty {out} and start again") from error
    if not lines[-1].endswith("\n"):
        job.write_text("".join(lines[:-1]), encoding="utf-8")
    return done


def _refuse_another(out: Path, identity: dict[str, Any], found: dict[str, Any]) -> None:
    words = {
        "format_version": "the format",
        "model_hash": "another checkpoint",
        "image_root": "another folder of photos",
        "photos_sha256": "another list of photos",
        "part_size": "another part size",
    }
    for key, what in words.items():
        if found.get(key) != identity[key]:
            raise EmbeddingsError(
                f"{out} belongs to a job with {what} ({key} {found.get(key)!s:.80}, now {identity[key]!s:.80}): "
                f"choose another --out, or empty it"
            )


def _finish(
    out: Path,
    identity: dict[str, Any],
    done: dict[int, dict[str, Any]],
    *,
    embedder: PhotoEmbedder,
    checkpoint: Path,
    reused: int,
) -> EmbedReport:
    entries = [done[start] for start in sorted(done)]
    parts = [Part.model_validate(entry["part"]) for entry in entries if entry["part"]]
    failures = [failure for entry in entries for failure in entry["failures"]]
    (out / FAILURES).unlink(missing_ok=True)
    (out / FAILURES).touch()
    _append(out / FAILURES, *failures)
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        model_hash=embedder.model_hash,
        checkpoint=str(checkpoint.resolve()),
        embedding_dim=embedder.embedding_dim,
        c=embedder.c,
        image_root=identity["image_root"],
        photos_sha256=identity["photos_sha256"],
        count=sum(part.rows for part in parts),
        failed=len(failures),
        parts=parts,
    )
    write_json(out / MANIFEST, manifest.model_dump())
    (out / JOB).unlink()
    return EmbedReport(out, manifest.count, failures, reused)


def _read_failures(out: Path) -> list[dict[str, str]]:
    try:
        lines = (out / FAILURES).read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]
    except (OSError, ValueError) as error:
        raise EmbeddingsError(f"{out / FAILURES} cannot be read: {error}") from error


def _append(path: Path, *values: dict[str, Any]) -> None:
    """Add JSON lines and force them onto the disk."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(value, ensure_ascii=False) + "\n" for value in values)
        file.flush()
        os.fsync(file.fileno())
    sync(path.parent)
