"""The embedding job: photos of any source -> an embedding folder, in parts, so that an interrupted job goes on."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from index.embed_job import Entry, Failure, Identity, fingerprint, open_job, photos_sha256
from index.embeddings import FORMAT_VERSION, MANIFEST, Part, read_manifest, write_part
from index.errors import EmbeddingsError
from index.points import valid_points
from index.sources import FolderSource, Photo, Source

if TYPE_CHECKING:
    from PIL import Image

    from hyperbolic.embedder import Batch

logger = logging.getLogger(__name__)

PART_SIZE = 1024  # photos; an interruption costs at most so many


class EmbeddingModel(Protocol):
    """What the folder says of the model whose points it holds."""

    @property
    def model_hash(self) -> str:
        """Which model it is."""

    @property
    def embedding_dim(self) -> int:
        """Dimension of its points."""

    @property
    def c(self) -> float:
        """Its space's curvature is -c."""

    @property
    def runtime(self) -> Any:
        """What computes."""

    @property
    def precision(self) -> Any:
        """With how many digits."""


@runtime_checkable
class PhotoEmbedder(EmbeddingModel, Protocol):
    """What the job needs of :class:`hyperbolic.embedder.Embedder`, where that is to do the work."""

    batch_size: int
    preprocessing: Any

    def decoded(
        self, batches: Iterable[Sequence[Photo]], read: "Callable[[Photo], Image.Image]"
    ) -> "Iterator[Batch[Photo]]":
        """Photos read and preprocessed, ahead of the caller."""

    def embed_tensors(self, images: Any) -> npt.NDArray[np.float32]:
        """Preprocessed photos -> space parts (n, d)."""


@dataclass(frozen=True, slots=True)
class Task:
    """The photos of one part."""

    number: int
    photos: Sequence[Photo]


@dataclass(frozen=True, slots=True)
class EmbeddedPart:
    """The photos of a task that could be read, their points, and the failures of the others."""

    number: int
    photos: list[Photo]
    space: npt.NDArray[np.float32]
    failures: list[Failure]


Engine = Callable[[Sequence[Task], Callable[[int], None]], Iterator[EmbeddedPart]]
"""Embeds tasks, in any order; tells how many photos it has handled since it last told."""


@dataclass(frozen=True, slots=True)
class EmbedReport:
    """How a job ended: `failures` are {path, code, error}; `reused` photos were embedded by an earlier run."""

    folder: Path
    count: int
    failures: list[Failure]
    reused: int


def embed_photos(
    embedder: EmbeddingModel,
    source: Source | Path,
    out: Path,
    *,
    checkpoint: Path,
    photos: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    part_size: int = PART_SIZE,
    draft: bool = False,
    engine: Engine | None = None,
) -> EmbedReport:
    """Embed the photos of `source` (a folder's: all, or the relative posix paths `photos`) into the folder `out`.

    A photo that cannot be read is reported, not fatal. Called again, after an interruption or later, with the same
    photos and checkpoint, it embeds the parts that are missing and those where a photo changed, and keeps the others;
    with others it refuses (:class:`EmbeddingsError`). `progress` is called with (photos done, photos in all).
    `draft`: decode large JPEGs at a fraction of their size. `engine` does the work elsewhere; without it `embedder`
    must be a :class:`PhotoEmbedder`.
    """
    if isinstance(source, Path):
        source = FolderSource(source, None if photos is None else tuple(photos))
    found = source.photos()
    if not found:
        raise EmbeddingsError(f"{source.name} holds no photos: expected .jpg, .png, .webp, ... files in it or below it")
    if (out / MANIFEST).exists():
        part_size = read_manifest(out).part_size or part_size
    tasks = [
        Task(number, found[start : start + part_size]) for number, start in enumerate(range(0, len(found), part_size))
    ]
    fingerprints = [fingerprint(task.photos) for task in tasks]
    identity = Identity(
        format_version=FORMAT_VERSION,
        model_hash=embedder.model_hash,
        source=source.name,
        photos_sha256=photos_sha256(found),
        runtime=embedder.runtime,
        precision=embedder.precision,
        draft=draft,
        part_size=part_size,
    )
    metadata = {
        "model_hash": embedder.model_hash,
        "c": repr(embedder.c),
        "embedding_dim": str(embedder.embedding_dim),
        "runtime": f"{embedder.runtime} {embedder.precision}",
    }
    with open_job(out, identity, fingerprints) as job:
        handled = sum(len(task.photos) for task in tasks if task.number in job.done)
        reused = sum(entry.part.rows for entry in job.done.values())

        def count(photos_done: int) -> None:
            nonlocal handled
            handled += photos_done
            if progress:
                progress(handled, len(found))

        count(0)
        if not job.finished:
            todo = [task for task in tasks if task.number not in job.done]
            if engine is None:
                if not isinstance(embedder, PhotoEmbedder):
                    raise TypeError(f"expected an embedder, or an engine that has one, got {type(embedder).__name__}")
                parts = embed_parts(embedder, source, todo, count, draft=draft)
            else:
                parts = engine(todo, count)
            for embedded in parts:
                valid_points(embedded.space, embedder.embedding_dim)
                file = out / f"part-{embedded.number:05d}.parquet"
                digest, rows = write_part(file, embedded.photos, embedded.space, metadata)
                part = Part(
                    file=file.name,
                    sha256=digest,
                    rows=rows,
                    failed=len(embedded.failures),
                    fingerprint=fingerprints[embedded.number],
                )
                job.add(Entry(number=embedded.number, part=part, failures=embedded.failures))
            job.finish(
                checkpoint=checkpoint,
                embedding_dim=embedder.embedding_dim,
                c=embedder.c,
                image_root=source.image_root,
            )
        return EmbedReport(out, sum(entry.part.rows for entry in job.done.values()), job.failures(), reused)


