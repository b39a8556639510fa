"""Rankings: which rows are nearest and how far, before anything of the items themselves is fetched."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from index.distances import Float64
from index.exact_points import Int64
from index.lorentz_index import LorentzIndex


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """Rows (n,) by rising geodesic distance (n,), equal ones by row, at one state of a collection.

    `proven`: no row that is missing here is nearer than one that is not.
    """

    distances: Float64
    rows: Int64
    proven: bool
    sequence: int
    generation: str


def ranked(
    index: LorentzIndex,
    spaces: npt.NDArray[np.floating],
    k: int,
    *,
    radius: float | None,
    allowed: npt.ArrayLike | None,
    exact: bool,
) -> Iterator[tuple[Float64, Int64, bool]]:
    """The k nearest of each of some points, space parts (q, d), none beyond `radius`; with one, proven exact.

    A search for k neighbours bounds the radius that has to be looked through: where its answer is not proven, whatever
    lies within the k-th distance found, or within `radius` if that is less, holds the true neighbours.
    """
    distances, rows, proven = index.search_each(spaces, k, allowed=allowed, exact=exact and radius is None)
    for query in range(len(spaces)):
        if radius is not None and not proven[query]:
            bound = min(radius, float(distances[query, -1]))
            _, near, found = index.range_search(spaces[query : query + 1], bound, allowed=allowed)
            yield near[:k], found[:k], True
            continue
        count = int(np.searchsorted(distances[query], np.inf if radius is None else radius, side="right"))
        held = rows[query, :count] >= 0
        yield distances[query, :count][held], rows[query, :count][held], bool(proven[query])
