"""Generations: saved copies of a collection's index, so that opening it need not read every point.

    generations/<sequence>-<time>-<random>/manifest.json, index/{index.json, index.faiss, ids.npy, ...}

A generation is a cache of the catalogue up to one sequence number. It appears by a rename, complete or not
at all; its hashes are verified before FAISS reads a byte (a corrupt FAISS file is a memory-safety hazard);
a bad one is set aside and never read again.
"""

import json
import logging
import shutil
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from index.catalogue import Catalogue
from index.errors import SnapshotError
from index.files import new_folder, sha256, write_json
from index.lorentz_index import LorentzIndex

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
KEEP = 2  # generations: the newest, and the one to fall back on; and as many of those set aside, to be looked at


@dataclass(frozen=True, slots=True)
class Generation:
    """A saved index and the state of the catalogue that it holds."""

    name: str
    index: LorentzIndex
    sequence: int


def list_generations(folder: Path) -> list[Path]:
    """The generations in `folder`, newest first; those set aside or half-written are not among them."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.is_dir() and path.name[0].isdigit()]
    return sorted(found, key=lambda path: path.name, reverse=True)


def write_generation(folder: Path, index: LorentzIndex, catalogue: Catalogue, sequence: int) -> str:
    """Save `index`, which holds the catalogue up to `sequence`; older generations but one are deleted.
    Returns its name."""
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    name = f"{sequence:012d}-{moment}-{uuid.uuid4().hex[:4]}"
    with new_folder(folder / name) as temporary:
        index.save(temporary / "index")
        files = sorted(path for path in (temporary / "index").iterdir())
        manifest = {
            "format_version": FORMAT_VERSION,
            "model_hash": catalogue.model_hash,
            "embedding_dim": catalogue.embedding_dim,
            "c": catalogue.c,
            "count": len(index),
            "sequence": sequence,
            "created_at": moment,
            "files": {f"index/{path.name}": sha256(path) for path in files},
        }
        write_json(temporary / "manifest.json", manifest)
        catalogue.require_current()  # else what lies there now is another collection
    logger.info("event=generation_written name=%s count=%d sequence=%d", name, len(index), sequence)
    aside = sorted(folder.glob("bad-*"), key=lambda path: path.name, reverse=True)
    for old in [*list_generations(folder)[KEEP:], *aside[KEEP:]]:
        if old.name != name:  # of an older write than others saved while it was built: whoever built it wants it
            shutil.rmtree(old, ignore_errors=True)
    return name


def read_generation(path: Path, catalogue: Catalogue) -> Generation:
    """The index of one generation. Raises :class:`SnapshotError` where it is damaged or not of this
    catalogue."""
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        version = manifest["format_version"]
        if version != FORMAT_VERSION:
            raise SnapshotError(f"{path} has format {version}, this version of lhier reads {FORMAT_VERSION}")
        for key, expected in (
            ("model_hash", catalogue.model_hash),
            ("embedding_dim", catalogue.embedding_dim),
            ("c", catalogue.c),
        ):
            if manifest[key] != expected:
                raise SnapshotError(f"{path} has {key} {manifest[key]}, its catalogue {expected}")
        sequence = manifest["sequence"]
        if not path.name.startswith(f"{sequence:012d}-"):  # the manifest has no hash of its own
            raise SnapshotError(f"{path} says that it is at write {sequence}, which is not what its name says")
        if sequence > (newest := catalogue.sequence):
            raise SnapshotError(f"{path} is at write {sequence}, its catalogue only at {newest}: not of this catalogue")
        files = {str(file.relative_to(path).as_posix()) for file in (path / "index").rglob("*")}
        if files != set(manifest["files"]):
            raise SnapshotError(f"{path} holds {sorted(files)}, its manifest names {sorted(manifest['files'])}")
        for name, expected in manifest["files"].items():
            if (found := sha256(path / name)) != expected:
                raise SnapshotError(f"{path / name} is damaged: expected sha256 {expected[:12]}, found {found[:12]}")
        index = LorentzIndex.load(path / "index", hashes_verified=True)
        if (len(index), index.embedding_dim, index.c) != (manifest["count"], catalogue.embedding_dim, catalogue.c):
            raise SnapshotError(f"{path} holds {len(index)} points, its manifest announces {manifest['count']}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SnapshotError(f"{path} cannot be read ({type(error).__name__}: {error})") from error
    return Generation(path.name, index, sequence)


def newest_valid_generation(folder: Path, catalogue: Catalogue) -> Generation | None:
    """The newest generation that is whole and of this catalogue; bad ones on the way are set aside."""
    for path in list_generations(folder):
        try:
            return read_generation(path, catalogue)
        except SnapshotError as error:
            aside = path.with_name(f"bad-{path.name}")
            logger.warning("event=generation_set_aside path=%s aside=%s error=%r", path, aside.name, str(error))
            try:
                path.rename(aside)
            except OSError as failure:  # a read-only store still opens
                logger.warning("event=generation_not_moved path=%s error=%r", path, str(failure))
    return None
