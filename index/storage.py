"""A LorentzIndex as a folder: index.json names every other file, with its SHA-256.

Format 2 (this one) has the plan, and lists; format 1 had flat indices only, and is still read.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from index.ball_rows import BallRows
from index.errors import SnapshotError
from index.exact_points import Int64
from index.files import new_folder, sha256, write_json
from index.generators import Generator, InnerProductRows
from index.list_rows import ListRows
from index.plan import Plan

FORMAT_VERSION = 2
READABLE = (1, 2)
IDS_FILE, DESCRIPTION_FILE = "ids.npy", "index.json"
GENERATORS: dict[str, Any] = {rows.name: rows for rows in (InnerProductRows, BallRows, ListRows)}


class Stored(NamedTuple):
    """What a folder holds."""

    generator: Generator
    ids: Int64  # by position; -1 where a position is empty
    plan: Plan
    embedding_dim: int
    c: float


def write_index(folder: Path, stored: Stored) -> None:
    """Write the index into `folder`, which is replaced as a whole."""
    with new_folder(folder, replace=True) as temporary:
        stored.generator.write(temporary)
        np.save(temporary / IDS_FILE, stored.ids)
        description = {
            "format_version": FORMAT_VERSION,
            "generator": stored.generator.name,
            "embedding_dim": stored.embedding_dim,
            "c": stored.c,
            "count": int(np.count_nonzero(stored.ids >= 0)),
            "positions": len(stored.ids),
            "plan": stored.plan.as_dict(),
            "files": {path.name: sha256(path) for path in sorted(temporary.iterdir())},
        }
        write_json(temporary / DESCRIPTION_FILE, description)


def read_description(folder: Path) -> dict[str, Any]:
    """What index.json says, as format 2 would say it; :class:`SnapshotError` where it cannot be read."""
    try:
        description: dict[str, Any] = json.loads((folder / DESCRIPTION_FILE).read_text(encoding="utf-8"))
        version = description["format_version"]
        if version not in READABLE:
            raise SnapshotError(
                f"{folder} has index format {version}, this version reads {READABLE}: run 'lhier index rebuild'"
            )
        if version == 1:
            plan = Plan(count=description["count"], reason="built before there were other kinds")
            description |= {"plan": plan.as_dict(), "positions": description["count"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SnapshotError(f"{folder} holds no readable index ({error}): run 'lhier index rebuild'") from error
    return description


def read_index(folder: Path, *, hashes_verified: bool = False) -> Stored:
    """What :func:`write_index` wrote. Every hash is verified before FAISS reads a byte; :class:`SnapshotError`
    otherwise.

    `hashes_verified`: the caller just did that, by hashes of its own.
    """
    description = read_description(folder)
    try:
        for name, expected in description["files"].items():
            if not hashes_verified and (found := sha256(folder / name)) != expected:
                raise SnapshotError(f"{folder / name} is damaged: expected sha256 {expected[:12]}, found {found[:12]}")
        dim, c, plan = description["embedding_dim"], float(description["c"]), Plan.from_dict(description["plan"])
        ids = np.load(folder / IDS_FILE, allow_pickle=False)
        generator: Generator = GENERATORS[description["generator"]].read(folder, dim, c)
        count, positions = description["count"], description["positions"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise SnapshotError(f"{folder} holds no readable index ({error}): run 'lhier index rebuild'") from error
    held = (len(generator), len(ids), int(np.count_nonzero(ids >= 0)))
    if held != (positions, positions, count):
        raise SnapshotError(
            f"{folder} is inconsistent: {count} points announced, {held[2]} found: run 'lhier index rebuild'"
        )
    return Stored(generator, ids, plan, dim, c)
