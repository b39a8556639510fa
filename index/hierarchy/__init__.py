"""A collection's items as a tree that people can use."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from index.hierarchy.tree import Hierarchy, Node

__all__ = ["Hierarchy", "Node"]


def __getattr__(name: str) -> object:
    # Numpy and scipy come with the tree, not with the commands' help.
    if name in __all__:
        from index.hierarchy import tree

        return getattr(tree, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
