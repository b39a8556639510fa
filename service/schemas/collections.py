"""Collections: how they are created, and how they stand."""

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from index.metadata import MAX_FIELDS, MetadataSchema
from index.plan import Kind
from index.plan import Request as IndexKind
from service.schemas.common import Answer, Request

# "schema" is a name that pydantic has taken.
BY_ALIAS = ConfigDict(serialize_by_alias=True, validate_by_name=True)
FieldName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]


class MetadataFields(Request):
    """The declared fields of items' metadata: checked when an item is written, quick to filter by.

    Other fields may hold anything. A declared field may be missing unless it is ``required``; null is no value of it.
    """

    fields: Annotated[
        dict[FieldName, Literal["string", "integer", "number", "boolean"]], Field(max_length=MAX_FIELDS)
    ] = Field(default_factory=dict)
    required: Annotated[tuple[FieldName, ...], Field(max_length=MAX_FIELDS)] = ()

    @model_validator(mode="after")
    def _required_is_declared(self) -> Self:
        self.schema_of_fields()
        return self

    def schema_of_fields(self) -> MetadataSchema:
        """As the index has it. Raises ``ValueError``."""
        return MetadataSchema(dict(self.fields), tuple(dict.fromkeys(self.required)))


class CollectionRequest(Request):
    """A collection to be. ``kind`` is the index: "auto" takes what fits the number of points and ``memory``."""

    model_config = BY_ALIAS

    kind: Annotated[
        IndexKind,
        Field(description="flat scans all points; ivf looks into lists; ivf_sq8 keeps those in 8 bits. All re-rank."),
    ] = "auto"
    memory: Annotated[
        int | None, Field(ge=1, le=2**50, description="Bytes that the index may hold in memory; null: no bound.")
    ] = None
    metadata: Annotated[MetadataFields, Field(alias="schema")] = MetadataFields()


class IndexAnswer(Answer):
    """The index of a collection: what was asked for, and what it is now and why."""

    requested: IndexKind
    kind: Kind
    reason: str
    memory: Annotated[int | None, Field(description="Bytes it may hold, where a bound was given.")]
    lists: Annotated[int, Field(description="Number of lists; 0 for a flat index.")]
    probes: Annotated[int, Field(description="Lists looked into for 10 neighbours; 0 for a flat index.")]
    recall: Annotated[float | None, Field(description="At 10, measured on stored points when it was built.")]


class CollectionAnswer(Answer):
    """A collection as it stands."""

    model_config = BY_ALIAS

    name: str
    count: int
    generation: Annotated[str, Field(description="The saved state of the index that is searched, and writes since.")]
    sequence: Annotated[int, Field(description="Number of the last write.")]
    model_hash: Annotated[str, Field(description="The model whose points these are.")]
    embedding_dim: int
    c: float
    index: IndexAnswer
    metadata: Annotated[MetadataFields, Field(alias="schema")]
    tree: Annotated[bool, Field(description="Whether a tree was built over it.")]


class CollectionListing(Answer):
    """One collection among all; ``fault`` where it cannot be used at present."""

    name: str
    count: int | None = None
    fault: str | None = None


class CollectionsAnswer(Answer):
    """All collections that are served."""

    collections: list[CollectionListing]
