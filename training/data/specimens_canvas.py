"""Drawing in body coordinates: a bent, turned frame, and blades (tapered parts) that carry patterns.

Body coordinates: x runs along the spine towards the head, y across it; the trunk spans about -1..1. A frame
maps them to pixels through the pose. Every part (trunk, head, tail, wing, fin, claw) is a blade: a centre
line with a half-width profile, and its own coordinates s (0 at the base, 1 at the tip) and t (-1..1 from edge
to edge), in which patterns are drawn, so that they follow the part and never leave it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Array = NDArray[np.float64]
Colour = tuple[int, int, int]

# Outline samples along a blade, closer at the ends so that blunt ends come out round.
_S = (1.0 - np.cos(np.linspace(0.0, np.pi, 22))) / 2.0
_RING = np.linspace(0.0, 2.0 * np.pi, 10, endpoint=False)
_CIRCLE = np.stack([np.cos(_RING), np.sin(_RING)], axis=-1)
_EDGE = np.linspace(0.0, 1.0, 7)


class Frame:
    """Pose: body coordinates to pixels. `bend` and `sway` are in radians over the length of the body."""

    def __init__(
        self, *, centre: tuple[float, float], scale: float, angle: float, bend: float, sway: float, flip: bool
    ) -> None:
        self._x = np.linspace(-2.2, 2.2, 89)
        heading = 0.5 * bend * self._x + 0.5 * sway * np.sin(2.6 * self._x)
        step = self._x[1] - self._x[0]
        spine = np.stack([np.cos(heading), np.sin(heading)]).cumsum(axis=1) * step
        spine -= spine[:, 44:45]
        self._spine, self._heading = spine, heading
        self.scale = scale
        cos, sin = np.cos(angle), np.sin(angle)
        mirror = -1.0 if flip else 1.0
        # Image rows grow downwards, so y is turned over once here; flip mirrors left and right.
        self._matrix = scale * np.array([[mirror, 0.0], [0.0, 1.0]]) @ np.array([[cos, -sin], [-sin, -cos]])
        self._centre = np.array(centre)

    def __call__(self, points: Array) -> Array:
        """Pixels of body points (..., 2)."""
        x, y = points[..., 0], points[..., 1]
        heading = np.interp(x, self._x, self._heading)
        bent = np.stack(
            [
                np.interp(x, self._x, self._spine[0]) - np.sin(heading) * y,
                np.interp(x, self._x, self._spine[1]) + np.cos(heading) * y,
            ],
            axis=-1,
        )
        pixels: Array = bent @ self._matrix.T + self._centre
        return pixels


@dataclass(frozen=True)
class Blade:
    """A tapered part from `base` to `tip` (body coordinates) of greatest half-width `width`.

    The half-width is width * s^front (1-s)^back, scaled to 1 at its peak: small exponents are blunt ends.
    `curve` bows the centre line sideways, as a share of the length. `scallop` waves the edge.
    """

    base: tuple[float, float]
    tip: tuple[float, float]
    width: float
    front: float = 0.5
    back: float = 0.5
    curve: float = 0.0
    scallop: float = 0.0

    def at(self, s: Array, t: Array) -> Array:
        """Body coordinates of (s, t)."""
        s = np.clip(s, 0.0, 1.0)
        peak = self.front / (self.front + self.back)
        top = peak**self.front * (1.0 - peak) ** self.back
        half = self.width * s**self.front * (1.0 - s) ** self.back / top
        if self.scallop:
            half = half * (1.0 - self.scallop * (0.5 + 0.5 * np.cos(s * 26.0)) * (s > 0.3))
        dx, dy = self.tip[0] - self.base[0], self.tip[1] - self.base[1]
        length = float(np.hypot(dx, dy)) or 1e-9
        across = half * t + self.curve * length * np.sin(np.pi * s)
        return np.stack(
            [self.base[0] + s * dx - across * dy / length, self.base[1] + s * dy + across * dx / length],
            axis=-1,
        )


class Painter:
    """Draws parts on a supersampled transparent canvas."""

    def __init__(self, canvas: Image.Image, frame: Frame) -> None:
        self._draw = ImageDraw.Draw(canvas)
        self._frame = frame

    def blade(self, blade: Blade, colour: Colour, outline: Colour | None = None, line: float = 0.018) -> None:
        """Fill a blade, with an outline `line` thick in body units."""
        s = np.concatenate([_S, _S[::-1]])
        t = np.concatenate([np.ones_like(_S), -np.ones_like(_S)])
        points = self._frame(blade.at(s, t)).ravel().tolist()
        self._draw.polygon(points, fill=colour)
        if outline is not None:
            self._draw.line([*points, *points[:4]], fill=outline, width=self._pixels(line), joint=None)

    def patches(self, blade: Blade, s: Array, t: Array, colour: Colour, bow: float = 0.0) -> None:
        """Four-sided patches s[i, 0]..s[i, 1] by t[i, 0]..t[i, 1]; `bow` shifts s by |t|, as in chevrons."""
        start, end = np.zeros_like(_EDGE), np.ones_like(_EDGE)
        u = np.concatenate([_EDGE, end, _EDGE[::-1], start])
        v = np.concatenate([start, _EDGE, end, _EDGE[::-1]])
        ts = t[:, :1] + (t[:, 1:] - t[:, :1]) * v
        ss = s[:, :1] + (s[:, 1:] - s[:, :1]) * u + bow * np.abs(ts)
        for points in self._frame(blade.at(ss, np.clip(ts, -1.0, 1.0))).reshape(len(s), -1).tolist():
            self._draw.polygon(points, fill=colour)

    def spots(self, blade: Blade, centres: tuple[Array, Array], radii: tuple[Array, Array], colour: Colour) -> None:
        """Ellipses with centres (s, t) and radii along s and t, cut at the blade's edge."""
        ss = centres[0][:, None] + radii[0][:, None] * _CIRCLE[:, 0]
        ts = np.clip(centres[1][:, None] + radii[1][:, None] * _CIRCLE[:, 1], -1.0, 1.0)
        for points in self._frame(blade.at(ss, ts)).reshape(len(ss), -1).tolist():
            self._draw.polygon(points, fill=colour)

    def disc(self, x: float, y: float, radius: float, colour: Colour, squeeze: float = 1.0) -> None:
        """An ellipse in body coordinates, `squeeze` times as long across as along."""
        points = np.array([x, y]) + radius * _CIRCLE * np.array([1.0, squeeze])
        self._draw.polygon(self._frame(points).ravel().tolist(), fill=colour)

    def limb(
        self, points: Sequence[tuple[float, float]], thickness: Sequence[float], colours: Sequence[Colour]
    ) -> None:
        """A jointed limb: straight pieces of given thickness and colour, with round joints."""
        pixels = self._frame(np.array(points))
        for i, (thick, colour) in enumerate(zip(thickness, colours, strict=True)):
            self._draw.line(pixels[i : i + 2].ravel().tolist(), fill=colour, width=self._pixels(thick))
            radius = self._frame.scale * thick / 2.0
            x, y = pixels[i + 1]
            self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)

    def curve(self, points: Array, thickness: float, colour: Colour) -> None:
        """A thin smooth line through body points (n, 2)."""
        self._draw.line(self._frame(points).ravel().tolist(), fill=colour, width=self._pixels(thickness), joint="curve")

    def _pixels(self, thickness: float) -> int:
        return max(1, round(thickness * self._frame.scale))
