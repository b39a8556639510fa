"""Recipes: complete, typed, and unforgiving of typos."""

from pathlib import Path

import pytest

from training.recipe import RECIPES, RecipeError, dump_recipe, load_recipe

SHIPPED = sorted(path.stem for path in RECIPES.glob("*.toml"))


def test_the_recipes_that_the_readme_names_ship() -> None:
    assert {
        "grocery-lhier-128", "grocery-lhier-128-hierarchy", "grocery-hier-128", "folder-lhier-128",
        "specimens-lhier-128",
    } <= set(SHIPPED)  # fmt: skip


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipe_loads_and_survives_a_round_trip(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    copy = tmp_path / "copy.toml"
    copy.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(copy) == recipe


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optimiser.lrr=1e-5", r"optimiser.lrr: no such key, did you mean 'lr'"),
        ("optimizer.lr=1e-5", r"optimizer: no such key, did you mean 'optimiser'"),
        ("loss.pairwise.temprature=1", r"loss.pairwise.temprature: no such key, did you mean 'temperature'"),
        ("train.steps=many", r"train.steps.*epochs"),
        ("model.curvature=-1", r"model.curvature: .*greater than 0"),
        ("model.geometry=spherical", r"model.geometry: .*'lorentz'"),
        ("seed", r"expected key=value"),
        ("name.first=1", r"name is a value, not a section"),
    ],
)
def test_a_wrong_key_or_value_is_named(override: str, expected: str) -> None:
    with pytest.raises(RecipeError, match=expected):
        load_recipe("grocery-lhier-128", (override,))


def test_overrides_are_typed() -> None:
    recipe = load_recipe(
        "grocery-lhier-128", ("optimiser.lr=2e-5", "seed=7", "model.learn_curvature=true", "data.root=/some/where")
    )
    assert recipe.optimiser.lr == 2e-5
    assert (recipe.seed, recipe.model.learn_curvature, recipe.data.root) == (7, True, "/some/where")


def test_unknown_recipe_lists_those_that_ship() -> None:
    with pytest.raises(RecipeError, match="grocery-lhier-128"):
        load_recipe("grocery-lheir-128")


def test_broken_toml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("seed = = 3")
    with pytest.raises(RecipeError, match=r"broken\.toml is not TOML"):
        load_recipe(path)


def test_a_recipe_without_a_metric_loss_is_refused(tmp_path: Path) -> None:
    text = dump_recipe(load_recipe("grocery-proxyanchor-128"))
    path = tmp_path / "none.toml"
    path.write_text(text[: text.index("[loss.proxy_anchor]")] + text[text.index("[selection]") :])
    with pytest.raises(RecipeError, match="nothing would be learned"):
        load_recipe(path)


def test_euclidean_models_have_no_hierarchical_proxies() -> None:
    with pytest.raises(RecipeError, match=r"loss\.hierarchy needs model\.geometry"):
        load_recipe("grocery-lhier-128", ("model.geometry=euclidean",))


# Comparisons are fair only where nothing but the method differs.
METHOD_KEYS = ("name", "description", "model.", "loss.", "optimiser.hierarchy_lr")


def flat(content: dict[str, object], prefix: str = "") -> dict[str, object]:
    rows: dict[str, object] = {}
    for key, value in content.items():
        rows |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return rows


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("grocery-lhier-128", "grocery-hier-128"),
        ("grocery-lhier-128", "grocery-proxyanchor-128"),
        ("grocery-lhier-128-hierarchy", "grocery-euclidean-128-hierarchy"),
        ("specimens-lhier-128", "specimens-proxyanchor-128"),
    ],
)
def test_compared_recipes_differ_in_the_method_only(ours: str, theirs: str) -> None:
    a, b = (flat(load_recipe(name).model_dump(mode="json")) for name in (ours, theirs))
    differing = {key for key in a.keys() | b.keys() if a.get(key) != b.get(key)}
    assert {key for key in differing if not key.startswith(METHOD_KEYS)} == set()


def test_hierarchy_first_differs_from_the_default_in_the_path_term() -> None:
    first, default = (load_recipe(name) for name in ("grocery-lhier-128-hierarchy", "grocery-lhier-128"))
    a, b = flat(first.model_dump(mode="json")), flat(default.model_dump(mode="json"))
    path = {f"loss.path.{key}" for key in ("weight", "coarse_radius", "root_radius")}
    assert {key for key in a if a[key] != b[key]} == {"name", "description", *path}
    assert a["loss.path.weight"] > b["loss.path.weight"] == 0.15


def test_the_euclidean_control_of_hierarchy_first_has_its_terms_but_lhier() -> None:
    first, control = (
        flat(load_recipe(f"grocery-{name}-128-hierarchy").loss.model_dump(mode="json"))
        for name in ("lhier", "euclidean")
    )
    differing = {key for key in first.keys() | control.keys() if first.get(key) != control.get(key)}
    assert {key for key in differing if not key.startswith("hierarchy")} == {"path.radius"}
    assert control["hierarchy"] is None
