"""The losses of five tasks of Taskonomy that Standley et al. released, and their curves.

Their second setting, whose networks were chosen on the validation losses and are judged by the
test losses: files `results_large.txt`, `results_large_test.txt` and `make_plots.py` in
`network_selection` of their code.
"""

import itertools

import pytest

from kmtl.grouping import TaskGrouper

pytestmark = pytest.mark.both_backends

TASKS = ("seg", "depth", "normals", "keys", "edges")
GROUPS = [group for n in range(1, 6) for group in itertools.combinations(TASKS, n)]

# Half-sized networks of one task, then full ones of one, two, ... tasks.
VALIDATION = """
0.03664 | 0.1478 | 0.08067 | 0.08043 | 0.02041
0.03576 | 0.1427 | 0.0797 | 0.08093 | 0.01692
0.03606 0.1434 | 0.03275 0.08292 | 0.03575 0.08488 | 0.03711 0.01601 | 0.1385 0.07971
0.1492 0.08343 | 0.1493 0.01624 | 0.0897 0.04267 | 0.08472 0.01184 | 0.08297 0.01275
0.03528 0.138 0.08183 | 0.03883 0.1488 0.08495 | 0.03748 0.1462 0.0188
0.03496 0.08498 0.0815 | 0.03535 0.08511 0.01615 | 0.03787 0.08445 0.01438
0.1413 0.08215 0.08067 | 0.1454 0.08238 0.01618 | 0.1518 0.08345 0.01667
0.0886 0.07956 0.01616
0.03534 0.1407 0.08259 0.08481 | 0.03661 0.1418 0.08246 0.01842
0.0382 0.1488 0.08472 0.01694 | 0.03677 0.08664 0.07945 0.01813
0.1452 0.08277 0.08481 0.01745
0.0367 0.1442 0.08296 0.08298 0.01641
"""
TEST = """
0.03435 | 0.1474 | 0.08036 | 0.07954 | 0.02023
0.03372 | 0.1424 | 0.07939 | 0.07988 | 0.01677
0.03377 0.1431 | 0.031 0.08267 | 0.03331 0.0839 | 0.03485 0.01583 | 0.1376 0.07942
0.148 0.08244 | 0.1495 0.01609 | 0.08941 0.04209 | 0.08439 0.01179 | 0.08204 0.01256
0.03326 0.1374 0.08152 | 0.03643 0.1483 0.08394 | 0.03579 0.1461 0.01857
0.03281 0.08467 0.08048 | 0.03303 0.08477 0.01604 | 0.03532 0.08351 0.01423
0.141 0.08175 0.07963 | 0.1441 0.08201 0.01604 | 0.1519 0.08246 0.0164
0.08833 0.07865 0.01613
0.03321 0.14 0.08237 0.08386 | 0.03419 0.1408 0.08207 0.01818
0.03645 0.1482 0.08373 0.0168 | 0.0347 0.08639 0.07851 0.01796
0.1443 0.08249 0.08386 0.01721
0.03515 0.1439 0.08267 0.08194 0.01623
"""
BUDGETS = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0)
CURVES = {
    "optimal": (0.35989, 0.35478, 0.31733, 0.3145, 0.30606, 0.3049, 0.3019, 0.3019, 0.30167),
    "higher_order": (0.35989, 0.35758, 0.31733, 0.31562, 0.31177, 0.30525, 0.3019, 0.3019, 0.30187),
}


def parse(text):
    rows = [
        tuple(map(float, cell.split()))
        for line in text.split("\n")
        if line
        for cell in line.split("|")
    ]
    small = {f"small {task}": {task: row[0]} for task, row in zip(TASKS, rows, strict=False)}
    full = {
        "+".join(sorted(group)): dict(zip(group, row, strict=True))
        for group, row in zip(GROUPS, rows[len(TASKS) :], strict=True)
    }
    return small | full


@pytest.mark.parametrize("method", CURVES)
def test_curve(method):
    validation, test = parse(VALIDATION), parse(TEST)
    cost = {name: 0.5 if name.startswith("small") else 1.0 for name in validation}
    totals = []
    for budget in BUDGETS:
        networks = TaskGrouper(validation, cost, budget, method).select().groups
        totals.append(sum(min(test[n].get(t, 1.0) for n in networks) for t in TASKS))
    assert totals == pytest.approx(CURVES[method], abs=5e-7)
