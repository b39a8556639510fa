"""Data set `specimens`: a folder of drawn creatures whose true taxonomy is known.

    OUT/images/<Order>/<Family>/<Genus>/<Species>/000.jpg ...   nested folders are the label path
    OUT/taxonomy.json     the tree: names, branch lengths and traits of every clade
    OUT/taxonomy.nwk      the same tree in Newick format
    OUT/specimens.json    parameters, generator version and counts

Every image has a random stream of its own, keyed by (seed, species, image): it does not depend on how many
images or workers there are, nor on what was drawn before. The same parameters give byte-identical files as
long as the versions of NumPy and Pillow (whose samplers and codecs draw them) stay the same.
"""

import json
import logging
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from training.data.specimens_scene import photograph
from training.data.specimens_taxonomy import Species, Taxonomy, evolve, species_split
from training.data.specimens_traits import RANKS, Traits

__all__ = ["RANKS", "Species", "SpecimensError", "Taxonomy", "generate_specimens", "species_split"]

logger = logging.getLogger(__name__)

# Raised whenever the same parameters would draw other pictures, so that old folders are not silently mixed.
GENERATOR_VERSION = 1
JPEG_QUALITY = 90
MIN_IMAGE_SIZE, MAX_IMAGE_SIZE = 32, 2048
_PARTIAL = ".partial"


class SpecimensError(ValueError):
    """Parameters that cannot be drawn, or an output folder that holds something else."""


@dataclass(frozen=True)
class _Job:
    """The images of one species that are still to draw."""

    seed: int
    species_index: int
    traits: Traits
    folder: Path
    image_numbers: tuple[int, ...]
    image_size: int


def generate_specimens(
    out: Path,
    *,
    num_species: int = 96,
    images_per_species: int = 20,
    seed: int = 0,
    image_size: int = 224,
    num_workers: int = 2,
    progress: bool = False,
) -> Taxonomy:
    """Evolve a taxonomy and draw its specimens under `out`; returns the taxonomy.

    A species draws the same images whatever `images_per_species` is: more of them only add to the row. An
    interrupted run is resumed by the same call (whole images are kept, no image is ever half written). With
    `num_workers` of 2 or more, species are drawn in that many processes; each draws about 100 images/s at 224
    pixels. Processes are spawned, so a script that calls this needs its `if __name__ == "__main__"`.

    Raises SpecimensError for parameters out of range, and where `out` holds other files or specimens of other
    parameters: nothing of it is touched then.
    """
    _check(num_species, images_per_species, seed, image_size, num_workers)
    taxonomy = evolve(num_species, seed)
    parameters = {
        "num_species": num_species,
        "images_per_species": images_per_species,
        "seed": seed,
        "image_size": image_size,
        "jpeg_quality": JPEG_QUALITY,
    }
    _claim(out, parameters, _counts(taxonomy, images_per_species))
    _write(out / "taxonomy.json", taxonomy.save)
    _write(out / "taxonomy.nwk", lambda path: _write_text(path, taxonomy.newick()))
    jobs = []
    for index, species in enumerate(taxonomy.species):
        folder = out.joinpath("images", *species.label_path)
        missing = tuple(n for n in range(images_per_species) if not _is_drawn(folder / _file_name(n)))
        if missing:
            jobs.append(_Job(seed, index, species.traits, folder, missing, image_size))
    total = num_species * images_per_species
    missing_total = sum(len(job.image_numbers) for job in jobs)
    logger.info("specimens=%s images=%d already_drawn=%d", out, total, total - missing_total)
    with tqdm(
        total=total,
        initial=total - missing_total,
        desc="specimens",
        unit="image",
        disable=not (progress and sys.stderr.isatty()),
    ) as bar:
        _run(jobs, num_workers, bar.update)
    return taxonomy


def _check(num_species: int, images_per_species: int, seed: int, image_size: int, num_workers: int) -> None:
    for name, value, low in (
        ("num_species", num_species, 1),
        ("images_per_species", images_per_species, 1),
        ("seed", seed, 0),
        ("num_workers", num_workers, 0),
    ):
        if value < low:
            raise SpecimensError(f"{name} must be at least {low}, got {value}")
    if not MIN_IMAGE_SIZE <= image_size <= MAX_IMAGE_SIZE:
        raise SpecimensError(
            f"image_size must lie between {MIN_IMAGE_SIZE} and {MAX_IMAGE_SIZE} pixels, got {image_size}"
        )


