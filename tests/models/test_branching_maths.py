"""Affinities and groupings of BranchingModel: by hand, and their limits."""

import keras
import numpy as np
import pytest

from kmtl.losses.task_losses import resolve_loss
from kmtl.models.branching import affinities, grouping
from kmtl.models.branching.tree import Branch, thin_tree

pytestmark = pytest.mark.both_backends

NAN = float("nan")
TWO_PAIRS = np.array([[1, 0.9, 0.2, 0.3], [0.9, 1, 0.2, 0.2], [0.2, 0.2, 1, 0.8],
                      [0.3, 0.2, 0.8, 1]])  # fmt: skip


def test_task_affinity_by_hand():
    margins = np.array([[0.9, 0.8, 0.1], [0.1, 0.9, 0.9], [0.2, 0.0, 0.8], [0.8, 0.1, 0.2]])
    # Difficult: [1, 0, 0, 1], [1, 1, 0, 0] and [0, 1, 1, 0], which is the first one's opposite.
    expected = [[1.0, 0.5, 0.0], [0.5, 1.0, 0.5], [0.0, 0.5, 1.0]]
    np.testing.assert_array_equal(affinities.task_affinity(margins), expected)


def test_identical_tasks_have_affinity_one():
    column = np.random.default_rng(0).random(50)
    affinity = affinities.task_affinity(np.stack([column, 3 * column], axis=1))
    np.testing.assert_array_equal(affinity, np.ones((2, 2)))


def test_missing_labels_are_left_out_pair_by_pair():
    margins = np.array([[0.9, 0.9, NAN], [0.1, 0.1, NAN], [0.9, NAN, 0.5], [0.1, NAN, 0.1]])
    margins = np.vstack([margins, [[0.1, 0.9, NAN]]])
    affinity = affinities.task_affinity(margins)
    # Means are 0.42, 0.633 and 0.3; 0 and 1 agree on two of three, 0 and 2 on two of two.
    assert affinity[0, 1] == pytest.approx(2 / 3) and affinity[0, 2] == 1.0
    # 1 and 2 have no sample in common: shares of difficult ones are 2/3 and 1/2.
    assert affinity[1, 2] == pytest.approx(0.5)


def test_a_task_without_labels():
    with pytest.raises(
        ValueError, match=r"labels of every task.* Received: none for columns \[1\]"
    ):
        affinities.task_affinity(np.array([[0.5, NAN], [0.2, NAN]]))


