"""Multipart forms read into memory within limits: a photo never touches the disk, an unfinished form is told."""

from collections.abc import AsyncIterable
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.problems import Problem

# A search has a dozen fields; a few more are read so that the answer can name the unknown one.
MAX_FIELDS = 32
MAX_FIELD_BYTES = 2**20
MAX_HEADER_BYTES = 8192


@dataclass(slots=True)
class Part:
    """One field of a form; a file when it came with a ``filename``."""

    name: str = ""
    filename: str | None = None
    data: bytearray = field(default_factory=bytearray)

    @property
    def is_file(self) -> bool:
        """Whether it is a file, not text."""
        return self.filename is not None

    @property
    def text(self) -> str:
        """The field as text; bytes that are no UTF-8 come out as replacement characters."""
        return self.data.decode("utf-8", "replace")


async def read_form(
    content_type: str, chunks: AsyncIterable[bytes], max_file_bytes: int, max_files: int = 1
) -> list[Part]:
    """The fields of a ``multipart/form-data`` body, in order.

    Raises :class:`~service.problems.Problem`: 400 for a broken form, 413 for a file above ``max_file_bytes`` and for
    more than ``max_files`` of them.
    """
    form = Form(max_file_bytes, max_files)
    await parse_form(content_type, chunks, form)
    return form.parts


async def parse_form(content_type: str, chunks: AsyncIterable[bytes], form: "Form") -> None:
    """Have ``form`` take what the body brings; :class:`~service.problems.Problem` 400 for a broken one."""
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise _broken("its Content-Type names no boundary")
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": form.begin,
                "on_header_field": form.header_name,
                "on_header_value": form.header_value,
                "on_header_end": form.header_end,
                "on_headers_finished": form.headers_finished,
                "on_part_data": form.part_data,
                "on_part_end": form.part_end,
                "on_end": form.end,
            },
        )
        async for chunk in chunks:
            if chunk:
                parser.write(chunk)
    except FormParserError as error:
        raise _broken(str(error)) from error
    if not form.ended:
        raise _broken("it ends before its closing boundary")


class Form:
    """What the parser calls as it goes through the body."""

    def __init__(self, max_file_bytes: int, max_files: int) -> None:
        self.parts: list[Part] = []
        self.ended = False
        self._max_file_bytes, self._max_files = max_file_bytes, max_files
        self.part = Part()
        self._name, self._value = bytearray(), bytearray()
        self._disposition = ""
        self._header_bytes = 0

    def begin(self) -> None:
        """A field begins."""
        if len(self.parts) >= MAX_FIELDS + self._max_files:
            raise _broken(f"it has more than {MAX_FIELDS + self._max_files} fields")
        self.part, self._disposition, self._header_bytes = Part(), "", 0

    def header_name(self, data: bytes, start: int, end: int) -> None:
        """Some of a header's name."""
        self._name += self._counted(data[start:end])

    def header_value(self, data: bytes, start: int, end: int) -> None:
        """Some of its value."""
        self._value += self._counted(data[start:end])

    def header_end(self) -> None:
        """The header is whole."""
        if self._name.lower() == b"content-disposition":
            # Browsers and curl send names as raw UTF-8; parse_options_header works on latin-1 text.
            self._disposition = self._value.decode("latin-1")
        self._name.clear()
        self._value.clear()

    def headers_finished(self) -> None:
        """The field's content follows."""
        options = parse_options_header(self._disposition)[1]
        if b"name" not in options:
            raise _broken("a field has no name in its Content-Disposition")
        self.part.name = options[b"name"].decode("utf-8", "replace")
        if b"filename" in options:
            self.part.filename = options[b"filename"].decode("utf-8", "replace")
            if sum(part.is_file for part in self.parts) >= self._max_files:
                raise Problem(413, "too_many_images", f"at most {self._max_files} photo(s) fit into one request")

    def part_data(self, data: bytes, start: int, end: int) -> None:
        """Some of its content."""
        part = self.part
        if len(part.data) + end - start > (self._max_file_bytes if part.is_file else MAX_FIELD_BYTES):
            if part.is_file:
                raise image_bytes_problem(self._max_file_bytes)
            raise _broken(f"the field {part.name!r:.80} has more than {MAX_FIELD_BYTES} bytes and is no file")
        part.data += data[start:end]

    def part_end(self) -> None:
        """The field is whole."""
        self.parts.append(self.part)

    def end(self) -> None:
        """The form is whole."""
        self.ended = True

    def _counted(self, data: bytes) -> bytes:
        self._header_bytes += len(data)
        if self._header_bytes > MAX_HEADER_BYTES:
            raise _broken(f"a field has more than {MAX_HEADER_BYTES} bytes of headers")
        return data


def image_bytes_problem(max_bytes: int) -> Problem:
    """A photo file above the limit."""
    return Problem(413, "image_too_large", f"the photo is over {max_bytes:,} bytes: scale it down or compress it")


def _broken(why: str) -> Problem:
    return Problem(400, "malformed_multipart", f"the multipart body cannot be read: {why}")
