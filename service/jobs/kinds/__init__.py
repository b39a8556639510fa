"""What jobs do: one file per kind, each a function of a context that returns the name of its result, if it has one."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from service.jobs.context import Context
from service.jobs.kinds.embed import embed_archive
from service.jobs.kinds.hierarchy import build_hierarchy
from service.jobs.kinds.import_items import import_items
from service.jobs.kinds.rebuild import rebuild_index
from service.jobs.kinds.snapshot import restore_collection, take_snapshot
from service.jobs.store import Kind

WORK: Mapping[Kind, Callable[[Context], str | None]] = MappingProxyType(
    {
        "import": import_items,
        "embed": embed_archive,
        "rebuild": rebuild_index,
        "hierarchy": build_hierarchy,
        "snapshot": take_snapshot,
        "restore": restore_collection,
    }
)
AT_ONCE: frozenset[Kind] = frozenset({"rebuild", "hierarchy", "snapshot"})
"""Kinds that cannot be stopped half-way: cancelled, what they make is not used."""
NEVER: frozenset[Kind] = frozenset({"restore"})
"""Kinds that must not be cancelled once they run: whether they took effect would not be known."""
