import itertools

import numpy as np
import pytest

from kmtl.grouping import TaskGrouper

pytestmark = pytest.mark.both_backends

BY_HAND = {
    "a": {"a": 0.30},
    "b": {"b": 0.20},
    "c": {"c": 0.50},
    "a+b": {"a": 0.25, "b": 0.24},
    "b+c": {"b": 0.21, "c": 0.40},
    "all": {"a": 0.35, "b": 0.30, "c": 0.45},
}


def all_groups(tasks):
    return [g for n in range(1, len(tasks) + 1) for g in itertools.combinations(tasks, n)]


def random_table(tasks, rng, share=1.0):
    """Single tasks, and a share of the other groups."""
    return {
        "+".join(group): {task: float(rng.random()) for task in group}
        for group in all_groups(tasks)
        if len(group) == 1 or rng.random() < share
    }


def pair_table(tasks, rng):
    return {name: row for name, row in random_table(tasks, rng).items() if len(row) <= 2}


def exhaustive_total(table, cost, budget):
    tasks = {task for losses in table.values() for task in losses}
    best = np.inf
    for count in range(1, len(tasks) + 1):
        for chosen in itertools.combinations(table, count):
            if sum(cost[name] for name in chosen) <= budget + 1e-9:
                least = [min(table[n].get(t, np.inf) for n in chosen) for t in tasks]
                best = min(best, sum(least))
    return best


def check(table, cost, budget):
    result = TaskGrouper(table, cost, budget).select()
    assert result.total == pytest.approx(exhaustive_total(table, cost, budget))
    assert result.cost == pytest.approx(sum(cost[name] for name in result.groups))
    assert result.cost <= budget + 1e-9
    assert result.total == pytest.approx(sum(result.values.values()))
    for task, network in result.served_from.items():
        assert result.values[task] == table[network][task]
        assert result.values[task] == min(table[n].get(task, np.inf) for n in result.groups)
    assert all(set(group) == set(table[name]) for name, group in result.groups.items())


def test_by_hand():
    two = TaskGrouper(BY_HAND, cost=1.0, budget=2.0).select()
    # 0.25 + 0.21 + 0.40; the next best are "a" and "b+c" with 0.91.
    assert two.groups == {"a+b": ("a", "b"), "b+c": ("b", "c")}
    assert two.served_from == {"a": "a+b", "b": "b+c", "c": "b+c"}
    assert two.total == pytest.approx(0.86)
    one = TaskGrouper(BY_HAND, cost=1.0, budget=1.9).select()
    assert (one.groups, one.total) == ({"all": ("a", "b", "c")}, pytest.approx(1.10))
    three = TaskGrouper(BY_HAND, cost=1.0, budget=3.0).select()
    assert set(three.groups) == {"a+b", "b", "b+c"}
    assert three.total == pytest.approx(0.85)


def test_costs_of_networks():
    # "all" and "b+c" cost 2.5 and have 0.35 + 0.21 + 0.40; "a" and "b+c" do not fit.
    cost = {"a": 2.0, "b": 2.0, "c": 2.0, "a+b": 2.0, "b+c": 1.5, "all": 1.0}
    result = TaskGrouper(BY_HAND, cost=cost, budget=2.5).select()
    assert set(result.groups) == {"all", "b+c"}
    assert (result.total, result.cost) == (pytest.approx(0.96), 2.5)


def test_costs_that_sum_to_the_budget_but_for_rounding():
    table = {name: losses for name, losses in BY_HAND.items() if len(losses) == 1}
    assert 0.1 + 0.1 + 0.1 > 0.3
    assert len(TaskGrouper(table, cost=0.1, budget=0.3).select().groups) == 3


def test_two_networks_with_the_same_task():
    table = {"small": {"a": 0.5}, "large": {"a": 0.3}, "b": {"b": 0.2}}
    cost = {"small": 0.5, "large": 1.0, "b": 1.0}
    assert "large" in TaskGrouper(table, cost, budget=2.0).select().groups
    assert "small" in TaskGrouper(table, cost, budget=1.5).select().groups


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_equals_exhaustive_search(count):
    tasks = list("abcd")[:count]
    for seed in range(6):
        rng = np.random.default_rng(seed)
        table = random_table(tasks, rng, share=0.7)
        same = dict.fromkeys(table, 1.0)
        various = {name: float(rng.choice([0.5, 1.0, 1.3])) for name in table}
        for budget in range(count, 2 * count):
            check(table, same, budget)
            check(table, various, 1.3 * budget)


@pytest.mark.parametrize("budget", [2, 3])
def test_equals_exhaustive_search_for_six_tasks(budget):
    rng = np.random.default_rng(budget)
    table = random_table(list("abcdef"), rng)
    cost = {name: 0.7 + 0.1 * len(losses) for name, losses in table.items()}
    result = TaskGrouper(table, cost, budget).select()
    # No more than three networks fit.
    affordable = [np.array([row.get(t, np.inf) for t in "abcdef"]) for row in table.values()]
    costs = np.array(list(cost.values()))
    best = min(
        np.min([affordable[g] for g in chosen], axis=0).sum()
        for count in (1, 2, 3)
        for chosen in itertools.combinations(range(len(costs)), count)
        if costs[list(chosen)].sum() <= budget + 1e-9
    )
    assert result.total == pytest.approx(best)


