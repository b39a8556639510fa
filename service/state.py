"""What one running application holds, and how routes reach it."""

from dataclasses import dataclass
from typing import Annotated, cast
from urllib.parse import quote, unquote

from fastapi import Depends, Request
from fastapi import Path as PathParameter

from index.catalogue import Item
from index.collection import Collection
from service.engine import Engine
from service.offload import OffLoopEngine
from service.settings import Settings
from service.thumbnails import Thumbnails


@dataclass(frozen=True, slots=True)
class ServiceState:
    """Engine, its asynchronous face, settings and caches of one application."""

    engine: Engine
    off_loop: OffLoopEngine
    settings: Settings
    thumbnails: Thumbnails


async def service_state(request: Request) -> ServiceState:
    """The state of the application that answers ``request``."""
    return cast(ServiceState, request.app.state.service)


State = Annotated[ServiceState, Depends(service_state)]


async def _collection(
    state: State, collection: Annotated[str, PathParameter(description="Name of a collection.")]
) -> Collection:
    return state.engine.collection(unquote(collection))


def _item(
    state: State,
    collection: Annotated[Collection, Depends(_collection)],
    item_id: Annotated[
        str, PathParameter(description="Id of an item. Slashes may stand as they are or, to be safe, as %2F.")
    ],
) -> Item:
    # EncodedPaths leaves parameters percent-encoded, so that %2F and / can be told apart in routing.
    return state.engine.item(collection, unquote(item_id))


NamedCollection = Annotated[Collection, Depends(_collection)]
NamedItem = Annotated[Item, Depends(_item)]


def item_url(collection: Collection, item: Item, part: str) -> str:
    """Path of an item's ``image`` or ``thumbnail``, relative to the server."""
    return f"/v1/collections/{quote(collection.name, safe='')}/items/{quote(item.id, safe='')}/{part}"
