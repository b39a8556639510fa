"""FAISS, asked for when it is first needed, and the one process-wide setting of it that we touch."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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


def own_method(index: Any, name: str) -> Any:
    """`index.search` or `index.range_search` as FAISS itself has it.

    `faiss.contrib.torch_utils`, which parts of pytorch-metric-learning import, replaces both in every index class of
    the process by versions that take no search parameters, and keeps the originals as `<name>_numpy`.
    """
    return getattr(index, f"{name}_numpy", None) or getattr(index, name)
