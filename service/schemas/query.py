"""Queries: what a search, or a question about the tree, is about."""

from typing import Annotated, Self

from pydantic import Field, FiniteFloat, model_validator

from service.schemas.common import ItemId, NodeId, Request

KINDS = ("image", "url", "item_id", "embedding", "node_id")


class Query(Request):
    """One photo, stored item, point, or node of the tree: exactly one of the fields."""

    image: Annotated[
        str | None, Field(description="A photo as data URL (data:image/jpeg;base64,...) or plain base64.")
    ] = None
    url: Annotated[
        str | None, Field(min_length=1, max_length=2048, description="Where a photo lies, if this service fetches any.")
    ] = None
    item_id: Annotated[ItemId | None, Field(description="A stored item; it is not among its own hits.")] = None
    embedding: Annotated[
        list[FiniteFloat] | None,
        Field(min_length=1, max_length=65536, description="Space part of a point of this model."),
    ] = None
    node_id: Annotated[NodeId | None, Field(description="A node of the tree, for its centroid.")] = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [name for name in KINDS if getattr(self, name) is not None]
        if len(given) != 1:
            got = " and ".join(given) or "none"
            raise ValueError(f"expected exactly one of {', '.join(KINDS)}, got {got}")
        return self
