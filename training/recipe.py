"""Recipe: one complete, typed data file per training run.

TOML, because a typo must be an error (``extra="forbid"``) and ``1e-5`` must be a number.
"""

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hyperbolic.models.backbone import WeightSource
from hyperbolic.models.config import ModelConfig


class RecipeError(ValueError):
    """A recipe that cannot be used; the text names file, key and what was expected."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Span = Annotated[int, Field(ge=0)] | Annotated[str, Field(pattern=r"^[1-9]\d* epochs?$")]
"""A number of steps, or a text such as ``"50 epochs"``; an epoch draws as many photos as there are to train on."""

Interval = Annotated[int, Field(ge=1)] | Annotated[str, Field(pattern=r"^[1-9]\d* epochs?$")]
"""A span that is not empty: how often something happens."""


class DataConfig(_Section):
    """Which photos, and what is trained on and asked for."""

    kind: Literal["folder", "manifest", "grocery", "specimens", "cub", "cars", "sop", "inshop"]
    root: str = Field(default="", description="folder of the photos; usually given by --set data.root=DIR")
    protocol: Literal["P1", "P1x", "P2"] = Field(default="P2", description="grocery only, see training/data/grocery.py")
    manifest: str = Field(default="", description="manifest only: CSV or Parquet file, relative to root")
    hold_out: Literal["images", "classes", "none"] = Field(
        default="images", description="folder and specimens: what is held out to evaluate on"
    )
    hold_out_fraction: float = Field(default=0.2, gt=0, lt=1)


class TrainConfig(_Section):
    """Length and shape of the run."""

    steps: Span
    classes_per_batch: int = Field(ge=2)
    images_per_class: int = Field(ge=2)
    frozen_backbone: bool = Field(description="true: train the neck on cached features of several views")
    views: int = Field(default=3, ge=1, description="frozen backbone: views per photo, the first is the centre crop")
    crop_scale_min: float = Field(default=0.4, gt=0, le=1, description="smallest area of a random crop")
    frozen_steps: Span = Field(default=0, description="fine-tuning: first steps that leave the backbone alone")
    freeze_patch_embedding: bool = Field(default=False, description="fine-tuning of a ViT: its first layer stays")
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = Field(
        default="32-true", description="of the backbone; the geometry always computes in float32 or more"
    )
    accumulate: int = Field(
        default=1, ge=1, description="parts a batch is embedded in, to save memory; loss and gradients stay the batch's"
    )
    checkpoint_activations: bool = Field(
        default=False, description="fine-tuning: compute the backbone's activations twice instead of keeping them"
    )
    deterministic: bool = Field(
        default=False, description="only algorithms that repeat bit for bit, with the threads the run started with"
    )
    workers: int = Field(default=2, ge=0, description="processes that decode photos (fine-tuning)")
    log_every: Interval = 20
    save_every: Interval = Field(default=200, description="between the states that --resume continues from")
    logger: Literal["none", "tensorboard", "wandb"] = Field(
        default="none", description="where the rows of metrics.jsonl go as well; needs the extra of that name"
    )


class OptimiserConfig(_Section):
    """RiemannianAdamW and its rates; each part of the model has its own."""

    lr: float = Field(gt=0, description="neck")
    backbone_lr: float = Field(default=1e-5, gt=0)
    proxy_lr: float = Field(gt=0, description="Proxy Anchor's proxies and the label path's directions")
    hierarchy_lr: float = Field(default=1e-3, gt=0, description="hierarchical proxies (points of the manifold)")
    curvature_lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    hierarchy_weight_decay: float = Field(
        default=0.0, ge=0, description="about 220x stronger at radius 8.3 than elsewhere"
    )
    clip_norm: float = Field(default=10.0, gt=0)
    warmup_steps: Span = 0
    schedule: Literal["constant", "cosine", "step"] = Field(default="cosine", description="after the warm-up")
    step_every: Interval | None = Field(default=None, description="schedule = 'step': between two changes of the rate")
    step_factor: float = Field(default=0.5, gt=0, lt=1, description="schedule = 'step': what the rate is multiplied by")
    curvature_order: Literal["aware", "naive"] = Field(default="aware", description="naive only for the ablation")

    @model_validator(mode="after")
    def _step_has_its_span(self) -> Self:
        if (self.schedule == "step") != (self.step_every is not None):
            raise ValueError(
                "step_every belongs to schedule = 'step', and only to it: for example step_every = '5 epochs'"
            )
        return self


class ProxyAnchorConfig(_Section):
    """Proxy Anchor (Kim et al., 2020) on angles."""

    weight: float = Field(ge=0)
    alpha: float = Field(default=32.0, gt=0)
    margin: float = Field(default=0.1, ge=0)


class LibraryConfig(_Section):
    """A metric loss of pytorch-metric-learning, to compare with."""

    name: Literal["multi_similarity", "soft_triple", "normalised_softmax", "proxy_nca", "cross_batch_memory"]
    weight: float = Field(default=1.0, ge=0)
    memory_size: int = Field(default=1024, ge=1, description="cross_batch_memory: embeddings kept from past batches")


class PairwiseConfig(_Section):
    """Pairwise cross-entropy on geodesic distance: SC on the hyperboloid, Hyp (Ermolov et al., 2022) on the ball."""

    weight: float = Field(ge=0)
    temperature: float = Field(default=0.2, gt=0)


class HierarchyConfig(_Section):
    """LHIER (lorentz) or HIER (poincare) term, eq. (6)."""

    weight: float = Field(ge=0)
    proxies: int = Field(default=512, ge=2)
    temperature: float = Field(default=0.1, gt=0, description="of the Gumbel-softmax that draws ancestors")
    margin: float = Field(default=0.1, ge=0)
    neighbours: int = Field(default=20, ge=1, description="k of the reciprocal nearest neighbours")
    triplets_per_anchor: int = Field(default=50, ge=1, description="among the images of a batch")
    triplets_per_proxy: int = Field(default=50, ge=1, description="among the proxies themselves")


class PathConfig(_Section):
    """Label-path term: cross-entropy over each ancestor level of the label path.

    ``labels``: the levels above the class, none where labels have one level. ``pseudo``: clusters of the classes by the
    features of the backbone as it is at the start, see training/pseudo_path.py. ``auto``: labels, or else pseudo.
    """

    weight: float = Field(ge=0, description="0: the ancestors are there for [loss.cone] alone")
    ancestors: Literal["labels", "pseudo", "auto"] = Field(default="labels", description="where they come from")
    temperature: float = Field(default=0.5, gt=0)
    coarse_radius: float = Field(default=0.6, gt=0, le=1, description="most specific ancestors, as a share of R")
    root_radius: float = Field(default=0.35, gt=0, le=1, description="most general ancestors, as a share of R")
    radius: float = Field(default=3.0, gt=0, description="R: the images' shell, in geodesic units")


class ConeConfig(_Section):
    """Entailment cones at the ancestors of [loss.path]: images must lie in those of their own."""

    weight: float = Field(ge=0)
    boundary: float = Field(
        default=0.1, gt=0, description="K: half aperture arcsin(2 K / sinh(sqrt(c) radius)), pi/2 nearer the origin"
    )
    margin: float | None = Field(
        default=None, gt=0, description="radians that images keep from the cones of others; absent: they need not"
    )


class LossConfig(_Section):
    """Sum of the terms that are given."""

    distance: Literal["angle", "geodesic"] = Field(default="angle", description="of proxy_anchor and library")
    geodesic_scale: float = Field(default=3.0, gt=0, description="distance = 'geodesic': similarity is 1 - d/scale")
    proxy_anchor: ProxyAnchorConfig | None = None
    library: LibraryConfig | None = None
    pairwise: PairwiseConfig | None = None
    hierarchy: HierarchyConfig | None = None
    path: PathConfig | None = None
    cone: ConeConfig | None = None

    @model_validator(mode="after")
    def _some_metric_term(self) -> Self:
        if self.proxy_anchor is None and self.pairwise is None and self.library is None:
            raise ValueError(
                "expected [loss.proxy_anchor], [loss.pairwise] or [loss.library]: nothing would be learned"
            )
        if self.cone is not None and self.path is None:
            raise ValueError(
                "[loss.cone] needs [loss.path], which places the ancestors (with weight 0 for cones alone)"
            )
        return self


class SelectionConfig(_Section):
    """Which step's weights are kept: the last, or those of the best Recall@1 among evaluations.

    ``best_on_validation`` needs a data set with validation photos; ``best_on_test`` looks at the test data: reports
    print it.
    """

    rule: Literal["last", "best_on_validation", "best_on_test"] = "last"
    every: Interval = Field(default=200, description="between evaluations")
    patience: int = Field(
        default=0, ge=0, description="evaluations in a row without a better one that end the run; 0: never"
    )

    @model_validator(mode="after")
    def _patience_needs_evaluations(self) -> Self:
        if self.patience and self.rule == "last":
            raise ValueError("selection.patience counts evaluations: set selection.rule = 'best_on_validation'")
        return self


class PublishedConfig(_Section):
    """What a paper reports for this recipe, to print beside what was measured. Figures are fractions."""

    source: str
    figures: dict[str, Annotated[float, Field(ge=0, le=1)]]


class Recipe(_Section):
    """A training run, whole: read with :func:`load_recipe`, kept as ``recipe.toml`` in the run folder."""

    name: str
    description: str = ""
    seed: int = Field(default=0, ge=0)
    weights: WeightSource = Field(description="where the backbone's weights come from: hub, offline or none")
    model: ModelConfig
    data: DataConfig
    train: TrainConfig
    optimiser: OptimiserConfig
    loss: LossConfig
    selection: SelectionConfig = SelectionConfig()
    published: PublishedConfig | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.train.steps == 0:
            raise ValueError("train.steps is 0: nothing would be learned")
        if self.train.freeze_patch_embedding and not self.model.backbone.startswith(("vit", "deit", "test_vit")):
            raise ValueError(f"train.freeze_patch_embedding: {self.model.backbone} has no patch embedding")
        if self.train.checkpoint_activations and self.train.frozen_backbone:
            raise ValueError("train.checkpoint_activations: a frozen backbone keeps no activations, remove it")
        if self.loss.hierarchy is not None and self.model.geometry == "euclidean":
            raise ValueError("loss.hierarchy needs model.geometry 'lorentz' or 'poincare', not 'euclidean'")
        if self.loss.cone is not None and self.model.geometry == "euclidean":
            raise ValueError(
                "loss.cone needs model.geometry 'lorentz' or 'poincare', not 'euclidean': entailment cones are regions "
                "of hyperbolic space; the Euclidean control goes without"
            )
        return self


def in_steps(span: int | str, num_photos: int, batch_size: int) -> int:
    """A span of a recipe in optimiser steps: an epoch is ceil(photos / batch) of them."""
    return span if isinstance(span, int) else int(span.split()[0]) * -(-num_photos // batch_size)


RECIPES = Path(__file__).parent / "recipes"


def load_recipe(source: str | Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """Recipe from a TOML file, or by the name of one that ships (``grocery-lhier-128``), with ``key=value`` overrides.

    An override's value is read as TOML (``optimiser.lr=2e-5``, ``model.learn_curvature=true``), else as text.
    Raises :class:`RecipeError` naming each wrong key.
    """
    path = Path(source)
    if not path.is_file() and (RECIPES / f"{source}.toml").is_file():
        path = RECIPES / f"{source}.toml"
    if not path.is_file():
        known = sorted(p.stem for p in RECIPES.glob("*.toml"))
        close = difflib.get_close_matches(str(source), known, n=4) or ["grocery-lhier-128", "folder-lhier-128"]
        raise RecipeError(f"no recipe file {source}; of the {len(known)} that ship, near it: {', '.join(close)}")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path.name} is not TOML: {error}") from error
    for override in overrides:
        _apply(content, override)
    return parse_recipe(content, path.name)


def parse_recipe(content: dict[str, Any], name: str) -> Recipe:
    """Validated recipe from plain data; ``name`` is used in errors. Raises :class:`RecipeError`."""
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"]) or "recipe"
            if problem["type"] == "extra_forbidden":
                lines.append(f"{key}: no such key{_nearest(problem['loc'])}")
            else:
                lines.append(f"{key}: {problem['msg']} (got {problem.get('input')!r:.60})")
        raise RecipeError(f"{name}: " + "; ".join(lines)) from error


def _nearest(location: tuple[int | str, ...]) -> str:
    """', did you mean ...' for a mistyped key, from the fields of the section it stands in."""
    import typing

    section: Any = Recipe
    for part in location[:-1]:
        annotation = section.model_fields[str(part)].annotation
        options = [a for a in (typing.get_args(annotation) or (annotation,)) if a is not type(None)]
        section = options[0]
    close = difflib.get_close_matches(str(location[-1]), list(section.model_fields), n=1)
    return f", did you mean {close[0]!r}?" if close else f"; expected one of {', '.join(section.model_fields)}"


def _apply(content: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"--set {override}: expected key=value, for example --set optimiser.lr=2e-5")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    section = content
    *parents, leaf = key.strip().split(".")
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            raise RecipeError(f"--set {override}: {parent} is a value, not a section")
    section[leaf] = value


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as TOML, complete with its defaults; :func:`load_recipe` reads it back to the same recipe."""
    content = recipe.model_dump(mode="json", exclude_none=True)
    lines: list[str] = []

    def write(table: dict[str, Any], prefix: str) -> None:
        for key, value in table.items():
            if not isinstance(value, dict):
                lines.append(f"{key} = {_toml_value(value)}")
        for key, value in table.items():
            if isinstance(value, dict):
                name = f"{prefix}{key}"
                lines.extend(["", f"[{name}]"])
                write(value, f"{name}.")

    write(content, "")
    return "\n".join(lines) + "\n"


def _toml_value(value: str | float | bool) -> str:
    import json

    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)  # TOML's basic strings are JSON's
    return str(value).lower() if isinstance(value, bool) else repr(value)
