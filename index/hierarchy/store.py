"""A tree on disk, in a folder of its own beside the catalogue it belongs to.

tree/manifest.json   format, model, curvature, the catalogue's write it is at, and the SHA-256 of each file
tree/nodes.npz       ids, parents, heights
tree/items.npz       rows, owners, labels (places in labels.json)
tree/labels.json     label paths
tree/fit.json        what was fitted to held-out data, where something was
names.json           node id -> the name a person gave it
former/              members of the tree of a collection that was replaced, until there is a new one (see former.py)

`tree` is swapped as a whole; `names.json` is not part of it, so that names outlive every rebuild. Points are not
stored again: they come from the catalogue. Nothing is unpickled, and no file is read before its hash is verified.
"""

import json
import logging
import shutil
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from index.catalogue import Catalogue
from index.errors import StoreError
from index.files import new_folder, sha256, sweep, write_json
from index.hierarchy.items import Items
from index.points import some

if TYPE_CHECKING:
    from index.hierarchy.calibration import Fit
    from index.hierarchy.tree import Hierarchy

logger = logging.getLogger(__name__)

FOLDER = "hierarchy"  # in a collection's folder
TREE, FORMER = "tree", "former"
FORMAT_VERSION = 1
LONGEST_NAME = 200
AGAIN = "build it again with 'lhier hierarchy build'"

UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile)


class HierarchyError(StoreError):
    """A saved tree is absent, damaged, or does not belong to the catalogue beside it."""


@dataclass(slots=True, eq=False)
class Members:
    """Which items belong to which nodes of a saved tree: what its successor takes ids and names over by."""

    ids: list[str]
    parents: npt.NDArray[np.int32]
    rows: npt.NDArray[np.int64]
    owners: npt.NDArray[np.int32]
    names: dict[str, str] = field(default_factory=dict)
    folder: Path | None = None


Source = Catalogue | tuple[npt.ArrayLike, npt.ArrayLike]
"""Where the points come from: a catalogue, or rows (m,) and their space parts (m, d)."""


