"""The declared fields of a collection's metadata: kept with the collection, checked at writes, indexed in SQLite."""

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from index.errors import CatalogueError
from index.files import write_json
from index.filters import field_columns

FieldType = Literal["string", "integer", "number", "boolean"]
TYPES: tuple[FieldType, ...] = ("string", "integer", "number", "boolean")

SCHEMA_FILE = "metadata_schema.json"
MAX_FIELDS = 64
FIELD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")  # what index.filters can use an index over


@dataclass(frozen=True, slots=True)
class MetadataSchema:
    """Types of the fields that are declared, and those an item must have. Other fields may hold anything."""

    fields: dict[str, FieldType] = field(default_factory=dict)
    required: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """ValueError for a name or a type that cannot be, and for a required field that is not declared."""
        if len(self.fields) > MAX_FIELDS:
            raise ValueError(f"expected at most {MAX_FIELDS} fields, got {len(self.fields)}")
        for name, kind in self.fields.items():
            if not FIELD_NAME.fullmatch(name):
                raise ValueError(
                    f"expected field names of 1 to 64 letters, digits and _ (no digit first), got {name!r:.80}"
                )
            if kind not in TYPES:
                raise ValueError(f"field {name!r}: expected one of {', '.join(TYPES)}, got {kind!r:.80}")
        if undeclared := set(self.required) - self.fields.keys():
            raise ValueError(f"required fields must be declared: {', '.join(sorted(undeclared))!r:.200} are not")

    def faults(self, metadata: dict[str, Any]) -> list[str]:
        """What keeps ``metadata`` out, in words; nothing where it fits. A field that is null does not."""
        faults = [f"{name}: it is required" for name in self.required if name not in metadata]
        for name, kind in self.fields.items():
            if name in metadata and not _is(kind, metadata[name]):
                faults.append(f"{name}: expected {_ARTICLES[kind]}, got {json.dumps(metadata[name])[:80]}")
        return faults

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"fields": self.fields, "required": list(self.required)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """What :meth:`as_dict` gave. Raises ``KeyError``, ``TypeError``, ``AttributeError`` or ``ValueError``."""
        return cls(dict(values["fields"]), tuple(values["required"]))


_ARTICLES = {"string": "a string", "integer": "an integer", "number": "a number", "boolean": "true or false"}


def index_statements(schema: MetadataSchema) -> list[str]:
    """SQL that makes the index that :mod:`index.filters` uses over each declared field."""
    return [f'CREATE INDEX IF NOT EXISTS "metadata_{name}" ON items ({field_columns(name)})' for name in schema.fields]


def write_schema(folder: Path, schema: MetadataSchema) -> None:
    """Keep a schema with the collection in ``folder``."""
    write_json(folder / SCHEMA_FILE, schema.as_dict())


def read_schema(folder: Path) -> MetadataSchema:
    """The schema of the collection in ``folder``; an empty one where none was declared.

    Raises :class:`~index.errors.CatalogueError` for a damaged one: items must not be let in unchecked.
    """
    path = folder / SCHEMA_FILE
    try:
        return MetadataSchema.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return MetadataSchema()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CatalogueError(f"{path} cannot be read ({error}): restore it from a backup, or delete it") from error


def _is(kind: FieldType, value: Any) -> bool:
    if kind == "boolean":
        return isinstance(value, bool)
    if kind == "string":
        return isinstance(value, str)
    if isinstance(value, bool):
        return False
    if kind == "integer":
        return isinstance(value, int)
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
