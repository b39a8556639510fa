"""Collection: a catalogue and the index over it, as one thing to search, write and reopen."""

import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from index.catalogue import INDEX_OF_UPLOADS, Catalogue, Item, Put
from index.distances import radii
from index.errors import (
    CollectionExistsError,
    CollectionNameError,
    CollectionNotFoundError,
    ImageReferenceError,
    ModelMismatchError,
    PointError,
)
from index.files import new_folder, sweep
from index.gpu import Device
from index.locks import ReadWriteLock
from index.lorentz_index import LorentzIndex
from index.metadata import MetadataSchema, index_statements, read_schema, write_schema
from index.plan import is_quick, read_request, write_request
from index.ranking import Ranking, ranked
from index.rebuild import Rebuild
from index.snapshot import newest_valid_generation, read_generation, write_generation
from index.uploads import Uploads, is_upload, reference_of, uploads_folder

logger = logging.getLogger(__name__)

DEFAULT = "default"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
# A replay of so many rows is kept as a new generation, so that the next opening is quick again.
REPLAY_WORTH_KEEPING = 5000


@dataclass(frozen=True, slots=True, eq=False)
class Hit:
    """A neighbour: its item, its geodesic distance, and whether the answer it belongs to is proven exact."""

    item: Item
    distance: float
    exact: bool


def collection_folder(store: Path, name: str) -> Path:
    """Where a collection lies; :class:`CollectionNameError` for a name that is not a plain folder name."""
    if not _NAME.fullmatch(name):
        raise CollectionNameError(
            f"expected a collection name of 1 to 64 characters a-z, 0-9, - and _, got {name!r:.80}"
        )
    return store / "collections" / name


def list_collections(store: Path) -> list[str]:
    """The names of the collections in a store, sorted; empty where the folder is missing."""
    folder = store / "collections"
    if not folder.is_dir():
        return []
    sweep(folder)
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and _NAME.fullmatch(path.name))


