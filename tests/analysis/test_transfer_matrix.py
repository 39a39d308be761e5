import dataclasses
import sys

import numpy as np
import pytest

from kmtl.analysis import transfer_matrix
from kmtl.grouping import select_task_groups

pytestmark = pytest.mark.both_backends

SINGLE = {"seg": 0.50, "depth": 0.20, "edges": -2.0}
PAIRS = {
    "seg": {"depth": 0.18, "edges": -1.0},
    "depth": {"seg": 0.55, "edges": -2.5},
    "edges": {"seg": 0.40, "depth": 0.21},
}
DIRECTIONS = {"seg": True, "depth": False, "edges": True}


def test_by_hand():
    matrix = transfer_matrix(SINGLE, PAIRS, DIRECTIONS)
    assert {i: pytest.approx(row) for i, row in matrix.values.items()} == {
        "depth": {"depth": 0.0, "edges": -0.25, "seg": 0.1},
        "edges": {"depth": -0.05, "edges": 0.0, "seg": -0.2},
        "seg": {"depth": 0.1, "edges": 0.5, "seg": 0.0},
    }
    assert matrix.gains["seg", "depth"] == matrix.values["depth"]["seg"] == pytest.approx(0.1)
    assert matrix.gains["edges", "seg"] == pytest.approx(0.5)
    assert len(matrix.gains) == 6
    with pytest.raises(dataclasses.FrozenInstanceError):
        matrix.values = {}


def test_no_change_is_zero():
    pairs = {i: {j: SINGLE[j] for j in SINGLE if j != i} for i in SINGLE}
    assert set(transfer_matrix(SINGLE, pairs, DIRECTIONS).gains.values()) == {0.0}


def test_direction_of_all_tasks():
    higher, lower = (transfer_matrix(SINGLE, PAIRS, up).gains for up in (True, False))
    assert higher == {pair: -gain for pair, gain in lower.items()}
    assert higher["depth", "seg"] == pytest.approx(-0.1)


def test_the_diagonal_is_not_looked_at():
    pairs = {i: {**row, i: np.nan} for i, row in PAIRS.items()}
    assert transfer_matrix(SINGLE, pairs) == transfer_matrix(SINGLE, PAIRS)


def test_groups_follow_from_it():
    groups = select_task_groups(transfer_matrix(SINGLE, PAIRS, DIRECTIONS).values, 2)
    # seg and depth help each other, seg helps edges.
    assert groups.groups == {"depth+seg": ("depth", "seg"), "edges+seg": ("edges", "seg")}
    assert groups.total == pytest.approx(0.1 + 0.1 + 0.5)


def test_print():
    assert str(transfer_matrix(SINGLE, PAIRS, DIRECTIONS)).split("\n") == [
        " by / of    depth    edges      seg",
        "   depth        -   -0.250   +0.100",
        "   edges   -0.050        -   -0.200",
        "     seg   +0.100   +0.500        -",
    ]


def test_plot():
    pytest.importorskip("matplotlib")
    axes = transfer_matrix(SINGLE, PAIRS, DIRECTIONS).plot().axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["depth", "edges", "seg"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["depth", "edges", "seg"]
    assert axes.images[0].get_clim() == pytest.approx((-0.5, 0.5))
    drawn = np.ma.filled(axes.images[0].get_array(), np.nan)
    np.testing.assert_allclose(drawn[2], [0.1, 0.5, np.nan])
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts[1, 2] == "+50.0%"
    assert len(texts) == 6


def test_plot_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="needs matplotlib"):
        transfer_matrix(SINGLE, PAIRS).plot()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"single_task": {"seg": 1.0}}, r"at least two tasks. Received: \['seg'\]"),
        ({"pairs": {"seg": {}}}, r"`pairs` must name the tasks \['depth', 'edges', 'seg'\]"),
        (
            {"pairs": {**PAIRS, "seg": {"depth": 1.0}}},
            r"`pairs\['seg'\]` must name the tasks \['depth', 'edges'\]. Received: \['depth'\]",
        ),
        ({"pairs": {**PAIRS, "seg": {"depth": 1, "edge": 1}}}, r"Received: \['depth', 'edge'\]"),
        ({"higher_is_better": {"seg": True}}, "`higher_is_better` must name the tasks"),
        ({"higher_is_better": "loss"}, "must be True or False. Received: 'loss' for 'depth'"),
        ({"higher_is_better": {**DIRECTIONS, "seg": None}}, "Received: None for 'seg'"),
        ({"single_task": {**SINGLE, "seg": 0.0}}, r"not 0,.*Received: single_task\['seg'\]=0.0"),
        ({"single_task": {**SINGLE, "seg": np.nan}}, r"must be finite.*single_task\['seg'\]=nan"),
        (
            {"pairs": {**PAIRS, "seg": {"depth": np.inf, "edges": 1.0}}},
            r"`pairs` must be finite. Received: pairs\['seg'\]\['depth'\]=inf",
        ),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        transfer_matrix(**{"single_task": SINGLE, "pairs": PAIRS, **arguments})
