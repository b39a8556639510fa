"""Ready points from an upload, as JSON lines or Parquet: read a few at a time, from where a job left off."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, FiniteFloat, ValidationError

from index.catalogue import Item
from service.jobs.content import ContentError
from service.jobs.store import Failure
from service.problems import invalid_fields
from service.schemas.common import FARTHEST, Request
from service.schemas.items import Labels, Metadata, WriteId

LONGEST_LINE = 2**22  # bytes
LARGEST_ROW_GROUP = 512 * 2**20  # bytes, unpacked
MODEL_KEY = b"lhier.model_hash"
_ROWS = 1000
_BLOCK = 1 << 20


class PointLine(Request):
    """One line: an item whose point is known."""

    id: WriteId
    embedding: Annotated[list[FiniteFloat], Field(max_length=65_536, description="Space part of the Lorentz point.")]
    labels: Labels = ()
    metadata: Metadata = Field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """An item, or why there is none; ``position`` is where to go on after it."""

    position: int
    item: Item | None
    failure: Failure | None = None


def count_lines(path: Path) -> int:
    """Lines that are not empty, nearly: those that end, and one that does not."""
    lines, last = 0, b"\n"
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            lines += block.count(b"\n")
            last = block[-1:]
    return lines + (last != b"\n")


def read_lines(path: Path, embedding_dim: int, position: int = 0) -> Iterator[Point]:
    """Points of JSON lines from byte ``position`` on; an empty line is a point that is neither there nor failed."""
    with path.open("rb") as file:
        if position == 0 and file.read(3) != b"\xef\xbb\xbf":
            file.seek(0)
        elif position:
            file.seek(position)
        while line := file.readline(LONGEST_LINE + 1):
            start = position
            if len(line) > LONGEST_LINE and not line.endswith(b"\n"):
                while (rest := file.readline(LONGEST_LINE)) and not rest.endswith(b"\n"):
                    pass
                position = file.tell()
                yield Point(position, None, _failure(start, f"expected lines of at most {LONGEST_LINE:,} bytes"))
                continue
            position = file.tell()
            if not line.strip():
                yield Point(position, None)
                continue
            try:
                asked = PointLine.model_validate_json(line, strict=True)
            except ValidationError as error:
                detail = str(invalid_fields(error.errors(include_url=False, include_input=False), "line"))
                yield Point(position, None, _failure(start, detail))
            else:
                yield _checked(
                    Item(asked.id, _array(asked.embedding), asked.labels, asked.metadata),
                    embedding_dim,
                    position,
                )


def count_rows(path: Path, model_hash: str) -> int:
    """Rows of a Parquet file of this model's points. Raises :class:`ContentError` for another model's, or others."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = set(file.schema_arrow.names)
            if "id" not in names or not names & {"space", "embedding"}:
                raise ContentError(
                    f"expected the columns id, embedding (or space) and perhaps labels and metadata, got "
                    f"{', '.join(sorted(names))!s:.200}"
                )
            told = (file.schema_arrow.metadata or {}).get(MODEL_KEY, b"").decode("utf-8", "replace")
            if told and told != model_hash:
                raise ContentError(f"the file holds points of model {told:.64}, this service runs model {model_hash}")
            for number in range(file.metadata.num_row_groups):
                if file.metadata.row_group(number).total_byte_size > LARGEST_ROW_GROUP:
                    raise ContentError(
                        f"expected row groups of at most {LARGEST_ROW_GROUP:,} bytes: write smaller ones"
                    )
            return int(file.metadata.num_rows)
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, ContentError):
            raise
        raise ContentError(f"the file cannot be read as Parquet: {error!s:.300}") from error


def read_rows(path: Path, embedding_dim: int, position: int = 0) -> Iterator[Point]:
    """Points of a Parquet file from row ``position`` on. Raises :class:`ContentError` where it is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            columns = [
                name for name in ("id", "space", "embedding", "labels", "metadata") if name in file.schema_arrow.names
            ]
            group, first = 0, 0
            while group < file.metadata.num_row_groups and first + file.metadata.row_group(group).num_rows <= position:
                first += file.metadata.row_group(group).num_rows
                group += 1
            at = first
            groups = range(group, file.metadata.num_row_groups)
            for rows in file.iter_batches(_ROWS, row_groups=list(groups), columns=columns) if groups else ():
                for row in rows.to_pylist():
                    at += 1
                    if at > position:
                        yield _row(row, embedding_dim, at)
    except (pa.ArrowException, OSError) as error:
        raise ContentError(f"the file cannot be read as Parquet: {error!s:.300}") from error


def _row(row: dict[str, Any], embedding_dim: int, position: int) -> Point:
    item_id, embedding = row.get("id"), row.get("embedding", row.get("space"))
    labels, metadata = tuple(row.get("labels") or ()), row.get("metadata") or {}
    if isinstance(metadata, str):  # Parquet has no column of objects of any shape: JSON stands for them
        try:
            line = PointLine.model_validate_json(f'{{"id": "-", "embedding": [], "metadata": {metadata}}}', strict=True)
        except ValidationError:
            return Point(
                position, None, Failure(f"{item_id!s:.200}", "invalid_request", "metadata: expected a JSON object")
            )
        metadata = line.metadata
    try:
        asked = PointLine.model_validate(
            {"id": item_id, "embedding": embedding, "labels": labels, "metadata": metadata}, strict=True
        )
    except ValidationError as error:
        detail = str(invalid_fields(error.errors(include_url=False, include_input=False), "row"))
        return Point(position, None, Failure(f"row {position}: {item_id!s:.200}", "invalid_request", detail))
    return _checked(Item(asked.id, _array(asked.embedding), asked.labels, asked.metadata), embedding_dim, position)


def _checked(item: Item, embedding_dim: int, position: int) -> Point:
    fault = None
    if item.space.shape != (embedding_dim,):
        fault = f"expected {embedding_dim} numbers (the space part), got {len(item.space)}"
    elif not np.isfinite(item.space).all():
        fault = "a number is too large for 32-bit floating point"
    elif np.linalg.norm(item.space.astype(np.float64)) > FARTHEST:
        fault = f"the point is too far out: its norm must be at most {FARTHEST:g}"
    if fault is not None:
        return Point(position, None, Failure(item.id, "invalid_point", f"embedding: {fault}"))
    return Point(position, item)


def _array(numbers: list[float]) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.asarray(numbers, dtype=np.float64).astype(np.float32)


def _failure(start: int, detail: str) -> Failure:
    return Failure(f"line at byte {start}", "invalid_request", detail)