class Collection:
    """Items that can be searched by point. Thread-safe; writes are on the disk when they return.

    Searches run together; a write excludes them from its commit until the index holds it, so no search ever
    sees an item without its point or a point without its item. Writes of other processes are taken over by
    the next search.
    """

    def __init__(
        self,
        folder: Path,
        catalogue: Catalogue,
        index: LorentzIndex,
        *,
        sequence: int,
        generation: str,
        image_root: Path | None = None,
        device: Device = "cpu",
    ) -> None:
        self.folder = folder
        self.name = folder.name
        self.catalogue = catalogue
        self.index = index
        self._device = device
        index.use(device)
        self.image_root = image_root or catalogue.image_root
        self.uploads = Uploads(uploads_folder(folder))
        self.schema = read_schema(folder)
        self._generation = generation
        self._sequence = sequence
        self._lock = ReadWriteLock()
        self._rebuilding = Rebuild(self._rebuild_aside, self.name)

    @classmethod
    def create(
        cls,
        store: Path,
        name: str = DEFAULT,
        *,
        embedding_dim: int,
        c: float,
        model_hash: str,
        image_root: Path | None = None,
        checkpoint: Path | None = None,
        request: Mapping[str, Any] | None = None,
        schema: MetadataSchema | None = None,
    ) -> Self:
        """A new, empty collection; :class:`CollectionExistsError` where there is one.

        `request`: what :meth:`LorentzIndex.build` is to be asked for, whenever the index is built. `schema`: the
        fields of metadata that are checked at writes and quick to filter by.
        """
        folder = collection_folder(store, name)
        if folder.exists():
            raise CollectionExistsError(
                f"the store {store} has a collection {name!r} already: open it, or replace it with "
                f"'lhier index build --replace'"
            )
        Uploads(uploads_folder(folder)).delete()  # of a former collection, whose deletion was cut short
        with new_folder(folder) as temporary:
            with Catalogue.create(
                temporary / "catalogue.sqlite",
                embedding_dim=embedding_dim,
                c=c,
                model_hash=model_hash,
                image_root=image_root,
                checkpoint=checkpoint,
            ) as catalogue:
                if schema is not None:
                    catalogue.add_indexes(index_statements(schema))
                    write_schema(temporary, schema)
            if request is not None:
                write_request(temporary, dict(request))
        return cls._open(folder)

    @classmethod
    def open(
        cls,
        store: Path,
        name: str = DEFAULT,
        *,
        model_hash: str | None = None,
        image_root: Path | None = None,
        device: Device = "cpu",
    ) -> Self:
        """An existing collection, with the newest valid generation and the writes since replayed.

        `model_hash`: refuse points of any other model (:class:`ModelMismatchError`). `image_root`: where
        the photos lie now, if they moved. `device`: what proposes the candidates of searches, "cpu" or "cuda"
        (:class:`DeviceError` where that cannot be; :mod:`index.gpu`). Raises :class:`CollectionNotFoundError`, and
        :class:`CatalogueError` for a damaged catalogue; a damaged generation is set aside and rebuilt.
        """
        folder = collection_folder(store, name)
        if not folder.is_dir():
            sweep(folder.parent)
        if not folder.is_dir():
            known = ", ".join(list_collections(store)) or "none"
            raise CollectionNotFoundError(
                f"the store {store} has no collection {name!r} (it has: {known}): run 'lhier index build'"
            )
        return cls._open(folder, model_hash=model_hash, image_root=image_root, device=device)

    @classmethod
    def _open(
        cls, folder: Path, *, model_hash: str | None = None, image_root: Path | None = None, device: Device = "cpu"
    ) -> Self:
        catalogue = Catalogue.open(folder / "catalogue.sqlite", model_hash=model_hash)
        try:
            found = newest_valid_generation(folder / "generations", catalogue)
            index = found.index if found else LorentzIndex(catalogue.embedding_dim, catalogue.c)
            sequence = found.sequence if found else 0
            collection = cls(
                folder,
                catalogue,
                index,
                sequence=sequence,
                generation=found.name if found else "",
                image_root=image_root,
                device=device,
            )
            replayed = 0
            if found:
                replayed = collection._replay()
                # Unless another process writes meanwhile, which the next replay tells.
                while (differs := len(index) != catalogue.count()) and catalogue.sequence != collection._sequence:
                    replayed += collection._replay()
                if differs:
                    logger.warning(
                        "event=index_rebuilt collection=%s reason=count index=%d catalogue=%d",
                        folder.name, len(index), catalogue.count(),
                    )  # fmt: skip
                    collection._rebuild()
            else:
                collection._rebuild()
            if not found or replayed >= REPLAY_WORTH_KEEPING:
                collection._try_snapshot()
            if collection.uploads.exist and os.access(folder, os.W_OK):
                collection.uploads.recover(catalogue.refers_to)
            # Also where the process that was building another one was killed.
            if (reason := collection.index.outgrown) and os.access(folder, os.W_OK):
                collection._rebuilding.start(reason)
        except BaseException:
            catalogue.close()
            raise
        return collection

    def close(self) -> None:
        """Close the catalogue; the collection is of no use afterwards."""
        self._rebuilding.stop()
        with self._lock.write():
            self.catalogue.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def count(self) -> int:
        """How many items there are."""
        return self.catalogue.count()

    @property
    def embedding_dim(self) -> int:
        """Dimension of the hyperbolic space."""
        return self.catalogue.embedding_dim

    @property
    def c(self) -> float:
        """The curvature of the space is -c."""
        return self.catalogue.c

    @property
    def model_hash(self) -> str:
        """The model whose points these are."""
        return self.catalogue.model_hash

    @property
    def checkpoint(self) -> Path | None:
        """Where that model lay when the collection was built."""
        return self.catalogue.checkpoint

    @property
    def generation(self) -> str:
        """The generation this index was opened from or last saved as; with the sequence it names the state
        searched."""
        return self._generation

    @property
    def sequence(self) -> int:
        """The last write that searches see."""
        return self._sequence

    def require_model(self, model_hash: str) -> None:
        """Refuse points of any other model than this collection's (:class:`ModelMismatchError`)."""
        if model_hash != self.model_hash:
            raise ModelMismatchError(str(self.folder), expected=model_hash, found=self.model_hash)

    def search(
        self,
        space: npt.ArrayLike,
        k: int = 10,
        *,
        allowed: npt.ArrayLike | None = None,
        nprobe: int | None = None,
        exact: bool = False,
    ) -> list[Hit]:
        """The k nearest items of one point, space part (d,), nearest first; fewer where there are fewer.

        `allowed`: rows to choose from. `nprobe` and `exact`: see :meth:`LorentzIndex.search`.
        """
        return self.search_batch(np.asarray(space)[None], k, allowed=allowed, nprobe=nprobe, exact=exact)[0]

    def search_batch(
        self,
        spaces: npt.ArrayLike,
        k: int = 10,
        *,
        allowed: npt.ArrayLike | None = None,
        nprobe: int | None = None,
        exact: bool = False,
    ) -> list[list[Hit]]:
        """:meth:`search` for several points, space parts (q, d), in one scan."""
        with self._reading():
            distances, rows, proven = self.index.search(spaces, k, allowed=allowed, nprobe=nprobe, exact=exact)
            return [self._hits(*found, proven) for found in zip(distances, rows, strict=True)]

    def range_search(self, space: npt.ArrayLike, radius: float, *, allowed: npt.ArrayLike | None = None) -> list[Hit]:
        """Every item within geodesic distance `radius` of one point, nearest first."""
        with self._reading():
            _, distances, rows = self.index.range_search(np.asarray(space)[None], radius, allowed=allowed)
            return self._hits(distances, rows, exact=True)

    def rank(
        self,
        spaces: npt.ArrayLike,
        k: int,
        *,
        radius: float | None = None,
        allowed: npt.ArrayLike | None = None,
        exact: bool = False,
    ) -> list[Ranking]:
        """:meth:`search_batch` without fetching the items, and with a `radius` that none may lie beyond.

        With a `radius` every ranking is proven exact, whatever the kind of the index.
        """
        with self._reading():
            found = list(ranked(self.index, np.asarray(spaces), k, radius=radius, allowed=allowed, exact=exact))
            state = self._sequence, self._generation
        return [Ranking(*each, *state) for each in found]

    def item(self, item_id: str) -> Item | None:
        """The item of that id, if there is one."""
        return self.catalogue.get(item_id)

    def items(self, after: int = 0, limit: int = 100) -> list[Item]:
        """Items in the order of their rows, from the first row above `after`: go on with the last one's
        `row`."""
        return self.catalogue.items(after, limit)

    def radius(self, space: npt.ArrayLike) -> float:
        """Geodesic distance of one point, space part (d,), to the origin: asinh(sqrt(c) |x_s|) / sqrt(c)."""
        return float(radii(np.asarray(space, dtype=np.float64), self.c))

    def upsert(self, items: Sequence[Item]) -> list[int]:
        """Add items, or overwrite those whose id exists. Committed when it returns; all or nothing. Returns
        their rows.

        Raises :class:`PointError` for a bad point, id, or metadata.
        """
        return [put.row for put in self.put(items)]

    def put(self, items: Sequence[Item], photos: Mapping[str, bytes] | None = None) -> list[Put]:
        """:meth:`upsert`, telling which items are new, with photos to keep for them (:mod:`index.uploads`).

        `photos`: the bytes of an image file by the id of its item, whose `image` is then this photo. They are on the
        disk before the items are. Raises :class:`PointError` as :meth:`upsert` does, for metadata against the
        collection's schema too, ``ImageError`` for a photo of no known format, and ``OSError`` where there is no room.
        """
        photos = photos or {}
        items = [replace(item, image=reference_of(photos[item.id])) if item.id in photos else item for item in items]
        for item in items:
            if item.image is not None and not is_upload(item.image):
                _relative_image(item)
            if faults := self.schema.faults(item.metadata):
                raise PointError(f"item {item.id!r}: metadata: {'; '.join(faults)}")
        if photos:  # each time, since a snapshot of before may have been restored
            self.catalogue.add_indexes([INDEX_OF_UPLOADS])
        with self._changing_photos([item.id for item in items], photos.values()), self._lock.write():
            put = self.catalogue.put(items)
            self._replay()
        return put

    def delete(self, ids: Sequence[str]) -> int:
        """Delete items by id, with their uploaded photos; unknown ids are passed over. Returns how many were
        deleted."""
        with self._changing_photos(ids, ()), self._lock.write():
            deleted = self.catalogue.delete(ids)
            self._replay()
        return deleted

    def snapshot(self) -> str:
        """Save the index as a new generation, whose name is returned."""
        with self._lock.write():
            self._replay()
            return self._snapshot()

    def rebuild(self) -> str:
        """Build the index anew from the catalogue, save it as a new generation, return that one's name.

        Searches and writes go on meanwhile. A collection does this of itself, in a thread of its own, when it has
        outgrown its index.
        """
        return self._rebuilding.run()

    def image_path(self, item: Item) -> Path | None:
        """The item's photo; None where it has none, or the collection knows no image folder.

        Raises :class:`ImageReferenceError` where the file is gone, or lies outside the image folder, be it
        by `..`, by an absolute path or by a link.
        """
        if item.image is not None and is_upload(item.image):
            return self.uploads.path(item.image)
        if item.image is None or self.image_root is None:
            return None
        try:
            relative = _relative_image(item)
            root = self.image_root.resolve(strict=True)
            path = (root / relative).resolve(strict=True)
        except (PointError, ValueError, OSError, RuntimeError) as error:
            raise ImageReferenceError(f"the photo of item {item.id!r} is not there: {error}") from error
        if not path.is_relative_to(root) or not path.is_file():
            raise ImageReferenceError(
                f"the photo of item {item.id!r} is no file inside {self.image_root}: it is not given out"
            )
        return path

    def _changing_photos(self, ids: Sequence[str], photos: Iterable[bytes]) -> AbstractContextManager[None]:
        catalogue = self.catalogue
        return self.uploads.change(photos, lambda: catalogue.images_of(ids), catalogue.refers_to)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Hold the read lock over a state that has every write of every process."""
        if self.catalogue.sequence != self._sequence:
            with self._lock.write():
                self._replay()
        with self._lock.read():
            yield

    def _hits(self, distances: npt.NDArray[np.float64], rows: npt.NDArray[np.int64], exact: bool) -> list[Hit]:
        found = rows >= 0
        items = self.catalogue.get_rows(rows[found])
        # A row deleted by another process since the scan has no item any more.
        return [
            Hit(item, float(distance), exact)
            for item, distance in zip(items, distances[found], strict=True)
            if item is not None
        ]

    def _replay(self) -> int:
        """Bring the index up to the catalogue; returns how many rows changed. The caller holds the write
        lock."""
        if self.catalogue.sequence == self._sequence:
            return 0
        changes = self.catalogue.changes(self._sequence)
        changes.apply(self.index)
        self._sequence = changes.sequence
        if reason := self.index.outgrown:
            self._rebuilding.start(reason)
        return len(changes.removed) + len(changes.rows)

    def _rebuild(self) -> None:
        """Put an index of the catalogue in place.

        Lists of many points take long to learn, so those points wait for them in a flat index: one that was built of
        no points and has outgrown that.
        """
        changes = self.catalogue.changes()
        request = read_request(self.folder)
        learnt = len(changes.rows) if is_quick(request, len(changes.rows)) else 0
        self.index = LorentzIndex.build(
            changes.space[:learnt], changes.rows[:learnt], self.c, **request, device=self._device
        )
        self.index.add(changes.space[learnt:], changes.rows[learnt:])
        self._sequence = changes.sequence

    def _rebuild_aside(self) -> str:
        """A new index, built and saved while this one is searched and written to, then put in its place."""
        # A connection of its own, so that reading every point keeps nobody waiting.
        with Catalogue.open(self.catalogue.path) as catalogue:
            self.catalogue.require_current()  # else the one just opened is another collection's
            changes = catalogue.changes()
            index = LorentzIndex.build(changes.space, changes.rows, self.c, **read_request(self.folder))
            generations = self.folder / "generations"
            catalogue.require_current()  # else the folder of a deleted collection would be made again
            name = write_generation(generations, index, catalogue, changes.sequence)
            index = read_generation(generations / name, catalogue).index  # its exact points stay in their file
        index.use(self._device)
        with self._lock.write():
            later = self.catalogue.changes(changes.sequence)
            later.apply(index)
            self.index, self._generation, self._sequence = index, name, later.sequence
        return name

    def _snapshot(self) -> str:
        self._generation = write_generation(self.folder / "generations", self.index, self.catalogue, self._sequence)
        return self._generation

    def _try_snapshot(self) -> None:
        try:
            self._snapshot()
        except OSError as error:  # a full or read-only disk: the collection works, the next opening is slower
            logger.warning("event=generation_not_written collection=%s error=%r", self.name, str(error))


def _relative_image(item: Item) -> Path:
    path = Path(item.image or "")
    if path.is_absolute() or ".." in path.parts or "\0" in str(path) or not path.parts:
        raise PointError(f"item {item.id!r}: expected an image path below the image folder, got {item.image!r:.120}")
    return path
