"""The organs of drawn creatures: limbs, wings, fins, antennae and the like."""

import numpy as np

from training.data.specimens_canvas import Blade
from training.data.specimens_individual import Individual, mix

# How pointed the two ends of the blade are, its breadth, and the waves of its edge.
WING_SHAPES = {
    "broad": (0.55, 0.35, 1.15, 0.0),
    "narrow": (0.50, 0.55, 0.72, 0.0),
    "tailed": (0.45, 0.95, 1.00, 0.0),
    "scalloped": (0.60, 0.35, 1.10, 0.22),
}


def draw_wings(creature: Individual) -> None:
    """Pairs of wings from above, or the folded wing of a side view."""
    sweep = 0.4 * float(np.tanh(creature.latent["wing_sweep"]))
    lift = float(creature.rng.normal(0.0, 0.12))
    front, back, widening, scallop = WING_SHAPES[creature.kind["wing"]]
    for number, (x, direction, usual_length, width) in enumerate(creature.plan.wings):
        rear = number == 0 and len(creature.plan.wings) > 1
        length = usual_length * creature.ratio("wing_length", 0.22)
        if rear:
            length *= creature.ratio("hindwing", 0.25)
        breadth = width * creature.ratio("wing_breadth", 0.3) * widening
        turn = direction - sweep * (0.15 if creature.plan.lateral else 1.0) + lift * (0.5 if rear else 1.0)
        colour = mix(creature.wing, creature.base, 0.5) if rear else creature.wing
        for side in (1.0,) if creature.plan.lateral else (1.0, -1.0):
            tip = (x + length * float(np.cos(turn)), side * length * float(np.sin(turn)))
            taper = creature.ratio("wing_taper", 0.5)
            blade = Blade((x, 0.0), tip, breadth, 1.2 * front, back * taper, 0.06 * side, scallop)
            creature.paint.blade(blade, colour, creature.line)
            creature.wing_marking(blade)


def draw_legs(creature: Individual) -> None:
    """Walking legs, in pairs from above, below only from the side; their phase differs per picture."""
    plan = creature.plan
    if not plan.legs:
        return
    step = {"fewer": -1, "usual": 0, "more": 1}[creature.kind["appendages"]]
    pairs = plan.legs
    if plan.legs > 2:
        pairs += 3 * step if plan.legs > 6 else step
    length = plan.leg_length * creature.ratio("leg_length", 0.35)
    thick = plan.leg_thickness * creature.ratio("leg_thickness", 0.5)
    hip = plan.hip * creature.ratio("girth", 0.38)
    knee = creature.value("leg_knee", 0.25, 0.75)
    bent = creature.value("leg_spread", 0.35, 1.25)
    phase = float(creature.rng.uniform(0.0, 2.0 * np.pi))
    foot_colour = creature.accent if creature.kind["accent"] == "ringed_legs" else creature.limb
    for number in range(pairs):
        share = number / (pairs - 1) if pairs > 1 else 0.5
        x = plan.leg_span[0] + share * (plan.leg_span[1] - plan.leg_span[0])
        direction = plan.leg_fan[0] + share * (plan.leg_fan[1] - plan.leg_fan[0])
        for side in (1.0, -1.0):
            swing = 0.16 * float(np.sin(phase + 2.4 * number + (0.0 if side > 0 else np.pi)))
            turn = direction + swing
            flare = bent if share < 0.5 else -bent  # rear legs point back below the knee, front legs forward
            if plan.lateral:
                turn, flare, x_side, y_side = 1.75 + 2.2 * swing, 0.3 * bent, x + 0.06 * side, -1.0
            else:
                x_side, y_side = x, side
            joints = [(x_side, hip * y_side)]
            for part, angle in ((knee, turn - 0.3 * flare), (1.0 - knee, turn + 0.5 * flare)):
                px, py = joints[-1]
                joints.append((px + length * part * float(np.cos(angle)),
                               py + y_side * length * part * float(np.sin(angle))))  # fmt: skip
            px, py = joints[-1]
            joints.append((px + 0.10 * length, py + 0.04 * length * y_side))
            shades = (creature.limb, foot_colour, mix(creature.limb, creature.line, 0.5))
            creature.paint.limb(joints, (thick, 0.75 * thick, 0.5 * thick), shades)


