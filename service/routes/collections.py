"""Collections: made, looked at, and deleted with everything in them."""

from typing import Annotated, Any
from urllib.parse import unquote

from fastapi import APIRouter, Response
from fastapi import Path as PathParameter

from index.errors import CollectionExistsError, CollectionNameError
from index.plan import Plan, read_request
from service.collections import Served, TooManyCollectionsError
from service.problems import MEDIA_TYPE, Problem
from service.schemas.collections import (
    CollectionAnswer,
    CollectionListing,
    CollectionRequest,
    CollectionsAnswer,
    IndexAnswer,
    MetadataFields,
)
from service.state import CollectionName, NamedServed, State

router = APIRouter(prefix="/v1/collections", tags=["collections"])

NewName = Annotated[
    str,
    PathParameter(description="1 to 64 of a-z, 0-9, - and _, no - or _ first.", pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$"),
]
DEFAULTS = CollectionRequest()
PROBLEM: dict[str, Any] = {"content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemAnswer"}}}}


def problems(**described: str) -> dict[int | str, dict[str, Any]]:
    """Statuses that an operation answers with a problem, described: ``problems(s404="no such collection")``."""
    return {int(status[1:]): {"description": text, **PROBLEM} for status, text in described.items()}


@router.get("")
def list_collections(state: State) -> CollectionsAnswer:
    """All collections that are served, with their number of items; a broken one says so and the others serve on."""
    surveyed = state.engine.collections.survey(lambda served: served.collection.count)
    return CollectionsAnswer(
        collections=[CollectionListing(name=each.name, count=count, fault=each.fault) for each, count in surveyed]
    )


@router.get("/{collection}", responses=problems(s404="no such collection"))
def collection(served: NamedServed) -> CollectionAnswer:
    """A collection: how many items it holds, of which model, what its index is and why, what its metadata must be."""
    return _answer(served)


@router.put(
    "/{collection}",
    responses={
        200: {"description": "It is there already, with these settings."},
        201: {"description": "Created.", "model": CollectionAnswer},
        **problems(
            s409="it is there already, with other settings or not served here", s507="there are as many as are allowed"
        ),
    },
)
def create_collection(
    state: State, collection: NewName, response: Response, asked: CollectionRequest = DEFAULTS
) -> CollectionAnswer:
    """Create an empty collection for points of this server's model: ``curl -X PUT HOST/v1/collections/shoes``.

    Asking again with the same settings changes nothing, so a client need not look first. The index is built when there
    are points, and built anew as their number grows.
    """
    name = unquote(collection)
    request = Plan(requested=asked.kind, memory=asked.memory).request()
    schema = asked.metadata.schema_of_fields()
    collections, model = state.engine.collections, state.engine.model
    try:
        collections.create(
            name,
            embedding_dim=model.embedding_dim,
            c=model.c,
            request=request,
            schema=schema,
            allowed=state.settings.quotas.collections,
        )
        response.status_code = 201
    except CollectionNameError as error:
        raise Problem(422, "invalid_name", str(error)) from error
    except TooManyCollectionsError as error:
        raise Problem(507, "too_many_collections", f"{error}: delete one first") from error
    except CollectionExistsError:
        if name not in collections.names():
            detail = f"the store holds a collection {name!r} that is not served here: take another name"
            raise Problem(409, "collection_exists", detail) from None
        with collections.use(name) as served:
            there = served.collection
            if (read_request(there.folder), there.schema) != (request, schema):
                raise Problem(
                    409,
                    "collection_exists",
                    f"there is a collection {name!r} with other settings: GET shows them; delete it first, or take "
                    f"another name",
                ) from None
            return _answer(served)
    with collections.use(name) as served:
        return _answer(served)


@router.delete("/{collection}", status_code=204, responses=problems(s404="no such collection"))
def delete_collection(state: State, collection: CollectionName) -> None:
    """Delete a collection with its items, uploaded photos, tree and index. Searches under way are still answered."""
    state.engine.collections.delete(unquote(collection))


def _answer(served: Served) -> CollectionAnswer:
    collection = served.collection
    plan = collection.index.plan
    return CollectionAnswer(
        name=collection.name,
        count=collection.count,
        generation=collection.generation,
        sequence=collection.sequence,
        model_hash=collection.model_hash,
        embedding_dim=collection.embedding_dim,
        c=collection.c,
        index=IndexAnswer(
            requested=read_request(collection.folder)["kind"],
            kind=plan.kind,
            reason=plan.reason,
            memory=plan.memory,
            lists=plan.nlist,
            probes=plan.nprobe,
            recall=plan.recall,
        ),
        metadata=MetadataFields(fields=collection.schema.fields, required=collection.schema.required),
        tree=served.tree.exists,
    )
