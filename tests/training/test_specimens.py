"""Drawn specimens: determinism, layout, a true tree, inheritance, resuming, and refusals."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import spearmanr

from training.data import specimens
from training.data.specimens import (
    RANKS,
    SpecimensError,
    Taxonomy,
    generate_specimens,
    species_split,
)
from training.data.specimens_scene import photograph
from training.data.specimens_taxonomy import evolve
from training.data.specimens_traits import BODY_PLANS, DISCRETE_TRAITS, Traits, ancestor, descend

PROJECT = Path(__file__).resolve().parents[2]
SMALL = {"num_species": 5, "images_per_species": 2, "seed": 3, "image_size": 48}


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def images(root: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(root).items() if name.endswith(".jpg")}


def parse_newick(text: str) -> list[tuple[str, list[tuple[int, float]]]]:
    """Leaves, each with (node number, branch length) from the root down: the oracle for distances."""
    # Read backwards a node comes before its children, so the nodes above are known.
    tokens = re.findall(r"[(),]|[^(),;\n]+", text)[::-1]
    above: list[tuple[int, float]] = []
    leaves = []
    for number, (part, following) in enumerate(pairwise([*tokens, ""])):
        if part == "(":
            above.pop()
        elif part not in "),":
            name, _, length = part.partition(":")
            here = (number, float(length or 0.0))
            if following == ")":
                above.append(here)
            else:
                leaves.append((name, [*above, here]))
    return leaves[::-1]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("specimens") / "small"
    generate_specimens(out, **SMALL, num_workers=0)
    return out


# Files


def test_layout_counts_and_pictures(small: Path) -> None:
    taxonomy = Taxonomy.load(small / "taxonomy.json")
    record = json.loads((small / "specimens.json").read_text())
    assert len(taxonomy.species) == 5
    expected = {
        str(Path("images", *species.label_path, f"{n:03d}.jpg")) for species in taxonomy.species for n in range(2)
    }
    assert set(contents(small)) == expected | {"taxonomy.json", "taxonomy.nwk", "specimens.json"}
    assert record["parameters"]["seed"] == 3
    assert record["counts"] == {
        "orders": len(list((small / "images").glob("*"))),
        "families": len(list((small / "images").glob("*/*"))),
        "genera": len(list((small / "images").glob("*/*/*"))),
        "species": 5,
        "images": 10,
    }
    for name in expected:
        with Image.open(small / name) as image:
            assert (image.size, image.mode, image.format) == ((48, 48), "RGB", "JPEG")


def test_bytes_do_not_depend_on_workers(small: Path, tmp_path: Path) -> None:
    generate_specimens(tmp_path / "other", **SMALL, num_workers=2)
    assert contents(tmp_path / "other") == contents(small)


def test_another_seed_is_another_world(small: Path, tmp_path: Path) -> None:
    generate_specimens(tmp_path / "other", **{**SMALL, "seed": 4}, num_workers=1)
    assert not set(images(small).values()) & set(images(tmp_path / "other").values())


def test_more_images_keep_the_ones_there(small: Path, tmp_path: Path) -> None:
    generate_specimens(tmp_path / "more", **{**SMALL, "images_per_species": 3}, num_workers=1)
    more = images(tmp_path / "more")
    assert len(more) == 15
    assert {name: more[name] for name in images(small)} == images(small)
    assert (tmp_path / "more" / "taxonomy.json").read_bytes() == (small / "taxonomy.json").read_bytes()


def test_images_of_a_species_differ_and_agree_more_than_with_other_orders(small: Path) -> None:
    assert len(set(images(small).values())) == 10
    taxonomy = evolve(60, seed=0)
    rng = np.random.default_rng(0)
    one = taxonomy.species[0].traits

    def colours(traits: Traits) -> np.ndarray:
        return np.asarray(photograph(traits, 64, rng), dtype=float).reshape(-1, 3).mean(axis=0)

    # Light and background vary for one species: the mean colour of its pictures is far from constant.
    assert np.std([colours(one) for _ in range(12)], axis=0).min() > 8.0


def test_every_body_plan_and_organ_is_drawn() -> None:
    rng = np.random.default_rng(1)
    for plan in BODY_PLANS:
        for step in range(8):
            traits = descend(ancestor(rng), 0, 3.0, rng)
            # Every state of every discrete trait comes up, whatever the draw.
            states = {name: options[step % len(options)] for name, (_, options) in DISCRETE_TRAITS.items()}
            extreme = {name: value * 3.0 for name, value in traits.continuous.items()}
            picture = np.asarray(photograph(Traits(extreme, {**states, "body_plan": plan}), 64, rng))
            assert picture.shape == (64, 64, 3)
            assert picture.std() > 4.0


def test_interrupted_run_resumes(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, drawn = tmp_path / "out", []

    def fail_at_the_fourth(*args: object) -> Image.Image:
        drawn.append(args)
        if len(drawn) == 4:
            raise KeyboardInterrupt
        return photograph(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(specimens, "photograph", fail_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        generate_specimens(out, **SMALL, num_workers=1)
    assert len(images(out)) == 3
    assert not list(out.rglob("*.partial"))
    # What a killed process or machine may leave besides: an image without bytes, an unfinished file.
    whole = images(out)
    (out / next(iter(whole))).write_bytes(b"")
    broken = next(out / name for name in whole if name.replace("000.jpg", "001.jpg") not in whole)
    broken.with_name("001.jpg.partial").write_bytes(b"half a picture")
    generate_specimens(out, **SMALL, num_workers=1)
    assert len(drawn) == 4 + 8  # seven were missing, one was empty
    assert contents(out) == contents(small)
    generate_specimens(out, **SMALL, num_workers=1)
    assert len(drawn) == 12


def test_killed_parent_leaves_neither_workers_nor_half_images(tmp_path: Path) -> None:
    out = tmp_path / "out"
    call = f"generate_specimens(Path({str(out)!r}), num_species=8, images_per_species=500, image_size=64)"
    script = f"from pathlib import Path; from training.data.specimens import generate_specimens; {call}"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, env=environment) as process:
        patience = time.monotonic() + 30.0
        while not next(out.rglob("*.jpg"), None) and time.monotonic() < patience:
            time.sleep(0.02)
        process.kill()
        # The workers hold the other end of the pipe: it closes when the last of them is gone.
        process.communicate(timeout=10.0)
    assert process.returncode == -signal.SIGKILL
    assert 0 < len(images(out)) < 4000
    for name in images(out):
        with Image.open(out / name) as image:
            image.load()


def test_a_failed_write_leaves_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(image: Image.Image, path: Path) -> None:
        path.write_bytes(b"half a")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(specimens, "_write_jpeg", full_disk)
    with pytest.raises(OSError, match="No space left"):
        generate_specimens(tmp_path / "out", **SMALL, num_workers=1)
    assert not [p for p in (tmp_path / "out" / "images").rglob("*") if p.is_file()]


def test_other_parameters_are_refused_and_nothing_is_touched(small: Path) -> None:
    before = contents(small)
    with pytest.raises(SpecimensError, match=r"seed 3 there, 9 asked for.*another folder"):
        generate_specimens(small, **{**SMALL, "seed": 9}, num_workers=1)
    with pytest.raises(SpecimensError, match="num_species 5 there, 6 asked for"):
        generate_specimens(small, **{**SMALL, "num_species": 6}, num_workers=1)
    assert contents(small) == before


def test_strange_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(SpecimensError, match=r"not empty \(it holds holiday.jpg\)"):
        generate_specimens(tmp_path / "full", **SMALL)
    with pytest.raises(SpecimensError, match="is a file"):
        generate_specimens(tmp_path / "full" / "holiday.jpg", **SMALL)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "specimens.json").write_text('{"generator_version": 1')
    with pytest.raises(SpecimensError, match="not readable as the record"):
        generate_specimens(tmp_path / "broken", **SMALL)
    assert contents(tmp_path / "full") == {"holiday.jpg": b"mine"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_species", 0),
        ("images_per_species", 0),
        ("seed", -1),
        ("num_workers", -1),
        ("image_size", 8),
        ("image_size", 10_000),
    ],
)
def test_bad_parameters_are_named(tmp_path: Path, name: str, value: int) -> None:
    with pytest.raises(SpecimensError, match=f"{name} must .* got {value}"):
        generate_specimens(tmp_path / "out", **{**SMALL, name: value})
    assert not (tmp_path / "out").exists()


def test_one_species(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        taxonomy = generate_specimens(tmp_path / "one", num_species=1, images_per_species=1, image_size=32)
    assert [len(species.label_path) for species in taxonomy.species] == [4]
    assert len(images(tmp_path / "one")) == 1
    assert taxonomy.distance(taxonomy.species[0].name, taxonomy.species[0].name) == 0.0
    assert "specimens_drawn=1 of=1" in caplog.text
    with pytest.raises(ValueError, match="every genus has one species only"):
        species_split(taxonomy)


# The tree


@pytest.fixture(scope="module", params=[0, 7])
def taxonomy(request: pytest.FixtureRequest) -> Taxonomy:
    return evolve(96, seed=request.param)


def test_newick_gives_the_distances_of_the_tree(taxonomy: Taxonomy) -> None:
    leaves = parse_newick(taxonomy.newick())
    assert [name for name, _ in leaves] == [species.name for species in taxonomy.species]
    for a, path_a in leaves[::7]:
        for b, path_b in leaves[::5]:
            apart = set(path_a) ^ set(path_b)
            assert taxonomy.distance(a, b) == pytest.approx(sum(length for _, length in apart), abs=1e-9)


def test_tree_is_unequal_named_once_and_not_ultrametric(taxonomy: Taxonomy) -> None:
    species = taxonomy.species
    assert len({one.name for one in species}) == len({one.label_path for one in species}) == 96
    assert all(one.name.startswith(one.label_path[2] + "_") for one in species)
    for depth in range(1, 4):
        sizes = np.unique([one.label_path[:depth] for one in species], axis=0, return_counts=True)[1]
        assert len({one.label_path[depth - 1] for one in species}) == len(sizes)
        assert sizes.min() < sizes.max()
    assert len({order.traits.discrete["body_plan"] for order in taxonomy.orders}) == len(taxonomy.orders)
    heights = [sum(length for _, length in path) for _, path in parse_newick(taxonomy.newick())]
    assert np.std(heights) > 0.1
    with pytest.raises(KeyError, match="no species 'Homo_sapiens'"):
        taxonomy.distance("Homo_sapiens", species[0].name)


def test_relatives_are_nearer_and_alike(taxonomy: Taxonomy) -> None:
    species = taxonomy.species
    tree, traits, discrete, shared = [], [], [], []
    for i, a in enumerate(species):
        for b in species[:i]:
            tree.append(taxonomy.distance(a.name, b.name))
            traits.append(float(np.linalg.norm(a.traits.vector() - b.traits.vector())))
            discrete.append(sum(a.traits.discrete[name] != b.traits.discrete[name] for name in DISCRETE_TRAITS))
            shared.append(sum(x == y for x, y in zip(a.label_path, b.label_path, strict=True)))
    ranks = np.array(shared)
    for values in (tree, traits, discrete):
        # Strangers, same order, same family, same genus: nearer on the mean at every step.
        means = [np.array(values)[ranks == rank].mean() for rank in range(len(RANKS))]
        assert all(far > near for far, near in pairwise(means))
    # Traits walk along the tree, so they tell it, with the scatter of one realisation of the walk.
    assert spearmanr(tree, traits).statistic > 0.5
    # Discrete states saturate between orders, where most have changed at least once.
    assert spearmanr(tree, discrete).statistic > 0.35


def test_brownian_steps_have_the_stated_variance() -> None:
    rng = np.random.default_rng(5)
    parent = ancestor(rng)
    steps = np.array([descend(parent, 2, 0.35, rng).vector() - parent.vector() for _ in range(600)])
    hue, form = list(parent.continuous).index("hue"), list(parent.continuous).index("girth")
    # 1.00 * 0.35 and 0.35 * 0.35; the variance of 600 normal steps errs by 6 % (one sigma).
    assert steps[:, hue].var() == pytest.approx(0.35, rel=0.25)
    assert steps[:, form].var() == pytest.approx(0.1225, rel=0.25)
    changed = np.mean(
        [descend(parent, 2, 0.35, rng).discrete["marking"] != parent.discrete["marking"] for _ in range(600)]
    )
    assert changed == pytest.approx(1.0 - np.exp(-2.2 * 0.35), abs=0.08)


def test_save_and_load_give_an_equal_tree(taxonomy: Taxonomy, tmp_path: Path) -> None:
    taxonomy.save(tmp_path / "taxonomy.json")
    assert Taxonomy.load(tmp_path / "taxonomy.json") == taxonomy


@pytest.mark.parametrize("num_species", [2, 3, 17, 400])
def test_any_number_of_species(num_species: int) -> None:
    assert len({species.label_path for species in evolve(num_species, seed=1).species}) == num_species


def test_split_leaves_every_unseen_species_a_seen_sibling(taxonomy: Taxonomy) -> None:
    seen, unseen = species_split(taxonomy, held_out=0.5, seed=2)
    assert len(unseen) == 48
    assert sorted(s.name for s in (*seen, *unseen)) == sorted(s.name for s in taxonomy.species)
    assert {s.label_path[:3] for s in unseen} <= {s.label_path[:3] for s in seen}
    assert species_split(taxonomy, held_out=0.5, seed=2)[1] == unseen
    assert species_split(taxonomy, held_out=0.5, seed=3)[1] != unseen
    assert len(species_split(taxonomy, held_out=0.1)[1]) == 10
    for share in (0.0, 1.0):
        with pytest.raises(ValueError, match="held_out must lie between 0 and 1"):
            species_split(taxonomy, held_out=share)
