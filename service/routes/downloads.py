"""Files as answers, whole or in ranges, every refusal a problem."""

from collections.abc import Mapping
from pathlib import Path

from fastapi import Request, Response
from fastapi.responses import FileResponse
from starlette.types import Message, Receive, Scope, Send

from service.problems import Problem

REFUSALS = frozenset({400, 416})


class Download(FileResponse):
    """A file that is fetched, or taken up again with ``Range``; a range that there is not is a problem 416."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        refused = False

        async def send_or_refuse(message: Message) -> None:
            nonlocal refused
            if message["type"] == "http.response.start" and message["status"] in REFUSALS:
                refused = True
                size = self.headers["content-length"]
                detail = f"expected 'Range: bytes=FIRST-LAST' within the {size} bytes of this file"
                problem = Problem(416, "range_not_satisfiable", detail, headers={"Content-Range": f"bytes */{size}"})
                await problem.response(scope)(scope, receive, send)
            elif not refused:
                await send(message)

        await super().__call__(scope, receive, send_or_refuse)


def is_known(if_none_match: str | None, etag: str) -> bool:
    """Whether a client that sends this ``If-None-Match`` has what ``etag`` stands for."""
    tags = {tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")}
    return etag in tags or "*" in tags


def download(
    request: Request, path: Path, *, filename: str, media_type: str, etag: str, headers: Mapping[str, str]
) -> Response:
    """The file at ``path``, or 304 where the client has it. Raises ``FileNotFoundError``."""
    stat_result = path.stat()
    all_headers = {**headers, "ETag": etag, "Cache-Control": "private, no-cache"}
    if is_known(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=all_headers)
    return Download(path, headers=all_headers, media_type=media_type, filename=filename, stat_result=stat_result)