def save(tree: "Hierarchy", folder: Path) -> None:
    """Write a tree into `folder`: complete or not at all; names that are there already and not in the tree stay.

    :class:`HierarchyError` where the names that are there cannot be read.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    read_names(folder)  # before anything is replaced: with the old ids gone, a backup of the names would be of no use
    with new_folder(folder / TREE, replace=True) as temporary:
        np.savez(temporary / "nodes.npz", ids=np.array(tree.ids), parents=tree.parents, heights=tree.heights)
        np.savez(temporary / "items.npz", rows=tree.rows, owners=tree.owners, labels=tree.items.codes)
        write_json(temporary / "labels.json", tree.items.paths)
        if tree.fit is not None:
            write_json(temporary / "fit.json", tree.fit.to_json())
        write_manifest(
            temporary,
            model_hash=tree.model_hash,
            embedding_dim=tree.embedding_dim,
            c=tree.c,
            sequence=tree.sequence,
            items=len(tree),
            nodes=len(tree.ids),
            changed=tree.changed,
        )
    names = read_names(folder)
    if tree.folder != folder:  # else they were written when they were given, and may have been changed since
        names |= tree.names
    if names or (folder / "names.json").exists():
        _write_names(folder, names)
    tree.folder, tree.names = folder, names
    shutil.rmtree(folder / FORMER, ignore_errors=True)  # the tree comes first where it cannot be deleted
    logger.info("event=hierarchy_saved folder=%s items=%d nodes=%d", folder, len(tree), len(tree.ids))


def load(folder: Path, source: Source) -> dict[str, Any]:
    """What :class:`~index.hierarchy.tree.Hierarchy` is made of, from a saved folder and the points of `source`.

    Items that the catalogue has deleted since are left out. Raises :class:`HierarchyError` where anything is missing,
    damaged, of another format, model or catalogue.
    """
    folder = Path(folder)
    if not (folder / "tree").is_dir():
        sweep(folder)
    manifest, files = _verified(folder / TREE, ("nodes.npz", "items.npz", "labels.json"))
    members = _members(folder / TREE, manifest, files)
    try:
        with _arrays(files["nodes.npz"]) as nodes:
            heights = nodes["heights"].astype(np.float64)
        with _arrays(files["items.npz"]) as items:
            codes = items["labels"].astype(np.int32)
        paths = [tuple(path) for path in json.loads(files["labels.json"].read_text(encoding="utf-8"))]
        sequence, dim, c = int(manifest["sequence"]), int(manifest["embedding_dim"]), float(manifest["c"])
        changed = int(manifest["changed"])
        whole = len(heights) == len(members.ids) and len(codes) == len(members.rows)
        whole &= bool(((codes >= 0) & (codes < len(paths))).all())
        fit = _read_fit(files["fit.json"]) if "fit.json" in files else None
    except UNREADABLE as error:
        raise HierarchyError(f"{folder / TREE} cannot be read ({type(error).__name__}: {error}): {AGAIN}") from error
    if not whole:
        raise HierarchyError(f"{folder / TREE} is inconsistent: {AGAIN}")
    rows = members.rows
    if isinstance(source, Catalogue):
        points, present = _points_of_catalogue(folder, manifest, rows, source)
    else:
        points, present = _points_given(folder, rows, dim, source)
    return {
        "c": c,
        "embedding_dim": dim,
        "model_hash": str(manifest["model_hash"]),
        "sequence": sequence,
        "ids": members.ids,
        "parents": members.parents,
        "heights": heights,
        "items": Items(rows[present], points, members.owners[present], codes[present], paths),
        "names": read_names(folder),
        "changed": changed + int(np.count_nonzero(~present)),
        "fit": fit,
        "folder": folder,
    }


def read_members(folder: Path, part: str, catalogue: Catalogue) -> Members:
    """Nodes and members of `part`, TREE or FORMER, of a saved hierarchy; the rest may be damaged.

    Raises :class:`HierarchyError` where they are missing, damaged, or of another model or catalogue.
    """
    manifest, files = _verified(folder / part, ("nodes.npz", "items.npz"), others=False)
    _require_catalogue(folder / part, manifest, catalogue)
    return _members(folder / part, manifest, files)


def write_manifest(folder: Path, **facts: object) -> None:
    """Write what a folder holds beside its files: `facts`, and the SHA-256 of each."""
    files = {path.name: sha256(path) for path in sorted(folder.iterdir())}
    write_json(folder / "manifest.json", {"format_version": FORMAT_VERSION, **facts, "files": files})


def _verified(folder: Path, needed: Collection[str], *, others: bool = True) -> tuple[dict[str, Any], dict[str, Path]]:
    """The manifest, and the files `needed`, with all `others` that it names; each with the hash that it gives."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if (version := manifest["format_version"]) != FORMAT_VERSION:
            raise HierarchyError(
                f"{folder} has tree format {version}, this version of lhier reads {FORMAT_VERSION}: {AGAIN}"
            )
        missing = set(needed) - set(manifest["files"])
        if missing:
            raise HierarchyError(f"{folder} is without {', '.join(sorted(missing))}: {AGAIN}")
        chosen = {name: hash_ for name, hash_ in manifest["files"].items() if others or name in needed}
        for name, expected in chosen.items():
            if Path(name).name != name:
                raise HierarchyError(f"{folder} names a file outside itself, {name!r}: {AGAIN}")
            if (found := sha256(folder / name)) != expected:
                raise HierarchyError(
                    f"{folder / name} is damaged: expected sha256 {expected[:12]}, found {found[:12]}: {AGAIN}"
                )
    except FileNotFoundError as error:
        raise HierarchyError(f"{folder} holds no whole tree ({error.filename} is missing): {AGAIN}") from error
    except UNREADABLE as error:
        raise HierarchyError(f"{folder} cannot be read ({type(error).__name__}: {error}): {AGAIN}") from error
    return manifest, {name: folder / name for name in chosen}


def _members(folder: Path, manifest: Mapping[str, Any], files: Mapping[str, Path]) -> Members:
    try:
        with (
            _arrays(files["nodes.npz"]) as nodes,
            _arrays(files["items.npz"]) as items,
        ):
            ids = [str(id_) for id_ in nodes["ids"].tolist()]
            parents = nodes["parents"].astype(np.int32)
            rows, owners = items["rows"].astype(np.int64), items["owners"].astype(np.int32)
        whole = _is_tree(parents) and len(ids) == len(set(ids)) == len(parents) == manifest["nodes"]
        whole &= len(rows) == len(owners) == manifest["items"] and bool((np.diff(rows) > 0).all())
        whole &= bool(((owners >= 0) & (owners < len(ids))).all())
    except UNREADABLE as error:
        raise HierarchyError(f"{folder} cannot be read ({type(error).__name__}: {error}): {AGAIN}") from error
    if not whole:
        raise HierarchyError(f"{folder} is inconsistent: {AGAIN}")
    return Members(ids, parents, rows, owners)


