"""Frames: coordinates in which a centre is the origin, so that float32 serves points near it at any radius.

The boost that takes mu to the origin keeps all distances. With y = sqrt(c) x and both at curvature -1,

    y'_time = -<y, mu>_L = cosh(sqrt(c) d(x, mu)),    y'_space = y_space - mu_space (y_time + y'_time)/(1 + mu_time)

Where float32 products of points at radius 8.3 round at 2^-24 cosh(8.3)^2 = 0.24, those of the same points about a
centre 1 away round at 2^-24 cosh(1)^2 = 1.4e-7.
"""

import math

import numpy as np

from index.distances import Float64, norms
from index.exact_points import Float32, Int64


class Frames:
    """The frames of k centres, given as space parts at curvature -1, sqrt(c) mu_space (k, d), in float32 or float64."""

    def __init__(self, centres: Float32 | Float64, c: float) -> None:
        self.centres = centres
        self.c = c
        self._time = np.sqrt(1 + np.square(norms(centres.astype(np.float64))))

    def __len__(self) -> int:
        return int(self.centres.shape[0])

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return int(self.centres.nbytes + self._time.nbytes)

    @property
    def times(self) -> Float64:
        """cosh(sqrt(c) radius) of the centres (k,)."""
        return np.asarray(self._time)

    def unit(self, space: Float64) -> tuple[Float64, Float64]:
        """Space parts (n, d) scaled to curvature -1, and their times (n,)."""
        scaled = math.sqrt(self.c) * space
        return scaled, np.sqrt(1 + np.square(norms(scaled)))

    def cosh_to_all(self, scaled: Float64, times: Float64) -> Float64:
        """cosh(sqrt(c) d) from points at curvature -1 (:meth:`unit`) to every centre: (n, k), rounded by
        :meth:`rounding`.
        """
        products = scaled @ self.centres.astype(np.float64, copy=False).T
        np.subtract(times[:, None] * self._time, products, out=products)
        return np.maximum(products, 1, out=products)

    def enter(
        self, scaled: Float64, times: Float64, frames: Int64, *, flip_time: bool = False
    ) -> tuple[Float32, Float64]:
        """Points at curvature -1 (:meth:`unit`; n of them) in the frames (n, p) -> (n, p, d + 1) in float32, time
        first, and cosh(sqrt(c) d) to the centres (n, p) in float64. `flip_time` negates the time, for inner products
        by plain ones.
        """
        centres, centre_times = self.centres[frames].astype(np.float64), self._time[frames]
        cosh = times[:, None] * centre_times - np.einsum("nd,npd->np", scaled, centres)
        np.maximum(cosh, 1, out=cosh)
        centres *= ((times[:, None] + cosh) / (1 + centre_times))[..., None]
        inside = np.empty((*frames.shape, scaled.shape[1] + 1), dtype=np.float32)
        inside[..., 0] = -cosh if flip_time else cosh
        np.subtract(scaled[:, None], centres, out=inside[..., 1:], casting="same_kind")
        return inside, cosh

    def rounding(self, times: Float64, frames: Int64 | slice = slice(None)) -> Float64:
        """What a coordinate in a frame, or a cosh, may be wrong by in float64: points' times against frames."""
        return np.asarray((self.centres.shape[1] + 8) * 2.0**-52 * times * self._time[frames])
