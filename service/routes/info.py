"""What this service runs: model, limits, collections."""

from importlib.metadata import PackageNotFoundError, version

from fastapi import APIRouter

from service.collections import Served
from service.schemas.common import MAX_LIMIT
from service.schemas.info import CollectionInfo, Info, Limits
from service.state import State

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
            CollectionInfo(name=each.name, fault=each.fault) if found is None else found
            for each, found in state.engine.collections.survey(_collection_info)
        ],
    )


def _collection_info(served: Served) -> CollectionInfo:
    collection = served.collection
    return CollectionInfo(name=collection.name, count=collection.count, generation=collection.generation)
