"""FAISS, asked for when it is first needed, and the one process-wide setting of it that we touch."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from index.errors import FaissMissingError

_lock = threading.Lock()
_users = 0
_saved = 0


def faiss() -> Any:
    """The faiss module; :class:`~index.errors.FaissMissingError` (with the pip line) where it is not
    installed."""
    try:
        import faiss as module
    except ModuleNotFoundError as error:
        if error.name != "faiss":
            raise
        raise FaissMissingError from error
    return module


def write_faiss(index: Any, path: Path) -> None:
    """Write an index of FAISS's into a file; ``OSError`` where the disk is full.

    FAISS's own writer raises RuntimeError for that or, where only the last block does not fit, nothing at all.
    """
    with path.open("wb") as file:
        faiss().write_index(index, faiss().PyCallbackIOWriter(file.write))


@contextmanager
def inner_products_by_blas() -> Iterator[None]:
    """Let FAISS compute batches of inner products by matrix products (4x as fast at 100 queries) inside the
    block.

    `distance_compute_blas_threshold` belongs to the whole process, so the block puts it back when its last
    user leaves. Only inner products may run in here. Squared distances never depend on it: we always give
    them a selector, with which FAISS keeps to its exact kernels (by matrix products it expands the norms,
    and recall falls to .1 at radius 8.3).
    """
    global _users, _saved  # noqa: PLW0603 - it guards a global of the library
    settings = faiss().cvar
    with _lock:
        if _users == 0:
            _saved = settings.distance_compute_blas_threshold
            settings.distance_compute_blas_threshold = 1
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                settings.distance_compute_blas_threshold = _saved


def stored_rows(flat: Any) -> npt.NDArray[np.float32]:
    """The storage of a flat index as an array that shares its memory: valid until the index changes."""
    if flat.ntotal == 0:
        return np.zeros((0, flat.d), dtype=np.float32)
    view: npt.NDArray[np.float32] = faiss().rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d)
    return view.reshape(flat.ntotal, flat.d)


def own_method(index: Any, name: str) -> Any:
    """`index.search` or `index.range_search` as FAISS itself has it.

    `faiss.contrib.torch_utils`, which parts of pytorch-metric-learning import, replaces both in every index class of
    the process by versions that take no search parameters, and keeps the originals as `<name>_numpy`.
    """
    return getattr(index, f"{name}_numpy", None) or getattr(index, name)


def search_lists(
    inverted: Any, queries: npt.NDArray[np.float32], lists: npt.NDArray[np.int64], count: int,
    allowed: npt.NDArray[np.bool_] | None,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:  # fmt: skip
    """The `count` best rows of one list for each query: queries (n, d), lists (n,) -> scores and ids (n, count).

    What FAISS's Python offers as `search_preassigned` takes no search parameters; the C++ below it does.
    """
    library = faiss()
    queries, lists = np.ascontiguousarray(queries), np.ascontiguousarray(lists)
    scores = np.empty((len(queries), count), dtype=np.float32)
    ids = np.empty((len(queries), count), dtype=np.int64)
    nothing = np.zeros(len(queries), dtype=np.float32)  # distances to the centroids, which our scans have no use for
    pointer = library.swig_ptr
    inverted.search_preassigned_c(
        len(queries), pointer(queries), count, pointer(lists), pointer(nothing), pointer(scores), pointer(ids),
        False, _one_list(allowed),
    )  # fmt: skip
    return scores, ids


def range_search_lists(
    inverted: Any, queries: npt.NDArray[np.float32], lists: npt.NDArray[np.int64], threshold: float,
    allowed: npt.NDArray[np.bool_] | None,
) -> npt.NDArray[np.int64]:  # fmt: skip
    """Ids of the rows beyond `threshold` in one list for each query, all together."""
    library = faiss()
    queries, lists = np.ascontiguousarray(queries), np.ascontiguousarray(lists)
    nothing = np.zeros(len(queries), dtype=np.float32)
    result = library.RangeSearchResult(len(queries))
    pointer = library.swig_ptr
    inverted.range_search_preassigned_c(
        len(queries), pointer(queries), threshold, pointer(lists), pointer(nothing), result, False, _one_list(allowed)
    )
    total = int(library.rev_swig_ptr(result.lims, len(queries) + 1)[-1])
    return np.array(library.rev_swig_ptr(result.labels, total), dtype=np.int64)


def _one_list(allowed: npt.NDArray[np.bool_] | None) -> Any:
    library = faiss()
    if allowed is None:
        return library.SearchParametersIVF(nprobe=1)
    chosen = library.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
    return library.SearchParametersIVF(sel=chosen, nprobe=1)
