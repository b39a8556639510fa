"""`lhier hierarchy`: a collection's tree, built, shown, named, exported and drawn."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from index.cli import FOLDER, collection_option, image_root_option, json_option
from index.hierarchy.opened import (
    catalogue_of,
    cells,
    described,
    find_node,
    hierarchy_folder,
    item_ids,
    spoken,
    tree_of,
)
from index.hierarchy.questions_cli import ancestors, common_ancestor, zoom
from index.hierarchy.shape import MAX_CHILDREN, MIN_SIZE
from index.terminal import plain_errors

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL import Image

    from index.catalogue import Catalogue
    from index.collection import Collection
    from index.hierarchy.calibration import Fit
    from index.hierarchy.tree import Hierarchy

SAID = 5  # names that are listed
NEW_FILE = click.Path(dir_okay=False, path_type=Path)


@click.group()
def hierarchy() -> None:
    """The tree over a collection's photos: from everything down to what looks alike.

    \b
    lhier hierarchy build store                       the tree, from the points that are there
    lhier hierarchy show store                        its upper levels, in the terminal
    lhier hierarchy rename store 3f9a1c "Citrus"      a name that survives rebuilds
    lhier hierarchy ancestors store photo.jpg         where a photo belongs, and how surely
    lhier hierarchy picture store --out tree.svg      the whole tree on the Poincare disk
    """


@hierarchy.command()
@click.argument("store", type=FOLDER)
@collection_option
@click.option(
    "--validation",
    type=FOLDER,
    help="Points of labelled photos that are not in the collection (from 'lhier embed'), to fit probabilities to.",
)
@click.option("--ignore-labels", is_flag=True, help="Build and fit as if the photos lay in one folder.")
@click.option(
    "--max-children", default=MAX_CHILDREN, show_default=True, type=click.IntRange(min=2), help="Branches of a node."
)
@click.option(
    "--min-size", default=MIN_SIZE, show_default=True, type=click.IntRange(min=1), help="Photos of the smallest node."
)
@json_option
def build(
    store: Path,
    name: str,
    validation: Path | None,
    ignore_labels: bool,
    max_children: int,
    min_size: int,
    as_json: bool,
) -> None:
    """Build the tree of a collection of STORE anew, and fit the probabilities of its answers.

    Nodes that hold mostly the photos that a node of the former tree held keep its id and its name, also where the
    collection itself was built anew ('lhier index build --replace'). Labels do not shape the tree; they say what its
    nodes are called, and what a right answer is. Without --validation the photos of the tree are asked for one by one,
    each left out: too hopeful where photos come in series.

    \b
    lhier hierarchy build store
    lhier embed runs/a photos-of-another-day --out points-val
    lhier hierarchy build store --validation points-val
    """
    from index.hierarchy.fitting import fit
    from index.hierarchy.former import predecessor
    from index.hierarchy.tree import Hierarchy

    start = time.monotonic()
    with plain_errors(), catalogue_of(store, name) as catalogue:
        folder = hierarchy_folder(store, name)
        held_out = _validation(validation, catalogue) if validation else None
        previous = predecessor(folder, catalogue, lambda text: click.echo(text, err=True))
        click.echo(f"tree: {catalogue.count()} photos", err=True)
        tree = Hierarchy.from_catalogue(
            catalogue, with_labels=not ignore_labels, previous=previous, max_children=max_children, min_size=min_size
        )
        if len(tree) >= 2:
            click.echo(f"fit: {len(held_out[1]) if held_out else 'leave-one-out'}", err=True)
            if held_out:
                _require_known_labels(tree, held_out[1])
            tree.fit = fit(tree, *held_out) if held_out else fit(tree)
        tree.save(folder)
        kept = len(set(tree.ids) & set(previous.ids)) if previous else 0
        gone = set(previous.ids) - set(tree.ids) if previous else set()
        if lost := sorted(tree.names[id_] for id_ in gone & tree.names.keys()):
            names = ", ".join(repr(name) for name in lost[:SAID]) + (" ..." if len(lost) > SAID else "")
            click.echo(f"{len(lost)} names have no node any more that holds mostly the same photos: {names}", err=True)
    answer = {
        "collection": name,
        "items": len(tree),
        "nodes": len(tree.ids),
        "depth": int(tree.depths.max()),
        "kept": kept,
        "seconds": round(time.monotonic() - start, 1),
        "fit": _fit_summary(tree.fit),
    }
    if as_json:
        click.echo(json.dumps(answer))
        return
    before = f", {kept} known from before" if previous else ""
    click.echo(f"{len(tree)} photos -> {len(tree.ids)} nodes on {int(tree.depths.max()) + 1} levels{before} ({folder})")
    if len(tree.ids) == 1:
        click.echo("no branches: too few photos, or too much alike, for two groups of --min-size")
    elif tree.fit:
        found = tree.fit.node_threshold
        click.echo(
            f"fitted on {tree.fit.fitted_on}: a path goes on while its probability is >= {found.theta:.2f}; then "
            f"{found.precision:.0%} of answers were right, and {found.answered:.0%} of photos had one below the root"
        )


def _validation(embeddings: Path, catalogue: "Catalogue") -> "tuple[npt.NDArray[np.float32], list[tuple[str, ...]]]":
    import numpy as np

    from index.embeddings import read_manifest, read_parts

    manifest = read_manifest(embeddings)
    if manifest.model_hash != catalogue.model_hash:
        raise click.ClickException(
            f"{embeddings} holds points of model {manifest.model_hash}, the collection those of model "
            f"{catalogue.model_hash}: run 'lhier embed' on the validation photos with that one's checkpoint"
        )
    known = {point.tobytes() for point in catalogue.changes().space}
    items = [item for part in read_parts(embeddings, manifest) for item in part]
    # A photo that is its own nearest neighbour would be answered rightly whatever the tree.
    others = [item for item in items if item.space.tobytes() not in known]
    if not others:
        beside = " beside those of the collection itself" if items else ""
        raise click.ClickException(f"{embeddings} holds no photos to fit to{beside}")
    if len(others) < len(items):
        click.echo(f"{len(items) - len(others)} validation photos are left out: the collection has them", err=True)
    items = others
    return np.stack([item.space for item in items]).astype(np.float32), [item.labels for item in items]


def _require_known_labels(tree: "Hierarchy", paths: list[tuple[str, ...]]) -> None:
    known = {path[:1] for path in tree.items.paths if path}
    if not any(path[:1] in known for path in paths):
        theirs, ours = (
            " / ".join(next((path for path in some if path), ("none",))) for some in (paths, tree.items.paths)
        )
        raise click.ClickException(
            f"no validation photo has a label that the collection knows (theirs are like {theirs!r}, the collection's "
            f"like {ours!r}): run 'lhier embed' on the folder in which the same top folders lie"
        )


def _fit_summary(found: "Fit | None") -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "fitted_on": found.fitted_on,
        "temperature": found.temperature,
        "theta": found.theta,
        "precision": found.node_threshold.precision,
        "answered": found.node_threshold.answered,
        "common_ancestor_mass": found.common_ancestor_mass,
    }


@hierarchy.command()
@click.argument("store", type=FOLDER)
@click.argument("node", required=False)
@click.option("--depth", default=3, show_default=True, type=click.IntRange(min=0), help="Levels below the node.")
@collection_option
@json_option
def show(store: Path, node: str | None, depth: int, name: str, as_json: bool) -> None:
    """The tree of a collection of STORE, or what lies below NODE (an id, or a name that was given).

    Of each node: what most of its photos are called (or one of them), how many there are, its radius, its id; (+3)
    where 3 branches below it are not shown.

    \b
    lhier hierarchy show store
    lhier hierarchy show store Citrus --depth 5
    lhier hierarchy show store --json | jq '.children[].size'
    """
    with plain_errors(), tree_of(store, name) as (tree, catalogue):
        top = find_node(tree, node) if node else 0
        if as_json:
            click.echo(json.dumps(_nested(tree, top, catalogue, depth)))
            return
        lines = list(_drawn(tree, top, catalogue, depth))
        width = min(max(cells(text) for text, _ in lines), 64)
        for text, index in lines:
            cut = text
            while cells(cut) > width:
                cut = cut.removesuffix("…")[:-1] + "…"
            cut += " " * (width - cells(cut))
            size = f"{tree.sizes[index]:,}"
            click.echo(f"{cut}  {size:>9} photos  radius {tree.radii[index]:5.2f}  {tree.ids[index]}")


def _nested(tree: "Hierarchy", node: int, catalogue: "Catalogue", depth: int) -> dict[str, Any]:
    children = tree.children(node)
    below = [_nested(tree, child, catalogue, depth - 1) for child in children] if depth else []
    rest: dict[str, Any] = {"children": below} if depth else {"num_children": len(children)}
    return described(tree, node, catalogue) | rest


def _drawn(
    tree: "Hierarchy", node: int, catalogue: "Catalogue", depth: int, before: str = "", branch: str = ""
) -> list[tuple[str, int]]:
    """Lines of a tree in the terminal, each with its node; the largest children first."""
    children = sorted(tree.children(node), key=lambda child: -int(tree.sizes[child]))
    hidden = f" (+{len(children)})" if children and not depth else ""
    lines = [(branch + spoken(tree, node, catalogue) + hidden, node)]
    if not depth:
        return lines
    for child in children:
        last = child == children[-1]
        lines += _drawn(
            tree, child, catalogue, depth - 1, before + ("   " if last else "│  "), before + ("└─ " if last else "├─ ")
        )
    return lines


@hierarchy.command()
@click.argument("store", type=FOLDER)
@click.argument("node")
@click.argument("new_name", metavar="NAME", required=False)
@click.option("--clear", is_flag=True, help="Take the name away instead.")
@collection_option
@json_option
def rename(store: Path, node: str, new_name: str | None, clear: bool, name: str, as_json: bool) -> None:
    """Call NODE (an id, or its present name) NAME. The name is kept when the tree is built anew.

    \b
    lhier hierarchy rename store 3f9a1c "Citrus"
    lhier hierarchy rename store Citrus "Citrus fruit"
    lhier hierarchy rename store Citrus --clear
    """
    if (new_name is None) == (not clear):
        raise click.UsageError("expected a NAME, or --clear to take the name away")
    with plain_errors(ValueError), tree_of(store, name) as (tree, catalogue):
        index = find_node(tree, node)
        former = spoken(tree, index, catalogue)
        tree.set_name(tree.ids[index], new_name)
        answer = described(tree, index, catalogue)
    if as_json:
        click.echo(json.dumps(answer))
    else:
        click.echo(f"{answer['id']}, {former!r} so far, is {'without a name' if clear else repr(answer['name'])} now")


@hierarchy.command()
@click.argument("store", type=FOLDER)
@click.option(
    "--format", "kind", required=True, type=click.Choice(["newick", "json", "graphml"]), help="What to write."
)
@click.option("--out", type=NEW_FILE, help="File to write; without it, the answer is printed.")
@click.option("--photos", is_flag=True, help="The photos too, as leaves, by their ids.")
@collection_option
def export(store: Path, kind: str, out: Path | None, photos: bool, name: str) -> None:
    """Write the tree for other programs: Newick for phylogeny tools, JSON, GraphML for graph tools.

    Branch lengths are half the difference in height, so that the way between two photos is the mean distance at which
    the photos of their common node merge.

    \b
    lhier hierarchy export store --format newick --out tree.nwk
    lhier hierarchy export store --format graphml --photos --out tree.graphml
    lhier hierarchy export store --format json | jq .nodes
    """
    from index.hierarchy.export import graphml, nested, newick

    with plain_errors(), tree_of(store, name) as (tree, catalogue):
        rows = tree.rows.tolist() if photos else []
        ids = dict(zip(rows, item_ids(catalogue, rows), strict=True)) if photos else None
        if kind == "json":
            text = json.dumps(nested(tree, ids), ensure_ascii=False, indent=1, allow_nan=False) + "\n"
        else:
            text = newick(tree, ids) if kind == "newick" else graphml(tree, ids)
        if out is None:
            click.echo(text, nl=False)
            return
        out.write_text(text, encoding="utf-8")
    click.echo(f"{len(tree.ids)} nodes{f' and {len(rows)} photos' if photos else ''} -> {out}")


@hierarchy.command()
@click.argument("store", type=FOLDER)
@click.option("--out", required=True, type=NEW_FILE, help="File to draw: tree.svg or tree.png.")
@click.option(
    "--nodes", "most", default=1000, show_default=True, type=click.IntRange(min=1),
    help="How many of the largest nodes to draw; photos too, as dots, once all nodes are there.",
)  # fmt: skip
@click.option("--title", help="What the picture is called; the root's or the collection's name without it.")
@collection_option
@image_root_option
def picture(store: Path, out: Path, most: int, title: str | None, name: str, image_root: Path | None) -> None:
    """Draw the tree on the Poincare disk: the general in the centre, the specific outside, edges as geodesics.

    Distance from the centre is radius, so specificity. Photos stand for nodes where there is room for them; the
    colour of their border is that of their branch. In an SVG the mouse on a dot or photo tells what it is.

    \b
    lhier hierarchy picture store --out tree.svg
    lhier hierarchy picture store --out tree.png --nodes 50
    lhier hierarchy picture store --out whole.svg --nodes 5000 --title "Autumn catalogue"
    """
    from index.collection import Collection
    from index.hierarchy.canvas import PicturesMissingError, text_measure, write
    from index.hierarchy.picture import compose

    if out.suffix.lower() not in {".svg", ".png"}:
        raise click.BadParameter(f"expected a name ending in .svg or .png, got {out.name!r}", param_hint="--out")
    with (
        plain_errors(PicturesMissingError),
        tree_of(store, name) as (tree, catalogue),
        Collection.open(store, name, image_root=image_root) as collection,
    ):
        photos = _Photos(collection)
        drawing = compose(
            tree,
            most=most,
            title=title or tree.names.get(tree.ids[0]) or (name if name != "default" else store.resolve().name),
            measure=text_measure(),
            load_image=photos,
            item_title=lambda row: item_ids(catalogue, [row])[0],
        )
        write(drawing, out)
    if photos.missing:
        click.echo(f"{photos.missing} photos are not there or cannot be read: dots stand for them", err=True)
    click.echo(f"{drawing.subtitle} -> {out}")


class _Photos:
    """Photos by catalogue row, and how many could not be had."""

    def __init__(self, collection: "Collection") -> None:
        self.collection = collection
        self.missing = 0

    def __call__(self, row: int) -> "Image.Image | None":
        from hyperbolic.images import ImageError, read_image
        from index.errors import ImageReferenceError

        (item,) = self.collection.catalogue.get_rows([row])
        if item is None or item.image is None:
            return None
        try:
            path = self.collection.image_path(item)
            return read_image(path) if path else None
        except (ImageError, ImageReferenceError):
            self.missing += 1
            return None


for _command in (ancestors, common_ancestor, zoom):
    hierarchy.add_command(_command)
