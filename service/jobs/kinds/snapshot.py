"""``snapshot`` and ``restore``: a collection's state into a file, and back in place of the live one."""

import logging
from contextlib import suppress

from index.backup import create_snapshot, restore_snapshot
from index.collection import Collection
from service.jobs.context import Context, JobFailedError
from service.jobs.store import StaleRunError
from service.snapshots import Snapshots, UnknownSnapshotError, name_of

logger = logging.getLogger(__name__)


def take_snapshot(context: Context) -> str:
    """Others search and write meanwhile. One that is cancelled leaves no file, one that is interrupted no second."""
    collection, store = context.job.collection, context.settings.store
    snapshots, name = Snapshots(store), name_of(context.job.collection, context.job.created_at)
    try:
        snapshots.get(collection, name)  # made before the service ended
    except UnknownSnapshotError:
        with context.engine.collections.use(collection), snapshots.incoming(collection) as folder:
            created = create_snapshot(store, collection, out=folder)
            snapshots.keep(created.path, collection, created.sha256, name)
    try:
        context.advance(done=1, total=1)
    except StaleRunError:
        if context.store.get(context.job.id).state == "cancelled":
            with suppress(UnknownSnapshotError):
                snapshots.delete(collection, name)
        raise
    return name


def restore_collection(context: Context) -> str:
    """Built beside the live collection and switched in; requests under way end on the old one."""
    name, collections = context.job.collection, context.engine.collections
    try:
        stored = Snapshots(context.settings.store).get(name, str(context.job.parameters["snapshot"]))
    except UnknownSnapshotError as error:
        raise JobFailedError(str(error)) from error

    def put() -> Collection:
        context.check()
        return restore_snapshot(
            stored.path,
            context.settings.store,
            name,
            replace=True,
            trusted=False,
            model_hash=context.engine.model.model_hash,
            checksum=stored.sha256,
        )

    collections.replace(name, put)
    context.advance(done=1, total=1)
    return stored.name
