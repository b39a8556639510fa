"""Catalogues from somebody else: refused where a write of ours could not have made what they hold.

SQLite runs what a file's schema says: a trigger would undo acknowledged writes, a view in place of a table never end.
Checksums prove nothing here, since whoever made the file made them as well.
"""

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np

from index.catalogue import INDEX_OF_UPLOADS, SCHEMA, Catalogue, valid_id
from index.errors import SnapshotError
from index.metadata import FIELD_NAME, MetadataSchema, index_statements
from index.points import valid_points

_PAGE = 1000
_INDEX_NAME = re.compile(rf"metadata_({FIELD_NAME.pattern})")
_OBJECTS = "SELECT type, name, sql FROM sqlite_master"
_BAD_ITEM = (ValueError, TypeError, AttributeError, RecursionError)  # ValueError: PointError, UnicodeError, bad JSON


def require_own_schema(path: Path) -> None:
    """:class:`SnapshotError` for a catalogue with tables, indexes, views or triggers that ours have not.

    To be called before anything else is asked of the file.
    """
    try:
        # Nothing of the schema runs for a look at the schema.
        with closing(sqlite3.connect(path)) as connection:
            found = connection.execute(_OBJECTS).fetchall()
    except sqlite3.Error as error:
        raise SnapshotError(f"the catalogue in the snapshot cannot be read ({error})") from error
    with closing(sqlite3.connect(":memory:")) as ours:
        ours.executescript(SCHEMA)
        ours.execute(INDEX_OF_UPLOADS)
        for kind, name, _ in found:
            if kind == "index" and (match := _INDEX_NAME.fullmatch(str(name))):
                ours.execute(*index_statements(MetadataSchema({match[1]: "string"})))
        known = set(ours.execute(_OBJECTS).fetchall())
    if foreign := [f"{kind} {name!r:.80}" for kind, name, sql in found if (kind, name, sql) not in known]:
        raise SnapshotError(f"the catalogue in the snapshot has a {foreign[0]} that no catalogue of lhier has")


def require_own_items(catalogue: Catalogue) -> None:
    """:class:`SnapshotError` for an item that :meth:`Catalogue.put` would refuse."""
    after = -(2**63)
    try:
        while page := catalogue.items(after, _PAGE):
            if page[0].row < 1:
                raise ValueError(f"row {page[0].row}")
            after = page[-1].row
            valid_points(np.stack([item.space for item in page]), catalogue.embedding_dim)
            for item in page:
                valid_id(item.id)
                json.dumps(item.metadata, allow_nan=False)
                if not isinstance(item.metadata, dict) or not all(isinstance(label, str) for label in item.labels):
                    raise ValueError(f"item {item.id!r:.80}: its labels or metadata")
    except _BAD_ITEM as error:
        raise SnapshotError(f"the catalogue in the snapshot holds what none of lhier does ({error!s:.200})") from error
