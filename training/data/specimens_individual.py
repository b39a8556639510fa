"""One individual: its species' traits with a little variation, the colours and the markings they give."""

import colorsys

import numpy as np

from training.data.specimens_canvas import Array, Blade, Colour, Painter
from training.data.specimens_plans import Plan
from training.data.specimens_traits import Traits


class Individual:
    """What the parts of a creature are drawn with: proportions, colours, markings, and the painter."""

    def __init__(self, traits: Traits, plan: Plan, painter: Painter, rng: np.random.Generator) -> None:
        self.plan, self.paint, self.rng = plan, painter, rng
        self.kind = traits.discrete
        # Individuals of a species differ a little in everything.
        self.latent = {name: value + 0.10 * float(rng.standard_normal()) for name, value in traits.continuous.items()}
        self._choose_colours(traits)

    def ratio(self, name: str, strength: float) -> float:
        """A proportion: exp(+-strength) at the far ends, 1 at the ancestral value."""
        return float(np.exp(strength * np.tanh(0.7 * self.latent[name])))

    def value(self, name: str, low: float, high: float) -> float:
        """A trait on a scale from low to high, half-way at the ancestral value."""
        return low + (high - low) * (0.5 + 0.5 * float(np.tanh(0.8 * self.latent[name])))

    def _choose_colours(self, traits: Traits) -> None:
        """Colours of all parts from the palette traits."""
        hue = 0.17 * self.latent["hue"]
        saturation = self.value("saturation", 0.20, 0.95)
        brightness = self.value("brightness", 0.35, 0.95)
        # A pattern is always visible, at least 0.3 darker or lighter than its ground. Which of the two is the
        # species' own affair: it must not flip between individuals, so their variation stays out of it.
        contrast = 0.30 + 0.45 * abs(self.value("pattern_contrast", -1.0, 1.0))
        lighter = traits.continuous["pattern_contrast"] > 0.9 * traits.continuous["brightness"]
        other = brightness + (contrast if lighter else -contrast)
        pattern_hue = hue + 0.5 + 0.16 * self.latent["pattern_hue"]
        self.base = colour_of(hue, saturation, brightness)
        self.pattern = colour_of(pattern_hue, 0.85 * saturation + 0.1, other)
        self.accent = colour_of(hue + 0.33 + 0.17 * self.latent["accent_hue"], 0.85, 0.92)
        self.limb = colour_of(hue + 0.03, 0.8 * saturation, brightness * self.value("limb_shade", 0.25, 1.15))
        self.head = colour_of(hue - 0.02, 0.9 * saturation, brightness * self.value("head_shade", 0.35, 1.25))
        self.belly = colour_of(hue, 0.45 * saturation, brightness * self.value("belly_shade", 0.8, 1.6))
        wing_hue = hue + 0.12 * self.latent["wing_hue"]
        self.wing = colour_of(wing_hue, 0.8 * saturation, brightness * self.value("wing_shade", 0.55, 1.35))
        self.line = colour_of(hue, 0.6, 0.22 * brightness + 0.03)

    def marking(self, blade: Blade) -> None:
        """The species' marking between its start and end along a blade."""
        rng, colour, style = self.rng, self.pattern, self.kind["marking"]
        start, end = self.value("start", 0.02, 0.30), self.value("end", 0.60, 0.97)
        count = round(self.value("count", 2.6, 9.4))
        rows = round(self.value("rows", 1.6, 5.4))
        duty = self.value("width", 0.18, 0.72)
        loose = self.value("irregularity", 0.0, 0.35)
        pitch = (end - start) / count
        centres = start + pitch * (np.arange(count) + 0.5 + loose * rng.uniform(-0.6, 0.6, count))
        half = 0.5 * pitch * duty * (1.0 + loose * rng.uniform(-0.8, 0.8, count))
        across = np.linspace(-1.0, 1.0, 2 * rows + 1)[1::2]
        if style in ("bands", "chevrons"):
            bow = self.value("slant", -0.16, 0.16) * (1.0 if style == "chevrons" else 0.25)
            bow += float(np.copysign(0.10, bow)) if style == "chevrons" else 0.0
            self.strips(blade, centres, half, colour, bow=bow)
        elif style in ("stripes", "net"):
            wide = duty * 0.85 / rows * (0.45 if style == "net" else 1.0)
            shift = loose * 0.3 / rows * rng.uniform(-1.0, 1.0, rows)
            middle, extent = np.full(rows, (start + end) / 2.0), np.full(rows, (end - start) / 2.0)
            self.strips(blade, middle, extent, colour, t=(across + shift - wide, across + shift + wide))
            if style == "net":
                self.strips(blade, centres, 0.45 * half, colour)
        elif style == "saddles":
            reach = self.value("slant", 0.35, 0.85)
            self.paint.spots(blade, (centres, np.zeros(count)), (half, np.full(count, reach)), colour)
        else:
            s, t = (grid.ravel() for grid in np.meshgrid(centres, across, indexing="ij"))
            s = s + 0.5 * pitch * (np.arange(s.size) % 2 - 0.5) * self.value("slant", 0.0, 1.0)
            spread = 2.2 if style == "mottle" else 0.5
            s = s + spread * loose * pitch * rng.uniform(-1.0, 1.0, s.size)
            t = t + spread * loose / rows * rng.uniform(-1.0, 1.0, s.size)
            radius = duty * (1.0 + (0.9 if style == "mottle" else loose) * rng.uniform(-0.6, 0.6, s.size))
            rs, rt = 0.55 * pitch * radius, 0.95 / rows * radius
            self.paint.spots(blade, (s, t), (rs, rt), colour)
            if style == "rings":
                self.paint.spots(blade, (s, t), (0.5 * rs, 0.5 * rt), self.base)

    def wing_marking(self, blade: Blade) -> None:
        """Eyespots, margins, bands, veins or a dark tip on a wing."""
        style, place = self.kind["wing_marking"], self.value("wing_place", 0.45, 0.80)
        size = self.value("wing_width", 0.05, 0.20)
        count = round(self.value("wing_count", 0.6, 4.4))
        if style == "eyespots":
            t = np.linspace(-0.6, 0.6, count) if count > 1 else np.array([0.1])
            along, across = 0.5 * size, min(0.9 / count, 0.45)
            for scale, colour in ((1.0, self.pattern), (0.62, self.accent), (0.3, self.line)):
                radii = np.full(count, along * scale + 0.02), np.full(count, across * scale)
                self.paint.spots(blade, (np.full(count, place), t), radii, colour)
        elif style == "margin":
            self.patch(blade, 0.93 - 1.3 * size, 0.995, (-0.99, 0.99), self.pattern)
            n = count + 2
            centres = np.full(n, 0.92 - 0.6 * size), np.linspace(-0.75, 0.75, n)
            self.paint.spots(blade, centres, (np.full(n, 0.25 * size), np.full(n, 0.5 / n)), self.accent)
        elif style == "bands":
            centres_s = np.linspace(0.25, 0.35 + 0.6 * place, count)
            self.strips(blade, centres_s, np.full(count, 0.4 * size), self.pattern, bow=0.06)
        elif style == "veins":
            rays = np.linspace(-0.85, 0.85, count + 3)
            middle, half = np.full(rays.size, 0.53), np.full(rays.size, 0.42)
            self.strips(blade, middle, half, self.pattern, t=(rays - 0.25 * size, rays + 0.25 * size))
        else:
            self.patch(blade, 0.2 + place, 0.995, (-0.99, 0.99), self.pattern)
            centre, radii = (np.array([place]), np.zeros(1)), (np.array([0.4 * size]), np.array([0.3]))
            self.paint.spots(blade, centre, radii, self.accent)

    def patch(self, blade: Blade, s0: float, s1: float, t: tuple[float, float], colour: Colour) -> None:
        """One patch from s0 to s1."""
        self.paint.patches(blade, np.array([[s0, s1]]), np.array([t]), colour)

    def strips(
        self,
        blade: Blade,
        s: Array,
        half: Array,
        colour: Colour,
        *,
        t: tuple[Array, Array] | None = None,
        bow: float = 0.0,
    ) -> None:
        """Patches around the centres s, across the whole blade or between the two edges `t`."""
        edges = np.tile([-0.97, 0.97], (len(s), 1)) if t is None else np.stack(t, -1)
        self.paint.patches(blade, np.stack([s - half, s + half], -1), edges, colour, bow)


def colour_of(hue: float, saturation: float, brightness: float) -> Colour:
    """RGB of a hue in turns, a saturation and a brightness from 0 to 1, as animals wear them."""
    # Pure greens and magentas are rare in animals and shout on a screen: those hues are kept duller.
    hue %= 1.0
    # Pure greens and magentas are rare in animals and shout on a screen: those hues are kept duller.
    magentas, greens = (np.exp(-(((hue - centre) / 0.09) ** 2)) for centre in (0.84, 0.36))
    saturation *= 1.0 - 0.50 * float(magentas) - 0.35 * float(greens)
    channels = colorsys.hsv_to_rgb(hue, min(max(saturation, 0.0), 1.0), min(max(brightness, 0.04), 1.0))
    red, green, blue = (round(255 * channel) for channel in channels)
    return red, green, blue


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """`share` of b in a."""
    red, green, blue = (round(x + share * (y - x)) for x, y in zip(a, b, strict=True))
    return red, green, blue
