"""Ids across rebuilds: matched by members, one to one, from the best."""

from types import SimpleNamespace

import numpy as np

from index.hierarchy import Hierarchy
from index.hierarchy.identity import fresh_ids, inherited_ids


def tree(parents, owners, ids, rows=None):
    return SimpleNamespace(
        ids=ids,
        parents=np.array(parents, dtype=np.int32),
        owners=np.array(owners, dtype=np.int32),
        rows=np.arange(len(owners)) if rows is None else np.array(rows),
    )


def test_fresh_ids_differ():
    found = fresh_ids(5000)
    assert len(set(found)) == 5000
    assert not set(found) & set(fresh_ids(5000))
    assert all(len(id_) == 12 and int(id_, 16) >= 0 for id_ in found)


def test_the_same_members_keep_the_id_wherever_the_node_stands():
    old = tree([-1, 0, 0, 2, 2], [1, 1, 1, 3, 3, 3, 4, 4, 4], ["all", "a", "bc", "b", "c"])
    new = tree([-1, 0, 0, 0], [3, 3, 3, 1, 1, 1, 2, 2, 2], ["-"] * 4)
    assert inherited_ids(new, old) == ["all", "b", "c", "a"]


def test_half_of_the_members_is_enough_and_less_is_not():
    old = tree([-1, 0, 0], [1] * 4 + [2] * 8, ["all", "four", "eight"])
    # Four with two new ones: 4 / 6. The eight are torn in three.
    new = tree([-1, 0, 0, 0, 0], [1] * 6 + [2, 2, 3, 3, 4, 4], ["-"] * 5)
    found = inherited_ids(new, old)
    assert found[:2] == ["all", "four"]
    assert not set(found[2:]) & {"four", "eight", "-"}
    assert len(set(found)) == 5


def test_one_id_goes_to_one_node_and_to_the_best():
    old = tree([-1, 0, 0], [1] * 10 + [2] * 10, ["all", "ten", "other"])
    # Two nested nodes match "ten": nine of its ten, and six of them.
    new = tree([-1, 0, 1, 0], [2] * 6 + [1] * 3 + [0] + [3] * 10, ["-"] * 4)
    found = inherited_ids(new, old)
    assert (found[0], found[1], found[3]) == ("all", "ten", "other")
    assert found[2] not in {"all", "ten", "other", "-"}


def test_only_common_items_count():
    old = tree([-1, 0, 0], [1] * 5 + [2] * 5, ["all", "a", "b"])
    # 100 items came, most of them into "a"; two of "b" went.
    rows = [*range(8), *range(100, 200)]
    new = tree([-1, 0, 0], [1] * 5 + [2] * 3 + [1] * 90 + [2] * 10, ["-"] * 3, rows)
    assert inherited_ids(new, old) == ["all", "a", "b"]


def test_trees_without_common_items_share_no_id():
    old = tree([-1], [0, 0], ["all"])
    assert inherited_ids(tree([-1], [0, 0], ["-"], [7, 8]), old)[0] not in {"all", "-"}


def test_a_rebuild_with_more_and_fewer_items_keeps_nearly_all_ids(grow_tree):
    """Against matching by brute force over member sets."""
    space = grow_tree(5.0, 12, count=600, dim=16)
    rng = np.random.default_rng(0)
    first, second = (np.sort(rng.choice(600, 480, replace=False)) for _ in range(2))
    old = Hierarchy.build(space[first], first, 1.0)
    new = Hierarchy.build(space[second], second, 1.0, previous=old)
    both = set(first.tolist()) & set(second.tolist())

    def sets(of):
        return {of.ids[node]: set(of.members(node).tolist()) & both for node in range(len(of.ids))}

    before, after = sets(old), sets(new)
    kept = before.keys() & after.keys()
    jaccard = [len(before[i] & after[i]) / len(before[i] | after[i]) for i in kept]
    assert min(jaccard) >= 0.5
    assert len(kept) >= 0.8 * len(after)
    # No node that got a fresh id has an exact match that nobody else took.
    left = [members for id_, members in before.items() if id_ not in kept and members]
    assert not any(members in left for id_, members in after.items() if id_ not in kept)
