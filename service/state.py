"""What one running application holds, and how routes reach it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, cast
from urllib.parse import quote, unquote

from fastapi import Depends, Request
from fastapi import Path as PathParameter
from starlette.concurrency import run_in_threadpool

from index.catalogue import Item
from index.collection import Collection
from service.collections import Served
from service.engine import Engine
from service.jobs.runner import Jobs
from service.offload import OffLoopEngine
from service.operation.lifecycle import Lifecycle
from service.operation.metrics import Metrics
from service.operation.quotas import Quotas
from service.settings import Settings
from service.thumbnails import Thumbnails


@dataclass(frozen=True, slots=True)
class ServiceState:
    """Engine, its asynchronous face, settings, caches, figures and bounds of one application."""

    engine: Engine
    off_loop: OffLoopEngine
    settings: Settings
    thumbnails: Thumbnails
    metrics: Metrics
    quotas: Quotas
    lifecycle: Lifecycle
    jobs: Jobs


async def service_state(request: Request) -> ServiceState:
    """The state of the application that answers ``request``."""
    return cast(ServiceState, request.app.state.service)


State = Annotated[ServiceState, Depends(service_state)]


CollectionName = Annotated[str, PathParameter(description="Name of a collection.", min_length=1, max_length=64)]


@asynccontextmanager
async def lease(state: ServiceState, collection: str | None = None) -> AsyncIterator[Served]:
    """A collection by its percent-encoded name, or the default one, until the answer is made.

    One that is deleted or replaced meanwhile stays whole for it. Raises as :meth:`Collections.use` does.
    """
    collections = state.engine.collections
    name = collections.default if collection is None else unquote(collection)
    if collections.needs_opening(name):
        await run_in_threadpool(collections.reopen, name)
    with collections.use(name, opening=False) as served:
        yield served


async def _leased(state: State, collection: CollectionName) -> AsyncIterator[Served]:
    async with lease(state, collection) as served:
        yield served


async def _leased_default(state: State) -> AsyncIterator[Served]:
    async with lease(state) as served:
        yield served


NamedServed = Annotated[Served, Depends(_leased)]
DefaultServed = Annotated[Served, Depends(_leased_default)]


async def _collection(served: NamedServed) -> Collection:
    return served.collection


NamedCollection = Annotated[Collection, Depends(_collection)]


ItemIdInPath = Annotated[
    str, PathParameter(description="Id of an item. Slashes may stand as they are or, to be safe, as %2F.")
]


def _item(state: State, collection: NamedCollection, item_id: ItemIdInPath) -> Item:
    # EncodedPaths leaves parameters percent-encoded, so that %2F and / can be told apart in routing.
    return state.engine.item(collection, unquote(item_id))


NamedItem = Annotated[Item, Depends(_item)]


def item_url(collection: Collection, item: Item, part: str) -> str:
    """Path of an item's ``image`` or ``thumbnail``, relative to the server."""
    return f"/v1/collections/{quote(collection.name, safe='')}/items/{quote(item.id, safe='')}/{part}"
