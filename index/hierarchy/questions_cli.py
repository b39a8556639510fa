"""`lhier hierarchy ancestors`, `common-ancestor` and `zoom`: questions about photos."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from index.asked_photos import points_of
from index.cli import FILE, FOLDER, collection_option, json_option
from index.hierarchy.opened import described, item_ids, printable, spoken, tree_of
from index.terminal import plain_errors

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from index.catalogue import Catalogue
    from index.hierarchy.answers import Answers, LabelStep, Step
    from index.hierarchy.tree import Hierarchy

checkpoint_option = click.option(
    "--checkpoint", type=FOLDER, help="The encoder; by default the one the collection was built with."
)


@click.command()
@click.argument("store", type=FOLDER)
@click.argument("image", type=FILE, required=False)
@click.option("--item", help="An item of the collection in place of an IMAGE.")
@checkpoint_option
@collection_option
@json_option
def ancestors(
    store: Path, image: Path | None, item: str | None, checkpoint: Path | None, name: str, as_json: bool
) -> None:
    """Where the photo IMAGE belongs: the nodes above it, the most specific first, each with a probability.

    The path stops where it becomes unsure. A photo unlike anything in the collection is less specific than almost all
    photos that the tree was fitted on.

    \b
    lhier hierarchy ancestors store photo.jpg
    lhier hierarchy ancestors store --item shelf/12.jpg --json
    """
    with plain_errors(ValueError), tree_of(store, name) as (tree, catalogue):
        (point,) = _points(catalogue, _one(image, item), checkpoint)
        path = _answers(tree).path(point)
        if as_json:
            answer = {
                "nodes": [_step(tree, catalogue, step) for step in path.nodes],
                "stopped_at": None if path.stopped_at is None else tree.ids[path.stopped_at],
                "next": _step(tree, catalogue, path.next) if path.next else None,
                "labels": [_label(step) for step in path.labels],
                "next_label": _label(path.next_label) if path.next_label else None,
                "radius": path.radius,
                "specificity": path.specificity,
                "in_distribution": path.in_distribution,
            }
            click.echo(json.dumps(answer))
            return
        click.echo(
            f"specificity {path.specificity:.2f} of radius {path.radius:.2f}: more than "
            f"{path.in_distribution:.0%} of the photos fitted on"
        )
        _tell_steps(tree, catalogue, path.nodes)
        if path.next:
            unsure = spoken(tree, path.next.node, catalogue)
            click.echo(f"stopped: {unsure!r} below would be right with probability {path.next.probability:.2f} only")
        _tell_labels([*([path.next_label] if path.next_label else []), *path.labels], unsure=bool(path.next_label))


@click.command("common-ancestor")
@click.argument("store", type=FOLDER)
@click.argument("items", metavar="ITEM...", nargs=-1, required=True)
@checkpoint_option
@collection_option
@json_option
def common_ancestor(store: Path, items: tuple[str, ...], checkpoint: Path | None, name: str, as_json: bool) -> None:
    """What 2 to 32 photos have in common: the most specific node that holds them all with some certainty.

    Each ITEM is the id of an item, or else the path of an image file.

    \b
    lhier hierarchy common-ancestor store shelf/12.jpg shelf/40.jpg
    lhier hierarchy common-ancestor store a.jpg b.jpg c.jpg --json
    """
    with plain_errors(ValueError), tree_of(store, name) as (tree, catalogue):
        found = _answers(tree).common_ancestor(_points(catalogue, items, checkpoint))
        node = found.node
        if as_json:
            answer = {
                "node": described(tree, node.index, catalogue),
                "depth": node.depth,
                "probability": found.probability,
                "labels": [_label(step) for step in found.labels],
                "centre": {"space": found.centre.tolist(), "radius": found.radius},
            }
            click.echo(json.dumps(answer))
            return
        click.echo(f"{spoken(tree, node.index, catalogue)}  ({node.id}, level {node.depth})")
        click.echo(
            f"{node.size:,} photos, probability {found.probability:.2f}, radius of the middle {found.radius:.2f}"
        )
        _tell_labels(found.labels, unsure=False)
        click.echo("photos that show it: " + ", ".join(item_ids(catalogue, list(node.exemplars))))


@click.command()
@click.argument("store", type=FOLDER)
@click.argument("image", type=FILE, required=False)
@click.option("--item", help="An item of the collection in place of an IMAGE.")
@click.option("--levels", default=1, show_default=True, help="Levels up, to the more general; below 0, down.")
@click.option("--limit", default=10, show_default=True, type=click.IntRange(1, 1000), help="How many photos.")
@checkpoint_option
@collection_option
@json_option
def zoom(
    store: Path,
    image: Path | None,
    item: str | None,
    levels: int,
    limit: int,
    checkpoint: Path | None,
    name: str,
    as_json: bool,
) -> None:
    """The photo IMAGE seen from some levels above where its path stops (or below): that node, and its nearest photos.

    \b
    lhier hierarchy zoom store photo.jpg --levels 2
    lhier hierarchy zoom store --item shelf/12.jpg --levels -1
    """
    with plain_errors(ValueError), tree_of(store, name) as (tree, catalogue):
        (point,) = _points(catalogue, _one(image, item), checkpoint)
        found = _answers(tree).zoom(point, levels, limit)
        ids = item_ids(catalogue, [neighbour.row for neighbour in found.items])
        if as_json:
            answer = {
                "node": _step(tree, catalogue, found.node),
                "items": [
                    {"id": id_, "distance": neighbour.distance} for id_, neighbour in zip(ids, found.items, strict=True)
                ],
                "branches": [_step(tree, catalogue, step) for step in found.branches],
            }
            click.echo(json.dumps(answer))
            return
        _tell_steps(tree, catalogue, [found.node])
        click.echo("its photos nearest this one:")
        for id_, neighbour in zip(ids, found.items, strict=True):
            click.echo(f"{neighbour.distance:8.4f}  {id_}")
        if found.branches:
            click.echo("its branches:")
            _tell_steps(tree, catalogue, found.branches)


def _answers(tree: "Hierarchy") -> "Answers":
    from index.hierarchy.answers import Answers

    if tree.fit is None:
        raise click.ClickException(
            "the tree was built over fewer than 2 photos, too few to fit answers to: add photos, then run "
            "'lhier hierarchy build'"
        )
    return Answers(tree)


def _one(image: Path | None, item: str | None) -> list[Path | str]:
    if (image is None) == (item is None):
        raise click.UsageError("expected an IMAGE, or --item with an item's id")
    return [image or item or ""]


def _points(catalogue: "Catalogue", wanted: Sequence[Path | str], checkpoint: Path | None) -> "npt.NDArray[np.float32]":
    """Space parts (n, d) of items, given by their ids, and of image files: paths, or what is no id."""
    import numpy as np

    points: list[npt.NDArray[np.float32] | None] = []
    files: list[Path] = []
    for one in wanted:
        item = catalogue.get(one) if isinstance(one, str) else None
        points.append(item.space if item else None)
        if item is None:
            if not Path(one).is_file():
                raise click.ClickException(f"{str(one)!r} is neither the id of an item nor an image file")
            files.append(Path(one))
    embedded = iter(points_of(files, catalogue, checkpoint) if files else ())
    return np.stack([next(embedded) if point is None else point for point in points])


def _step(tree: "Hierarchy", catalogue: "Catalogue", step: "Step") -> dict[str, Any]:
    return described(tree, step.node, catalogue) | {"probability": step.probability}


def _label(step: "LabelStep") -> dict[str, Any]:
    return {"label": list(step.label), "probability": step.probability}


def _tell_steps(tree: "Hierarchy", catalogue: "Catalogue", steps: "Sequence[Step]") -> None:
    click.echo("probability    photos  radius  node")
    for step in steps:
        size = f"{tree.sizes[step.node]:,}"
        text = f"{step.id}  {spoken(tree, step.node, catalogue)}"
        click.echo(f"{step.probability:11.2f} {size:>9} {tree.radii[step.node]:7.2f}  {text}")


def _tell_labels(steps: "Sequence[LabelStep]", *, unsure: bool) -> None:
    """Labels, the most specific first; with `unsure` that one in doubt."""
    if steps:
        parts = [f"{printable(step.label[-1])} {step.probability:.2f}" for step in steps[::-1]]
        click.echo("label path: " + " > ".join(parts) + (" (the last is unsure)" if unsure else ""))