def draw_arms(creature: Individual) -> None:
    """The arms of a squid, waving forward."""
    if not creature.plan.arms:
        return
    count = creature.plan.arms + {"fewer": -2, "usual": 0, "more": 2}[creature.kind["appendages"]]
    length = 0.62 * creature.ratio("leg_length", 0.4)
    phase = float(creature.rng.uniform(0.0, 2.0 * np.pi))
    wave = 0.10 * creature.ratio("leg_spread", 0.6)
    u = np.linspace(0.0, 1.0, 9)
    ringed = creature.kind["accent"] == "ringed_legs"
    tip = creature.accent if ringed else mix(creature.limb, creature.line, 0.35)
    for number in range(count):
        side = 2.0 * number / (count - 1) - 1.0
        y = 0.16 * side + 0.42 * side * length * u + wave * u * np.sin(5.0 * u + phase + 1.7 * number)
        points = np.stack([0.36 + length * (1.0 - 0.25 * abs(side)) * u, y], axis=-1)
        thick = 0.085 * creature.ratio("leg_thickness", 0.4)
        creature.paint.curve(points, thick, creature.limb)
        creature.paint.curve(points[5:], 0.6 * thick, tip)


def draw_claws(creature: Individual) -> None:
    """A crab's pair of claws."""
    if not creature.plan.claws:
        return
    reach = creature.plan.claws * creature.ratio("wing_length", 0.35)
    broad = 0.17 * creature.ratio("wing_breadth", 0.5)
    for side in (1.0, -1.0):
        open_ = float(creature.rng.uniform(0.15, 0.4))
        elbow, wrist = (0.30, 0.62 * side), (0.52, 0.78 * side)
        creature.paint.limb([(0.1, 0.4 * side), elbow, wrist], (0.12, 0.12), (creature.limb, creature.limb))
        for turn, wide in ((open_, 1.0), (-open_, 0.6)):
            angle = side * (turn - 0.25)
            tip = (wrist[0] + reach * float(np.cos(angle)), wrist[1] + reach * float(np.sin(angle)))
            blade = Blade(wrist, tip, broad * wide, 0.5, 0.8, 0.1 * side)
            creature.paint.blade(blade, creature.head, creature.line)
            if creature.kind["accent"] in ("tail_tip", "ringed_legs"):
                creature.patch(blade, 0.7, 0.99, (-0.9, 0.9), creature.accent)


def draw_tail(creature: Individual, rear: Blade) -> None:
    """A tail: tapering, or one of four fins or fans."""
    length, width = creature.plan.tail
    if not length:
        return
    length *= creature.ratio("tail_length", 0.4)
    width *= creature.ratio("tail_breadth", 0.45)
    start = rear.base[0] + 0.16
    curve = 0.10 * float(creature.rng.normal())
    style = creature.kind["tail"]
    fleshy = creature.plan.fleshy_tail
    if fleshy:
        parts = [(0.0, 1.0, width, 0.12, {"pointed": 1.0, "round": 0.35, "forked": 0.7, "fan": 0.5}[style])]
    elif style == "forked":
        parts = [(0.42, 1.0, 0.35 * width, 0.6, 0.9), (-0.42, 1.0, 0.35 * width, 0.6, 0.9)]
    elif style == "fan":
        parts = [(turn, 1.0, 0.3 * width, 0.8, 0.4) for turn in (-0.45, -0.15, 0.15, 0.45)]
    else:
        parts = [(0.0, 1.0, width, 1.3, 0.25 if style == "round" else 0.8)]
    for turn, share, wide, front, back in parts:
        tip = (start - length * share * float(np.cos(turn)), length * share * float(np.sin(turn)))
        blade = Blade((start, 0.0), tip, wide, front, back, curve)
        creature.paint.blade(blade, creature.base if fleshy else creature.wing, creature.line)
        if fleshy:
            n = round(creature.value("count", 2.6, 9.4))
            creature.strips(blade, np.linspace(0.15, 0.9, n), np.full(n, 0.2 / n), creature.pattern)
        else:
            creature.wing_marking(blade)
        if creature.kind["accent"] == "tail_tip":
            creature.patch(blade, 0.72, 0.99, (-0.99, 0.99), creature.accent)


def draw_fins(creature: Individual, trunk: Blade, girth: float) -> None:
    """Dorsal and anal fins of a fish, the pair of rear fins of a squid."""
    if not creature.plan.fins:
        return
    height = 0.20 * creature.ratio("fin_height", 0.6)
    place = creature.value("fin_place", -0.25, 0.30)
    broad = 0.125 * creature.ratio("wing_breadth", 0.4)
    if creature.plan.lateral:
        top, stretch = trunk.width, 0.30 * creature.ratio("wing_length", 0.4)
        pieces = [((place + stretch, 0.6 * top), (place - stretch - 0.12, 0.75 * top + height)),
                  ((0.0, -0.75 * top), (-0.45, -0.5 * top - height))]  # fmt: skip
    else:
        pieces = [((-0.50 + 0.5 * place, 0.1 * side), (-0.82 + 0.5 * place, side * (0.35 * girth + height)))
                  for side in (1.0, -1.0)]  # fmt: skip
    for base, tip in pieces:
        blade = Blade(base, tip, broad, 0.5, 0.25 + 0.25 * creature.ratio("wing_taper", 0.6))
        creature.paint.blade(blade, creature.wing, creature.line)
        creature.wing_marking(blade)


