"""Jobs, by the client."""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import httpx

from service.client.base import Base, calls, given, quoted
from service.client.files import as_form, fetch
from service.client.transport import BUSY, ClientError, parse
from service.jobs.store import FINAL, State
from service.schemas.jobs import JobAnswer, JobError, JobRequest, JobsAnswer

FIRST_POLL_S, LONGEST_POLL_S = 0.05, 2.0
# A stream of events is taken up again after it broke, as when the server was restarted.
MAX_BREAKS, BREAK_S = 10, 1.0


class JobMethods(Base):
    """Started, watched, cancelled, tried again."""

    @calls("start_job")
    def start_job(
        self,
        kind: Literal["rebuild", "hierarchy", "snapshot"],
        *,
        max_children: int | None = None,
        min_size: int | None = None,
        collection: str | None = None,
    ) -> JobAnswer:
        """Start a job without a file."""
        body = JobRequest(kind=kind, **given(max_children=max_children, min_size=min_size))
        path = f"{self._in(collection)}/jobs"
        return parse(JobAnswer, self._transport.request("POST", path, body, idempotent=False))

    @calls("start_job")
    def upload_job(self, kind: Literal["import", "embed"], file: Path, *, collection: str | None = None) -> JobAnswer:
        """Start a job with a file: an archive of photos, or points."""
        path = f"{self._in(collection)}/jobs"
        with as_form(file, kind=kind) as prepare:
            return parse(JobAnswer, self._transport.request("POST", path, prepare=prepare, idempotent=False))

    @calls("list_jobs")
    def jobs(self, *, collection: str | None = None, state: State | None = None, page: int = 50) -> Iterator[JobAnswer]:
        """Jobs, the newest first; of all collections where none is named."""
        cursor = None
        while True:
            found = self._get("/v1/jobs", collection=collection, state=state, limit=page, cursor=cursor)
            answer = parse(JobsAnswer, found)
            yield from answer.jobs
            if (cursor := answer.next_cursor) is None:
                return

    @calls("job_by_id")
    def job(self, job_id: str) -> JobAnswer:
        """A job as it stands."""
        return parse(JobAnswer, self._get(f"/v1/jobs/{quoted(job_id)}"))

    def wait(self, job_id: str, *, timeout: float | None = None) -> JobAnswer:
        """The job once it has ended, well or not: see its ``state``. Raises ``TimeoutError`` after ``timeout`` s."""
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = FIRST_POLL_S
        while (job := self.job(job_id)).state not in FINAL:
            if deadline is not None and time.monotonic() + pause > deadline:
                raise TimeoutError(f"job {job_id} is {job.state} after {timeout:g} s: wait longer, or cancel it")
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_POLL_S)
        return job

    @calls("job_events")
    def events(self, job_id: str) -> Iterator[JobAnswer]:
        """The job as it stands, and at each change until it has ended; taken up again where the connection broke."""
        last: str | None = None
        breaks = 0
        while True:
            try:
                headers = given(**{"Last-Event-ID": last})
                with self._transport.stream("GET", f"/v1/jobs/{quoted(job_id)}/events", headers=headers) as response:
                    for kind, last, data in read_events(response.iter_lines()):  # noqa: B007 - kept for the next try
                        yield JobAnswer.model_validate_json(data)
                        if kind == "end":
                            return
            except (httpx.TransportError, ClientError) as error:
                if breaks >= MAX_BREAKS or (isinstance(error, ClientError) and error.status not in BUSY):
                    raise
            else:
                if breaks >= MAX_BREAKS:
                    raise httpx.RemoteProtocolError(f"the events of job {job_id} broke off {breaks} times")
            breaks += 1
            time.sleep(BREAK_S)

    @calls("job_errors")
    def job_errors(self, job_id: str) -> Iterator[JobError]:
        """The items that failed."""
        with self._transport.stream("GET", f"/v1/jobs/{quoted(job_id)}/errors") as response:
            for line in response.iter_lines():
                yield JobError.model_validate_json(line)

    @calls("job_result")
    def job_result(self, job_id: str, to: Path) -> None:
        """Fetch what an ``embed`` job made into the file ``to``."""
        fetch(self._transport, f"/v1/jobs/{quoted(job_id)}/result", to)

    @calls("cancel_job")
    def cancel_job(self, job_id: str) -> JobAnswer:
        """End a job that waits or runs."""
        return parse(JobAnswer, self._transport.request("POST", f"/v1/jobs/{quoted(job_id)}/cancel"))

    @calls("retry_job")
    def retry_job(self, job_id: str) -> JobAnswer:
        """Queue a job that failed or was cancelled again."""
        path = f"/v1/jobs/{quoted(job_id)}/retry"
        return parse(JobAnswer, self._transport.request("POST", path, idempotent=False))


def read_events(lines: Iterable[str]) -> Iterator[tuple[str, str | None, str]]:
    """Server-sent events as (kind, id, data). Source: HTML standard, 9.2.6."""
    kind, data = "message", list[str]()
    last: str | None = None
    for line in lines:
        if not line:
            if data:
                yield kind, last, "\n".join(data)
            kind, data = "message", []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            kind = value
        elif name == "data":
            data.append(value)
        elif name == "id":
            last = value