def embed_parts(
    embedder: PhotoEmbedder, source: Source, tasks: Sequence[Task], count: Callable[[int], None], *, draft: bool = False
) -> Iterator[EmbeddedPart]:
    """Embed tasks one after another, here; decoding runs ahead of inference, across the bounds of the parts.

    Batches are those of each part by itself, so that the points do not depend on where a job was interrupted.
    """
    from hyperbolic.images import ImageError, read_image

    side = embedder.preprocessing.draft_side if draft else None

    def read(photo: Photo) -> "Image.Image":
        try:
            return read_image(source.read(photo), draft_side=side)
        except OSError as error:
            raise ImageError("unreadable_file", f"{photo.path}: {error}") from error

    cut = [_named(task.photos) for task in tasks]
    size = embedder.batch_size
    # A part without any photo to read still has its batch, an empty one.
    plan = [[good[start : start + size] for start in range(0, max(1, len(good)), size)] for good, _ in cut]
    batches = embedder.decoded((batch for batches in plan for batch in batches), read)
    for task, planned, (_, failures) in zip(tasks, plan, cut, strict=True):
        count(len(failures))
        kept: list[Photo] = []
        points = [np.zeros((0, embedder.embedding_dim), np.float32)]
        for _ in planned:
            batch = next(batches)
            kept += batch.kept
            failures += [_failure(photo.path, error.code, str(error)) for photo, error in batch.failed]
            if batch.kept:
                points.append(embedder.embed_tensors(batch.images))
            count(len(batch.kept) + len(batch.failed))
        yield EmbeddedPart(task.number, kept, np.concatenate(points), failures)


def _named(photos: Sequence[Photo]) -> tuple[list[Photo], list[Failure]]:
    """The photos whose names can be an id, and the failures of the others."""
    good: list[Photo] = []
    failures: list[Failure] = []
    for photo in photos:
        try:
            f"{photo.id}\n{photo.path}\n{photo.labels}".encode()
        except UnicodeEncodeError:
            # Bytes that are no UTF-8 cannot be an id; show them without losing any.
            shown = photo.path.encode(errors="surrogateescape").decode(errors="backslashreplace")
            failures.append(_failure(shown, "file_name", "the file's name is not valid Unicode: rename it"))
        else:
            good.append(photo)
    return good, failures


def _failure(path: str, code: str, error: str) -> Failure:
    logger.info("event=photo_skipped path=%r code=%s error=%r", path, code, error)
    return {"path": path, "code": code, "error": error}
