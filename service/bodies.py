"""Bodies of requests: JSON, or a form with photos, of one model."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from service.multipart import Part, read_form
from service.problems import Problem, invalid_fields
from service.settings import LimitSettings

Asked = TypeVar("Asked", bound=BaseModel)
Form = TypeVar("Form", bound=BaseModel)

HOW_TO = "send JSON, or a photo as multipart: curl -F file=@photo.jpg -F limit=5"


@dataclass(frozen=True, slots=True)
class Body(Generic[Asked, Form]):
    """What was asked, as JSON or else as form fields, and the photos that came as files (field ``file``), in order."""

    json: Asked | None
    form: Form | None
    photos: tuple[Part, ...] = ()


async def read_body(
    request: Request, model: type[Asked], form: type[Form], limits: LimitSettings, *, max_photos: int = 1
) -> Body[Asked, Form]:
    """Read a body as ``model``, where it is JSON, or as ``form`` with at most ``max_photos`` photos.

    A form field that is repeated is given to ``form`` as a list of its texts, another as its text. Raises
    :class:`~service.problems.Problem`: 400, 413, 415 or 422.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "application/json":
        return Body(parse_json(await request.body(), model), None)
    if content_type != "multipart/form-data":
        got = content_type or "no Content-Type"
        raise Problem(
            415, "unsupported_media_type", f"expected application/json or multipart/form-data, got {got:.80}: {HOW_TO}"
        )
    parts = await read_form(request.headers["content-type"], request.stream(), limits.image_bytes, max_photos)
    photos = tuple(part for part in parts if part.name == "file" and part.is_file)
    fields: dict[str, list[str]] = {}
    for part in parts:
        if part.is_file and part.name != "file":
            raise Problem(422, "invalid_request", f"expected photos in the field 'file', got one in {part.name!r:.80}")
        if not part.is_file:
            fields.setdefault(part.name, []).append(part.text)
    try:
        asked = form.model_validate({name: texts if len(texts) > 1 else texts[0] for name, texts in fields.items()})
    except ValidationError as error:
        raise invalid_fields(error.errors(include_url=False, include_input=False), "body") from error
    return Body(None, asked, photos)


def parse_json(data: bytes, model: type[Asked]) -> Asked:
    """JSON as ``model``. Raises :class:`~service.problems.Problem`, 400 or 422."""
    try:
        # Strict: "5" is no number and 1 no boolean; a typing error is told, not guessed at.
        return model.model_validate_json(data, strict=True)
    except ValidationError as error:
        raise invalid_fields(error.errors(include_url=False, include_input=False), "body") from error


def only_photo(photos: tuple[Part, ...]) -> Part:
    """The photo of a form that must have one. Raises :class:`~service.problems.Problem` 422."""
    if len(photos) != 1:
        got = "none" if not photos else str(len(photos))
        raise Problem(422, "invalid_request", f"expected one photo in the field 'file', got {got}: {HOW_TO}")
    return photos[0]
