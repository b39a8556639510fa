"""Jobs and snapshots: what is asked for and how it stands."""

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from index.hierarchy.shape import MAX_CHILDREN, MIN_SIZE
from service.jobs.store import Kind, State
from service.schemas.common import Answer, Request

MAX_PAGE = 200
NUMBER = r"^[0-9]{1,9}$"


class JobRequest(Request):
    """A job without a file.

    ``rebuild``: the index anew. ``hierarchy``: the tree over the collection, built and fitted anew. ``snapshot``: the
    collection's state into a file.
    """

    kind: Literal["rebuild", "hierarchy", "snapshot"]
    max_children: Annotated[
        int | None, Field(ge=2, le=1000, description=f"hierarchy: branches of a node, {MAX_CHILDREN} unless told.")
    ] = None
    min_size: Annotated[
        int | None,
        Field(ge=1, le=10**6, description=f"hierarchy: photos of the smallest node, {MIN_SIZE} unless told."),
    ] = None

    @model_validator(mode="after")
    def _options_have_their_kind(self) -> Self:
        if self.kind != "hierarchy" and (self.max_children is not None or self.min_size is not None):
            raise ValueError(f"max_children and min_size go with kind 'hierarchy', not with {self.kind!r}")
        return self


class UploadJobRequest(Request):
    """Fields of a form with a ``file``.

    ``import``: photos of an archive (.zip or .tar; its folders become labels), or ready points (JSON lines or Parquet
    with id, embedding, labels and metadata), into the collection. ``embed``: photos of an archive -> an embedding
    folder as ``lhier embed`` writes it, to be fetched at the job's result. Any of them may be in a .gz.
    """

    kind: Literal["import", "embed"]


class JobAnswer(Answer):
    """A job. ``done`` and ``failed`` count items, or stages where there are none; ``total`` is null until known."""

    id: str
    collection: str
    kind: Kind
    state: State
    progress: Annotated[float, Field(ge=0, le=1, description="(done + failed) / total; 1 when the job is done.")]
    done: Annotated[int, Field(ge=0)]
    total: Annotated[int | None, Field(ge=0)]
    failed: Annotated[int, Field(ge=0)]
    reason: Annotated[str | None, Field(description="Why the job failed.")]
    cancelling: Annotated[bool, Field(description="It was asked to end, and has not yet.")]
    result: Annotated[str | None, Field(description="Where what it made lives, relative to the server.")]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class JobsAnswer(Answer):
    """A page of jobs, the newest first; ``next_cursor`` is null on the last."""

    jobs: list[JobAnswer]
    next_cursor: str | None


class JobError(Answer):
    """One line of a job's errors: an item that failed. ``item`` is its id or path."""

    item: str
    code: str
    detail: str


class SnapshotInfo(Answer):
    """A snapshot that is kept. What is null cannot be read: the file is damaged."""

    name: str
    size: Annotated[int, Field(ge=0, description="Bytes.")]
    sha256: str
    fault: str | None
    model_hash: str | None
    count: Annotated[int | None, Field(ge=0, description="Items.")]
    sequence: Annotated[int | None, Field(ge=0, description="The last write that it holds.")]
    created_at: datetime | None


class SnapshotsAnswer(Answer):
    """The snapshots of a collection, the newest first."""

    snapshots: list[SnapshotInfo]