@pytest.mark.parametrize("method", ["optimal", "higher_order"])
def test_larger_budget_is_never_worse(method):
    table = random_table(list("abcdef"), np.random.default_rng(5))
    cost = {name: 1.0 if len(losses) > 1 else 0.5 for name, losses in table.items()}
    budgets = np.arange(1.0, 6.1, 0.5)
    totals = [TaskGrouper(table, cost, budget, method).select().total for budget in budgets]
    assert all(b <= a + 1e-9 for a, b in itertools.pairwise(totals))
    assert totals[-1] < totals[0]


def test_higher_order_by_hand():
    table = {
        "a": {"a": 9.0},
        "b": {"b": 9.0},
        "c": {"c": 9.0},
        "ab": {"a": 1.0, "b": 2.0},
        "ac": {"a": 3.0, "c": 4.0},
        "bc": {"b": 6.0, "c": 8.0},
        "abc": {"a": 0.0, "b": 0.0, "c": 0.0},  # not looked at
    }
    one = TaskGrouper(table, cost=1.0, budget=1.0, method="higher_order").select()
    assert one.groups == {"a+b+c": ("a", "b", "c")}
    assert one.values == {"a": 2.0, "b": 4.0, "c": 6.0}
    two = TaskGrouper(table, cost=1.0, budget=2.0, method="higher_order").select()
    assert two.groups == {"ab": ("a", "b"), "ac": ("a", "c")}
    assert two.values == {"a": 1.0, "b": 2.0, "c": 4.0}


def test_higher_order_is_exact_for_pairs():
    # With two tasks nothing is made up, and with more than two, whatever only pairs serve.
    for seed in range(5):
        table = pair_table("ab", np.random.default_rng(seed))
        both = [TaskGrouper(table, 1.0, 1.0, m).select() for m in ("optimal", "higher_order")]
        assert both[0] == both[1]
    table = pair_table("abcd", np.random.default_rng(1))
    cost = {"+".join(group): 10.0 for group in all_groups("abcd") if len(group) > 2}
    cost |= dict.fromkeys(table, 1.0)
    both = [
        TaskGrouper(table, {n: cost[n] for n in table}, 3.0).select(),
        TaskGrouper(table, cost, 3.0, "higher_order").select(),
    ]
    assert both[0] == both[1]


def test_higher_order_is_exact_where_losses_are_means_of_pairs():
    table = pair_table("abcd", np.random.default_rng(2))
    full = dict(table)
    for group in all_groups("abcd"):
        if len(group) > 2:
            pairs = {
                j: [table["+".join(sorted((i, j)))][j] for i in group if i != j] for j in group
            }
            full["+".join(group)] = {j: float(np.mean(losses)) for j, losses in pairs.items()}
    for budget in (1.0, 2.0, 3.0):
        optimal = TaskGrouper(full, 1.0, budget).select()
        assert TaskGrouper(table, 1.0, budget, "higher_order").select() == optimal


def test_order_carries_no_meaning():
    table = random_table("abcde", np.random.default_rng(4))
    backward = {
        name: dict(reversed(list(losses.items()))) for name, losses in reversed(list(table.items()))
    }
    assert TaskGrouper(backward, 1.0, 2.0).select() == TaskGrouper(table, 1.0, 2.0).select()


def test_arguments_are_attributes():
    grouper = TaskGrouper(BY_HAND, 1.0, 2.0)
    assert (grouper.loss_table, grouper.cost) == (BY_HAND, 1.0)
    assert (grouper.budget, grouper.method) == (2.0, "optimal")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss_table": {}}, "`loss_table` must have networks"),
        ({"loss_table": {"a": {}}}, "`loss_table` must have networks"),
        ({"loss_table": {"a": {"a": np.inf}}}, r"must be finite. Received: loss_table\['a'\]="),
        (
            {"loss_table": {"a": {"a": 1.0}, "ab": {"a": 1.0, "b": 1.0}}},
            r"a network of its own for each task. Received: none for \['b'\]",
        ),
        ({"budget": -1.0}, "`budget` must be finite, at least 0. Received: budget=-1.0"),
        ({"budget": float("nan")}, "`budget` must be finite"),
        ({"method": "hoa"}, "`method` must be one of .* Received: method='hoa'"),
        ({"cost": 0.0}, "`cost` must be finite and positive. Received: cost="),
        ({"cost": dict.fromkeys(BY_HAND, -1.0)}, "`cost` must be finite and positive"),
        ({"cost": {**dict.fromkeys(BY_HAND, 1.0), "d": 1.0}}, r"unknown \['d'\], missing \[\]"),
        ({"cost": {"a": 1.0}}, r"unknown \[\], missing \['a\+b', 'all', 'b', 'b\+c', 'c'\]"),
        ({"method": "higher_order"}, r"one network for each pair.*Received: 0 for \('a', 'c'\)"),
        (
            {"loss_table": {f"{k}": {f"{k}": 1.0} for k in range(15)}},
            "At most 14 tasks can be searched.*15 tasks, which form 32767 groups",
        ),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        TaskGrouper(**{"loss_table": BY_HAND, "cost": 1.0, "budget": 2.0, **arguments})


def test_budget_that_serves_not_all():
    with pytest.raises(ValueError, match="must pay for networks that serve all.*budget=0.5"):
        TaskGrouper(BY_HAND, cost=1.0, budget=0.5).select()
    single = {name: BY_HAND[name] for name in "abc"}
    with pytest.raises(ValueError, match="must pay for networks that serve all.*budget=2.0"):
        TaskGrouper(single, cost=1.0, budget=2.0).select()


def test_higher_order_costs_name_the_networks_it_makes():
    table = pair_table("abc", np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"also those that the method makes up.*\['a\+b\+c'\]"):
        TaskGrouper(table, dict.fromkeys(table, 1.0), 2.0, "higher_order")
