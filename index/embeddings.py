"""Embedding folders: photos turned into points, in Parquet, between `lhier embed` and `lhier index build`.

part-00000.parquet ...   id, path: string; labels: list<string>; space: fixed_size_list<float32>[d]
failures.jsonl           {path, code, error} of each photo that could not be read
manifest.json            written last: a folder without one is unfinished
"""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from index.catalogue import Item
from index.errors import EmbeddingsError
from index.files import sha256, sync

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
FAILURES = "failures.jsonl"


class Part(BaseModel):
    """One Parquet file of the folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    sha256: str
    rows: int


class Manifest(BaseModel):
    """Whose points these are, of which photos, and in which files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int
    model_hash: str
    checkpoint: str
    embedding_dim: int
    c: float
    image_root: str
    photos_sha256: str  # of the list of photos, so that the same job is known again
    count: int
    failed: int
    parts: list[Part]


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a finished embedding folder; :class:`EmbeddingsError` where there is none."""
    path = folder / MANIFEST
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise EmbeddingsError(
            f"{folder} holds no finished embeddings ({MANIFEST} is missing): run 'lhier embed', "
            f"or run it again with the same arguments to continue an interrupted job"
        ) from error
    except (OSError, ValidationError) as error:
        raise EmbeddingsError(f"{path} cannot be read: {error}") from error
    if manifest.format_version != FORMAT_VERSION:
        raise EmbeddingsError(
            f"{path} has format {manifest.format_version}, this version of lhier reads {FORMAT_VERSION}: "
            f"run 'lhier embed' again"
        )
    return manifest


def write_part(path: Path, photos: Sequence[str], space: npt.NDArray[np.float32]) -> Part:
    """Write photos (paths relative to the image folder) and their points (n, d) as one Parquet file, whole
    or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    flat = pa.array(np.ascontiguousarray(space, dtype=np.float32).ravel())
    table = pa.table(
        {
            "id": pa.array(photos, pa.string()),
            "path": pa.array(photos, pa.string()),
            "labels": pa.array([label_path(photo) for photo in photos], pa.list_(pa.string())),
            "space": pa.FixedSizeListArray.from_arrays(flat, space.shape[1]),
        }
    )
    temporary = path.with_name(f".{path.name}.writing")
    pq.write_table(table, temporary)
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)
    return Part(file=path.name, sha256=sha256(path), rows=len(photos))


def read_parts(folder: Path, manifest: Manifest) -> Iterator[list[Item]]:
    """The items of each part, once its hash was verified; :class:`EmbeddingsError` where one is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for part in manifest.parts:
        path = folder / part.file
        if not path.is_file():
            raise EmbeddingsError(f"{path} is missing: run 'lhier embed' again into an empty folder")
        if (found := sha256(path)) != part.sha256:
            raise EmbeddingsError(
                f"{path} is damaged: expected sha256 {part.sha256[:12]}, found {found[:12]}; "
                f"run 'lhier embed' again into an empty folder"
            )
        try:
            table = pq.read_table(path)
            space = np.asarray(table["space"].combine_chunks().flatten()).reshape(-1, manifest.embedding_dim)
            columns = (table[name].to_pylist() for name in ("id", "path", "labels"))
            rows = list(zip(*columns, space.astype(np.float32), strict=True))
        except (pa.ArrowException, KeyError, ValueError) as error:
            raise EmbeddingsError(f"{path} has not the columns id, path, labels, space: {error}") from error
        yield [Item(id_, point, tuple(labels), {}, photo) for id_, photo, labels, point in rows]


def label_path(photo: str) -> list[str]:
    """The folders above a photo, most general first."""
    return list(PurePosixPath(photo).parts[:-1])
