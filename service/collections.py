"""Collections: those of one store that are served, each usable, broken, or coming and going while others serve."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from index.collection import Collection, collection_folder, list_collections
from index.errors import (
    CatalogueError,
    CollectionExistsError,
    CollectionNotFoundError,
    ModelMismatchError,
    SnapshotError,
    StoreError,
)
from index.files import sync, workspace
from index.gpu import Device
from index.matching import Matching
from index.metadata import MetadataSchema
from index.uploads import Uploads, delete_orphans, uploads_folder
from service.hierarchy.tree import ServedTree

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

DEFAULT_COLLECTION = "default"
RETRY_S = 10.0  # between attempts at opening a broken collection
UNREADABLE = "it cannot be read"
CLOSE_S = 5.0  # that the end of the service waits for rebuilds: what one has made so far is made anew
_SUSPICIOUS = (CatalogueError, SnapshotError, CollectionNotFoundError)  # not what a request can be at fault for


class UnknownCollectionError(LookupError):
    """A collection that is not served."""


class TooManyCollectionsError(RuntimeError):
    """A collection beyond the number that is allowed."""


class CollectionUnavailableError(RuntimeError):
    """A collection that is served but cannot be read at present."""


@dataclass(frozen=True, slots=True)
class State:
    """How a collection stands: ``fault`` says why it cannot be used, None where it can."""

    name: str
    fault: str | None


@dataclass(slots=True, eq=False)
class Served:
    """A collection, the tree over it and what recent filters let through, while requests use them; closed when retired
    and the last of them has ended."""

    collection: Collection
    tree: ServedTree
    matching: Matching = field(default_factory=Matching)
    users: int = 0
    retired: bool = False


@dataclass(slots=True, eq=False)
class _Entry:
    name: str
    opened: Served | None = None
    fault: str | None = None
    tried: float = field(default=float("-inf"))
    suspected: bool = False
    opening: threading.Lock = field(default_factory=threading.Lock)  # one at a time: the last to open opens the latest


class Collections:
    """The collections of ``store`` that points of model ``model_hash`` may be searched in. Any thread may ask.

    A collection that cannot be opened is broken, not missing: it is tried again every ten seconds, when it is asked
    for. ``names`` restricts what is served; without them everything in the store is, and what is created or restored
    through here later. What other processes put into the store is seen at the next start.
    """

    def __init__(
        self,
        store: Path,
        model_hash: str,
        names: Sequence[str] = (),
        *,
        image_root: Path | None = None,
        device: Device = "cpu",
    ) -> None:
        self.store = store
        self.model_hash = model_hash
        self._image_root, self._device = image_root, device
        self._lock = threading.RLock()  # also taken on the event loop: nothing that takes long happens under it
        self._closing: list[threading.Thread] = []
        self._changing = threading.Lock()  # creating, deleting and restoring go one by one
        self._entries = {name: _Entry(name) for name in dict.fromkeys(names) or list_collections(store)}
        delete_orphans(store, list_collections(store))

    def open_all(self) -> None:
        """Open every collection now. Raises ``StoreError`` for the first that cannot be, if none can."""
        entries = list(self._entries.values())
        errors = [error for entry in entries if (error := self._try_to_open(entry)) is not None]
        if entries and len(errors) == len(entries):
            raise errors[0]

    @property
    def default(self) -> str:
        """The collection meant where none is named: "default", or the first there is."""
        with self._lock:
            return DEFAULT_COLLECTION if DEFAULT_COLLECTION in self._entries or not self._entries else self.names()[0]

    def names(self) -> list[str]:
        """The collections served, broken ones included."""
        with self._lock:
            return list(self._entries)

    def states(self) -> list[State]:
        """How each stands."""
        with self._lock:
            return [State(entry.name, entry.fault) for entry in self._entries.values()]

    @contextmanager
    def use(self, name: str | None = None, *, opening: bool = True) -> Iterator[Served]:
        """A collection for as long as the block lasts, even if it is deleted or replaced meanwhile.

        Not ``opening``: as it is, for callers that must not wait and have called :meth:`reopen` before. Raises
        :class:`UnknownCollectionError`, and :class:`CollectionUnavailableError` for a broken one.
        """
        if opening:
            self.reopen(name)
        served = self._lease(name)
        try:
            yield served
        except _SUSPICIOUS:
            self.suspect(served.collection.name)
            raise
        finally:
            self._release(served)

    def survey(self, work: Callable[[Served], Result]) -> Iterator[tuple[State, Result | None]]:
        """How each stands, with what ``work`` makes of those that can be used; no broken one is tried again for it."""
        for state in self.states():
            fault, result = state.fault, None
            if fault is None:
                try:
                    with self.use(state.name) as served:
                        result = work(served)
                except UnknownCollectionError:  # deleted meanwhile
                    continue
                except (CollectionUnavailableError, StoreError) as error:
                    logger.debug("event=not_surveyed collection=%s error=%r", state.name, error)
                    fault = UNREADABLE
            yield State(state.name, fault), result

    def get(self, name: str | None = None) -> Collection:
        """A collection that the caller knows to stay. Raises as :meth:`use` does."""
        with self.use(name) as served:
            return served.collection

    def needs_opening(self, name: str | None = None) -> bool:
        """Whether :meth:`use` would try to open it, which may take long. Raises :class:`UnknownCollectionError`."""
        with self._lock:
            entry = self._entry(name)
            return entry.suspected or (entry.opened is None and time.monotonic() - entry.tried >= RETRY_S)

    def reopen(self, name: str | None = None) -> None:
        """Open a collection that is broken, or was found to be replaced on disk; :meth:`use` does it of itself."""
        if not self.needs_opening(name):
            return
        with self._lock:
            entry = self._entry(name)
            opened, suspected, entry.suspected = entry.opened, entry.suspected, False
            if opened is None:
                entry.tried = time.monotonic()  # by this caller alone
            elif not suspected:
                return
            else:
                opened.users += 1
        # Without the lock: both may take long, and the other collections serve on.
        if opened is not None:
            try:
                if _is_sound(opened.collection):
                    return
            finally:
                self._release(opened)
        self._open_instead(entry, opened)

    def suspect(self, name: str) -> None:
        """Something went wrong in a collection: look at its next use whether it must be opened anew."""
        with self._lock:
            if name in self._entries:
                self._entries[name].suspected = True

    def create(
        self,
        name: str,
        *,
        embedding_dim: int,
        c: float,
        request: dict[str, Any],
        schema: MetadataSchema,
        allowed: int | None = None,
    ) -> None:
        """A new, empty collection of this model; ``request`` is its index as ``LorentzIndex.build`` takes it.

        ``allowed``: how many collections there may be. Raises ``CollectionExistsError``, ``CollectionNameError`` and
        :class:`TooManyCollectionsError`.
        """
        folder = collection_folder(self.store, name)
        with self._changing:
            if folder.exists():
                raise CollectionExistsError(f"there is a collection {name!r} already: delete it first, or take another")
            if allowed is not None and len(self._entries) >= allowed:
                raise TooManyCollectionsError(f"there are {len(self._entries)} collections, no more are allowed")
            Collection.create(
                self.store,
                name,
                embedding_dim=embedding_dim,
                c=c,
                model_hash=self.model_hash,
                request=request,
                schema=schema,
            ).close()
            self._put(name)

    def delete(self, name: str) -> None:
        """Delete a collection with everything in it. Whoever reads it reads on; writes that have not committed fail.

        Raises :class:`UnknownCollectionError`.
        """
        with self._changing:
            with self._lock:
                entry = self._entry(name)
                del self._entries[entry.name]
                self._retire(entry)
            # Renamed first: a kill in the middle of deleting leaves no half collection.
            folder = collection_folder(self.store, entry.name)
            if folder.exists():
                with workspace(folder) as temporary:
                    folder.rename(temporary / folder.name)
                    sync(folder.parent)
                    Uploads(uploads_folder(folder)).delete()

    def replace(self, name: str, put: Callable[[], Collection]) -> None:
        """Have ``put`` switch another collection into the store in place of ``name``, or as a new one, and serve that.

        Whoever uses the old one goes on with it. Raises what ``put`` raises; then everything is as before.
        """
        with self._changing:
            put().close()
            self._put(name)

    def close(self) -> None:
        """Close every collection that nobody uses, and the others when their last user has gone.

        Waits a moment for rebuilds that are running.
        """
        with self._lock:
            for entry in self._entries.values():
                self._retire(entry)
            closing = list(self._closing)
        deadline = time.monotonic() + CLOSE_S
        for thread in closing:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _lease(self, name: str | None) -> Served:
        with self._lock:
            entry = self._entry(name)
            if entry.opened is None:
                raise CollectionUnavailableError(
                    f"collection {entry.name!r} cannot be read at present: try again later"
                )
            entry.opened.users += 1
            return entry.opened

    def _release(self, served: Served) -> None:
        with self._lock:
            served.users -= 1
            self._close_if_unused(served)

    def _entry(self, name: str | None) -> _Entry:
        wanted = self.default if name is None else name
        try:
            return self._entries[wanted]
        except KeyError:
            served = ", ".join(self._entries) or "none yet"
            raise UnknownCollectionError(f"no collection {wanted!r:.80} is served here (there is: {served})") from None

    def _put(self, name: str) -> None:
        with self._lock:
            entry = self._entries.setdefault(name, _Entry(name))
            entry.tried = time.monotonic()
        if (error := self._try_to_open(entry)) is not None:
            raise error

    def _open_instead(self, entry: _Entry, opened: Served | None) -> None:
        """:meth:`_try_to_open`, unless another has put something in place of what was ``opened``."""
        with entry.opening:
            if entry.opened is opened:
                self._open(entry)

    def _try_to_open(self, entry: _Entry) -> StoreError | None:
        """Open what lies in the store; until it is, requests go on with what was open before."""
        with entry.opening:
            return self._open(entry)

    def _open(self, entry: _Entry) -> StoreError | None:
        try:
            collection = Collection.open(
                self.store, entry.name, model_hash=self.model_hash, image_root=self._image_root, device=self._device
            )
        except StoreError as error:
            fault = "another model embedded it" if isinstance(error, ModelMismatchError) else UNREADABLE
            logger.error("event=collection_broken collection=%s error=%r", entry.name, str(error))  # noqa: TRY400
            with self._lock:
                self._retire(entry)  # what was open is not what lies there
                entry.fault, entry.tried = fault, time.monotonic()
            return error
        with self._lock:
            if self._entries.get(entry.name) is entry:
                self._retire(entry)
                entry.opened, entry.fault = Served(collection, ServedTree(collection)), None
                return None
        collection.close()  # deleted meanwhile
        return None

    def _retire(self, entry: _Entry) -> None:
        opened, entry.opened, entry.tried = entry.opened, None, float("-inf")
        if opened is not None:
            opened.retired = True
            self._close_if_unused(opened)

    def _close_if_unused(self, opened: Served) -> None:
        """The caller holds the lock, and may be the event loop; closing waits for a rebuild."""
        if opened.retired and not opened.users:
            opened.users = -1  # once
            self._closing = [thread for thread in self._closing if thread.is_alive()]
            name = f"close-{opened.collection.name}"
            thread = threading.Thread(target=opened.collection.close, name=name, daemon=True)
            thread.start()
            self._closing.append(thread)


def _is_sound(collection: Collection) -> bool:
    try:
        collection.catalogue.require_current()
        collection.catalogue.count()
    except StoreError:
        return False
    return True
