"""``lhier train``, ``lhier evaluate`` and ``lhier data``."""

import json
import logging
import math
import os
import sys
from pathlib import Path

import click

from training.tools_cli import delta

RUN_FOLDER = click.Path(path_type=Path, file_okay=False)


def _configure_logging() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s level=%(levelname)s %(name)s %(message)s")


@click.command()
@click.argument("recipe")
@click.option("--out", "run", type=RUN_FOLDER, required=True, help="Run folder to write: checkpoint, recipe, metrics.")
@click.option("--resume", is_flag=True, help="Continue the run in --out after the last saved step.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change one value of the recipe; may be given several times.",
)
@click.option("--cache", type=RUN_FOLDER, default=None, help="Where features of frozen backbones are kept.")
def train(recipe: str, run: Path, resume: bool, overrides: tuple[str, ...], cache: Path | None) -> None:
    """Train an encoder as RECIPE says (a TOML file, or the name of one that ships).

    \b
    lhier train folder-lhier-128 --set data.root=photos --out runs/first
    lhier train grocery-lhier-128 --set data.root=grocery --set seed=1 --out runs/g1
    lhier train my-recipe.toml --out runs/long --resume
    torchrun --nproc-per-node 2 -m lhier.cli train my-recipe.toml --out runs/two

    Photos that cannot be read are skipped and listed in RUN/skipped.jsonl. Ctrl-C saves the state first. Under
    torchrun the processes share each batch and take the steps that one process would take.
    """
    _configure_logging()
    rank = int(os.environ.get("RANK", "0"))  # torchrun's; process 0 alone speaks, unless something fails
    from hyperbolic.embedder import Embedder
    from hyperbolic.images import ImageError
    from hyperbolic.models.backbone import WeightsError
    from training.data.split import DataError, load_data
    from training.evaluate import evaluate as measure
    from training.features import FeatureCache, default_cache
    from training.loop import TrainingInterrupted
    from training.loop import train as run_training
    from training.recipe import RecipeError, load_recipe
    from training.run_folder import TrainingError

    try:
        loaded = load_recipe(recipe, overrides)
        data = load_data(loaded.data, loaded.seed)
        for note in data.notes if rank == 0 else ():
            click.echo(f"note: {note}", err=True)
        folder = cache or default_cache()
        split = "validation" if loaded.selection.rule == "best_on_validation" else "test"

        def score(embedder: Embedder) -> dict[str, float]:
            store = FeatureCache(embedder, folder) if loaded.train.frozen_backbone else None
            return measure(data, embedder, store, split)

        run_training(loaded, data, run, cache=folder, resume=resume, progress=sys.stderr.isatty(), evaluate=score)
    except TrainingInterrupted as interruption:
        if rank:
            raise click.exceptions.Exit(1) from interruption
        raise click.ClickException(str(interruption)) from interruption
    except (RecipeError, DataError, TrainingError, WeightsError, ImageError, OSError, ValueError) as error:
        raise click.ClickException(f"process {rank}: {error}" if rank else str(error)) from error
    if rank:
        return
    skipped = run / "skipped.jsonl"
    if skipped.is_file():
        names = [json.loads(line)["path"] for line in skipped.read_text(encoding="utf-8").splitlines()]
        click.echo(f"skipped {len(names)} unreadable photos (see {skipped}): {', '.join(names[:3])}", err=True)
    click.echo(f"trained {loaded.name}: checkpoint in {run / 'checkpoint'}; next: lhier evaluate {run}")


