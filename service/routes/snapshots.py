"""Snapshots of a collection: taken, listed, fetched, sent from elsewhere, restored."""

import asyncio
import base64
import re
import time
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote

from fastapi import APIRouter, Query, Request, Response
from fastapi import Path as PathParameter
from starlette.concurrency import run_in_threadpool

from index.collection import collection_folder
from index.errors import CollectionNameError, ModelMismatchError, SnapshotError
from service.access import access
from service.collections import UnknownCollectionError
from service.jobs.store import Job, new_job_id
from service.problems import Problem
from service.routes.collections import problems
from service.routes.downloads import download
from service.routes.jobs import accepted, require_room
from service.schemas.jobs import JobAnswer, SnapshotInfo, SnapshotsAnswer
from service.snapshots import NAME, Snapshots, Stored, UnknownSnapshotError, name_of, verified
from service.state import CollectionName, ServiceState, State

router = APIRouter(prefix="/v1/collections/{collection}/snapshots", tags=["snapshots"])

Name = Annotated[str, PathParameter(description="Name of a snapshot.", max_length=96)]
Checksum = Annotated[
    str | None, Query(pattern=r"^[0-9a-fA-F]{64}$", description="SHA-256 of the whole file: refused if it differs.")
]
_UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/x-tar": {"schema": {"type": "string", "format": "binary"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "string", "format": "binary", "description": "The snapshot."}},
                    "required": ["file"],
                    "additionalProperties": False,
                }
            },
        },
    }
}
_RESTORING = problems(
    s400="a broken body", s404="no such collection", s409="points of another model", s413="too large",
    s415="no .tar", s422="damaged, or not what the checksum says", s429="too many jobs wait, or uploads come",
    s503="jobs are not available", s507="no room",
)  # fmt: skip


@router.get("", responses=problems(s404="no such collection"))
def list_snapshots(state: State, collection: CollectionName) -> SnapshotsAnswer:
    """The snapshots of a collection, the newest first; those of one that was deleted are still there."""
    name = unquote(collection)
    snapshots = _snapshots(state)
    found = snapshots.all_of(name) if name in snapshots.collections() else []
    if not found and name not in state.engine.collections.names():
        raise UnknownCollectionError(f"no collection {name!r:.80} is served here, and there are no snapshots of it")
    return SnapshotsAnswer(snapshots=[_answer(stored) for stored in found])


@router.post(
    "",
    status_code=202,
    responses=problems(
        s404="no such collection", s429="too many jobs wait", s503="broken, or jobs are not available", s507="no room"
    ),
)
def take_snapshot(state: State, collection: CollectionName, response: Response) -> JobAnswer:
    """Take a snapshot in the background, while others search and write; the job's result is where it lives."""
    name = unquote(collection)
    with state.engine.collections.use(name):
        job = state.jobs.submit(name, "snapshot", {}, job_id=new_job_id())
    return accepted(response, job)


async def _upload(
    request: Request, response: Response, state: State, collection: CollectionName, checksum: Checksum = None
) -> JobAnswer:
    name = unquote(collection)
    await run_in_threadpool(_require_ready, state, name)
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in _UPLOAD["requestBody"]["content"]:
        raise Problem(
            415,
            "unsupported_media_type",
            f"expected the snapshot as application/x-tar or multipart/form-data, got {content_type or 'no type':.80}",
        )
    async with _off_loop(_snapshots(state).incoming(name)) as folder:
        upload = await state.jobs.uploads.receive(request, folder / "upload.tar")
        if upload.fields:
            raise Problem(
                422, "invalid_request", f"expected a file alone, got the field {next(iter(upload.fields))!r:.80}"
            )
        job = await run_in_threadpool(_keep_and_restore, state, name, folder / "upload.tar", upload.sha256, checksum)
    return accepted(response, job)


@router.put("/upload", status_code=202, openapi_extra=_UPLOAD, responses=_RESTORING)
@access("write", streams=True)
async def put_snapshot(
    request: Request, response: Response, state: State, collection: CollectionName, checksum: Checksum = None
) -> JobAnswer:
    """Send a snapshot and restore it: ``curl -T c.tar -H 'Content-Type: application/x-tar' HOST/.../upload``.

    It is written to the disk as it comes and checked whole before this answers. Then a job builds a collection of it
    beside the live one, which serves on, and switches: writes until the job is done are lost. A collection that does
    not exist yet is made.
    """
    return await _upload(request, response, state, collection, checksum)


@router.post("/upload", status_code=202, openapi_extra=_UPLOAD, responses=_RESTORING)
@access("write", streams=True)
async def post_snapshot(
    request: Request, response: Response, state: State, collection: CollectionName, checksum: Checksum = None
) -> JobAnswer:
    """Send a snapshot and restore it, as PUT does: ``curl -F file=@c.tar HOST/.../snapshots/upload?checksum=...``."""
    return await _upload(request, response, state, collection, checksum)


