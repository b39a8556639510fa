"""The body plans of drawn creatures: which parts there are and their proportions before evolution."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Segment:
    """A piece of trunk from x0 (rear) to x1 (front): its half-width and how pointed its ends are."""

    x0: float
    x1: float
    width: float
    rear: float = 0.5
    fore: float = 0.5


@dataclass(frozen=True)
class Plan:
    """A body plan: the proportions that the form traits stretch. Angles in radians from the forward axis."""

    segments: tuple[Segment, ...]  # rear to front; the last one is the head
    lateral: bool = False  # seen from the side: one eye, legs below only, upright in most pictures
    bend: float = 0.3  # how far individuals bend
    size: float = 0.27  # pixels per body unit, as a share of the picture
    legs: int = 0  # pairs
    leg_span: tuple[float, float] = (0.0, 0.0)  # x of the rearmost and the foremost leg
    leg_length: float = 0.0
    hip: float = 0.0  # how far from the spine legs begin
    leg_thickness: float = 0.05
    leg_fan: tuple[float, float] = (2.1, 1.0)  # direction of the rearmost and the foremost leg
    antennae: float = 0.0
    tail: tuple[float, float] = (0.0, 0.0)  # length and half-width
    fleshy_tail: bool = False  # a tail that goes on from the trunk, not one of feathers or fin rays
    wings: tuple[tuple[float, float, float, float], ...] = ()  # x, direction, length, half-width; rear first
    beak: bool = False
    arms: int = 0
    claws: float = 0.0
    fins: bool = False


PLANS: dict[str, Plan] = {
    "beetle": Plan(
        (Segment(-0.85, 0.22, 0.44, 0.55, 0.30), Segment(0.12, 0.52, 0.34), Segment(0.42, 0.74, 0.22)),
        legs=3, leg_span=(-0.1, 0.38), leg_length=0.62, hip=0.26, antennae=0.5, size=0.36,
    ),
    "fish": Plan(
        (Segment(-0.72, 0.86, 0.40, 0.75, 0.55), Segment(0.30, 0.88, 0.25, 0.2, 0.5)),
        lateral=True, tail=(0.50, 0.34), fins=True, bend=0.35, size=0.40,
    ),
    "moth": Plan(
        (Segment(-0.62, 0.12, 0.13), Segment(0.0, 0.36, 0.17), Segment(0.30, 0.50, 0.11)),
        wings=((0.05, 2.15, 0.78, 0.34), (0.22, 1.35, 1.05, 0.36)), antennae=0.42, bend=0.12, size=0.36,
    ),
    "lizard": Plan(
        (Segment(-0.52, 0.45, 0.21, 0.35, 0.35), Segment(0.34, 0.80, 0.17, 0.35, 0.6)),
        legs=2, leg_span=(-0.36, 0.30), leg_length=0.45, hip=0.10, leg_thickness=0.085, leg_fan=(2.2, 0.9),
        tail=(0.95, 0.13), fleshy_tail=True, bend=1.1, size=0.36,
    ),
    "spider": Plan(
        (Segment(-0.82, 0.04, 0.36, 0.45, 0.55), Segment(-0.06, 0.48, 0.26)),
        legs=4, leg_span=(0.05, 0.36), leg_length=0.98, hip=0.14, leg_fan=(2.5, 0.55), bend=0.15, size=0.32,
    ),
    "bird": Plan(
        (Segment(-0.60, 0.50, 0.32, 0.7, 0.5), Segment(0.28, 0.70, 0.20)),
        lateral=True, legs=1, leg_span=(-0.05, 0.05), leg_length=0.42, hip=0.2, leg_thickness=0.06,
        tail=(0.62, 0.14), beak=True, wings=((0.28, 3.05, 0.95, 0.22),), bend=0.3, size=0.39,
    ),
    "crab": Plan(
        (Segment(-0.42, 0.42, 0.58, 0.35, 0.35),),
        legs=4, leg_span=(-0.30, 0.15), leg_length=0.72, hip=0.36, leg_thickness=0.07, leg_fan=(2.2, 1.2),
        claws=0.5, bend=0.1, size=0.34,
    ),
    "myriapod": Plan(
        (Segment(-1.10, 0.92, 0.15, 0.25, 0.20), Segment(0.84, 1.10, 0.15)),
        legs=11, leg_span=(-0.95, 0.80), leg_length=0.26, hip=0.08, leg_fan=(1.9, 1.3), antennae=0.45,
        bend=1.5, size=0.36,
    ),
    "squid": Plan(
        (Segment(-0.95, 0.22, 0.29, 0.75, 0.30), Segment(0.10, 0.46, 0.20)),
        arms=8, fins=True, bend=0.6, size=0.37,
    ),
}  # fmt: skip
