"""What this service runs: model, limits, collections."""

from importlib.metadata import PackageNotFoundError, version

from fastapi import APIRouter

from service.schemas import MAX_LIMIT, CollectionInfo, Info, Limits
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
    embedder = state.engine.embedder
    return Info(
        version=package_version(),
        model_hash=embedder.model_hash,
        backbone=embedder.backbone,
        image_size=embedder.image_size,
        embedding_dim=embedder.embedding_dim,
        c=embedder.c,
        limits=Limits(hits=MAX_LIMIT, **state.settings.limits.model_dump()),
        default_collection=state.engine.default,
        collections=[
            CollectionInfo(name=collection.name, count=collection.count, generation=collection.generation)
            for collection in state.engine.collections
        ],
    )
