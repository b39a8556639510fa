"""From the body of a search request, JSON or multipart, to what it asks for."""

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from service.problems import Problem, invalid_fields
from service.schemas import FormSearchOptions, SearchOptions, SearchRequest

# A multipart search has four fields; a few more are read so that the answer can name the unknown one.
MAX_FIELDS = 16
MAX_FIELD_BYTES = 4096
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
    try:
        form = await request.form(max_files=2, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES)
    except HTTPException as error:
        raise Problem(400, "malformed_multipart", f"the multipart body cannot be read: {error.detail}") from error
    try:
        files = form.getlist("file")
        if len(files) != 1 or not isinstance(files[0], UploadFile):
            raise Problem(422, "invalid_request", f"expected exactly one photo in the field 'file', got {_got(form)}")
        options = _form_options(form)
        if files[0].size is not None and files[0].size > max_image_bytes:
            raise _image_bytes_problem(max_image_bytes)
        photo = await files[0].read()
    finally:
        await form.close()
    return Asked(options, photo=lambda: _sized(photo, max_image_bytes))


def _form_options(form: FormData) -> FormSearchOptions:
    fields: dict[str, object] = {}
    for name in form:
        if name == "file":
            continue
        values = form.getlist(name)
        fields[name] = values if name == "include" or len(values) > 1 else values[0]
    if any(isinstance(value, UploadFile) for _, value in form.multi_items() if value is not form.get("file")):
        raise Problem(422, "invalid_request", f"expected the photo in the field 'file' and no other file: {HOW_TO}")
    try:
        return FormSearchOptions.model_validate(fields)
    except ValidationError as error:
        raise invalid_fields(error.errors(include_url=False, include_input=False), "body") from error


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
        raise _image_bytes_problem(max_bytes)
    return data


def _image_bytes_problem(max_bytes: int) -> Problem:
    return Problem(413, "image_too_large", f"the photo is over {max_bytes:,} bytes: scale it down or compress it")


def _got(form: FormData) -> str:
    files = form.getlist("file")
    if not files:
        return f"none (fields: {', '.join(sorted(set(form))[:8]) or 'none'})"
    return f"{len(files)}" if len(files) > 1 else "a text field without a file name"
