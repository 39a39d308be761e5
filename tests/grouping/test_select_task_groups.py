import itertools

import numpy as np
import pytest

from kmtl.grouping import select_task_groups

pytestmark = pytest.mark.both_backends

NAMES = ["depth", "edges", "keys", "normals", "seg", "shade"]

# Affinities of five tasks of Taskonomy that the authors of TAG released, rounded and transposed:
# the first name acts, the second is acted on.
TASKONOMY = {
    "seg": {"seg": 11.9993, "depth": 0.4136, "normals": 0.1398, "keys": 0.0211, "edges": 0.0567},
    "depth": {"seg": 0.1154, "depth": 7.3276, "normals": 0.2210, "keys": 0.0134, "edges": 0.0367},
    "normals": {"seg": 0.0489, "depth": 0.2914, "normals": 1.0710, "keys": 0.0107, "edges": 0.036},
    "keys": {"seg": 0.0045, "depth": 0.0135, "normals": 0.0105, "keys": 0.7339, "edges": 0.3037},
    "edges": {"seg": 0.0088, "depth": 0.0740, "normals": 0.0765, "keys": 0.6897, "edges": 5.9662},
}


def random_affinity(count, seed):
    numbers = np.random.default_rng(seed).normal(size=(count, count))
    names = NAMES[:count]
    return {
        i: dict(zip(names, row.tolist(), strict=True))
        for i, row in zip(names, numbers, strict=True)
    }


def score(affinity, group, task, singletons):
    partners = [affinity[i][task] for i in group if i != task]
    alone = {"zero": 0.0, "self": affinity[task][task]}
    return sum(partners) / len(partners) if partners else alone[singletons]


def exhaustive_total(affinity, budget, singletons):
    sizes = range(2 if singletons == "never" else 1, len(affinity) + 1)
    groups = [g for size in sizes for g in itertools.combinations(affinity, size)]
    scores = [{task: score(affinity, g, task, singletons) for task in g} for g in groups]
    best = -np.inf
    for count in range(1, budget + 1):
        for chosen in itertools.combinations(scores, count):
            values = {}
            for group in chosen:
                for task, value in group.items():
                    values[task] = max(value, values.get(task, -np.inf))
            if len(values) == len(affinity):
                best = max(best, sum(values.values()))
    return best


def check_consistent(result, affinity, budget, singletons="never"):
    """What the result says of itself follows from its groups."""
    assert len(result.groups) == result.cost <= budget
    for task, network in result.served_from.items():
        group = result.groups[network]
        assert result.values[task] == pytest.approx(score(affinity, group, task, singletons))
        assert all(
            result.values[task] >= score(affinity, other, task, singletons) - 1e-9
            for other in result.groups.values()
            if task in other
        )
    assert set(result.served_from) == set(affinity)
    assert result.total == pytest.approx(sum(result.values.values()))


def test_by_hand():
    # All three: a gets (1 + 3) / 2, b gets (2 - 1) / 2, c gets (0 + 1) / 2, in sum 3. Two
    # groups: a + c gives 3 and 0, b has 2 from a and -1 from c, so a + b, in sum 5.
    affinity = {
        "a": {"a": 9, "b": 2, "c": 0},
        "b": {"a": 1, "b": 9, "c": 1},
        "c": {"a": 3, "b": -1, "c": 9},
    }
    one = select_task_groups(affinity, 1)
    assert one.groups == {"a+b+c": ("a", "b", "c")}
    assert one.values == {"a": 2.0, "b": 0.5, "c": 0.5}
    two = select_task_groups(affinity, 2)
    assert two.groups == {"a+b": ("a", "b"), "a+c": ("a", "c")}
    assert two.served_from == {"a": "a+c", "b": "a+b", "c": "a+c"}
    assert two.values == {"a": 3.0, "b": 2.0, "c": 0.0}
    assert (two.total, two.cost) == (5.0, 2.0)
    # c has 1 from b.
    assert select_task_groups(affinity, 3).total == 6.0
    assert str(two) == (
        "2 networks at a cost of 2, total 5\n"
        "  a+b: serves b (2); also trains a\n"
        "  a+c: serves a (3), c (0)"
    )


def test_released_affinities():
    result = select_task_groups(TASKONOMY, 3)
    assert set(result.groups.values()) == {
        ("depth", "seg"),
        ("depth", "normals"),
        ("edges", "keys"),
    }
    # Each task is with its best partner, so that no choice is better, with any budget.
    assert result.total == pytest.approx(0.1154 + 0.4136 + 0.2210 + 0.6897 + 0.3037)
    assert select_task_groups(TASKONOMY, 5) == result


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("singletons", ["never", "zero", "self"])
def test_equals_exhaustive_search(count, singletons):
    for seed, budget in itertools.product(range(5), range(1, count + 1)):
        affinity = random_affinity(count, seed)
        result = select_task_groups(affinity, budget, singletons=singletons)
        check_consistent(result, affinity, budget, singletons)
        assert result.total == pytest.approx(exhaustive_total(affinity, budget, singletons))