def draw_antennae(creature: Individual, head: Blade) -> None:
    """A pair of antennae: thread, clubbed, feathered or elbowed."""
    if not creature.plan.antennae:
        return
    length = creature.plan.antennae * creature.ratio("antenna_length", 0.5)
    spread = creature.value("antenna_spread", 0.25, 1.0) + float(creature.rng.normal(0.0, 0.08))
    style = creature.kind["antenna"]
    u = np.linspace(0.0, 1.0, 7)
    for side in (1.0, -1.0):
        turn = spread * (1.0 - 0.5 * u) if style != "elbowed" else np.where(u < 0.4, 1.6 * spread, 0.2)
        steps = np.stack([np.cos(turn), side * np.sin(turn)], axis=-1) * length / 6.0
        points = np.array([head.tip[0] - 0.06, 0.05 * side]) + np.concatenate([np.zeros((1, 2)), steps[1:].cumsum(0)])
        creature.paint.curve(points, 0.025, creature.limb)
        if style == "clubbed":
            creature.paint.disc(float(points[-1, 0]), float(points[-1, 1]), 0.055, creature.limb)
        elif style == "feathered":
            for x, y in points[2:].tolist():
                barb = [(x - 0.03, y + 0.10), (x, y), (x - 0.03, y - 0.10)]
                creature.paint.limb(barb, (0.016, 0.016), (creature.limb, creature.limb))


def draw_ornament(creature: Individual, head: Blade) -> None:
    """A horn, a crest, jaws or a snout; and the beak every bird has."""
    style, size = creature.kind["ornament"], creature.ratio("ornament_size", 0.5)
    front, width = head.tip[0], min(head.width, 0.3)
    if creature.plan.beak:
        length, depth = (
            0.24 * creature.ratio("antenna_length", 0.6),
            0.065 * creature.ratio("antenna_spread", 0.4),
        )
        beak = Blade((front - 0.08, 0.0), (front + length, -0.04), depth, 0.3, 0.9)
        creature.paint.blade(beak, creature.accent, creature.line)
    if style == "horn":
        horn = Blade((front - 0.1, 0.0), (front + 0.26 * size, 0.10), 0.06, 0.3, 0.9, 0.15)
        creature.paint.blade(horn, creature.limb, creature.line)
    elif style == "crest":
        for side in (1.0,) if creature.plan.lateral else (1.0, -1.0):
            tip = (head.base[0] - 0.05, side * (width + 0.16 * size))
            crest = Blade((head.base[0] + 0.2, side * width * 0.5), tip, 0.09 * size)
            creature.paint.blade(crest, creature.accent, creature.line)
    elif style == "jaws" and (creature.plan.lateral or creature.plan.legs == 2):
        # Vertebrates have a snout where arthropods have jaws.
        snout = Blade((front - 0.15, 0.0), (front + 0.16 * size, -0.02), 0.45 * width, 0.3, 0.5)
        creature.paint.blade(snout, creature.head, creature.line)
    elif style == "jaws":
        for side in (1.0, -1.0):
            tip = (front + 0.2 * size, 0.2 * side * width)
            jaw = Blade((front - 0.08, 0.5 * side * width), tip, 0.035, 0.4, 0.9, 0.18 * side)
            creature.paint.blade(jaw, creature.limb, creature.line)


def draw_eyes(creature: Individual, head: Blade) -> None:
    """Eyes: round, slit, ringed or on stalks."""
    style, radius = creature.kind["eye"], 0.055 * creature.ratio("eye_size", 0.45)
    if head.width < 0.13:
        radius *= 0.75
    place = creature.value("eye_place", 0.45, 0.78)
    x = head.base[0] + place * (head.tip[0] - head.base[0])
    for side in (1.0,) if creature.plan.lateral else (1.0, -1.0):
        y = side * head.width * (0.25 if creature.plan.lateral else 0.62)
        eye_x = x
        if style == "stalked" and not creature.plan.lateral:
            eye_x, y = x + 0.12, y * 1.25
            creature.paint.limb([(x, 0.7 * y), (eye_x, y)], (0.035,), (creature.head,))
        rim = creature.accent if style == "ringed" else (236, 232, 214)
        creature.paint.disc(eye_x, y, 1.35 * radius if style == "ringed" else radius, rim)
        creature.paint.disc(eye_x + 0.2 * radius, y, 0.68 * radius, (18, 16, 20), 1.0 if style != "slit" else 0.4)
