"""Probes and metrics for whatever watches the process. They ask for no key and show no data."""

from typing import Any, Literal

from fastapi import APIRouter, Response

from service.operation import metrics
from service.schemas.common import Answer
from service.state import State

router = APIRouter(tags=["probes"])


class Liveness(Answer):
    """Whether the process should live on."""

    status: Literal["ok", "failed"]
    detail: str


class CollectionReadiness(Answer):
    """Whether a collection can be used; one that cannot does not make the service unready."""

    name: str
    ready: bool


class Readiness(Answer):
    """Whether requests are welcome."""

    status: Literal["ok", "not_ready", "draining"]
    detail: str
    collections: list[CollectionReadiness]


UNAVAILABLE: dict[int | str, dict[str, Any]] = {503: {"description": "It is not.", "model": Liveness}}
NOT_READY: dict[int | str, dict[str, Any]] = {503: {"description": "They are not.", "model": Readiness}}


@router.get("/livez", responses=UNAVAILABLE)
@router.get("/healthz", include_in_schema=False)
async def livez(state: State, response: Response) -> Liveness:
    """Whether the process should live on: it answers, and its encoder works or is being replaced.

    503 asks for a restart: the encoder's worker could not be replaced for a minute, or leaves photos unanswered.
    """
    encoder = state.engine.encoder.state()
    if encoder.live:
        return Liveness(status="ok", detail=f"the encoder is {encoder.status}")
    response.status_code = 503
    since = max(encoder.down_s, encoder.stalled_s)
    return Liveness(status="failed", detail=f"the encoder is {encoder.status}, for {since:.0f} s")


@router.get("/readyz", responses=NOT_READY)
async def readyz(state: State, response: Response) -> Readiness:
    """Whether requests are welcome: a stored photo was embedded within the last seconds and its point was right.

    503 while the service stops, and while the encoder does not answer as it must. Load alone makes no service
    unready: what is too much gets 429.
    """
    collections = [
        CollectionReadiness(name=each.name, ready=each.fault is None) for each in state.engine.collections.states()
    ]
    if state.lifecycle.draining:
        response.status_code = 503
        return Readiness(status="draining", detail="the service is about to stop", collections=collections)
    check = state.engine.self_check.result()
    if not check.ok:
        response.status_code = 503
    return Readiness(status="ok" if check.ok else "not_ready", detail=check.detail, collections=collections)


@router.get(
    "/metrics",
    name="metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def prometheus(state: State) -> Response:
    """Figures for Prometheus, in its text format. Names of collections are in it, and no other data."""
    return Response(state.metrics.text(), media_type=metrics.MEDIA_TYPE)
