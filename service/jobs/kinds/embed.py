"""``embed``: an archive of photos -> an embedding folder as ``lhier embed`` writes it, to be fetched as a .tar."""

import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from index.embed import EmbeddedPart, Task, embed_photos
from index.embeddings import FAILURES, MANIFEST, read_manifest
from index.files import sync, write_json
from index.sources import Photo
from service.jobs.content import ready_content
from service.jobs.context import Context
from service.jobs.embedding import embedded
from service.jobs.photos import UploadedPhotos, uploaded_photos
from service.jobs.store import Failure

RESULT = "points.tar"
POINTS = "points"
PART_SIZE = 256  # photos; an interruption costs at most so many


@dataclass(frozen=True, slots=True)
class _Named:
    """The upload under the name it came with: where it lies on this machine is nobody's business."""

    photos_of: UploadedPhotos
    name: str

    @property
    def image_root(self) -> Path | None:
        return None

    def photos(self) -> list[Photo]:
        return self.photos_of.photos()

    def read(self, photo: Photo) -> bytes:
        return self.photos_of.read(photo)


def embed_archive(context: Context) -> str:
    """Embed the upload's photos; finished parts are kept over a restart."""
    path, content = ready_content(context.folder, context.settings.limits.upload_bytes, context.check)
    source = uploaded_photos(path, content, context.settings.limits.image_bytes)
    try:
        return _embed(context, source)
    finally:
        source.close()


def _embed(context: Context, source: UploadedPhotos) -> str:
    out, checkpoint = context.folder / POINTS, context.settings.checkpoint
    failed = 0

    def engine(tasks: Sequence[Task], count: Callable[[int], None]) -> Iterator[EmbeddedPart]:
        nonlocal failed
        todo = embedded(context, source, [photo for task in tasks for photo in task.photos])
        for task in tasks:
            part = EmbeddedPart(task.number, [], np.zeros((0, context.engine.model.embedding_dim), np.float32), [])
            points = []
            for _ in task.photos:
                each = next(todo)
                if each.space is None:
                    assert each.failure is not None  # noqa: S101 - one or the other
                    failed += 1
                    part.failures.append(
                        {"path": each.failure.item, "code": each.failure.code, "error": each.failure.detail}
                    )
                else:
                    part.photos.append(each.photo)
                    points.append(each.space)
                count(1)
            yield replace(part, space=np.stack(points)) if points else part

    def progress(handled: int, total: int) -> None:
        if context.job.total is None:
            context.advance(total=total)
        context.count(handled - failed, failed)

    report = embed_photos(
        context.engine.model,
        _Named(source, context.job.parameters.get("filename") or "upload"),
        out,
        checkpoint=checkpoint,
        progress=progress,
        part_size=PART_SIZE,
        draft=True,  # as the encoder decodes
        engine=engine,
    )
    _pack(out, context.folder / RESULT, checkpoint.name)
    context.job = context.store.settle(
        context.job, report.count, [Failure(each["path"], each["code"], each["error"]) for each in report.failures]
    )
    return RESULT


def _pack(folder: Path, target: Path, checkpoint: str) -> None:
    """The folder in a .tar, whole or not at all, naming the checkpoint without its place on this machine."""
    manifest = read_manifest(folder).model_copy(update={"checkpoint": checkpoint})
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
    partial = target.with_suffix(".partial")
    with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in (MANIFEST, FAILURES, *(part.file for part in manifest.parts)):
            archive.add(folder / name, f"{POINTS}/{name}", filter=_plain)
    sync(partial)
    partial.rename(target)
    sync(target.parent)


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without the names and numbers of this machine's users."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o644
    return member
