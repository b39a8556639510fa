"""Ids and names of a tree whose collection is built anew, as when the same photos are embedded by another model.

The tree itself goes with the points that it was built from. What its successor takes ids and names over by is which
items each node held, and that stays, in the rows of the new catalogue, until the next tree is saved:

former/manifest.json   as in tree/: the model and the write are those of the new catalogue
former/nodes.npz       ids, parents
former/items.npz       rows, owners
"""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from index.catalogue import Catalogue
from index.errors import StoreError
from index.hierarchy.store import (
    FOLDER,
    FORMER,
    TREE,
    HierarchyError,
    Members,
    read_members,
    read_names,
    write_manifest,
)

if TYPE_CHECKING:
    from index.hierarchy.identity import Predecessor

logger = logging.getLogger(__name__)

CATALOGUE = "catalogue.sqlite"
PAGE = 5000  # items read at a time


def carry_over(collection: Path, successor: Path, catalogue: Catalogue) -> None:
    """Save the names and members of a collection's tree in the folder of its `successor`, for items of the same ids.

    `catalogue`: the successor's, complete. A tree or a catalogue that cannot be read is left behind with a warning;
    the names come along as they are, and where that fails (``OSError``) the collection is not to be replaced, since
    nobody else could give them again.
    """
    old, new = collection / FOLDER, successor / FOLDER
    if (old / "names.json").exists():
        new.mkdir(exist_ok=True)
        shutil.copyfile(old / "names.json", new / "names.json")
    parts = [part for part in (TREE, FORMER) if (old / part).exists()]
    if not parts:
        return
    try:
        with Catalogue.open(collection / CATALOGUE) as source:
            members = _newest(old, parts, source)
            items = source.get_rows(members.rows)
        owners = {item.id: owner for item, owner in zip(items, members.owners.tolist(), strict=True) if item}
    except (StoreError, OSError) as error:
        logger.warning("event=hierarchy_left_behind folder=%s error=%r", old, str(error))
        return
    rows = _rows(catalogue, owners)
    new.mkdir(exist_ok=True)
    (new / FORMER).mkdir()
    np.savez(new / FORMER / "nodes.npz", ids=np.array(members.ids), parents=members.parents)
    np.savez(
        new / FORMER / "items.npz",
        rows=np.array(list(rows), dtype=np.int64),
        owners=np.array(list(rows.values()), dtype=np.int32),
    )
    write_manifest(
        new / FORMER,
        model_hash=catalogue.model_hash,
        embedding_dim=catalogue.embedding_dim,
        c=catalogue.c,
        sequence=catalogue.sequence,
        items=len(rows),
        nodes=len(members.ids),
    )
    logger.info("event=hierarchy_carried_over folder=%s nodes=%d items=%d", new, len(members.ids), len(rows))


def predecessor(folder: Path, catalogue: Catalogue, note: Callable[[str], None]) -> "Predecessor | None":
    """What the next tree in `folder` takes ids and names over from: the tree there, or what is left of one.

    `note` is told why one is of no use. :class:`~index.hierarchy.store.HierarchyError` for damaged names, which must be
    restored before the ids that they belong to are replaced.
    """
    from index.hierarchy.tree import Hierarchy

    read_names(folder)
    for part, read in ((TREE, Hierarchy.load), (FORMER, read_former)):
        if (folder / part).is_dir():
            try:
                return read(folder, catalogue)
            except HierarchyError as error:
                note(f"the former tree is of no use, so nodes get new ids: {error}")
    return None


def read_former(folder: Path, catalogue: Catalogue) -> Members:
    """What :func:`carry_over` saved, with the names: the `previous` of the collection's next tree.

    Raises :class:`~index.hierarchy.store.HierarchyError` where it is missing, damaged or of another catalogue.
    """
    members = read_members(folder, FORMER, catalogue)
    members.names, members.folder = read_names(folder), folder
    return members


def _newest(folder: Path, parts: list[str], catalogue: Catalogue) -> Members:
    """The members of the first part that can be read."""
    for part in parts[:-1]:
        try:
            return read_members(folder, part, catalogue)
        except HierarchyError as error:
            logger.warning("event=hierarchy_left_behind folder=%s error=%r", folder / part, str(error))
    return read_members(folder, parts[-1], catalogue)


def _rows(catalogue: Catalogue, owners: dict[str, int]) -> dict[int, int]:
    """Owners by row, ascending, of the items of a catalogue whose ids they are given by."""
    found: dict[int, int] = {}
    after = 0
    while items := catalogue.items(after, PAGE):
        found |= {item.row: owners[item.id] for item in items if item.id in owners}
        after = items[-1].row
    return found
