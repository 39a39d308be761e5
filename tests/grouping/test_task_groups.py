import dataclasses
import sys

import numpy as np
import pytest

from kmtl.grouping import TaskGrouper, select_task_groups

pytestmark = pytest.mark.both_backends

TABLE = {"a": {"a": 3.0}, "b": {"b": 3.0}, "a+b": {"a": 1.0, "b": 2.0}, "big b": {"b": 1.5}}


def result():
    return TaskGrouper(TABLE, cost=1.0, budget=2.0).select()


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        result().total = 0.0


def test_print():
    assert str(result()) == (
        "2 networks at a cost of 2, total 2.5\n"
        "  a+b: serves a (1); also trains b\n"
        "  big b: serves b (1.5)"
    )
    one = select_task_groups(np.ones((2, 2)), 1, tasks=["x", "y"])
    assert str(one) == "1 network at a cost of 1, total 2\n  x+y: serves x (1), y (1)"


def test_plot():
    pytest.importorskip("matplotlib")
    axes = result().plot().axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a+b", "big b"]
    np.testing.assert_array_equal(axes.images[0].get_array(), [[1.0, 0.3], [0.0, 1.0]])
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts == {(0, 0): "1", (1, 1): "1.5"}


def test_plot_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="needs matplotlib"):
        result().plot()