def _counts(taxonomy: Taxonomy, images_per_species: int) -> dict[str, int]:
    species = taxonomy.species
    return {
        "orders": len(taxonomy.orders),
        "families": len({one.label_path[:2] for one in species}),
        "genera": len({one.label_path[:3] for one in species}),
        "species": len(species),
        "images": len(species) * images_per_species,
    }


def _claim(out: Path, parameters: dict[str, int], counts: dict[str, int]) -> None:
    """Make `out` the folder of these specimens, or refuse."""
    if out.exists() and not out.is_dir():
        raise SpecimensError(f"{out} is a file: give a folder to write the specimens to")
    out.mkdir(parents=True, exist_ok=True)
    record = out / "specimens.json"
    if record.exists():
        try:
            found = json.loads(record.read_text(encoding="utf-8"))
            theirs = {"generator_version": found["generator_version"], **found["parameters"]}
        except (ValueError, KeyError, TypeError) as error:
            raise SpecimensError(
                f"{record} is not readable as the record of a specimens folder ({error}): "
                "give another folder, or delete this one and draw again"
            ) from error
        ours = {"generator_version": GENERATOR_VERSION, **parameters}
        different = [
            f"{name} {theirs.get(name)} there, {ours.get(name)} asked for"
            for name in dict.fromkeys([*ours, *theirs])
            if theirs.get(name) != ours.get(name)
        ]
        if different:
            raise SpecimensError(
                f"{out} holds specimens of other parameters ({'; '.join(different)}): "
                "give another folder, ask for the same parameters to resume, or delete it first"
            )
        return
    strangers = sorted(path.name for path in out.iterdir() if not path.name.endswith(_PARTIAL))
    if strangers:
        raise SpecimensError(
            f"{out} is not empty (it holds {', '.join(strangers[:3])}) and is no specimens folder: give a new folder"
        )
    description = {"generator_version": GENERATOR_VERSION, "parameters": parameters, "counts": counts}
    _write(record, lambda path: _write_text(path, json.dumps(description, indent=2)))


def _run(jobs: list[_Job], num_workers: int, advance: Callable[[int], object]) -> None:
    """Draw all jobs, in this process or in several."""
    done, total = 0, sum(len(job.image_numbers) for job in jobs)

    def drawn(images: int) -> None:
        nonlocal done
        before, done = done, done + images
        advance(images)
        if 10 * before // total != 10 * done // total:
            logger.info("specimens_drawn=%d of=%d", done, total)

    if num_workers < 2 or len(jobs) < 2:
        for job in jobs:
            drawn(_draw(job))
        return
    # Spawned, not forked: the parent may hold threads (torch, FAISS) that a fork would break.
    with ProcessPoolExecutor(
        min(num_workers, len(jobs)), mp_context=get_context("spawn"), initializer=_end_with_parent
    ) as pool:
        try:
            for future in as_completed([pool.submit(_draw, job) for job in jobs]):
                drawn(future.result())
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _end_with_parent() -> None:
    """In a worker: end when the parent is gone, which a killed parent cannot ask for; else it waits for ever."""

    def watch() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _draw(job: _Job) -> int:
    """Draw the images of one job; returns how many."""
    job.folder.mkdir(parents=True, exist_ok=True)
    for number in job.image_numbers:
        key = (1, job.species_index, number)
        rng = np.random.default_rng(np.random.SeedSequence(job.seed, spawn_key=key))
        image = photograph(job.traits, job.image_size, rng)
        _write(job.folder / _file_name(number), partial(_write_jpeg, image))
    return len(job.image_numbers)


def _file_name(number: int) -> str:
    return f"{number:03d}.jpg"


def _is_drawn(path: Path) -> bool:
    """Whether the image is there; an empty file is what a crashed file system may leave of one."""
    return path.is_file() and path.stat().st_size > 0


def _write_jpeg(image: Image.Image, path: Path) -> None:
    image.save(path, "JPEG", quality=JPEG_QUALITY)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text + "\n", encoding="utf-8")


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside `path`, then rename: a reader or a resumed run sees the whole file or none."""
    partial_path = path.with_name(path.name + _PARTIAL)
    try:
        write(partial_path)
        partial_path.replace(path)
    finally:
        partial_path.unlink(missing_ok=True)
