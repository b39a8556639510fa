"""How wide and how fine a tree is unless something else is asked for."""

MAX_CHILDREN = 12
"""Children of a node: what a person still takes in at a glance."""
MIN_SIZE = 4
"""Items of the smallest node: smaller branches are loose items of the node they would hang from."""
