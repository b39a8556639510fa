"""One drawn creature: traits in, a transparent picture out; poses and layers."""

import numpy as np
from PIL import Image

from training.data.specimens_canvas import Blade, Frame, Painter
from training.data.specimens_individual import Individual, mix
from training.data.specimens_organs import (
    draw_antennae,
    draw_arms,
    draw_claws,
    draw_eyes,
    draw_fins,
    draw_legs,
    draw_ornament,
    draw_tail,
    draw_wings,
)
from training.data.specimens_plans import PLANS
from training.data.specimens_traits import Traits

SUPERSAMPLING = 3


def draw_creature(traits: Traits, size: int, rng: np.random.Generator) -> Image.Image:
    """One individual on a transparent picture of size x size (RGBA); pose and small variation from `rng`."""
    plan = PLANS[traits.discrete["body_plan"]]
    side = size * SUPERSAMPLING
    canvas = Image.new("RGBA", (side, side))
    angle = float(rng.normal(0.0, 0.28) if plan.lateral else rng.uniform(0.0, 2.0 * np.pi))
    frame = Frame(
        centre=(side * float(rng.normal(0.5, 0.05)), side * float(rng.normal(0.5, 0.05))),
        scale=side * plan.size * float(np.exp(rng.normal(-0.05, 0.16))),
        angle=angle,
        bend=plan.bend * float(np.clip(rng.normal(0.0, 0.5), -1.0, 1.0)),
        sway=plan.bend * float(np.clip(rng.normal(0.0, 0.4), -0.8, 0.8)),
        flip=bool(rng.random() < 0.5),
    )
    _draw_parts(Individual(traits, plan, Painter(canvas, frame), rng))
    return canvas.reduce(SUPERSAMPLING)


def _draw_parts(creature: Individual) -> None:
    """Draw every part, from the rear layer to the front one."""
    plan = creature.plan
    girth = creature.ratio("girth", 0.38)
    head_size, head_breadth = creature.ratio("head_size", 0.3), creature.ratio("head_breadth", 0.3)
    *trunk, head = [
        Blade(
            (segment.x0, 0.0),
            (segment.x1, 0.0),
            segment.width * girth,
            segment.rear * creature.ratio("trunk_back", 0.5),
            segment.fore * creature.ratio("trunk_front", 0.5),
        )
        for segment in plan.segments
    ]
    if trunk:
        last = plan.segments[-1]
        middle, half = (last.x0 + last.x1) / 2.0, (last.x1 - last.x0) / 2.0 * head_size
        head = Blade(
            (middle - half * 0.9, 0.0),
            (middle + half * 1.1, 0.0),
            last.width * head_size * head_breadth * girth**0.5,
            last.rear,
            last.fore,
        )
    body = trunk or [head]
    draw_legs(creature)
    draw_arms(creature)
    draw_claws(creature)
    draw_tail(creature, body[0])
    draw_fins(creature, body[0], girth)
    if not plan.lateral:
        draw_wings(creature)
    draw_antennae(creature, head)
    draw_ornament(creature, head)
    for number, blade in enumerate(body):
        _draw_trunk(creature, blade, main=number == 0)
    if trunk:
        creature.paint.blade(head, creature.head, creature.line)
        if creature.kind["accent"] == "cap":
            back = 0.5 - 0.3 * creature.value("accent_size", 0.2, 1.0)
            creature.patch(head, back, 0.98, (-0.8, 0.8), creature.accent)
    if plan.lateral:
        draw_wings(creature)
    draw_eyes(creature, head)


def _draw_trunk(creature: Individual, blade: Blade, *, main: bool) -> None:
    """A trunk segment with belly, marking and accents."""
    creature.paint.blade(blade, creature.base, creature.line)
    if creature.plan.lateral:
        creature.patch(blade, 0.04, 0.96, (-0.96, -0.45), creature.belly)
    if main:
        creature.marking(blade)
    else:
        creature.patch(blade, 0.2, 0.8, (-0.75, 0.75), mix(creature.base, creature.head, 0.6))
    accent, place = creature.kind["accent"], creature.value("accent_place", 0.15, 0.85)
    width = creature.value("accent_size", 0.03, 0.11)
    if accent == "collar" and main:
        creature.patch(blade, 0.9 - 2.0 * width, 0.9, (-0.97, 0.97), creature.accent)
    elif accent == "midline":
        creature.patch(blade, 0.03, 0.97, (-1.6 * width, 1.6 * width), creature.accent)
    elif accent == "shoulder" and main:
        centres, radius = (np.full(2, place), np.array([0.55, -0.55])), np.full(2, 0.5 * width + 0.04)
        creature.paint.spots(blade, centres, (radius, radius * 4.0), creature.accent)
    elif accent == "tail_tip" and main:
        creature.patch(blade, 0.01, 0.06 + 1.2 * width, (-1.0, 1.0), creature.accent)
