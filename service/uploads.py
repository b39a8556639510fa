"""From the body of a search request, JSON or multipart, to what it asks for."""

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import ValidationError
from starlette.requests import Request

from service.multipart import Part, image_bytes_problem, read_form
from service.problems import Problem, invalid_fields
from service.schemas import FormSearchOptions, SearchOptions, SearchRequest

HOW_TO = "send JSON, or a photo as multipart: curl -F file=@photo.jpg -F limit=5"


@dataclass(frozen=True, slots=True)
class Asked:
    """A search: its options, and one of a photo (``photo`` fetches its bytes), a stored item and a point."""

    options: SearchOptions
    photo: Callable[[], bytes] | None = None
    item_id: str | None = None
    embedding: tuple[float, ...] = ()


async def read_search(request: Request, max_image_bytes: int) -> Asked:
    """Read and check the body. Raises :class:`~service.problems.Problem`: 400, 413, 415 or 422."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "application/json":
        return _from_json(await request.body(), max_image_bytes)
    if content_type == "multipart/form-data":
        return await _from_form(request, max_image_bytes)
    got = content_type or "no Content-Type"
    raise Problem(
        415, "unsupported_media_type", f"expected application/json or multipart/form-data, got {got}: {HOW_TO}"
    )


def _from_json(body: bytes, max_image_bytes: int) -> Asked:
    try:
        # Strict: "5" is no number and 1 no boolean; a typing error is told, not guessed at.
        asked = SearchRequest.model_validate_json(body, strict=True)
    except ValidationError as error:
        raise invalid_fields(error.errors(include_url=False, include_input=False), "body") from error
    image = asked.query.image
    if image is None:
        return Asked(asked, item_id=asked.query.item_id, embedding=tuple(asked.query.embedding or ()))
    return Asked(asked, photo=lambda: _sized(decode_data_url(image), max_image_bytes))


async def _from_form(request: Request, max_image_bytes: int) -> Asked:
    parts = await read_form(request.headers["content-type"], request.stream(), max_image_bytes)
    photos = [part for part in parts if part.name == "file"]
    if len(photos) != 1 or not photos[0].is_file:
        raise Problem(422, "invalid_request", f"expected one photo in the field 'file', got {_got(parts)}: {HOW_TO}")
    fields: dict[str, list[str]] = {}
    for part in parts:
        if part is not photos[0]:
            fields.setdefault(part.name, []).append(part.text)
    try:
        # A field given twice stays a list, which only `include` may be.
        options = FormSearchOptions.model_validate(
            {name: values if name == "include" or len(values) > 1 else values[0] for name, values in fields.items()}
        )
    except ValidationError as error:
        raise invalid_fields(error.errors(include_url=False, include_input=False), "body") from error
    return Asked(options, photo=lambda: bytes(photos[0].data))


def decode_data_url(text: str) -> bytes:
    """Bytes of ``data:image/...;base64,...`` or of plain base64. Raises :class:`~service.problems.Problem` 422."""
    payload = text
    if text[:5].lower() == "data:":
        header, comma, payload = text.partition(",")
        if not comma or not header.lower().endswith(";base64"):
            raise Problem(422, "invalid_base64", "query.image: expected a data URL like data:image/jpeg;base64,...")
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Problem(422, "invalid_base64", f"query.image: expected base64, {str(error).lower()}") from error


def _sized(data: bytes, max_bytes: int) -> bytes:
    if len(data) > max_bytes:
        raise image_bytes_problem(max_bytes)
    return data


def _got(parts: list[Part]) -> str:
    photos = [part for part in parts if part.name == "file"]
    if not photos:
        return f"none (fields: {', '.join(sorted({part.name for part in parts}))[:200] or 'none'})"
    return str(len(photos)) if len(photos) > 1 else "a text field without a file name"