def test_branch_affinity_by_hand():
    affinity = affinities.branch_affinity(TWO_PAIRS, [[0, 1], [2], [3]])
    # a(01, 3) = (0.3 + 0.2) / 2, a(3, 01) = 0.2; a(01, 01) = 0.9
    expected = [[0.9, 0.2, 0.225], [0.2, 1.0, 0.8], [0.225, 0.8, 1.0]]
    np.testing.assert_allclose(affinity, expected)


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize(
    ("loss", "y", "p", "expected"),
    [
        ("BinaryCrossentropy", [1, 0, -1], [[0.9], [0.3], [0.5]], [0.1, 0.3, NAN]),
        ("BinaryCrossentropy", [[1, 0], [1, -1], [-1, -1]], [[0.9, 0.3]] * 3, [0.2, 0.1, NAN]),
        ("SparseCategoricalCrossentropy", [2, 0, -1], [[0.2, 0.3, 0.5]] * 3, [0.5, 0.8, NAN]),
        ("CategoricalCrossentropy", [[0, 1, 0], [0, 0, 1]], [[0.2, 0.3, 0.5]] * 2, [0.7, 0.5]),
    ],
)
def test_margins_of_classes(loss, y, p, expected, from_logits):
    loss = getattr(keras.losses, loss)(from_logits=from_logits)
    p = np.array(p)
    if from_logits:
        binary = "Binary" in type(loss).__name__
        p = np.log(p / (1 - p)) if binary else np.log(p) + 3.0
    found = affinities.margins(loss, np.array(y), p, missing=-1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_margins_of_numbers_and_sample_weights():
    loss = resolve_loss("mse")
    y, p = np.array([1.0, 2.0, 5.0]), np.array([[3.0], [1.5], [0.0]])
    found = affinities.margins(loss, y, p, sample_weight=np.array([1.0, 0.5, 0.0]))
    np.testing.assert_allclose(found, [2.0, 0.5, NAN])
    found = affinities.margins(loss, np.ones((2, 3)), np.array([[1, 2, 4.0], [0, 1, 1]]))
    np.testing.assert_allclose(found, [4 / 3, 1 / 3], rtol=1e-6)
    with pytest.raises(ValueError, match="Labels must have the shape of the outputs"):
        affinities.margins(loss, np.ones((2, 3)), np.ones((2, 4)))


def test_ranks():
    found = affinities.ranks(np.array([5.0, 1.0, NAN, 5.0, 9.0]))
    np.testing.assert_allclose(found, [0.5, 0.125, NAN, 0.5, 0.875])


def cost(groups, unit_cost=1.0, separation_weight=4.0, pools=0):
    return grouping.grouping_cost(TWO_PAIRS, groups, unit_cost, separation_weight, pools)


def test_cost_by_hand():
    together = 4.0 * (1 - (0.2 + 0.2 + 0.2 + 0.2) / 4)  # no new branch, no branch term
    assert cost([[0, 1, 2, 3]]) == pytest.approx(together)
    # Two groups: 2**2 for the branch under two poolings, and the mean of 0.1 and 0.2.
    assert cost([[0, 1], [2, 3]], pools=2) == pytest.approx(4.0 + 4.0 * 0.15)
    assert cost([[0], [1], [2], [3]], unit_cost=0.5) == pytest.approx(1.5)


def test_limits_of_the_separation_weight():
    def groups(weight):
        return grouping.best_grouping(TWO_PAIRS, 1.0, weight)

    assert groups(0.0) == [[0, 1, 2, 3]]
    assert groups(4.0) == [[0, 1], [2, 3]]
    assert groups(1e6) == [[0], [1], [2], [3]]
    assert grouping.best_grouping(TWO_PAIRS, 1.0, 4.0, pools=2) == [[0, 1, 2, 3]]


def test_equal_costs_take_fewest_groups_then_the_first():
    assert grouping.best_grouping(np.ones((3, 3)), 0.0, 1.0) == [[0, 1, 2]]
    # Without a cost of branches each pair of unlike tasks apart is best, at equal cost.
    assert grouping.best_grouping(np.eye(2), 1.0, 1.0) == [[0, 1]]


def test_partitions_are_all_and_each_once():
    found = {tuple(sorted(map(tuple, p))) for p in grouping.partitions([0, 1, 2, 3])}
    assert len(found) == len(list(grouping.partitions([0, 1, 2, 3]))) == 15


def blocks(sizes, seed=0):
    owner = np.repeat(np.arange(len(sizes)), sizes)
    owner = np.random.default_rng(seed).permutation(owner)
    same = owner[:, None] == owner
    noise = np.random.default_rng(seed).uniform(0.0, 0.1, same.shape)
    affinity = np.where(same, 0.9, 0.3) + (noise + noise.T) / 2
    np.fill_diagonal(affinity, 1.0)
    return affinity, sorted(np.flatnonzero(owner == g).tolist() for g in range(len(sizes)))


def test_spectral_clustering_finds_blocks():
    affinity, expected = blocks([5, 4, 3])
    assert sorted(grouping.spectral_groups(affinity, 3)) == expected
    assert grouping.best_grouping(affinity, 1.0, 8.0) == expected
    assert grouping.spectral_groups(affinity, 1) == [list(range(12))]
    assert grouping.best_grouping(affinity, 1.0, 1e6) == [[i] for i in range(12)]


def test_spectral_clustering_agrees_with_all_groupings():
    affinity, expected = blocks([3, 3, 2], seed=1)
    assert grouping.best_grouping(affinity, 1.0, 8.0) == expected  # of 8: exact
    assert sorted(grouping.spectral_groups(affinity, 3)) == expected


def test_the_odd_one_out_is_found_where_there_are_no_clusters():
    affinity = np.full((9, 9), 0.505)
    affinity[:6, :6], affinity[6:, 6:] = 0.528, 0.494
    noise = np.triu(np.random.default_rng(0).normal(0.0, 0.02, (9, 9)), 1)
    affinity = affinity + noise + noise.T
    np.fill_diagonal(affinity, 1.0)

    def price(groups):
        return grouping.grouping_cost(affinity, groups, 1.0, 8.0, 0)

    exact = min(grouping.partitions(list(range(9))), key=price)
    found = grouping.best_grouping(affinity, 1.0, 8.0)
    assert found == sorted(map(sorted, exact)) and sorted(map(len, found)) == [1, 8]
    clusters = (grouping.spectral_groups(affinity, d) for d in range(1, 10))
    assert price(found) < min(map(price, clusters))


@pytest.mark.parametrize(
    ("affinity", "message"),
    [
        (np.ones((2, 3)), r"must have the shape \(3, 3\).* Received: affinity of shape \(2, 3\)"),
        (np.full((3, 3), NAN), r"must lie in \[0, 1\]"),
        (np.full((3, 3), 1.5), r"must lie in \[0, 1\]. Received: values from 1.5 to 1.5"),
        (np.eye(3) - 0.1, r"must lie in \[0, 1\]. Received: values from -0.1 to 0.9"),
        (np.triu(np.ones((3, 3))), "must be symmetric. Received: a difference of 1.0"),
    ],
)
def test_bad_affinities(affinity, message):
    with pytest.raises(ValueError, match=message):
        grouping.check_affinity(affinity, 3)


def test_trees_are_trees():
    tree = thin_tree("dacb", ["low", "high"])
    assert tree.active == 1 and tree.incoming == [("a",), ("b",), ("c",), ("d",)]
    tree = tree.widened([Branch(("a", "d"), "high"), Branch(("b", "c"), "high_1")])
    assert tree.active == 0 and tree.incoming == [("a", "d"), ("b", "c")]
    with pytest.raises(ValueError, match=r"keep together .* such as \['a', 'd'\]"):
        tree.checked([["a"], ["d", "b", "c"]])
    assert tree.checked([["d", "a", "c", "b"]]) == [("a", "b", "c", "d")]
    assert type(tree).from_config(tree.to_config()) == tree
    assert str(tree).splitlines()[:3] == ["low: a, b, c, d", "  high: a, d", "    a"]
    assert thin_tree("a", ["low"]).active is None
