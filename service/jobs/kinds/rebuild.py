"""``rebuild``: a collection's index anew from its catalogue, while the old one is searched."""

from service.jobs.context import Context


def rebuild_index(context: Context) -> None:
    """Nothing is lost if it is interrupted: the old index serves until the new one is whole."""
    with context.engine.collections.use(context.job.collection) as served:
        served.collection.rebuild()
