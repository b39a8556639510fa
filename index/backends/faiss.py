"""The embedded default: a LorentzIndex in a folder."""

from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from index.backends.interface import About, Answer, BackendError, BackendNotFoundError, checked, table_name
from index.errors import PointError
from index.lorentz_index import LorentzIndex

ABOUT, INDEX = "about.json", "index"


class FaissBackend:
    """A flat :class:`~index.lorentz_index.LorentzIndex` in memory; every answer is proven exact.

    Written to its folder by :meth:`close`, and not before: a process that dies leaves what the last one wrote. What a
    store keeps is safer, a :class:`~index.collection.Collection`, whose index replays the catalogue.
    """

    name = "faiss"

    def __init__(self, folder: Path, about: About, index: LorentzIndex) -> None:
        self.about = about
        self.index = index
        self._folder = folder

    @classmethod
    def create(cls, folder: Path, name: str, about: About, *, replace: bool = False) -> Self:
        """A new, empty index in `folder`; :class:`BackendError` where there is one, unless `replace`."""
        if about.scan != "exact":
            raise BackendError(f"expected the scan 'exact' of the embedded index, got {about.scan!r}")
        where = folder / table_name(name)
        if (where / ABOUT).exists() and not replace:
            raise BackendError(f"{where} holds points already: push with --replace")
        where.mkdir(parents=True, exist_ok=True)
        backend = cls(where, about, LorentzIndex(about.embedding_dim, about.c))
        backend.close()
        (where / ABOUT).write_text(about.to_json())
        return backend

    @classmethod
    def open(cls, folder: Path, name: str) -> Self:
        """What :meth:`close` wrote."""
        where = folder / table_name(name)
        if not (where / ABOUT).is_file():
            raise BackendNotFoundError(f"{where} holds no points: run 'lhier backend push'")
        about = About.from_json((where / ABOUT).read_text(), str(where))
        return cls(where, about, LorentzIndex.load(where / INDEX))

    def close(self) -> None:
        """Write the index."""
        self.index.save(self._folder / INDEX)

    @property
    def count(self) -> int:
        """How many points there are."""
        return len(self.index)

    def upsert(self, ids: npt.ArrayLike, space: npt.ArrayLike) -> None:
        """See :class:`~index.backends.interface.Backend`."""
        new_ids, points = checked(ids, space, self.about.embedding_dim)
        self.index.remove(new_ids)
        self.index.add(points, new_ids)

    def delete(self, ids: npt.ArrayLike) -> int:
        """See :class:`~index.backends.interface.Backend`."""
        return self.index.remove(ids)

    def search(self, space_queries: npt.ArrayLike, k: int) -> Answer:
        """See :class:`~index.backends.interface.Backend`."""
        if k < 1:
            raise PointError(f"expected k >= 1, got {k}")
        distances, ids, exact = self.index.search(space_queries, k, exact=True)
        return Answer(distances, ids, np.full(len(ids), exact))
