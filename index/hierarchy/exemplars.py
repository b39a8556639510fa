"""A few items that show what a node holds."""

import numpy as np
import numpy.typing as npt

from index.hierarchy.linkage import distance_matrix

Int64 = npt.NDArray[np.int64]

COUNT = 5
COMPARED = 200  # members that are compared with each other
SAME = 1e-3  # of the central items' largest distance: closer ones look the same


def exemplars(space: npt.NDArray[np.float32], positions: Int64, c: float) -> Int64:
    """Which of a node's members, given by their positions in `space`, show it best: at most 5, by place in `positions`.

    First the medoid, the member with the smallest mean distance to the others; then, of the half that is central by
    that measure, each time the one farthest from those chosen, so that five photos of one pack do not stand for a
    family. Duplicates of a chosen one are passed over. Of more than 200 members an even sample is compared, which in
    depth-first order gives every branch its share.
    """
    if len(positions) > COMPARED:
        sample = (np.arange(COMPARED) * len(positions)) // COMPARED
    else:
        sample = np.arange(len(positions))
    if len(sample) <= 1:
        return sample
    points = space[positions[sample]]
    between = distance_matrix(points, points, c)
    means = between.mean(axis=1)
    by_mean = np.argsort(means, kind="stable")
    central = by_mean[: max(min(len(sample), COUNT), -(-len(sample) // 2))]
    # Distances of equal points are not quite 0, which counts where there are no others.
    central = central[np.sort(np.unique(points[central], axis=0, return_index=True)[1])]
    np.fill_diagonal(between, 0.0)
    nearest = between[central[0], central].copy()
    chosen = [0]
    least = SAME * float(between[np.ix_(central, central)].max())
    while len(chosen) < COUNT:
        farthest = int(nearest.argmax())
        if nearest[farthest] <= least:
            break
        chosen.append(farthest)
        np.minimum(nearest, between[central[farthest], central], out=nearest)
    return np.asarray(sample[central[chosen]])
