"""The HTTP application: routes, and the layers around them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware

from service import openapi, problems
from service.access import Table
from service.engine import Engine
from service.jobs.runner import Jobs
from service.middleware.admission import Admission
from service.middleware.authentication import Authentication
from service.middleware.body_limit import BodyLimit
from service.middleware.encoded_paths import EncodedPaths
from service.middleware.event_streams import EventStreams
from service.middleware.local_only import LocalOnly
from service.middleware.lookup import Lookup
from service.middleware.quota import Quota
from service.middleware.request_context import RequestContext
from service.offload import OffLoopEngine
from service.operation.lifecycle import Lifecycle
from service.operation.load import Load
from service.operation.metrics import Metrics
from service.operation.quotas import Quotas
from service.operation.upkeep import Upkeep
from service.routes import collections, embeddings, hierarchy, info, items, pages, probes, search, snapshots
from service.routes import jobs as job_routes
from service.settings import Settings, is_loopback
from service.state import ServiceState
from service.thumbnails import Thumbnails

DESCRIPTION = "Visual search in hyperbolic space: a photo in, its nearest neighbours by geodesic distance out."
ROUTES = (probes, info, search, hierarchy, collections, items, embeddings, job_routes, snapshots, pages)


def create_app(engine: Engine, settings: Settings) -> FastAPI:
    """The application that serves ``engine``; it lets go of its threads at shutdown, the engine stays the caller's."""
    limits = settings.limits
    load = Load(limits.in_flight, limits.queued, limits.max_wait_s)
    metrics = Metrics(engine, load, info.package_version())
    lifecycle, quotas = Lifecycle(), Quotas(settings.quotas, engine)
    off_loop = OffLoopEngine(engine, limits, settings.inference, metrics)
    upkeep = Upkeep(engine, quotas, metrics, settings.operation.recall_probe_s)

    jobs = Jobs(engine, settings, quotas)
    metrics.watch_jobs(jobs)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        stop_observing = engine.encoder.observe(metrics.batch)
        upkeep.start()
        jobs.start()
        draining = asyncio.create_task(_drain_too(lifecycle, jobs))
        yield
        draining.cancel()
        await run_in_threadpool(jobs.stop)
        upkeep.close()
        stop_observing()
        off_loop.close()

    layers = [
        Middleware(RequestContext, metrics=metrics),
        Middleware(EncodedPaths),
        Middleware(Lookup, table=Table(ROUTES)),
        *_doors(settings),
        Middleware(BodyLimit, max_bytes=limits.body_bytes, max_upload_bytes=limits.upload_bytes),
        Middleware(Admission, limits=limits, load=load),
        Middleware(Quota, quotas=quotas),
        Middleware(EventStreams, lifecycle=lifecycle),
    ]
    app = create_api(lifespan=lifespan, middleware=layers)
    thumbnails = Thumbnails(settings.thumbnail_cache_bytes)
    app.state.service = ServiceState(engine, off_loop, settings, thumbnails, metrics, quotas, lifecycle, jobs)
    return app


def create_api(**options: Any) -> FastAPI:
    """All routes, their errors and their description, with nothing behind them."""
    app = FastAPI(
        title="LHIER",
        version=info.package_version(),
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=openapi.operation_id,
        responses={"default": {"description": "Problem (RFC 9457)", "content": {
            problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemAnswer"}}}}},
        **options,
    )  # fmt: skip
    problems.install(app)
    app.router.routes.extend(search.DIRECTLY)  # asked first; FastAPI's of the same paths describe them
    for module in ROUTES:
        app.include_router(module.router)
    app.mount("/web", StaticFiles(directory=pages.WEB), name="web")
    openapi.complete(app, ROUTES)
    return app


async def _drain_too(lifecycle: Lifecycle, jobs: Jobs) -> None:
    await lifecycle.until_draining()
    jobs.drain()  # a batch under way is finished, and the processor left to the last requests


def _doors(settings: Settings) -> list[Middleware]:
    auth = settings.auth
    if not auth.keyless:
        return [Middleware(Authentication, auth=auth)]
    local = is_loopback(settings.host) and not auth.allow_anonymous
    return [Middleware(LocalOnly, hosts=auth.hosts if local else None)]
