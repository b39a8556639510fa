"""The evolved taxonomy of the drawn creatures: the tree, its branch lengths, names and traits."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from training.data.specimens_traits import BODY_PLANS, RANKS, Traits, ancestor, descend

# Mean number of children of a family, an order and the root's orders, and mean branch length by rank.
SPECIES_PER_GENUS = 4.0
GENERA_PER_FAMILY = 2.5
FAMILIES_PER_ORDER = 1.7
MEAN_BRANCH = (1.0, 0.6, 0.35, 0.2)
BRANCH_SHAPE = 6.0  # of the gamma distribution: coefficient of variation 0.41

ONSETS = (
    "b", "c", "d", "f", "g", "l", "m", "n", "p", "r", "s", "t", "v", "br", "cr", "dr", "gl", "phr",
    "pl", "pr", "sc", "st", "th", "tr", "x", "z",
)  # fmt: skip
CODAS = ("b", "c", "d", "l", "m", "n", "p", "r", "s", "t", "x", "nth", "rm", "st", "lc", "mn")
VOWELS = ("a", "e", "i", "o", "u", "ae", "eu")
GENUS_ENDINGS = ("us", "a", "is", "ops", "ella", "odes", "ina")
ORDER_ENDINGS = ("iformes", "ptera", "morpha", "ales", "oidea")
EPITHETS = (
    "alpina", "amabilis", "arenaria", "armata", "borealis", "caerulea", "cincta", "communis",
    "cornuta", "dives", "elegans", "fasciata", "fulva", "gracilis", "guttata", "hirta", "insignis",
    "juncea", "lineata", "littoralis", "lucida", "maculata", "marginata", "minor", "mirabilis",
    "nigra", "nobilis", "ocellata", "ornata", "palustris", "picta", "pulchra", "punctata",
    "reticulata", "robusta", "rubra", "silvestris", "tessellata", "tristis", "undulata", "vagans",
    "velox", "viridis", "vulgaris",
)  # fmt: skip


@dataclass(frozen=True)
class Clade:
    """A node of the tree: its rank, the length of the branch above it, its traits and its children."""

    name: str
    rank: str
    branch_length: float
    traits: Traits
    children: tuple["Clade", ...] = ()


@dataclass(frozen=True)
class Species:
    """A leaf: its name, its label path (order, family, genus, species) and its traits."""

    name: str
    label_path: tuple[str, ...]
    traits: Traits


@dataclass(frozen=True)
class Taxonomy:
    """A tree of life in four ranks with known branch lengths.

    Branch lengths are evolutionary change, not time: the variance a continuous trait gains on a branch is its
    group's rate times the length (see specimens_traits). The tree is therefore not ultrametric, as a tree
    estimated from data is not either.
    """

    orders: tuple[Clade, ...]
    _lineages: dict[str, tuple[Clade, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        lineages = {lineage[-1].name: lineage for order in self.orders for lineage in _lineages(order)}
        object.__setattr__(self, "_lineages", lineages)

    @cached_property
    def species(self) -> list[Species]:
        """All species, in the order of the tree."""
        return [
            Species(name, tuple(clade.name for clade in lineage), lineage[-1].traits)
            for name, lineage in self._lineages.items()
        ]

    def distance(self, a: str, b: str) -> float:
        """Patristic distance of two species by name: the sum of the branch lengths on the way from a to b.

        Raises KeyError for a name that is no species of this taxonomy.
        """
        lineage_a, lineage_b = self._lineage(a), self._lineage(b)
        shared = 0
        while shared < len(lineage_a) and lineage_a[shared] is lineage_b[shared]:
            shared += 1
        return float(sum(clade.branch_length for clade in (*lineage_a[shared:], *lineage_b[shared:])))

    def _lineage(self, name: str) -> tuple[Clade, ...]:
        try:
            return self._lineages[name]
        except KeyError:
            message = f"no species {name!r} in this taxonomy of {len(self._lineages)}: give a name such as "
            raise KeyError(message + repr(next(iter(self._lineages), "(none)"))) from None

    def newick(self) -> str:
        """The tree in Newick format with branch lengths and names at every node, as one line."""
        return "(" + ",".join(_newick(order) for order in self.orders) + ")root;"

    def save(self, path: Path) -> None:
        """Write the tree with branch lengths and traits as JSON; `load` returns an equal taxonomy."""
        tree = {"ranks": list(RANKS), "orders": [_as_json(order) for order in self.orders]}
        path.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Taxonomy":
        """Read what `save` wrote."""
        tree = json.loads(path.read_text(encoding="utf-8"))
        return cls(tuple(_from_json(order, 0) for order in tree["orders"]))


def evolve(num_species: int, seed: int) -> Taxonomy:
    """Draw a tree of `num_species` species and let traits evolve along it; deterministic."""
    topology, names, traits = (
        np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0, stream))) for stream in range(3)
    )
    num_genera = max(1, round(num_species / SPECIES_PER_GENUS))
    num_families = max(1, round(num_genera / GENERA_PER_FAMILY))
    num_orders = max(1, round(num_families / FAMILIES_PER_ORDER))
    # sizes[rank][i] is the number of children of the i-th clade of that rank.
    sizes = [
        _unequal_shares(num_families, num_orders, topology),
        _unequal_shares(num_genera, num_families, topology),
        _unequal_shares(num_species, num_genera, topology),
    ]
    offsets = [np.concatenate([[0], np.cumsum(size)]) for size in sizes]
    genus_stems = _stems(num_genera, names)
    genus_names = [stem + str(names.choice(GENUS_ENDINGS)) for stem in genus_stems]
    order_names = [stem + str(names.choice(ORDER_ENDINGS)) for stem in _stems(num_orders, names)]
    # Orders radiate into different ways of life: no body plan comes twice before each has come once.
    plans = [p for _ in range(-(-num_orders // len(BODY_PLANS))) for p in traits.permutation(BODY_PLANS)]

    def grow(rank: int, index: int, parent: Traits, parent_name: str) -> Clade:
        shape = BRANCH_SHAPE
        branch_length = round(float(topology.gamma(shape, MEAN_BRANCH[rank] / shape)), 6)
        own = descend(parent, rank, branch_length, traits)
        if rank == 0:
            own = Traits(own.continuous, {**own.discrete, "body_plan": str(plans[index])})
        if rank == 3:
            return Clade(parent_name, RANKS[rank], branch_length, own)
        first, last = int(offsets[rank][index]), int(offsets[rank][index + 1])
        if rank == 0:
            name = order_names[index]
            child_names = [""] * (last - first)
        elif rank == 1:
            # As in zoology, a family is named after its type genus, the first one.
            name = genus_stems[first] + "idae"
            child_names = [""] * (last - first)
        else:
            name = genus_names[index]
            child_names = [f"{name}_{epithet}" for epithet in _epithets(last - first, names)]
        children = tuple(
            grow(rank + 1, child, own, child_name)
            for child, child_name in zip(range(first, last), child_names, strict=True)
        )
        return Clade(name, RANKS[rank], branch_length, own, children)

    root = ancestor(traits)
    return Taxonomy(tuple(grow(0, index, root, "") for index in range(num_orders)))


def species_split(taxonomy: Taxonomy, held_out: float = 0.5, seed: int = 0) -> tuple[list[Species], list[Species]]:
    """Split the species into (seen, unseen) so that every unseen species has a seen sibling in its genus.

    The question this split asks is that of the field: a new species of a known genus turns up. Each genus
    gives about the share `held_out` of its species and keeps at least one; species alone in their genus are
    seen. So `round(held_out * n)` species are unseen, fewer only where the genera cannot give as many.

    Raises ValueError unless 0 < held_out < 1 and some genus has two species.
    """
    if not 0.0 < held_out < 1.0:
        raise ValueError(f"held_out must lie between 0 and 1, both excluded, got {held_out}")
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2,)))
    genera: dict[tuple[str, ...], list[Species]] = {}
    for species in taxonomy.species:
        genera.setdefault(species.label_path[:-1], []).append(species)
    # Sorting by the share of its genus already taken draws evenly from large and small genera.
    candidates: list[tuple[float, str]] = []
    for members in genera.values():
        shuffled = [members[i] for i in rng.permutation(len(members))]
        candidates += [
            ((taken + float(rng.random())) / len(members), species.name) for taken, species in enumerate(shuffled[:-1])
        ]
    if not candidates:
        raise ValueError("every genus has one species only, so none can be unseen with a seen sibling: "
                         "generate more species")  # fmt: skip
    count = max(1, round(held_out * len(taxonomy.species)))
    unseen_names = {name for _, name in sorted(candidates)[:count]}
    seen = [species for species in taxonomy.species if species.name not in unseen_names]
    return seen, [species for species in taxonomy.species if species.name in unseen_names]


def _unequal_shares(total: int, parents: int, rng: np.random.Generator) -> np.ndarray:
    """Children of each parent, at least one each: an urn in which the large grow faster, as clades do."""
    counts = np.ones(parents, dtype=np.int64)
    for _ in range(total - parents):
        weights = counts + 1.0
        counts[rng.choice(parents, p=weights / weights.sum())] += 1
    return counts


def _stems(count: int, rng: np.random.Generator) -> list[str]:
    """Latin-like capitalised stems, each once."""
    stems: dict[str, None] = {}
    while len(stems) < count:
        # A third syllable now and then, and always once the short ones become rare.
        syllables = 1 + int(rng.random() < 0.25) + int(len(stems) > 2000)
        opening = "".join(str(rng.choice(ONSETS)) + str(rng.choice(VOWELS)) for _ in range(syllables))
        stems[(opening + str(rng.choice(CODAS))).capitalize()] = None
    return list(stems)


def _epithets(count: int, rng: np.random.Generator) -> list[str]:
    shuffled = [EPITHETS[i] for i in rng.permutation(len(EPITHETS))]
    # A genus with more species than epithets goes on with subdivided ones: "pseudopicta", "pseudo2picta", ...
    prefixes = ["", "pseudo", *(f"pseudo{n}" for n in range(2, 2 + count // len(EPITHETS)))]
    return [prefixes[i // len(EPITHETS)] + shuffled[i % len(EPITHETS)] for i in range(count)]


def _lineages(clade: Clade, above: tuple[Clade, ...] = ()) -> Iterator[tuple[Clade, ...]]:
    here = (*above, clade)
    if not clade.children:
        yield here
    for child in clade.children:
        yield from _lineages(child, here)


def _newick(clade: Clade) -> str:
    inside = "(" + ",".join(_newick(child) for child in clade.children) + ")" if clade.children else ""
    return f"{inside}{clade.name}:{clade.branch_length:.6f}"


def _as_json(clade: Clade) -> dict[str, Any]:
    node: dict[str, Any] = {
        "name": clade.name,
        "branch_length": clade.branch_length,
        "traits": {**clade.traits.discrete, **clade.traits.continuous},
    }
    if clade.children:
        node["children"] = [_as_json(child) for child in clade.children]
    return node


def _from_json(node: dict[str, Any], rank: int) -> Clade:
    traits = node["traits"]
    return Clade(
        node["name"],
        RANKS[rank],
        float(node["branch_length"]),
        Traits(
            {name: value for name, value in traits.items() if not isinstance(value, str)},
            {name: value for name, value in traits.items() if isinstance(value, str)},
        ),
        tuple(_from_json(child, rank + 1) for child in node.get("children", [])),
    )