@click.command()
@click.argument("run", type=RUN_FOLDER)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.option("--split", type=click.Choice(["test", "validation"]), default="test", show_default=True)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a value of the run's recipe, for example data.root where the photos moved.",
)
@click.option("--cache", type=RUN_FOLDER, default=None, help="Where features of frozen backbones are kept.")
def evaluate(run: Path, as_json: bool, split: str, overrides: tuple[str, ...], cache: Path | None) -> None:
    """Recall@k, MAP@R, coarse variants and tree measures of a RUN on its own protocol.

    \b
    lhier evaluate runs/g1
    lhier evaluate runs/g1 --json | jq .recall_at_1

    Figures are fractions. Those by geodesic distance come first, those by cosine end in _cosine.
    """
    _configure_logging()
    from hyperbolic.checkpoint import CheckpointError
    from hyperbolic.embedder import Embedder
    from hyperbolic.images import ImageError
    from training.data.split import DataError, load_data
    from training.evaluate import evaluate as measure
    from training.features import FeatureCache, default_cache
    from training.recipe import RecipeError, load_recipe

    if not (run / "recipe.toml").is_file():
        raise click.ClickException(f"{run} holds no run (recipe.toml is missing): give the --out of a 'lhier train'")
    try:
        recipe = load_recipe(run / "recipe.toml", overrides)
        embedder = Embedder.load(run)
        data = load_data(recipe.data, recipe.seed)
        store = FeatureCache(embedder, cache or default_cache()) if recipe.train.frozen_backbone else None
        figures = measure(data, embedder, store, split, progress=sys.stderr.isatty())
    except (RecipeError, DataError, CheckpointError, ImageError, OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    heading = {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "data": data.name,
        "split": split,
        "selection": recipe.selection.rule,
        "model_hash": embedder.model_hash,
    }
    if as_json:
        # A measure that no query counts for has no value; JSON has no NaN.
        click.echo(json.dumps(heading | {k: None if math.isnan(v) else v for k, v in figures.items()}))
        return
    click.echo("  ".join(f"{name}: {value}" for name, value in heading.items()))
    for name, value in figures.items():
        count = name in ("queries", "gallery", "unreadable")
        click.echo(f"  {name:<34} {value:{'.0f' if count else '.4f'}}")


@click.group()
def data() -> None:
    """Make or check photo collections.

    \b
    lhier data specimens creatures --species 96
    lhier data verify photos
    lhier data verify cub CUB_200_2011
    """


data.add_command(delta)


@data.command()
@click.argument("out", type=RUN_FOLDER)
@click.option("--species", type=click.IntRange(min=2), default=96, show_default=True, help="How many species evolve.")
@click.option("--images", type=click.IntRange(min=1), default=20, show_default=True, help="Photos of each species.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--size", type=click.IntRange(min=32), default=224, show_default=True, help="Pixels a side.")
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Processes that draw.")
def specimens(out: Path, species: int, images: int, seed: int, size: int, workers: int) -> None:
    """Draw a collection of creatures with an evolved taxonomy into OUT, its true tree beside them.

    \b
    lhier data specimens specimens --species 96 --images 20

    The same seed gives the same bytes; an interrupted drawing continues where it stopped.
    """
    _configure_logging()
    from training.data.specimens import generate_specimens

    try:
        generate_specimens(
            out,
            num_species=species,
            images_per_species=images,
            seed=seed,
            image_size=size,
            num_workers=workers,
            progress=sys.stderr.isatty(),
        )
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"drew {species} species x {images} photos in {out / 'images'}; the true tree: {out / 'taxonomy.nwk'}")


@data.command()
@click.argument("where", nargs=-1, required=True, metavar="[NAME] DIR")
@click.option("--decode", is_flag=True, help="With NAME: also decode every photo (without NAME always done).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify(where: tuple[str, ...], decode: bool, as_json: bool) -> None:
    """Check photos before a long run does.

    \b
    lhier data verify photos                        a plain folder: decode every photo, count classes
    lhier data verify cub CUB_200_2011              a published data set: files, photos, classes, split sizes
    lhier data verify sop Stanford_Online_Products --decode

    NAME is cub, cars, sop or inshop. Exit status 1 where photos cannot be read or something is not as published.
    """
    from training.data.verify import OFFICIAL, verify_folder, verify_official

    name, root = (where[0] if len(where) > 1 else None), Path(where[-1])
    if len(where) > 2 or (name is not None and name not in OFFICIAL):
        raise click.UsageError(f"expected [NAME] DIR with NAME one of {', '.join(OFFICIAL)}, got {' '.join(where)}")
    if name is None and root.name in OFFICIAL and not root.exists():
        raise click.UsageError(f"expected the folder of {root}: lhier data verify {root} DIR")
    if not root.is_dir():
        raise click.ClickException(f"expected a folder of photos, found none at {root}")
    try:
        check = verify_folder(root) if name is None else verify_official(name, root, decode)
    except OSError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps(check.as_json()))
    else:
        click.echo("\n".join(check.lines()))
    if not check.good:
        raise click.exceptions.Exit(1)
