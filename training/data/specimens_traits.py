"""The heritable traits of drawn creatures and how they change along a branch.

Continuous traits are latent numbers that walk like Brownian motion: over a branch of length l at rank r a
trait of group g gains a normal step of variance RATE[g][r] * l. Discrete traits are redrawn with probability
1 - exp(-RATE[g][r] * l). Rates differ by rank: what tells orders apart is the body, what
tells families apart are proportions and organs, genera pattern and palette, species finer details of both.
"""

from dataclasses import dataclass

import numpy as np

RANKS = ("order", "family", "genus", "species")

# Variance per unit of branch length at each rank, by group of continuous traits.
CONTINUOUS_RATES: dict[str, tuple[float, float, float, float]] = {
    "form": (0.45, 0.60, 0.35, 0.25),
    "palette": (0.80, 0.60, 1.00, 0.55),
    "pattern": (0.20, 0.40, 1.00, 0.90),
}

CONTINUOUS_TRAITS: dict[str, str] = {
    # Proportions; a value of 0 is the body plan's own proportion.
    "girth": "form",
    "trunk_front": "form",
    "trunk_back": "form",
    "head_size": "form",
    "head_breadth": "form",
    "leg_length": "form",
    "leg_thickness": "form",
    "leg_spread": "form",
    "leg_knee": "form",
    "antenna_length": "form",
    "antenna_spread": "form",
    "tail_length": "form",
    "tail_breadth": "form",
    "wing_length": "form",
    "wing_breadth": "form",
    "wing_sweep": "form",
    "wing_taper": "form",
    "hindwing": "form",
    "fin_height": "form",
    "fin_place": "form",
    "eye_size": "form",
    "eye_place": "form",
    "ornament_size": "form",
    # Colours.
    "hue": "palette",
    "saturation": "palette",
    "brightness": "palette",
    "pattern_hue": "palette",
    "pattern_contrast": "palette",
    "accent_hue": "palette",
    "limb_shade": "palette",
    "head_shade": "palette",
    "wing_hue": "palette",
    "wing_shade": "palette",
    "belly_shade": "palette",
    # The drawing of the pattern.
    "count": "pattern",
    "width": "pattern",
    "slant": "pattern",
    "start": "pattern",
    "end": "pattern",
    "rows": "pattern",
    "irregularity": "pattern",
    "accent_size": "pattern",
    "accent_place": "pattern",
    "wing_count": "pattern",
    "wing_width": "pattern",
    "wing_place": "pattern",
}

# Chance per unit of branch length that the trait is drawn anew, at each rank.
DISCRETE_RATES: dict[str, tuple[float, float, float, float]] = {
    "body": (1.0, 0.0, 0.0, 0.0),
    "organ": (3.0, 2.0, 0.15, 0.0),
    "marking": (1.0, 1.2, 2.2, 0.25),
    "accent": (1.0, 1.0, 1.5, 1.5),
}

BODY_PLANS = ("beetle", "fish", "moth", "lizard", "spider", "bird", "crab", "myriapod", "squid")

DISCRETE_TRAITS: dict[str, tuple[str, tuple[str, ...]]] = {
    "body_plan": ("body", BODY_PLANS),
    "appendages": ("organ", ("fewer", "usual", "more")),
    "tail": ("organ", ("pointed", "round", "forked", "fan")),
    "wing": ("organ", ("broad", "narrow", "tailed", "scalloped")),
    "antenna": ("organ", ("thread", "clubbed", "feathered", "elbowed")),
    "eye": ("organ", ("round", "slit", "ringed", "stalked")),
    "ornament": ("organ", ("none", "horn", "crest", "jaws")),
    "marking": ("marking", ("bands", "stripes", "spots", "rings", "chevrons", "saddles", "mottle", "net")),
    "wing_marking": ("marking", ("eyespots", "margin", "bands", "veins", "tip")),
    "accent": ("accent", ("none", "collar", "tail_tip", "cap", "midline", "ringed_legs", "shoulder")),
}


@dataclass(frozen=True)
class Traits:
    """Heritable state of one clade: latent values by name, and the state of each discrete trait."""

    continuous: dict[str, float]
    discrete: dict[str, str]

    def vector(self) -> np.ndarray:
        """The latent values in the order of CONTINUOUS_TRAITS, float64 (n,)."""
        return np.array([self.continuous[name] for name in CONTINUOUS_TRAITS])


def ancestor(rng: np.random.Generator) -> Traits:
    """The traits at the root: latent values 0 but a free hue, discrete states drawn."""
    continuous = dict.fromkeys(CONTINUOUS_TRAITS, 0.0)
    continuous["hue"] = float(rng.uniform(-2.0, 2.0))
    discrete = {name: str(rng.choice(states)) for name, (_, states) in DISCRETE_TRAITS.items()}
    return Traits(continuous, discrete)


def descend(parent: Traits, rank: int, branch_length: float, rng: np.random.Generator) -> Traits:
    """The traits after a branch: Brownian steps, and discrete mutations (always to another state)."""
    continuous = {
        name: parent.continuous[name]
        + float(rng.standard_normal()) * float(np.sqrt(CONTINUOUS_RATES[group][rank] * branch_length))
        for name, group in CONTINUOUS_TRAITS.items()
    }
    discrete = {}
    for name, (group, states) in DISCRETE_TRAITS.items():
        # Both draws are made whatever the outcome, so that one mutation does not shift the stream.
        mutates = float(rng.random()) < -np.expm1(-DISCRETE_RATES[group][rank] * branch_length)
        other = str(rng.choice([state for state in states if state != parent.discrete[name]]))
        discrete[name] = other if mutates else parent.discrete[name]
    return Traits(continuous, discrete)