@router.get(
    "/{name}",
    response_class=Response,
    responses={
        200: {
            "description": "The snapshot.",
            "content": {"application/x-tar": {"schema": {"type": "string", "format": "binary"}}},
        },
        **problems(s404="no such snapshot", s416="no such range"),
    },
)
def snapshot_by_name(request: Request, state: State, collection: CollectionName, name: Name) -> Response:
    """Fetch a snapshot, or go on fetching it with ``Range``. ``ETag`` and ``Repr-Digest`` are its SHA-256."""
    stored = _stored(state, collection, name)
    digest = base64.b64encode(bytes.fromhex(stored.sha256)).decode("ascii")
    return download(
        request,
        stored.path,
        filename=stored.name,
        media_type="application/x-tar",
        etag=f'"{stored.sha256}"',
        headers={"Repr-Digest": f"sha-256=:{digest}:", "X-Checksum-SHA256": stored.sha256},
    )


@router.delete("/{name}", status_code=204, responses=problems(s404="no such snapshot"))
def delete_snapshot(state: State, collection: CollectionName, name: Name) -> None:
    """Delete a snapshot."""
    stored = _stored(state, collection, name)
    _snapshots(state).delete(unquote(collection), stored.name)


@router.post("/{name}/restore", status_code=202, responses=_RESTORING)
def restore_snapshot(state: State, collection: CollectionName, name: Name, response: Response) -> JobAnswer:
    """Put a snapshot in place of the live collection, in the background: writes until the job is done are lost."""
    stored = _stored(state, collection, name)
    if stored.manifest is None:
        raise Problem(422, "snapshot_damaged", f"the snapshot {stored.name} is damaged: take another")
    if stored.manifest.model_hash != state.engine.model.model_hash:
        raise _other_model(stored.manifest.model_hash, state.engine.model.model_hash)
    _require_allowed(state, unquote(collection))
    return accepted(response, _restore(state, unquote(collection), stored))


@asynccontextmanager
async def _off_loop(incoming: AbstractContextManager[Path]) -> AsyncIterator[Path]:
    """The folder of :meth:`Snapshots.incoming`, made and deleted in threads: a few gigabytes take their time."""
    folder = await run_in_threadpool(incoming.__enter__)
    try:
        yield folder
    finally:
        deleting = asyncio.get_running_loop().run_in_executor(None, incoming.__exit__, None, None, None)
        await asyncio.shield(deleting)  # also where the client has gone


def _require_ready(state: ServiceState, name: str) -> None:
    try:
        collection_folder(state.settings.store, name)
    except CollectionNameError as error:
        raise Problem(422, "invalid_name", str(error)) from error
    _require_allowed(state, name)
    require_room(state.jobs, state.settings.jobs.waiting)


def _require_allowed(state: ServiceState, name: str) -> None:
    """Whether there may be a collection of that name, once the snapshot of one is restored."""
    there, allowed = state.engine.collections.names(), state.settings.quotas.collections
    if name not in there and len(there) >= allowed:
        raise Problem(
            507, "too_many_collections", f"there are {len(there)} collections, no more are allowed: delete one"
        )


def _keep_and_restore(state: ServiceState, name: str, path: Path, found: str, checksum: str | None) -> Job:
    if checksum is not None and found != checksum.lower():
        raise Problem(
            422,
            "checksum_mismatch",
            f"expected sha256 {checksum.lower():.12}..., what came has {found:.12}...: send again",
        )
    try:
        verified(path, state.engine.model.model_hash)
    except ModelMismatchError as error:
        raise _other_model(error.found, error.expected) from error
    except SnapshotError as error:
        detail = str(error).replace(str(path), "the file")
        raise Problem(422, "snapshot_damaged", detail[:500]) from error
    moment = time.time()
    return _restore(state, name, _snapshots(state).keep(path, name, found, name_of("uploaded", moment)))


def _restore(state: ServiceState, name: str, stored: Stored) -> Job:
    return state.jobs.submit(name, "restore", {"snapshot": stored.name}, job_id=new_job_id())


def _other_model(found: str, expected: str) -> Problem:
    return Problem(
        409,
        "model_mismatch",
        f"the snapshot holds points of model {found:.64}, this service runs model {expected}: distances between them "
        f"mean nothing",
    )


def _stored(state: ServiceState, collection: str, name: str) -> Stored:
    if not re.fullmatch(NAME, unquote(name)):
        raise UnknownSnapshotError(f"no snapshot is called {unquote(name)!r:.120}")
    return _snapshots(state).get(unquote(collection), unquote(name))


def _snapshots(state: ServiceState) -> Snapshots:
    return Snapshots(state.settings.store)


def _answer(stored: Stored) -> SnapshotInfo:
    manifest = stored.manifest
    return SnapshotInfo(
        name=stored.name,
        size=stored.size,
        sha256=stored.sha256,
        fault=None if manifest else "it cannot be read: damaged, or of another version",
        model_hash=manifest.model_hash if manifest else None,
        count=manifest.count if manifest else None,
        sequence=manifest.sequence if manifest else None,
        created_at=datetime.fromisoformat(manifest.created_at) if manifest else None,
    )
