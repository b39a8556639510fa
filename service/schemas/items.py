"""Stored items and lists of them."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from service.schemas.common import MAX_LIMIT, Answer, Request


class ItemAnswer(Answer):
    """One stored item; ``image`` and ``thumbnail`` are absent where the collection keeps no photo of it."""

    id: str
    path: list[str]
    metadata: dict[str, Any]
    radius: Annotated[float, Field(description="Geodesic distance to the origin.")]
    image: str | None = None
    thumbnail: str | None = None


class ScrollRequest(Request):
    """Which items to list: in stored order from ``cursor`` on, or ``random`` ones, drawn anew each time."""

    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = 100
    cursor: Annotated[str | None, Field(max_length=64, description="next_cursor of the page before.")] = None
    order: Literal["stored", "random"] = "stored"

    @model_validator(mode="after")
    def _random_has_no_next_page(self) -> Self:
        if self.order == "random" and self.cursor is not None:
            raise ValueError("a random draw has no cursor: leave it out, or use order 'stored'")
        return self


class ScrollAnswer(Answer):
    """A page of items; ``next_cursor`` is null on the last."""

    items: list[ItemAnswer]
    next_cursor: str | None
