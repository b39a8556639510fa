"""Probes for whatever watches the process. They ask for no key and touch no data."""

from fastapi import APIRouter

from service.state import State

router = APIRouter(tags=["probes"])


@router.get("/livez")
@router.get("/healthz", include_in_schema=False)
async def livez() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(state: State) -> dict[str, object]:
    """Model and collections are loaded: requests are welcome."""
    return {"status": "ok", "collections": state.engine.collections.names()}
