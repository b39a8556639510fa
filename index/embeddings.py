"""Embedding folders: photos turned into points, in Parquet, between `lhier embed` and `lhier index build`.

part-00000.parquet ...   id, path: string; labels: list<string>; space: fixed_size_list<float32>[d]
                         (in the file's own metadata: lhier.model_hash, lhier.c, lhier.embedding_dim, lhier.runtime)
failures.jsonl           {path, code, error} of each photo that could not be read
manifest.json            written last: a folder without one is unfinished
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from index.catalogue import Item
from index.errors import EmbeddingsError
from index.files import sha256, sync
from index.sources import Photo

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)  # 1: before photos had stamps and sources
READ_ROWS = 8192
MANIFEST = "manifest.json"
FAILURES = "failures.jsonl"


class Part(BaseModel):
    """One Parquet file of the folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    sha256: str
    rows: int
    failed: int = 0
    fingerprint: str = ""  # of its photos' ids, paths, labels and stamps


class Manifest(BaseModel):
    """Whose points these are, of which photos, and in which files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int
    model_hash: str
    checkpoint: str
    embedding_dim: int
    c: float
    image_root: Path | None  # the folder that the photos' paths are below, if they lay on this machine
    source: str = ""
    runtime: str = "torch"
    precision: str = "f32"
    draft: bool = False
    part_size: int = 0
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
    if manifest.format_version not in READABLE_VERSIONS:
        raise EmbeddingsError(
            f"{path} has format {manifest.format_version}, this version of lhier reads {READABLE_VERSIONS}: "
            f"run 'lhier embed' again"
        )
    return manifest


def write_part(
    path: Path, photos: Sequence[Photo], space: npt.NDArray[np.float32], metadata: dict[str, str]
) -> tuple[str, int]:
    """Write photos and their points (n, d) as one Parquet file, whole or not at all; its sha256 and rows.

    `metadata` goes into the file's own, so that it says by itself whose points it holds.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    flat = pa.array(np.ascontiguousarray(space, dtype=np.float32).ravel())
    table = pa.table(
        {
            "id": pa.array([photo.id for photo in photos], pa.string()),
            "path": pa.array([photo.path for photo in photos], pa.string()),
            "labels": pa.array([photo.labels for photo in photos], pa.list_(pa.string())),
            "space": pa.FixedSizeListArray.from_arrays(flat, space.shape[1]),
        }
    ).replace_schema_metadata({f"lhier.{key}": value for key, value in metadata.items()})
    temporary = path.with_name(f".{path.name}.writing")
    pq.write_table(table, temporary, row_group_size=READ_ROWS)
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)
    return sha256(path), len(photos)


def read_parts(folder: Path, manifest: Manifest) -> Iterator[list[Item]]:
    """Items, up to READ_ROWS at a time, of each part whose hash was verified.

    :class:`EmbeddingsError` where one is damaged.
    """
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
            with pq.ParquetFile(path) as file:
                for rows in file.iter_batches(READ_ROWS, columns=["id", "path", "labels", "space"]):
                    yield _items(rows, manifest.embedding_dim)
        except (pa.ArrowException, KeyError, ValueError) as error:
            raise EmbeddingsError(f"{path} has not the columns id, path, labels, space: {error}") from error


def _items(rows: "pa.RecordBatch", embedding_dim: int) -> list[Item]:
    space = np.asarray(rows.column("space").flatten()).reshape(-1, embedding_dim).astype(np.float32)
    columns = (rows.column(name).to_pylist() for name in ("id", "path", "labels"))
    # A photo with a URL of its own lies below no folder.
    return [
        Item(id_, point, tuple(labels), {}, None if "://" in path else path)
        for id_, path, labels, point in zip(*columns, space, strict=True)
    ]
