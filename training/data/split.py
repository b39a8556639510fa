"""What every data set becomes: photos with label paths, split into training, query and gallery."""

import hashlib
import logging
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from training.metrics import RECALL_AT
from training.recipe import DataConfig

logger = logging.getLogger(__name__)


class DataError(ValueError):
    """Photos or labels that cannot be trained on; the text says what was expected and what came."""


@dataclass(frozen=True, slots=True)
class Photo:
    """A file and its label path, most general first; the whole path is the class."""

    path: Path
    labels: tuple[str, ...]


@dataclass(frozen=True)
class RetrievalData:
    """A data set's protocol. ``leave_one_out``: query and gallery are the same photos, each query's own is left out.

    ``recall_at``: the k at which recall is reported.
    """

    name: str
    train: tuple[Photo, ...]
    query: tuple[Photo, ...]
    gallery: tuple[Photo, ...]
    leave_one_out: bool
    validation: tuple[Photo, ...] = ()
    notes: tuple[str, ...] = field(default=())
    recall_at: tuple[int, ...] = RECALL_AT


def fingerprint(photos: Sequence[Photo]) -> str:
    """A hash that changes when a photo comes, goes, moves to another label or is replaced by one of another size.

    Not when the whole folder moves, so that a run can be resumed elsewhere.
    """
    digest = hashlib.sha256()
    for photo in photos:
        try:
            size = photo.path.stat().st_size
        except OSError:  # a link to nowhere: training will name it
            size = -1
        digest.update(repr((photo.labels, photo.path.name, size)).encode(errors="surrogateescape"))
    return digest.hexdigest()


def load_data(config: DataConfig, seed: int = 0) -> RetrievalData:
    """The data set that a recipe names. Raises :class:`DataError`; ``seed`` draws what is held out, where needed."""
    from training.data import cars, cub, folder, grocery, inshop, manifest, sop

    if not config.root:
        raise DataError("the recipe names no photos: give --set data.root=DIR")
    root = Path(config.root)
    if not root.is_dir():
        raise DataError(f"data.root: expected a folder of photos, found none at {root}")
    if config.kind == "grocery":
        return grocery.load_grocery(root, config.protocol)
    official = {"cub": cub.load_cub, "cars": cars.load_cars, "sop": sop.load_sop, "inshop": inshop.load_inshop}
    if config.kind in official:
        return official[config.kind](root)
    if config.kind == "manifest":
        return manifest.load_manifest(root, config.manifest)
    return folder.load_folder(root, config.hold_out, config.hold_out_fraction, seed)


def hold_out(
    name: str, photos: Sequence[Photo], what: str, fraction: float, seed: int, notes: tuple[str, ...] = ()
) -> RetrievalData:
    """Split photos that come without a split.

    ``images``: a share of each class's photos asks against the rest, which is also what is trained on. ``classes``:
    a share of the classes is never trained on and searched leave-one-out (as in CUB: new species). ``none``: train
    and search all. Classes with a single photo are trained on but cannot be asked for. Deterministic in ``seed``.
    """
    by_class: dict[tuple[str, ...], list[Photo]] = {}
    for photo in photos:
        by_class.setdefault(photo.labels, []).append(photo)
    singles = [labels for labels, members in by_class.items() if len(members) == 1]
    if singles:
        shown = ", ".join("/".join(labels) or "(root)" for labels in singles[:5])
        notes = (
            *notes,
            f"{len(singles)} classes have one photo and cannot be asked for: {shown}"
            + (" ..." if len(singles) > 5 else ""),
        )
    if len(by_class) < 2:
        raise DataError(
            f"{name}: expected photos in two or more label folders, found {len(by_class)}: put each class's photos in "
            "a folder of its name"
        )
    if len(singles) == len(by_class):
        raise DataError(f"{name}: every class has one photo only: expected two or more photos of some classes")
    draw = random.Random(seed)
    if what == "classes":
        held = _held_out_classes(list(by_class), fraction, draw)
        train = tuple(p for p in photos if p.labels not in held)
        test = tuple(p for p in photos if p.labels in held and len(by_class[p.labels]) > 1)
        if len({p.labels for p in train}) < 2 or len({p.labels for p in test}) < 2:
            raise DataError(
                f"{name}: holding out {fraction:.0%} of {len(by_class)} classes leaves too few on one side: "
                "expected two or more for training and for the test; set data.hold_out = 'images'"
            )
        return RetrievalData(name, train, test, test, leave_one_out=True, notes=notes)
    if what == "none":
        return RetrievalData(name, tuple(photos), tuple(photos), tuple(photos), leave_one_out=True, notes=notes)
    queries: set[Path] = set()
    for members in by_class.values():
        count = min(len(members) - 1, max(1, round(fraction * len(members))))
        queries.update(p.path for p in draw.sample(members, count))
    gallery = tuple(p for p in photos if p.path not in queries)
    query = tuple(p for p in photos if p.path in queries)
    return RetrievalData(name, gallery, query, gallery, leave_one_out=False, notes=notes)


def _held_out_classes(classes: Sequence[tuple[str, ...]], fraction: float, draw: random.Random) -> set[tuple[str, ...]]:
    # Drawn within each parent, so that an unseen class usually has a seen sibling: fine-grained and zero-shot at once.
    by_parent: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for labels in classes:
        by_parent.setdefault(labels[:-1], []).append(labels)
    held: set[tuple[str, ...]] = set()
    owed = 0.0
    for siblings in by_parent.values():
        owed += fraction * len(siblings)
        count = min(round(owed), len(siblings))
        owed -= count
        held.update(draw.sample(siblings, count))
    return held


def label_levels(photos: Sequence[Photo]) -> int:
    """Depth of the label paths; raises :class:`DataError` where they differ, naming one of each depth."""
    depths = Counter(len(photo.labels) for photo in photos)
    if len(depths) > 1:
        examples = {depth: next(p for p in photos if len(p.labels) == depth) for depth in sorted(depths)}
        shown = "; ".join(f"depth {d}: {'/'.join(p.labels) or p.path.name}" for d, p in examples.items())
        raise DataError(f"label paths have different depths ({shown}): expected every photo equally deep")
    return next(iter(depths), 0)
