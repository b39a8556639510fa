"""ServedTree: the tree over a served collection, read by many requests at once and kept up with the collection."""

import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path

from index.catalogue import Catalogue
from index.collection import Collection
from index.errors import StoreError
from index.hierarchy.fitting import fit
from index.hierarchy.former import predecessor
from index.hierarchy.shape import MAX_CHILDREN, MIN_SIZE
from index.hierarchy.store import FOLDER, TREE, HierarchyError, read_names
from index.hierarchy.tree import Hierarchy
from service.hierarchy.view import TreeView

logger = logging.getLogger(__name__)

PATIENCE_S = 1.0  # that a question waits for a tree that has the last write, before it takes one that has not
RETRY_S = 10.0  # between attempts at a tree that cannot be read
REST = 4.0  # times as long as catching up took, in which searches alone do not start it again

FileState = tuple[int, int, int] | None


class NoTreeError(LookupError):
    """A collection over which no tree was built."""


class TreeUnavailableError(RuntimeError):
    """A tree that is there but cannot be read at present."""


@dataclass(frozen=True, slots=True)
class _Fault:
    built: FileState
    at: float


class ServedTree:
    """The tree of ``collection``. Any thread may ask; nobody waits for another's reading.

    What is read is a :class:`~service.hierarchy.view.TreeView`, which never changes. When the collection was written
    to, or the tree was built anew on disk (by whatever process), one thread makes the next view from a copy, and the
    others read on in the one before: for at most a second of waiting and as long as catching up takes.
    """

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self._folder = collection.folder / FOLDER
        self._lock = threading.Lock()  # which view is current, and whether another is being made
        self._naming = threading.Lock()  # names.json, and the names of the current view
        self._building = threading.Lock()
        self._view: TreeView | None = None
        self._running: Future[None] | None = None
        self._fault: _Fault | None = None
        self._rest_until = 0.0
        self._names: FileState = None

    @property
    def exists(self) -> bool:
        """Whether a tree was built."""
        return self._built() is not None

    def view(self) -> TreeView:
        """The tree at the collection's last write, or shortly before where catching up takes long.

        Waits for it to be loaded the first time. Raises :class:`NoTreeError` and :class:`TreeUnavailableError`.
        """
        if (running := self.catch_up()) is not None:
            wait([running], timeout=self.patience)
        return self.latest()

    def glance(self) -> TreeView | None:
        """The tree as far as it is in memory, for whoever can do without: never waits, never raises.

        None where there is none, it is damaged, not loaded yet (then that begins), or too small to answer.
        """
        try:
            self.catch_up(at_once=False)
        except (NoTreeError, TreeUnavailableError, StoreError):
            return None
        view = self._view
        return view if view is not None and view.can_answer else None

    @property
    def patience(self) -> float | None:
        """Seconds to wait for what :meth:`catch_up` returns; None where nothing can be read before."""
        return None if self._view is None else PATIENCE_S

    def catch_up(self, *, at_once: bool = True) -> "Future[None] | None":
        """Have the tree brought up to the last write and the last tree built; what to wait for, None where it is.

        It is loaded and brought up in a thread of its own. Not ``at_once``: at most a fifth of the time goes into it.
        Raises :class:`NoTreeError` and :class:`TreeUnavailableError`.
        """
        built = self._built()
        if built is None:
            self._view = None
            raise NoTreeError(
                f"no tree was built over collection {self._collection.name!r} yet: run 'lhier hierarchy build', or "
                f"start a job of kind 'hierarchy'"
            )
        sequence = self._collection.catalogue.sequence
        with self._lock:
            view = self._view
            if view is not None and view.built == built and view.sequence >= sequence:
                self._take_over_names(view)
                return None
            if self._running is not None:
                return self._running
            now = time.monotonic()
            if self._fault is not None and self._fault.built == built and now - self._fault.at < RETRY_S:
                if view is None:
                    raise self._unavailable()
                return None
            if not at_once and now < self._rest_until:
                return None
            running: Future[None] = Future()
            self._running = running
            running.set_running_or_notify_cancel()  # whoever gives up waiting does not cancel it
        name = f"tree-{self._collection.name}"
        threading.Thread(target=self._catch_up, args=(built, running), name=name, daemon=True).start()
        return running

    def latest(self) -> TreeView:
        """What is in memory. Raises :class:`TreeUnavailableError` where nothing is."""
        view = self._view
        if view is None:
            raise self._unavailable()
        return view

    def rename(self, node_id: str, name: str | None) -> TreeView:
        """Name a node, or take its name away; on the disk when it returns.

        Raises ``KeyError`` for an unknown node, ``ValueError`` for a name that cannot be, and as :meth:`view` does.
        """
        self.view()
        with self._naming:
            view = self.latest()
            try:
                view.hierarchy.set_name(node_id, name)
            except HierarchyError as error:
                raise TreeUnavailableError(f"the names of the tree cannot be read: {error}") from error
            self._names = _state(self._folder / "names.json")
        return view

    def build(
        self,
        progress: Callable[[str], None],
        *,
        max_children: int = MAX_CHILDREN,
        min_size: int = MIN_SIZE,
    ) -> TreeView:
        """Build the tree anew, fit and save it, as ``lhier hierarchy build`` does; the old one is read meanwhile.

        ``progress`` is told each stage when it begins ("read", "link", "fit", "save", "load"), and may raise to give
        up; then nothing has changed. Takes minutes for many items. Raises ``StoreError``.
        """
        with self._building, Catalogue.open(self._collection.catalogue.path) as catalogue:
            self._collection.catalogue.require_current()
            progress("read")
            previous = predecessor(self._folder, catalogue, lambda text: logger.warning("event=tree_renewed %s", text))
            progress("link")
            hierarchy = Hierarchy.from_catalogue(
                catalogue, previous=previous, max_children=max_children, min_size=min_size
            )
            if len(hierarchy) >= 2:
                progress("fit")
                hierarchy.fit = fit(hierarchy)
            progress("save")
            with self._naming:  # a name that is given meanwhile is not lost
                self._collection.catalogue.require_current()
                hierarchy.save(self._folder)
        progress("load")
        return self.view()

    def _catch_up(self, built: FileState, running: "Future[None]") -> None:
        start, fault = time.monotonic(), None
        try:
            self._make_whole_view(built)
        except Exception:
            logger.exception("event=tree_unavailable collection=%s", self._collection.name)
            fault = _Fault(built, time.monotonic())
        with self._lock:
            self._running, self._fault = None, fault
            self._rest_until = time.monotonic() + REST * (time.monotonic() - start)
        running.set_result(None)

    def _make_whole_view(self, built: FileState) -> None:
        """:meth:`_make_view`, again where the tree was swapped for another while it was read."""
        while True:
            try:
                self._make_view(built)
            except HierarchyError:
                built, before = self._built(), built
                if built == before:
                    raise
            else:
                return

    def _make_view(self, built: FileState) -> None:
        view, start = self._view, time.monotonic()
        # A connection of its own, so that reading many points keeps no search waiting.
        with Catalogue.open(self._collection.catalogue.path) as catalogue:
            self._collection.catalogue.require_current()  # else the one just opened is another collection's
            if view is None or view.built != built:
                hierarchy, changed = Hierarchy.load(self._folder, catalogue), -1
            else:
                hierarchy = view.hierarchy.copy()
                changed = hierarchy.sync(catalogue)
        made = TreeView(hierarchy, self._collection.catalogue, built)
        with self._naming:
            self._names = _state(self._folder / "names.json")
            hierarchy.names = read_names(self._folder)
            self._view = made
        logger.info(
            "event=tree_%s collection=%s items=%d nodes=%d changed=%d seconds=%.2f",
            "loaded" if changed < 0 else "synced", self._collection.name, len(hierarchy), len(hierarchy.ids),
            changed, time.monotonic() - start,
        )  # fmt: skip

    def _take_over_names(self, view: TreeView) -> None:
        """Names that another process gave; those in memory stay where the file is damaged."""
        if _state(self._folder / "names.json") == self._names or not self._naming.acquire(blocking=False):
            return
        try:
            self._names = _state(self._folder / "names.json")
            view.hierarchy.names = read_names(self._folder)
        except HierarchyError as error:
            logger.error("event=names_unreadable collection=%s error=%r", self._collection.name, str(error))  # noqa: TRY400
        finally:
            self._naming.release()

    def _built(self) -> FileState:
        return _state(self._folder / TREE / "manifest.json") or _state(self._folder / TREE)

    def _unavailable(self) -> TreeUnavailableError:
        return TreeUnavailableError(
            f"the tree of collection {self._collection.name!r} cannot be read at present: the log says why; "
            f"'lhier hierarchy build' makes it anew"
        )


def _state(path: Path) -> FileState:
    """What changes when a file is replaced; None where there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116 - for every search
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
