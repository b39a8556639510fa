"""What this service runs: model, limits, collections."""

from importlib.metadata import PackageNotFoundError, version

from fastapi import APIRouter

from index.errors import StoreError
from service.collections import CollectionUnavailableError, UnknownCollectionError
from service.collections import State as CollectionState
from service.schemas.common import MAX_LIMIT
from service.schemas.info import CollectionInfo, Info, Limits
from service.state import ServiceState, State

router = APIRouter(prefix="/v1", tags=["info"])


def package_version() -> str:
    """Version of the installed distribution; "unknown" when run from files that were never installed."""
    try:
        return version("lhier")
    except PackageNotFoundError:
        return "unknown"


@router.get("/info")
def info(state: State) -> Info:
    """Version, model, limits, and the collections with their counts and generations."""
    model = state.engine.model
    return Info(
        version=package_version(),
        model_hash=model.model_hash,
        backbone=model.backbone,
        image_size=model.image_size,
        embedding_dim=model.embedding_dim,
        c=model.c,
        limits=Limits(hits=MAX_LIMIT, **state.settings.limits.model_dump()),
        default_collection=state.engine.collections.default,
        collections=[
            found for each in state.engine.collections.states() if (found := _collection_info(state, each)) is not None
        ],
    )


def _collection_info(state: ServiceState, each: CollectionState) -> CollectionInfo | None:
    """How a collection stands, be it broken; None for one that was deleted meanwhile."""
    fault = each.fault
    if fault is None:
        try:
            with state.engine.collections.use(each.name) as served:
                collection = served.collection
                return CollectionInfo(name=each.name, count=collection.count, generation=collection.generation)
        except UnknownCollectionError:
            return None
        except (CollectionUnavailableError, StoreError):
            fault = "it cannot be read"
    return CollectionInfo(name=each.name, fault=fault)