@contextmanager
def _arrays(path: Path) -> Iterator[Mapping[str, npt.NDArray[Any]]]:
    """The arrays of an .npz file, which take no more memory than it is long.

    ``np.savez`` compresses nothing: what is compressed, in a snapshot from somebody else, may fill all memory.
    """
    with np.load(path, allow_pickle=False) as arrays:
        if any(member.compress_type != zipfile.ZIP_STORED for member in arrays.zip.infolist()):
            raise ValueError(f"{path.name} is compressed, as no tree is saved")
        yield arrays


def _is_tree(parents: npt.NDArray[np.int32]) -> bool:
    """Whether nodes are numbered depth first: each one's parent is the one before it or one of that one's ancestors."""
    if not len(parents) or parents[0] != -1:
        return False
    way = [0]
    for index, parent in enumerate(parents[1:].tolist(), 1):
        while way and way[-1] != parent:
            way.pop()
        if not way:
            return False
        way.append(index)
    return True


def _require_catalogue(folder: Path, manifest: Mapping[str, Any], catalogue: Catalogue) -> None:
    for key, expected in (
        ("model_hash", catalogue.model_hash),
        ("embedding_dim", catalogue.embedding_dim),
        ("c", catalogue.c),
    ):
        if manifest.get(key) != expected:
            raise HierarchyError(f"{folder} has {key} {manifest.get(key)}, its catalogue {expected}: {AGAIN}")
    sequence, newest = manifest.get("sequence"), catalogue.sequence
    if not (isinstance(sequence, int) and 0 <= sequence <= newest):
        raise HierarchyError(f"{folder} is at write {sequence}, its catalogue only at {newest}: {AGAIN}")


def _points_of_catalogue(
    folder: Path, manifest: Mapping[str, Any], rows: npt.NDArray[np.int64], catalogue: Catalogue
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    _require_catalogue(folder, manifest, catalogue)
    everything = catalogue.changes()
    present = np.isin(rows, everything.rows, assume_unique=True)
    gone = rows[~present]
    if not np.isin(gone, catalogue.changes(manifest["sequence"]).removed).all():
        raise HierarchyError(f"{folder} holds items that its catalogue never had: {AGAIN}")
    return everything.space[np.searchsorted(everything.rows, rows[present])], present


def _points_given(
    folder: Path, rows: npt.NDArray[np.int64], dim: int, source: tuple[npt.ArrayLike, npt.ArrayLike]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    given, space = np.asarray(source[0], dtype=np.int64), np.asarray(source[1], dtype=np.float32)
    if space.shape != (len(given), dim):
        raise HierarchyError(f"{folder} needs space parts of shape ({len(given)}, {dim}), got {space.shape}")
    missing = rows[~np.isin(rows, given)]
    if len(missing):
        raise HierarchyError(f"{folder} holds items whose points were not given: rows {some(missing)}")
    order = np.argsort(given)
    return space[order[np.searchsorted(given, rows, sorter=order)]], np.ones(len(rows), dtype=bool)


def _read_fit(path: Path) -> "Fit":
    from index.hierarchy.calibration import Fit

    return Fit.from_json(json.loads(path.read_text(encoding="utf-8")))


def read_names(folder: Path) -> dict[str, str]:
    """The names that people gave nodes; :class:`HierarchyError` for a damaged file, which nobody else could restore."""
    path = folder / "names.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = content["names"]
        if content["format_version"] != FORMAT_VERSION or not all(isinstance(name, str) for name in names.values()):
            raise ValueError("unknown format")
    except FileNotFoundError:
        return {}
    except UNREADABLE as error:
        raise HierarchyError(
            f"{path} cannot be read ({type(error).__name__}: {error}): restore it from a backup, or remove it to give "
            f"the names again"
        ) from error
    return {str(id_): name for id_, name in names.items()}


def rename(folder: Path | None, names: Mapping[str, str], node_id: str, name: str | None) -> dict[str, str]:
    """The names with one changed or, with None, taken away; written to `folder` where there is one.

    The file is read anew first, so that names which another process gave meanwhile stay.
    """
    if name is not None and not (0 < len(name := name.strip()) <= LONGEST_NAME and name.isprintable()):
        raise ValueError(f"expected a name of 1 to {LONGEST_NAME} printable characters, got {name!r:.80}")
    changed = dict(names) if folder is None else read_names(folder)
    changed.pop(node_id, None)
    if name is not None:
        changed[node_id] = name
    if folder is not None:
        _write_names(folder, changed)
    return changed


def _write_names(folder: Path, names: Mapping[str, str]) -> None:
    write_json(folder / "names.json", {"format_version": FORMAT_VERSION, "names": dict(names)})
