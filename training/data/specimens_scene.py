"""The photograph around a creature: background, shadow, shading, light, blur and noise, all by chance."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from training.data.specimens_canvas import Blade
from training.data.specimens_drawing import draw_creature
from training.data.specimens_traits import Traits

Picture = NDArray[np.float32]

# Two ground colours (RGB, 0..1) and the grain (cells across the picture, along x and y) of each background.
_GROUNDS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float], tuple[int, int]]] = {
    "leaves": ((0.13, 0.28, 0.10), (0.42, 0.55, 0.22), (10, 10)),
    "sand": ((0.62, 0.53, 0.38), (0.85, 0.77, 0.60), (56, 56)),
    "water": ((0.08, 0.30, 0.42), (0.35, 0.62, 0.68), (6, 22)),
    "bark": ((0.24, 0.17, 0.12), (0.52, 0.41, 0.30), (34, 5)),
    "gravel": ((0.38, 0.37, 0.36), (0.66, 0.64, 0.60), (24, 24)),
    "sky": ((0.52, 0.64, 0.78), (0.82, 0.86, 0.90), (3, 4)),
}


def photograph(traits: Traits, size: int, rng: np.random.Generator) -> Image.Image:
    """One picture (RGB, size x size) of an individual with the given traits."""
    creature = draw_creature(traits, size, rng)
    picture = _background(size, rng)
    layer = np.asarray(creature, dtype=np.float32) / np.float32(255.0)
    alpha = layer[..., 3:]
    toward = float(rng.uniform(0.0, 2.0 * np.pi))
    light = np.array([np.cos(toward), np.sin(toward)], dtype=np.float32)
    mask = creature.getchannel("A")
    # Contact shadow: the blurred silhouette, moved away from the light.
    offset = size * float(rng.uniform(0.01, 0.05))
    shadow = mask.filter(ImageFilter.BoxBlur(size * float(rng.uniform(0.01, 0.03))))
    shadow = shadow.transform(
        mask.size, Image.Transform.AFFINE, (1, 0, offset * float(light[0]), 0, 1, offset * float(light[1]))
    )
    dark = np.float32(rng.uniform(0.2, 0.6) / 255.0)
    picture *= (1.0 - dark * np.asarray(shadow, dtype=np.float32))[..., None]
    # Shading: the blurred silhouette is taken for a height, its slope against the light for brightness.
    height = np.asarray(mask.filter(ImageFilter.BoxBlur(size * 0.03)), dtype=np.float32) / np.float32(255.0)
    down, right = np.gradient(height, np.float32(3.0 / size))
    shade = 1.0 + np.float32(0.12) * (right * light[0] + down * light[1])
    picture += alpha * (layer[..., :3] * np.clip(shade, 0.55, 1.5)[..., None] - picture)
    if rng.random() < 0.25:
        picture = _foreground(picture, rng)
    return _develop(picture, rng)


def _noise(cells: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    """Smooth noise of unit variance at 64 x 64 with the given number of cells across (x, y)."""
    grain = Image.fromarray(rng.standard_normal((cells[1], cells[0]), dtype=np.float32))
    return np.asarray(grain.resize((64, 64), Image.Resampling.BICUBIC))


def _background(size: int, rng: np.random.Generator) -> Picture:
    kind = str(rng.choice(list(_GROUNDS)))
    dark, bright, cells = _GROUNDS[kind]
    field = 0.6 * _noise((4, 4), rng) + 0.5 * _noise(cells, rng) + 0.12 * _noise((64, 64), rng)
    mix = np.clip(0.5 + 0.3 * field, 0.0, 1.0)[..., None]
    jitter = rng.normal(0.0, 0.045, (2, 3)).astype(np.float32)
    ground = (np.array(dark, np.float32) + jitter[0]) * (1 - mix) + (np.array(bright, np.float32) + jitter[1]) * mix
    image = Image.fromarray((255 * np.clip(ground, 0, 1)).astype(np.uint8))
    image = image.resize((size, size), Image.Resampling.BICUBIC)
    _clutter(image, kind, np.array(dark), np.array(bright), rng)
    if rng.random() < 0.8:
        image = image.filter(ImageFilter.BoxBlur(size / 224.0 * float(rng.uniform(0.4, 2.5))))
    return np.asarray(image, dtype=np.float32) / np.float32(255.0)


def _clutter(
    image: Image.Image,
    kind: str,
    dark: NDArray[np.float64],
    bright: NDArray[np.float64],
    rng: np.random.Generator,
) -> None:
    """Leaves, pebbles, ripples and the like, and a few things of any colour that are no creature."""
    draw, size = ImageDraw.Draw(image), image.width
    s = np.linspace(0.0, 1.0, 9)
    outline = np.concatenate([s, s[::-1]]), np.concatenate([np.ones(9), -np.ones(9)])
    for number in range(int(rng.integers(6, 16))):
        x, y = rng.uniform(-0.1, 1.1, 2)
        stray = number < 2 and rng.random() < 0.6
        share = rng.uniform(-0.2, 1.2)
        rgb = rng.uniform(0.1, 0.9, 3) if stray else dark * (1 - share) + bright * share + rng.normal(0, 0.04, 3)
        colour = tuple(int(v) for v in np.clip(255 * rgb, 0, 255))
        turn, reach = rng.uniform(0.0, 2.0 * np.pi), rng.uniform(0.08, 0.35)
        if kind == "water":
            waves = np.stack([x + reach * (s - 0.5) * 2.0, y + 0.012 * np.sin(9.0 * s + turn)], -1)
            draw.line((size * waves).ravel().tolist(), fill=colour, width=max(1, size // 90))
            continue
        if kind in ("gravel", "sand"):
            width, reach = 0.4 * reach, 0.45 * reach
        else:
            width = reach * (0.12 if kind in ("bark", "sky") else 0.28)
        tip = (x + reach * np.cos(turn), y + reach * np.sin(turn))
        blunt = 0.5 if kind in ("gravel", "sand") else 0.9
        blade = Blade((float(x), float(y)), (float(tip[0]), float(tip[1])), float(width), blunt, blunt, 0.08)
        draw.polygon((size * blade.at(*outline)).ravel().tolist(), fill=colour)
        if kind == "leaves":
            vein = blade.at(s, np.zeros(9))
            draw.line((size * vein).ravel().tolist(), fill=tuple(int(0.75 * v) for v in colour), width=1)


def _foreground(picture: Picture, rng: np.random.Generator) -> Picture:
    """A few out-of-focus stalks across the picture, in front of the creature."""
    size = picture.shape[0]
    cover = Image.new("L", (size, size))
    draw = ImageDraw.Draw(cover)
    for _ in range(int(rng.integers(1, 4))):
        x0, x1 = rng.uniform(-0.1, 1.1, 2) * size
        ends = (x0, -5, x1, size + 5) if rng.random() < 0.6 else (-5, x0, size + 5, x1)
        draw.line(ends, fill=int(rng.integers(150, 240)), width=max(1, int(size * rng.uniform(0.01, 0.04))))
    alpha = np.asarray(cover.filter(ImageFilter.BoxBlur(size * 0.008)), dtype=np.float32)[..., None] / 255.0
    colour = np.clip(rng.normal((0.30, 0.38, 0.20), 0.12), 0.0, 1.0).astype(np.float32)
    blended: Picture = (picture + alpha * (colour - picture)).astype(np.float32)
    return blended


def _develop(picture: Picture, rng: np.random.Generator) -> Image.Image:
    """Light falling off across the picture, a colour cast, exposure, focus and sensor noise."""
    size = picture.shape[0]
    turn, fall = rng.uniform(0.0, 2.0 * np.pi), rng.uniform(0.0, 0.45)
    ramp = np.linspace(-1.0, 1.0, size, dtype=np.float32)
    gradient = 1.0 + np.float32(fall * np.cos(turn)) * ramp[None, :] + np.float32(fall * np.sin(turn)) * ramp[:, None]
    cast = np.exp(rng.normal(0.0, 0.09, 3)).astype(np.float32) * np.float32(np.exp(rng.normal(0.0, 0.18)))
    picture = picture * (np.clip(gradient, 0.35, 1.6)[..., None] * cast)
    image = Image.fromarray((255.0 * np.clip(picture, 0.0, 1.0)).astype(np.uint8))
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(size / 224.0 * float(rng.uniform(0.3, 1.4))))
    sigma = np.float32(255.0 * rng.uniform(0.005, 0.04))
    grain = sigma * rng.standard_normal((size, size, 1), dtype=np.float32)
    noisy = np.asarray(image, dtype=np.float32) + grain
    return Image.fromarray(np.clip(noisy, 0.0, 255.0).astype(np.uint8))
