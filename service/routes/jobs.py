"""Long work in the background: started, watched, cancelled, tried again."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, unquote

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi import Path as PathParameter
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from index.files import make_folder, sync
from service.access import access
from service.bodies import parse_json
from service.jobs.content import UPLOAD, ContentError, content_of
from service.jobs.runner import Jobs
from service.jobs.store import Job, State, TooManyJobsError, new_job_id
from service.problems import Problem, invalid_fields
from service.routes.collections import problems
from service.routes.downloads import download
from service.schemas.jobs import MAX_PAGE, NUMBER, JobAnswer, JobError, JobRequest, JobsAnswer, UploadJobRequest
from service.state import CollectionName, ServiceState
from service.state import State as Service

router = APIRouter(prefix="/v1", tags=["jobs"])

HOW_TO = "send JSON for a job without a file, or a form: curl -F kind=import -F file=@photos.zip"
MAX_STREAMS = 100
_PAGE = 1000
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/JobRequest"},
                "example": {"kind": "rebuild"},
            },
            "multipart/form-data": {
                "schema": {
                    **UploadJobRequest.model_json_schema(),
                    "properties": {
                        **UploadJobRequest.model_json_schema()["properties"],
                        "file": {"type": "string", "format": "binary", "description": "The archive, or the points."},
                    },
                    "required": ["kind", "file"],
                }
            },
        },
    }
}
BODY_MODELS = (JobRequest, JobError)


def answer(job: Job) -> JobAnswer:
    """A job as clients see it."""
    collection = quote(job.collection, safe="")
    results = {
        "embed": f"/v1/jobs/{job.id}/result",
        "snapshot": f"/v1/collections/{collection}/snapshots/{job.result}",
        "restore": f"/v1/collections/{collection}/snapshots/{job.result}",
    }
    handled = job.done + job.failed
    return JobAnswer(
        id=job.id,
        collection=job.collection,
        kind=job.kind,
        state=job.state,
        progress=1.0 if job.state == "done" else min(1.0, handled / job.total) if job.total else 0.0,
        done=job.done,
        total=job.total,
        failed=job.failed,
        reason=job.reason,
        cancelling=job.cancelling,
        result=results.get(job.kind) if job.result is not None else None,
        created_at=datetime.fromtimestamp(job.created_at, UTC),
        started_at=_moment(job.started_at),
        finished_at=_moment(job.finished_at),
    )


def accepted(response: Response, job: Job) -> JobAnswer:
    """The answer 202 to whoever started ``job``."""
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return answer(job)


def require_room(jobs: Jobs, waiting: int) -> None:
    """Raise ``TooManyJobsError`` before a body is read for a job that could not wait."""
    if jobs.store.num_queued() >= waiting:
        raise TooManyJobsError(f"{waiting} jobs wait already: try again when some of them are done")


def _job(state: Service, job_id: Annotated[str, PathParameter(description="Id of a job.", max_length=64)]) -> Job:
    return state.jobs.store.get(unquote(job_id))


NamedJob = Annotated[Job, Depends(_job)]


@router.post(
    "/collections/{collection}/jobs",
    status_code=202,
    openapi_extra=_BODY,
    responses={
        202: {"headers": {"Location": {"schema": {"type": "string"}, "description": "Where the job lives."}}},
        **problems(
            s400="a broken body", s404="no such collection", s413="too large", s415="no content that a job takes",
            s422="a bad field", s429="too many jobs wait, or uploads come", s503="broken, or jobs are not available",
            s507="no room",
        ),
    },
)  # fmt: skip
@access("write", streams=True)
async def start_job(request: Request, response: Response, state: Service, collection: CollectionName) -> JobAnswer:
    """Start long work in the background: ``curl -F kind=import -F file=@photos.zip HOST/v1/collections/c/jobs``.

    The answer names the job at once; what comes of it is told at the job. A form is written to the disk as it comes.
    """
    name = unquote(collection)
    await run_in_threadpool(_require_ready, state, name)
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "application/json":
        asked = parse_json(await _bounded_body(request, state.settings.limits.body_bytes), JobRequest)
        parameters = asked.model_dump(exclude={"kind"}, exclude_none=True)
        job = await run_in_threadpool(state.jobs.submit, name, asked.kind, parameters, job_id=new_job_id())
    elif content_type == "multipart/form-data":
        job = await _with_upload(request, state, name)
    else:
        got = content_type or "no Content-Type"
        raise Problem(
            415, "unsupported_media_type", f"expected application/json or multipart/form-data, got {got:.80}: {HOW_TO}"
        )
    return accepted(response, job)


@router.get("/jobs", responses=problems(s422="a bad parameter", s503="jobs are not available"))
def list_jobs(
    state: Service,
    collection: Annotated[str | None, Query(max_length=64, description="Only of this collection.")] = None,
    job_state: Annotated[State | None, Query(alias="state", description="Only in this state.")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
    cursor: Annotated[str | None, Query(pattern=NUMBER, description="next_cursor of the page before.")] = None,
) -> JobsAnswer:
    """Jobs, the newest first, page by page. Those that ended some days ago are forgotten."""
    before = None if cursor is None else int(cursor)
    found = state.jobs.store.page(limit + 1, before, collection, job_state)
    more = str(found[limit - 1].number) if len(found) > limit else None
    return JobsAnswer(jobs=[answer(job) for job in found[:limit]], next_cursor=more)


@router.get("/jobs/{job_id}", responses=problems(s404="no such job", s503="jobs are not available"))
def job_by_id(job: NamedJob) -> JobAnswer:
    """A job as it stands: its state, how far it is, and why it failed if it did."""
    return answer(job)


def _stream_place(state: Service) -> Iterator[None]:
    with state.jobs.watching(MAX_STREAMS):
        yield


@router.get(
    "/jobs/{job_id}/events",
    response_class=EventSourceResponse,
    dependencies=[Depends(_stream_place)],
    responses=problems(s404="no such job", s429="too many streams", s503="jobs are not available"),
)
async def job_events(
    state: Service,
    job: NamedJob,
    last_event_id: Annotated[str | None, Header(max_length=64, description="Id of the last event that came.")] = None,
) -> AsyncIterator[ServerSentEvent]:
    """The job as server-sent events: ``progress`` as it stands and at each change, ``end`` once it has ended.

    The last event closes the stream. Whoever connects again with ``Last-Event-ID`` is not told the same twice.
    """
    store, loop, changed = state.jobs.store, asyncio.get_running_loop(), asyncio.Event()

    def notify() -> None:
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(changed.set)

    told = last_event_id
    end_watch = store.watch(job.id, notify)
    try:
        while True:
            changed.clear()
            current = await run_in_threadpool(store.get, job.id)
            if str(current.revision) != told or current.is_final:
                told = str(current.revision)
                kind = "end" if current.is_final else "progress"
                yield ServerSentEvent(raw_data=answer(current).model_dump_json(), event=kind, id=told)
            if current.is_final:
                return
            await changed.wait()
    finally:
        end_watch()


@router.get(
    "/jobs/{job_id}/errors",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "One JSON object a line.",
            "content": {"application/jsonl": {"schema": {"$ref": "#/components/schemas/JobError"}}},
        },
        **problems(s404="no such job", s503="jobs are not available"),
    },
)
def job_errors(state: Service, job: NamedJob) -> StreamingResponse:
    """The items that failed, as JSON lines ``{item, code, detail}``: the others went in."""
    store = state.jobs.store

    def lines() -> Iterator[bytes]:
        after = 0
        while page := store.failures(job, after, _PAGE):
            after = page[-1][0]
            yield b"".join(json.dumps(asdict(failure)).encode() + b"\n" for _, failure in page)

    return StreamingResponse(lines(), media_type="application/jsonl")


@router.get(
    "/jobs/{job_id}/result",
    response_class=Response,
    responses={
        200: {
            "description": "A .tar of the embedding folder.",
            "content": {"application/x-tar": {"schema": {"type": "string", "format": "binary"}}},
        },
        **problems(s404="no such job, or no result", s416="no such range", s503="jobs are not available"),
    },
)
def job_result(request: Request, state: Service, job: NamedJob) -> Response:
    """What an ``embed`` job made: ``points/`` with manifest, Parquet files and failures, for 'lhier index build'."""
    path = state.jobs.folder(job.id) / job.result if job.kind == "embed" and job.result else None
    if path is None or not path.is_file():
        raise Problem(404, "result_not_found", f"this {job.kind} job is {job.state}: it has no file to fetch")
    return download(
        request,
        path,
        filename=f"points-{job.id}.tar",
        media_type="application/x-tar",
        etag=f'"{job.id}-{job.run}"',
        headers={},
    )


@router.post(
    "/jobs/{job_id}/cancel",
    responses=problems(s404="no such job", s409="it has ended, or cannot be stopped", s503="jobs are not available"),
)
@access("write", grows=False)
def cancel_job(state: Service, job: NamedJob) -> JobAnswer:
    """End a job that waits or runs. What it has put into the collection stays there."""
    return answer(state.jobs.cancel(job.id))


@router.post(
    "/jobs/{job_id}/retry",
    status_code=202,
    responses=problems(
        s404="no such job",
        s409="it did not fail",
        s429="too many jobs wait",
        s503="jobs are not available",
        s507="no room",
    ),
)
def retry_job(state: Service, job: NamedJob, response: Response) -> JobAnswer:
    """Queue a job that failed or was cancelled again; an import goes on where it was."""
    return accepted(response, state.jobs.retry(job.id))


def _require_ready(state: ServiceState, name: str) -> None:
    with state.engine.collections.use(name):
        require_room(state.jobs, state.settings.jobs.waiting)


async def _bounded_body(request: Request, most: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise Problem(413, "body_too_large", f"expected at most {most:,} bytes of JSON")
    return bytes(body)


async def _with_upload(request: Request, state: ServiceState, collection: str) -> Job:
    """A job whose file has come whole; nothing is left of one that has not."""
    job_id = new_job_id()
    folder = state.jobs.folder(job_id)
    try:
        await run_in_threadpool(make_folder, folder)
        upload = await state.jobs.uploads.receive(request, folder / UPLOAD)
        try:
            asked = UploadJobRequest.model_validate(upload.fields)
        except ValidationError as error:
            raise invalid_fields(error.errors(include_url=False, include_input=False), "body") from error
        await run_in_threadpool(_require_content, folder, asked)
        parameters = {"filename": upload.filename, "size": upload.size, "sha256": upload.sha256}
        return await run_in_threadpool(state.jobs.submit, collection, asked.kind, parameters, job_id=job_id)
    except BaseException:  # a client that went away, too
        asyncio.get_running_loop().run_in_executor(None, partial(shutil.rmtree, folder, ignore_errors=True))
        raise


def _require_content(folder: Path, asked: UploadJobRequest) -> None:
    sync(folder)
    content = content_of(folder / UPLOAD)
    if asked.kind == "embed" and content not in {"zip", "tar", "gzip"}:
        raise ContentError(f"expected photos in a .zip or .tar (perhaps .gz), got {content}")


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
