"""The HTTP application: routes, and the layers around them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.middleware import Middleware

from service import openapi, problems
from service.engine import Engine
from service.middleware.admission import Admission
from service.middleware.authentication import Authentication
from service.middleware.body_limit import BodyLimit
from service.middleware.encoded_paths import EncodedPaths
from service.middleware.request_context import RequestContext
from service.offload import OffLoopEngine
from service.routes import hierarchy, info, items, pages, probes, search
from service.settings import Settings
from service.state import ServiceState
from service.thumbnails import Thumbnails

DESCRIPTION = "Visual search in hyperbolic space: a photo in, its nearest neighbours by geodesic distance out."
ROUTES = (probes, info, search, hierarchy, items, pages)


def create_app(engine: Engine, settings: Settings) -> FastAPI:
    """The application that serves ``engine``; it lets go of its threads at shutdown, the engine stays the caller's."""
    off_loop = OffLoopEngine(engine, settings.limits, settings.inference)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        off_loop.close()

    app = create_api(lifespan=lifespan, middleware=_layers(settings))
    app.state.service = ServiceState(engine, off_loop, settings, Thumbnails(settings.thumbnail_cache_bytes))
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
    for module in ROUTES:
        app.include_router(module.router)
    app.mount("/web", StaticFiles(directory=pages.WEB), name="web")
    openapi.complete(app, ROUTES)
    return app


def _layers(settings: Settings) -> list[Middleware]:
    limits = settings.limits
    layers = [Middleware(RequestContext)]
    if settings.auth.read_key is not None:
        layers.append(Middleware(Authentication, read_key=settings.auth.read_key.get_secret_value()))
    layers += [
        Middleware(BodyLimit, max_bytes=limits.body_bytes),
        Middleware(Admission, in_flight=limits.in_flight, queued=limits.queued, deadline_s=limits.deadline_s),
        Middleware(EncodedPaths),
    ]
    return layers
