import dataclasses

import numpy as np
import pytest

import kmtl
from kmtl.metrics import delta_m

pytestmark = pytest.mark.both_backends

DIRECTIONS = {"seg": True, "depth": False}


def test_equal_to_single_task_is_zero():
    scores = {"seg": 0.5, "depth": 0.2}
    score = delta_m(scores, scores, DIRECTIONS)
    assert (score.mean, score.per_task) == (0.0, {"seg": 0.0, "depth": 0.0})


def test_lower_by_ten_percent_is_better_by_ten_percent():
    assert delta_m({"depth": 0.9}, {"depth": 1.0}, False).mean == pytest.approx(0.1)
    assert delta_m({"depth": 0.9}, {"depth": 1.0}).mean == pytest.approx(-0.1)


def test_mean_of_tasks():
    score = delta_m({"seg": 0.6, "depth": 0.25}, {"seg": 0.5, "depth": 0.2}, DIRECTIONS)
    assert score.per_task == pytest.approx({"seg": 0.2, "depth": -0.25})
    assert score.mean == pytest.approx(-0.025)
    assert score.per_seed == pytest.approx((-0.025,))
    assert score.std is None


def test_seeds():
    """Baselines are means of their seeds: 0.5 of two, 0.2 of one."""
    score = delta_m(
        {"seg": [0.5, 0.6], "depth": [0.2, 0.16]}, {"seg": [0.4, 0.6], "depth": 0.2}, DIRECTIONS
    )
    assert score.per_seed == pytest.approx((0.0, 0.2))
    assert score.per_task == pytest.approx({"seg": 0.1, "depth": 0.1})
    assert score.mean == pytest.approx(0.1)
    assert score.std == pytest.approx(0.2 / np.sqrt(2))


def test_order_of_tasks_does_not_matter():
    multi, single = {"a": 2.0, "b": 1.0}, {"b": 2.0, "a": 1.0}
    assert delta_m(multi, single, {"b": False, "a": True}).per_task == {"a": 1.0, "b": 0.5}


def test_negative_metrics_keep_the_sign():
    assert delta_m({"likelihood": -90.0}, {"likelihood": -100.0}).mean == pytest.approx(0.1)


def test_result_is_frozen_and_plain():
    score = kmtl.metrics.delta_m({"a": np.float32(2)}, {"a": [1, 1]})
    assert dataclasses.asdict(score) == {
        "mean": 1.0,
        "std": None,
        "per_seed": (1.0,),
        "per_task": {"a": 1.0},
    }
    with pytest.raises(dataclasses.FrozenInstanceError):
        score.mean = 0.0


@pytest.mark.parametrize(
    ("multi", "single", "higher", "message"),
    [
        ({}, {}, True, "must name a task"),
        ({"a": 1.0}, {"b": 1.0}, True, r"single_task tasks \['b'\], multi_task tasks \['a'\]"),
        ({"a": 1.0}, {"a": 1.0}, {"b": True}, r"Received: higher_is_better tasks \['b'\]"),
        ({"a": 1.0}, {"a": 0.0}, True, r"must not be 0.*Received: single_task\['a'\]=0.0"),
        ({"a": [1, 2], "b": 1}, {"a": 1, "b": 1}, True, "seeds={'a': 2, 'b': 1}"),
        ({"a": np.nan}, {"a": 1.0}, True, r"finite.*Received: multi_task\['a'\]=nan"),
        ({"a": 1.0}, {"a": [1.0, np.inf]}, True, r"finite.*Received: single_task\['a'\]"),
        ({"a": 1.0}, {"a": []}, True, r"finite.*Received: single_task\['a'\]=\[\]"),
    ],
)
def test_errors(multi, single, higher, message):
    with pytest.raises(ValueError, match=message):
        delta_m(multi, single, higher)
