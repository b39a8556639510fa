"""From an embedding folder to a collection, and the check that a collection is what it should be."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from index.catalogue import Catalogue, Changes
from index.collection import DEFAULT, Collection, collection_folder
from index.embed import EmbedReport, embed_photos
from index.embeddings import read_manifest, read_parts
from index.errors import CollectionExistsError, CollectionNotFoundError, EmbeddingsError, SnapshotError, StoreError
from index.files import new_folder
from index.hierarchy.former import carry_over
from index.lorentz_index import LorentzIndex
from index.plan import Plan, write_request
from index.snapshot import list_generations, read_generation, write_generation

__all__ = ["Check", "EmbedReport", "build_collection", "embed_photos", "verify_collection"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was verified, and how it stands."""

    name: str
    ok: bool
    detail: str


def build_collection(
    embeddings: Path,
    store: Path,
    name: str = DEFAULT,
    *,
    replace: bool = False,
    image_root: Path | None = None,
    request: dict[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Collection:
    """Make a collection of the points of an embedding folder, and open it.

    It appears in the store complete or not at all. An existing one is refused
    (:class:`CollectionExistsError`) or, with `replace`, swapped out once the new one is whole; a service
    that has it open goes on with the old one until it is started again. The names that people gave the nodes of its
    tree come along, and which photos those held (:mod:`index.hierarchy.former`): the next tree takes them over.
    `image_root`: where the photos lie, if not where they were embedded, or those were no files. `request`: kind,
    memory, nlist and nprobe as :meth:`LorentzIndex.build` takes them, kept for rebuilds; kind "auto" by default.
    """
    request = Plan(requested="auto").request() | (request or {})
    manifest = read_manifest(embeddings)
    folder = collection_folder(store, name)
    if folder.exists() and not replace:
        raise CollectionExistsError(
            f"the store {store} has a collection {name!r} already: add --replace to build it anew, "
            f"or --collection for another name"
        )
    with (
        new_folder(folder, replace=replace) as temporary,
        Catalogue.create(
            temporary / "catalogue.sqlite",
            embedding_dim=manifest.embedding_dim,
            c=manifest.c,
            model_hash=manifest.model_hash,
            image_root=root.resolve() if (root := image_root or manifest.image_root) else None,
            checkpoint=Path(manifest.checkpoint),
        ) as catalogue,
    ):
        done = 0
        for items in read_parts(embeddings, manifest):
            catalogue.upsert(items)
            done += len(items)
            if progress:
                progress(done, manifest.count)
        if not catalogue.count() == done == manifest.count:
            raise EmbeddingsError(
                f"{embeddings} announces {manifest.count} photos, its parts hold {done}, "
                f"{catalogue.count()} of them different: run 'lhier embed' again into an empty folder"
            )
        changes = catalogue.changes()
        index = LorentzIndex.build(changes.space, changes.rows, manifest.c, **request)
        write_request(temporary, request)
        write_generation(temporary / "generations", index, catalogue, changes.sequence)
        carry_over(folder, temporary, catalogue)  # last, so that names given meanwhile come along
        # Closed before the folder is moved, so that nothing is left in a write-ahead log.
        catalogue.close()
    logger.info("event=collection_built name=%s count=%d model_hash=%s", name, done, manifest.model_hash)
    return Collection.open(store, name)


def verify_collection(store: Path, name: str = DEFAULT, *, sample: int = 50) -> Iterator[Check]:
    """Check a collection without changing it: catalogue, generations, and searches against all distances in
    float64."""
    folder = collection_folder(store, name)
    if not folder.is_dir():
        raise CollectionNotFoundError(f"the store {store} has no collection {name!r}")
    try:
        catalogue = Catalogue.open(folder / "catalogue.sqlite")
    except StoreError as error:
        yield Check("catalogue", ok=False, detail=str(error))
        return
    with catalogue:
        faults = catalogue.faults()
        yield Check("catalogue", not faults, "; ".join(faults) or f"{catalogue.count()} items, sound")
        if faults:
            return
        changes = catalogue.changes()
        generations = list_generations(folder / "generations")
        if not generations:
            yield Check("generation", ok=False, detail="there is none: run 'lhier index rebuild'")
        for path in generations:
            try:
                generation = read_generation(path, catalogue)
            except SnapshotError as error:
                yield Check(f"generation {path.name}", ok=False, detail=f"{error}: run 'lhier index rebuild'")
                continue
            catalogue.changes(generation.sequence).apply(generation.index)
            yield Check(f"generation {path.name}", ok=True, detail=f"{len(generation.index)} points, hashes agree")
            yield _check_searches(path.name, generation.index, changes, sample)


def _check_searches(name: str, index: LorentzIndex, truth: Changes, sample: int) -> Check:
    title = f"searches of {name}"
    if not np.array_equal(index.ids, truth.rows):
        return Check(title, ok=False, detail="it holds other items than the catalogue: run 'lhier index rebuild'")
    if not len(truth.rows):
        return Check(title, ok=True, detail="the collection is empty")
    # Fixed, so that a failure shows again.
    chosen = np.random.default_rng(0).choice(len(truth.rows), min(sample, len(truth.rows)), replace=False)
    k = min(10, len(truth.rows))
    distances, rows, _ = index.search(truth.space[chosen], k, exact=True)
    points = truth.space.astype(np.float64)
    times = np.sqrt(1 / index.c + np.square(points).sum(axis=1))
    place = {int(row): position for position, row in enumerate(truth.rows)}
    for number, query in enumerate(chosen):
        # The asinh form of the distance, written apart from the index's own.
        difference, total = points - points[query], points + points[query]
        time_difference = (difference * total).sum(axis=1) / (times + times[query])
        squared = np.square(difference).sum(axis=1) - np.square(time_difference)
        root = np.sqrt(index.c)
        exact = 2 / root * np.arcsinh(root / 2 * np.sqrt(np.maximum(squared, 0)))
        expected = np.sort(exact)[:k]
        answered = exact[[place[int(row)] for row in rows[number]]]
        # What this form may lose to rounding, about x_time^2 u of a squared distance.
        tolerance = 1e-7 + np.sqrt(1e-15 * index.c) * times[query]
        if max(np.abs(distances[number] - expected).max(), np.abs(answered - expected).max()) > tolerance:
            return Check(title, ok=False, detail=f"row {truth.rows[query]} has other neighbours by brute force")
    return Check(title, ok=True, detail=f"{len(chosen)} equal all distances in float64 (nearest {k})")
