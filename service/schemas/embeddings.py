"""Photos to points."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from service.schemas.common import Answer, Request
from service.schemas.items import ItemProblem

Space = Literal["lorentz", "poincare", "tangent"]
Encoding = Literal["float", "base64"]
MAX_IMAGES = 1024  # that a schema admits; the server's own limit is in /v1/info


class EmbeddingOptions(Request):
    """In which coordinates points are told, and how their numbers are written.

    All are d numbers. ``lorentz``: the space part x_s of the point on the hyperboloid, what items and searches take as
    ``embedding``. ``poincare``: the point of the ball of radius 1/sqrt(c), x_s / (1 + sqrt(c) x_t). ``tangent``: the
    tangent vector at the origin that points there, as long as the point is far.
    """

    space: Space = "lorentz"
    encoding: Annotated[
        Encoding, Field(description="JSON numbers, or base64 of little-endian float32, a quarter of the bytes.")
    ] = "float"
    time: Annotated[bool, Field(description="Tell the time coordinate x_t = sqrt(1/c + |x_s|^2), too.")] = False
    collection: Annotated[
        str | None,
        Field(min_length=1, max_length=64, description="Tell how specific each point is, by this collection's tree."),
    ] = None


def _boolean(given: Any) -> Any:
    # A field that is repeated comes as a list.
    return {"true": True, "false": False}.get(given, given) if isinstance(given, str) else given


class FormEmbeddingOptions(EmbeddingOptions):
    """The same from form fields."""

    time: Annotated[bool, BeforeValidator(_boolean)] = False


class EmbeddingsRequest(EmbeddingOptions):
    """Photos as JSON."""

    images: Annotated[
        list[Annotated[str, Field(description="A photo as data URL or plain base64.")]],
        Field(min_length=1, max_length=MAX_IMAGES),
    ]


class EmbeddingResult(Answer):
    """One photo's point; or ``error``, with the ``status`` that this photo alone would have had."""

    status: int
    embedding: Annotated[list[float] | str | None, Field(description="d numbers, or base64 of d float32.")] = None
    time: float | None = None
    radius: Annotated[float | None, Field(description="Geodesic distance to the origin.")] = None
    specificity: Annotated[float | None, Field(description="Where a collection was named that has a tree.")] = None
    error: ItemProblem | None = None


class EmbeddingsAnswer(Answer):
    """A result for each photo, in the order they were sent, and the space the points lie in: curvature -c."""

    model_hash: str
    embedding_dim: int
    c: float
    space: Space
    encoding: Encoding
    results: list[EmbeddingResult]
