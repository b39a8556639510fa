"""Errors as ``application/problem+json`` (RFC 9457): one shape for ours, FastAPI's and Starlette's."""

import json
import logging
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from hyperbolic.images import ImageError
from index.errors import ImageReferenceError, PointError, StoreError
from service.collections import CollectionUnavailableError, UnknownCollectionError
from service.encoder.supervisor import EncoderUnavailableError
from service.engine import UnknownItemError
from service.hierarchy.tree import NoTreeError, TreeUnavailableError
from service.hierarchy.view import NotFittedError
from service.jobs.content import ContentError
from service.jobs.store import (
    JobStateError,
    JobsUnavailableError,
    TooManyJobsError,
    TooManyWatchersError,
    UnknownJobError,
)
from service.operation.disk_full import is_disk_full
from service.snapshots import UnknownSnapshotError

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
MAX_ERRORS = 20

# Every code that an answer of this service can carry beside the HTTP ones, with its status.
IMAGE_STATUS: dict[str, int] = {
    "empty_file": 422,
    "image_too_large": 413,
    "image_too_small": 422,
    "unsupported_format": 415,
    "undecodable_image": 422,
    "unreadable_file": 404,
    "crashed_decoder": 422,
}
HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 500: "internal_error"}


class Problem(Exception):  # noqa: N818 - RFC 9457 calls it a problem
    """An answer other than success: ``status`` and ``code`` for programs, ``detail`` for people."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: Sequence[Mapping[str, Any]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail
        self.errors, self.headers = list(errors), dict(headers or {})

    def response(self, scope: Scope) -> Response:
        """The problem as an HTTP answer to the request of ``scope``."""
        scope.setdefault("state", {})["problem"] = self.code  # for the metrics
        content: dict[str, Any] = {
            "type": f"urn:lhier:problem:{self.code}",
            "title": self.code.replace("_", " ").capitalize(),
            "status": self.status,
            "detail": self.detail,
            "instance": scope.get("path", ""),
            "code": self.code,
            "request_id": scope.get("state", {}).get("request_id"),
        }
        if self.errors:
            content["errors"] = self.errors
        # ASCII escapes: a detail may quote what a client sent, lone surrogates included.
        return Response(json.dumps(content), self.status, headers=self.headers, media_type=MEDIA_TYPE)


def invalid_fields(errors: Iterable[Mapping[str, Any]], location: str | None = None) -> Problem:
    """A problem from pydantic's errors: 400 for what is no JSON at all, else 422 naming each bad field.

    ``location`` is where the fields stood; without it the first part of each ``loc`` says so, as FastAPI has it.
    """
    listed = []
    for error in errors:
        # Parts in brackets name the member of a union that was taken, not a field.
        loc = [part for part in error["loc"] if not (isinstance(part, str) and part[:1] == "(" and part[-1:] == ")")]
        where = location if location is not None else str(loc.pop(0)) if loc else "body"
        if error["type"] == "json_invalid":
            return Problem(400, "malformed_json", f"the body is not valid JSON: {error['msg']}")
        pointer = "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in loc)
        listed.append({"location": where, "pointer": pointer, "code": error["type"], "detail": error["msg"]})
    first = listed[0]
    detail = f"{first['pointer'].lstrip('/').replace('/', '.') or first['location']}: {first['detail']}"
    if len(listed) > 1:
        detail += f" (and {len(listed) - 1} more)"
    return Problem(422, "invalid_request", detail, errors=listed[:MAX_ERRORS])


def image_problem(error: ImageError) -> Problem:
    """What is wrong with a photo, with the status that fits it: 413, 415 or 422."""
    return Problem(IMAGE_STATUS[error.code], error.code, str(error))


def install(app: FastAPI) -> None:
    """Give ``app`` the handlers that turn every expected exception into a problem."""

    def answer(request: Request, problem: Problem) -> Response:
        return problem.response(request.scope)

    async def on_problem(request: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)  # noqa: S101 - registered for this class only, as below
        return answer(request, error)

    async def on_image(request: Request, error: Exception) -> Response:
        assert isinstance(error, ImageError)  # noqa: S101
        return answer(request, image_problem(error))

    async def on_validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101
        return answer(request, invalid_fields(error.errors()))

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101
        code = HTTP_CODES.get(error.status_code, HTTPStatus(error.status_code).phrase.lower().replace(" ", "_"))
        detail = error.detail
        if error.status_code == HTTPStatus.NOT_FOUND:
            detail = "nothing lives at this path: /docs lists what does"
        elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            detail = f"{request.method} is not possible here: the Allow header lists what is"
        return answer(request, Problem(error.status_code, code, detail, headers=error.headers))

    def not_found(code: str) -> Any:
        async def handler(request: Request, error: Exception) -> Response:
            return answer(request, Problem(404, code, str(error)))

        return handler

    async def on_point(request: Request, error: Exception) -> Response:
        return answer(request, Problem(422, "invalid_point", str(error)))

    async def on_reference(request: Request, error: Exception) -> Response:
        # Where photos lie on this machine is for the log, not for the client.
        logger.warning("event=image_not_found path=%s error=%r", request.url.path, str(error))
        return answer(request, Problem(404, "image_not_found", "the photo of this item is not there any more"))

    async def on_unavailable(request: Request, error: Exception) -> Response:
        return answer(request, Problem(503, "collection_unavailable", str(error), headers={"Retry-After": "10"}))

    async def on_encoder(request: Request, error: Exception) -> Response:
        return answer(request, Problem(503, "encoder_unavailable", str(error), headers={"Retry-After": "10"}))

    async def on_tree(request: Request, error: Exception) -> Response:
        return answer(request, Problem(503, "tree_unavailable", str(error), headers={"Retry-After": "10"}))

    async def on_unfitted(request: Request, error: Exception) -> Response:
        return answer(request, Problem(409, "tree_not_fitted", str(error)))

    def disk_full(request: Request, error: Exception) -> Response:
        logger.error("event=disk_full path=%s error=%r", request.url.path, str(error))
        return answer(
            request, Problem(507, "disk_full", "the disk is full: nothing was changed; delete something, or make room")
        )

    async def on_system(request: Request, error: Exception) -> Response:
        if not is_disk_full(error):
            raise error
        return disk_full(request, error)

    async def on_store(request: Request, error: Exception) -> Response:
        if is_disk_full(error):
            return disk_full(request, error)
        logger.error("event=collection_unavailable path=%s error=%r", request.url.path, str(error))
        return answer(
            request,
            Problem(
                503,
                "collection_unavailable",
                "this collection cannot be used now: the log says why",
                headers={"Retry-After": "10"},
            ),
        )

    def becomes(status: int, code: str, **headers: str) -> Any:
        async def handler(request: Request, error: Exception) -> Response:
            return answer(request, Problem(status, code, str(error), headers=headers))

        return handler

    app.add_exception_handler(UnknownJobError, not_found("job_not_found"))
    app.add_exception_handler(UnknownSnapshotError, not_found("snapshot_not_found"))
    app.add_exception_handler(ContentError, becomes(415, "unsupported_content"))
    app.add_exception_handler(JobStateError, becomes(409, "job_state"))
    app.add_exception_handler(TooManyJobsError, becomes(429, "too_many_jobs", **{"Retry-After": "30"}))
    app.add_exception_handler(TooManyWatchersError, becomes(429, "too_many_watchers", **{"Retry-After": "30"}))
    app.add_exception_handler(JobsUnavailableError, becomes(503, "jobs_unavailable", **{"Retry-After": "5"}))
    app.add_exception_handler(Problem, on_problem)
    app.add_exception_handler(ImageError, on_image)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(UnknownCollectionError, not_found("collection_not_found"))
    app.add_exception_handler(UnknownItemError, not_found("item_not_found"))
    app.add_exception_handler(NoTreeError, not_found("tree_not_found"))
    app.add_exception_handler(TreeUnavailableError, on_tree)
    app.add_exception_handler(NotFittedError, on_unfitted)
    app.add_exception_handler(CollectionUnavailableError, on_unavailable)
    app.add_exception_handler(EncoderUnavailableError, on_encoder)
    app.add_exception_handler(ImageReferenceError, on_reference)
    app.add_exception_handler(StoreError, on_store)
    app.add_exception_handler(OSError, on_system)
    app.add_exception_handler(sqlite3.Error, on_system)
    app.add_exception_handler(PointError, on_point)
