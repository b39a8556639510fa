"""The page at ``/`` and the documentation, as files of this package: nothing comes from elsewhere."""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

WEB = Path(__file__).parent.parent / "web"
# Checked again at each visit (the tag answers), so an updated service shows its new page at once.
HEADERS = {"Cache-Control": "no-cache"}

router = APIRouter(include_in_schema=False)


@router.get("/")
async def index() -> FileResponse:
    """The search page."""
    return FileResponse(WEB / "index.html", headers=HEADERS)


@router.get("/docs")
async def docs() -> FileResponse:
    """The API, readable, from ``/openapi.json``."""
    return FileResponse(WEB / "docs.html", headers=HEADERS)