@pytest.mark.parametrize("budget", [1, 2, 3])
def test_equals_exhaustive_search_for_six_tasks(budget):
    affinity = random_affinity(6, seed=7)
    result = select_task_groups(affinity, budget)
    check_consistent(result, affinity, budget)
    assert result.total == pytest.approx(exhaustive_total(affinity, budget, "never"))


@pytest.mark.parametrize("seed", range(3))
def test_larger_budget_is_never_worse(seed):
    affinity = random_affinity(6, seed)
    totals = [select_task_groups(affinity, budget).total for budget in range(1, 8)]
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(totals))
    # With as many networks as tasks each has its best partner.
    best = sum(max(affinity[i][j] for i in affinity if i != j) for j in affinity)
    assert totals[5] == pytest.approx(best)
    assert totals[-1] == totals[5]


def test_blocks_of_twelve_tasks_are_recovered():
    blocks = np.repeat([0, 1, 2], 4)
    order = np.random.default_rng(3).permutation(12)
    names = [f"task{k:02d}" for k in range(12)]
    affinity = np.where(blocks[:, None] == blocks, 0.3, -0.3)[np.ix_(order, order)]
    result = select_task_groups(affinity, 3, tasks=names)
    found = {frozenset(group) for group in result.groups.values()}
    of_block = {
        block: {names[k] for k in range(12) if blocks[order[k]] == block} for block in range(3)
    }
    assert found == {frozenset(group) for group in of_block.values()}
    assert result.total == pytest.approx(3.6)
    # More networks gain nothing, and are not taken, though sums may differ by rounding.
    assert select_task_groups(affinity, 7, tasks=names).cost == 3


def test_order_and_form_carry_no_meaning():
    affinity = random_affinity(5, seed=1)
    expected = select_task_groups(affinity, 2)
    names = list(affinity)[::-1]
    reversed_dict = {i: {j: affinity[i][j] for j in names} for i in names}
    assert select_task_groups(reversed_dict, 2) == expected
    array = np.array([[affinity[i][j] for j in names] for i in names])
    assert select_task_groups(array, 2, tasks=names) == expected


def test_singletons():
    # Company hurts everyone.
    affinity = {"a": {"a": 0.7, "b": -0.3}, "b": {"a": -0.1, "b": 0.2}}
    assert select_task_groups(affinity, 2).groups == {"a+b": ("a", "b")}
    assert select_task_groups(affinity, 2).total == pytest.approx(-0.4)
    zero = select_task_groups(affinity, 2, singletons="zero")
    assert (zero.groups, zero.total) == ({"a": ("a",), "b": ("b",)}, 0.0)
    assert select_task_groups(affinity, 2, singletons="self").total == pytest.approx(0.9)
    # One network has to take both.
    assert select_task_groups(affinity, 1, singletons="self").total == pytest.approx(-0.4)


SQUARE = {"a": {"a": 1.0, "b": 0.1}, "b": {"a": 0.2, "b": 1.0}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget": 0}, "`budget` must be an integer, at least 1. Received: budget=0"),
        ({"budget": -2}, "`budget` must be an integer, at least 1. Received: budget=-2"),
        ({"budget": 1.5}, "`budget` must be an integer, at least 1. Received: budget=1.5"),
        ({"singletons": "none"}, "`singletons` must be one of"),
        ({"tasks": ["a", "b"]}, "`tasks` must be left out where `affinity` has names"),
        ({"affinity": {"a": {"a": 1.0}, "b": SQUARE["b"]}}, r"affinity\['a'\] names \['a'\]"),
        (
            {"affinity": {"a": {"a": 1.0, "c": 1.0}, "b": SQUARE["b"]}},
            r"the tasks of its rows, \['a', 'b'\]. Received: affinity\['a'\] names \['a', 'c'\]",
        ),
        ({"affinity": {"a": {"a": 1.0}}}, "at least two tasks"),
        ({"affinity": np.ones((2, 3))}, r"must be square. Received: affinity of shape \(2, 3\)"),
        ({"affinity": np.ones((2, 2))}, "`tasks` must be distinct names"),
        ({"affinity": np.ones((2, 2)), "tasks": "ab"}, "`tasks` must be distinct names"),
        ({"affinity": np.ones((2, 2)), "tasks": ["a", "a"]}, "`tasks` must be distinct names"),
        (
            {"affinity": np.array([[1, np.nan], [0, 1]]), "tasks": ["a", "b"]},
            r"must be finite: leave out .*. Received: none for the pairs \[\('a', 'b'\)\]",
        ),
        ({"affinity": np.ones((15, 15)), "tasks": range(15)}, "15 tasks, which form 32767 groups"),
        (
            {"affinity": np.ones((2, 2)), "tasks": ["a", "b+c"]},
            r"must not contain \"\+\".*\['a', 'b\+c'\]",
        ),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        select_task_groups(**{"affinity": SQUARE, "budget": 2, **arguments})
