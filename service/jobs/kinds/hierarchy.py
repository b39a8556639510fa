"""``hierarchy``: the tree over a collection, built and fitted anew; served as soon as it is there."""

from itertools import count

from index.hierarchy.shape import MAX_CHILDREN, MIN_SIZE
from service.jobs.context import Context

STAGES = 5  # that ServedTree.build tells of


def build_hierarchy(context: Context) -> None:
    """The old tree is read meanwhile. Progress counts stages, not items: how long each takes is not known before."""
    context.store.settle(context.job, 0, [])  # stages of an interrupted run do not count
    context.advance(total=STAGES)
    stages = count()

    def stage(name: str) -> None:
        context.check()
        if next(stages):
            context.advance(done=1)

    parameters = context.job.parameters
    with context.engine.collections.use(context.job.collection) as served:
        served.tree.build(
            stage,
            max_children=parameters.get("max_children", MAX_CHILDREN),
            min_size=parameters.get("min_size", MIN_SIZE),
        )
    context.advance(done=1)
