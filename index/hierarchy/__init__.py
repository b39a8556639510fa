"""A collection's items as a tree that people can use."""

from index.hierarchy.tree import Hierarchy, Node

__all__ = ["Hierarchy", "Node"]
