"""Photos that came with their items: files named by their content, beside the collections of a store.

    STORE/uploads/<collection>/photos/<first two letters>/<sha256>.<jpg, png, ...>
    STORE/uploads/<collection>/pending/<the same name>      an empty file: whether that photo is referred to is open

An item's ``image`` refers to such a photo as ``upload:<sha256>.<ending>``; other images lie below the collection's
image folder, and both kinds live side by side. A photo is on the disk before the write that refers to it is committed,
and goes when the last item that referred to it does. Around each write the photos in question are noted in
``pending``: what a killed process leaves there is looked up in the catalogue at the next opening, and kept or deleted.

Snapshots hold no photos. Restoring one leaves these files as they are, so that its items find those that are still
there; those that no item refers to any more stay until the collection is deleted.
"""

import fcntl
import hashlib
import logging
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from hyperbolic.images import ImageError
from index.errors import ImageReferenceError, StoreError
from index.files import make_folder, sync

logger = logging.getLogger(__name__)

FOLDER = "uploads"
PREFIX = "upload:"
_REFERENCE = re.compile(r"upload:([0-9a-f]{64}\.(?:jpg|png|webp|bmp|gif|tif))")
# What files of the formats that are decoded begin with.
_SUFFIXES = ((b"\xff\xd8\xff", "jpg"), (b"\x89PNG", "png"), (b"RIFF", "webp"), (b"BM", "bmp"), (b"GIF8", "gif"),
             (b"II", "tif"), (b"MM", "tif"))  # fmt: skip
_TEMPORARY = ".new-"


def is_upload(image: str | None) -> bool:
    """Whether an item's ``image`` refers to an uploaded photo."""
    return image is not None and _REFERENCE.fullmatch(image) is not None


def reference_of(photo: bytes) -> str:
    """What an item refers to ``photo`` by. Raises :class:`~hyperbolic.images.ImageError` for no known format."""
    for start, suffix in _SUFFIXES:
        if photo.startswith(start):
            return f"{PREFIX}{hashlib.sha256(photo).hexdigest()}.{suffix}"
    raise ImageError("unsupported_format", "not an image of a known format: expected JPEG, PNG, WebP, BMP, GIF or TIFF")


def uploads_folder(collection: Path) -> Path:
    """Where the uploaded photos of the collection in folder ``collection`` lie."""
    return collection.parent.parent / FOLDER / collection.name


def delete_orphans(store: Path, collections: Iterable[str]) -> None:
    """Delete the uploads of collections that are not among ``collections``: their deletion was cut short.

    Nothing happens to those of a collection that somebody is putting in place.
    """
    folder, kept = store / FOLDER, set(collections)
    if not folder.is_dir():
        return
    moving = {path.name.split(".")[1] for path in (store / "collections").glob(".*.lhier-*")}
    for path in folder.iterdir():
        if path.is_dir() and path.name not in kept | moving:
            logger.info("event=uploads_of_no_collection_deleted folder=%s", path)
            Uploads(path).delete()


class Uploads:
    """The uploaded photos in ``folder``, which is made when the first of them comes. Any thread, any process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._photos, self._pending = folder / "photos", folder / "pending"

    @property
    def exist(self) -> bool:
        """Whether there ever was one."""
        return self._pending.is_dir()

    def path(self, reference: str) -> Path:
        """The file of a photo. Raises :class:`~index.errors.ImageReferenceError` where it is not there."""
        path = self._path(_name(reference))
        if not path.is_file():
            raise ImageReferenceError(f"the uploaded photo {reference} is not there")
        return path

    @contextmanager
    def change(
        self, photos: Iterable[bytes], former: Callable[[], set[str]], referred: Callable[[str], bool]
    ) -> Iterator[None]:
        """Photos on the disk while the block commits a write that refers to them; then the files that nobody needs go.

        ``former`` names what the write's items refer to before it; ``referred`` says whether any item refers to a
        photo. Changes of one collection go one by one. Raises ``OSError`` where a photo cannot be written.
        """
        staged: dict[str, Path] = {}
        with ExitStack() as stack:
            for photo in photos:
                reference = reference_of(photo)
                if reference not in staged:
                    staged[reference] = stack.enter_context(self._staged(photo))
            if not self.exist:
                yield
                return
            stack.enter_context(self._locked())
            doubtful = {reference for reference in former() if is_upload(reference)} | staged.keys()
            self._note(doubtful)
            try:
                self._place(staged)
                yield
            finally:
                self._settle(doubtful, referred)

    def recover(self, referred: Callable[[str], bool]) -> None:
        """Clear away what killed processes left, unless another is at work."""
        with suppress(BlockingIOError), self._locked(wait=False):
            for path in list(self._pending.iterdir()):
                if path.name.startswith(_TEMPORARY):
                    _delete_if_left(path)
            references = {PREFIX + path.name for path in self._pending.iterdir()}
            self._settle({reference for reference in references if is_upload(reference)}, referred)

    def delete(self) -> None:
        """Delete all of them, and the folder."""
        if self.exist:
            with self._locked():
                shutil.rmtree(self._folder, ignore_errors=True)
        elif self._folder.exists():
            shutil.rmtree(self._folder, ignore_errors=True)

    @contextmanager
    def _staged(self, photo: bytes) -> Iterator[Path]:
        """The photo under a temporary name, on the disk."""
        make_folder(self._pending)
        path = self._pending / f"{_TEMPORARY}{uuid.uuid4().hex}"
        with path.open("xb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # tells recover() that its writer lives
            try:
                file.write(photo)
                file.flush()
                os.fsync(file.fileno())
                yield path
            finally:
                path.unlink(missing_ok=True)

    @contextmanager
    def _locked(self, *, wait: bool = True) -> Iterator[None]:
        # Opened each time: the lock then also holds among the threads of one process.
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        finally:
            os.close(descriptor)

    def _note(self, references: Iterable[str]) -> None:
        names = [_name(reference) for reference in references]
        for name in names:
            (self._pending / name).touch()
        if names:
            sync(self._pending)

    def _place(self, staged: Mapping[str, Path]) -> None:
        folders = set()
        for reference, temporary in staged.items():
            path = self._path(_name(reference))
            if not path.exists():
                make_folder(path.parent)
                temporary.rename(path)
                folders.add(path.parent)
        for folder in folders:
            sync(folder)

    def _settle(self, references: Iterable[str], referred: Callable[[str], bool]) -> None:
        """Decide what was open. What fails stays noted, for the next opening: the write itself is over."""
        try:
            for reference in references:
                name = _name(reference)
                if not referred(reference):
                    self._path(name).unlink(missing_ok=True)
                (self._pending / name).unlink(missing_ok=True)
        except (StoreError, OSError) as error:
            logger.warning("event=uploads_not_settled folder=%s error=%r", self._folder, str(error))

    def _path(self, name: str) -> Path:
        return self._photos / name[:2] / name


def _name(reference: str) -> str:
    found = _REFERENCE.fullmatch(reference)
    if found is None:
        raise ImageReferenceError(f"expected the reference of an uploaded photo, got {reference!r:.120}")
    return found[1]


def _delete_if_left(path: Path) -> None:
    with suppress(FileNotFoundError, BlockingIOError), path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
