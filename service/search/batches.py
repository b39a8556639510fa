"""Batches of searches: each with a status of its own, those under the same options in one scan."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, cast

from fastapi import Request, Response
from pydantic import ValidationError

from index.errors import StoreError
from service.bodies import HOW_TO, parse_json, read_body
from service.collections import Served
from service.multipart import Part
from service.offload import Note
from service.problems import Problem, invalid_fields
from service.schemas.query import Query
from service.schemas.search import MAX_BATCH, BatchRequest, FormSearchOptions, SearchOptions, SearchRequest
from service.search.answers import answer
from service.search.cursors import fingerprint
from service.search.pages import Start, find, find_many
from service.settings import LimitSettings
from service.state import ServiceState

Asked = tuple[SearchOptions, Query | Part | None]
Result = dict[str, Any]
Begin = Callable[[SearchOptions, Query | Part | None], Awaitable[Start]]


async def read_batch(request: Request, limits: LimitSettings) -> list[Asked | Problem]:
    """The searches of a batch, with the problem of each that is none. Raises what spoils the whole of it."""
    most = min(MAX_BATCH, limits.images)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        body = await read_body(request, BatchRequest, FormSearchOptions, limits, max_photos=most)
        if body.form is None or not body.photos:
            raise Problem(422, "invalid_request", f"expected photos in the field 'file', got none: {HOW_TO}")
        return [(body.form, photo) for photo in body.photos]
    searches = _parse(await request.body())
    queries = [each.query for each in searches if isinstance(each, SearchRequest)]
    if sum(query is not None and (query.image or query.url) is not None for query in queries) > most:
        raise Problem(413, "too_many_images", f"at most {most} photos fit into one request")
    return [each if isinstance(each, Problem) else (each, each.query) for each in searches]


async def answer_batch(
    request: Request, state: ServiceState, served: Served, asked: Sequence[Asked | Problem], begin: Begin, note: Note
) -> list[Result]:
    """What became of each search. ``begin`` finds where one begins; photos are embedded at the same time."""

    async def started(each: Asked | Problem) -> Start | Exception:
        if isinstance(each, Problem):
            return each
        try:
            return await begin(*each)
        except Exception as error:  # told in its place, as its own answer would have been
            return error

    starts = await asyncio.gather(*(started(each) for each in asked))
    results: list[Result] = [{}] * len(asked)
    scans: dict[bytes, list[tuple[int, SearchOptions, Start]]] = {}
    for number, (each, start) in enumerate(zip(asked, starts, strict=True)):
        if isinstance(start, Start) and not isinstance(each, Problem):
            scans.setdefault(_scan(number, each[0]), []).append((number, each[0], start))
        elif isinstance(start, Exception):
            results[number] = await _refusal(request, start)
    for scan in scans.values():
        numbers, options, begins = zip(*scan, strict=True)
        try:
            found = await state.off_loop.compute(partial(_answers, served, options[0], begins), "search", note)
        except Exception as error:  # as above
            found = [await _refusal(request, error)] * len(scan)
        for number, result in zip(numbers, found, strict=True):
            results[number] = result
    return results


def _parse(data: bytes) -> list[SearchRequest | Problem]:
    try:
        return list(BatchRequest.model_validate_json(data, strict=True).searches)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
        if any(len(entry["loc"]) < 2 for entry in errors):  # no list of searches at all, or one beyond its bounds
            raise invalid_fields(errors, "body") from error
    faults: dict[int, list[Any]] = {}
    for entry in errors:
        faults.setdefault(int(entry["loc"][1]), []).append(entry)
    return [
        invalid_fields(faults[number], "body")
        if number in faults
        else parse_json(json.dumps(each).encode(), SearchRequest)
        for number, each in enumerate(json.loads(data)["searches"])
    ]


def _scan(number: int, options: SearchOptions) -> bytes:
    """What searches that can share a scan have in common."""
    if options.cursor is not None or options.group_by is not None or options.group_level is not None:
        return fingerprint(number)
    return fingerprint(options.model_dump(mode="json", exclude={"query"}))


def _answers(served: Served, options: SearchOptions, starts: Sequence[Start]) -> list[Result]:
    pages = [find(served, options, starts[0])] if len(starts) == 1 else find_many(served, options, starts)
    return [{"status": 200, "answer": answer(served, options, page)} for page in pages]


async def _refusal(request: Request, error: Exception) -> Result:
    """A search's problem, as the application would have answered it; of a broken collection, the whole batch's."""
    handlers = request.app.exception_handlers
    known: Iterable[Any] = (handlers[kind] for kind in type(error).__mro__ if kind in handlers)
    handler = next(iter(known), None)
    if handler is None or isinstance(error, StoreError):
        raise error
    response = cast(Response, await handler(request, error))
    return {"status": response.status_code, "problem": json.loads(bytes(response.body))}
