"""ServedTree: the tree over a served collection, read by many requests at once and kept up with the collection."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from index.collection import Collection
from index.hierarchy.answers import Answers
from index.hierarchy.store import FOLDER, TREE
from index.hierarchy.tree import Hierarchy
from index.locks import ReadWriteLock

logger = logging.getLogger(__name__)


class NoTreeError(LookupError):
    """A collection over which no tree was built."""


class ServedTree:
    """The tree of ``collection``; loaded when it is first asked for, and anew when it was built again."""

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self._lock = ReadWriteLock()
        self._hierarchy: Hierarchy | None = None
        self._answers: Answers | None = None

    @property
    def exists(self) -> bool:
        """Whether a tree was built."""
        return (self._collection.folder / FOLDER / TREE).is_dir()

    @contextmanager
    def read(self) -> Iterator[Answers]:
        """The tree and its answers, at the collection's last write, unchanged while the block lasts.

        Raises :class:`NoTreeError`, and ``HierarchyError`` for a damaged one.
        """
        self._catch_up()
        with self._lock.read():
            assert self._answers is not None  # noqa: S101 - set by _catch_up
            yield self._answers

    def _catch_up(self) -> None:
        hierarchy = self._hierarchy
        if hierarchy is not None and hierarchy.sequence == self._collection.catalogue.sequence:
            return
        with self._lock.write():
            if self._hierarchy is None:
                if not self.exists:
                    raise NoTreeError(f"no tree was built over collection {self._collection.name!r} yet")
                self._hierarchy = Hierarchy.load(self._collection.folder / FOLDER, self._collection.catalogue)
                self._answers = Answers(self._hierarchy)
            else:
                self._hierarchy.sync(self._collection.catalogue)
