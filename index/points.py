"""What counts as a point and as an id: checked at the door, with errors that say what came."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from index.errors import PointError


def valid_points(space: npt.ArrayLike, embedding_dim: int) -> npt.NDArray[np.float64]:
    """Space parts as float64 (n, d); :class:`PointError` for another shape, or what float32 cannot hold."""
    points = np.asarray(space)
    if points.ndim != 2 or points.shape[1] != embedding_dim:
        raise PointError(f"expected space parts of shape (n, {embedding_dim}), got shape {points.shape}")
    if not (np.issubdtype(points.dtype, np.floating) or np.issubdtype(points.dtype, np.integer)):
        raise PointError(f"expected space parts of a real dtype, got {points.dtype}")
    points = points.astype(np.float64)
    bad = np.flatnonzero(~(np.abs(points) <= np.finfo(np.float32).max).all(axis=1))
    if len(bad):
        raise PointError(f"expected finite float32 space parts, got NaN, inf or larger in rows {some(bad)}")
    return points


def valid_ids(ids: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Ids as int64 (n,); :class:`PointError` for another shape or dtype, or a negative id."""
    array = np.asarray(ids)
    if array.size == 0:
        array = array.astype(np.int64)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise PointError(f"expected int64 ids of shape (n,), got {array.dtype} of shape {array.shape}")
    if array.size and (int(array.min()) < 0 or int(array.max()) > np.iinfo(np.int64).max):
        raise PointError(
            f"expected ids in 0 .. 2^63 - 1 (-1 marks a missing neighbour), got {array.min()} .. {array.max()}"
        )
    return np.asarray(array, dtype=np.int64)


def some(values: npt.NDArray[Any] | Sequence[Any]) -> str:
    """The first few of many, for an error message."""
    first = ", ".join(str(value) for value in values[:5])
    return first if len(values) <= 5 else f"{first}, ... ({len(values)} in all)"
