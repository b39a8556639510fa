"""What all requests and answers share."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

MAX_LIMIT = 1000
MAX_ID = 1024
FARTHEST = 1e15  # norm of a space part, radius 35 at c = 1: the product of two such fits into 32 bits

ItemId = Annotated[str, Field(min_length=1, max_length=MAX_ID)]
NodeId = Annotated[str, Field(min_length=1, max_length=64)]


class Request(BaseModel):
    """Base of what clients send."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Answer(BaseModel):
    """Base of what they get."""

    model_config = ConfigDict(frozen=True)


class ProblemAnswer(Answer):
    """RFC 9457 problem; ``code`` is stable, ``errors`` names each bad field."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str | None
    errors: list[dict[str, Any]] = []
