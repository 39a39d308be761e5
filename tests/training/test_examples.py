"""What numbers examples may hold: each rule on a few of them."""

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("kmtl.training is for the TensorFlow backend", allow_module_level=True)

from kmtl.training.loading.examples import Limits, check_examples
from kmtl.training.results import by_task

NAN = float("nan")
MISSING = {"data.test.s": {"sign": -1, "depth": NAN}}
LIMITS = Limits(MISSING, {"sign": 3, "part": 2}, {"sign": None, "part": 255})


def check(labels=None, x=None, weights=None, start=0):
    labels = {name: np.asarray(values) for name, values in (labels or {"other": [0, 0]}).items()}
    rows = len(next(iter(labels.values())))
    x = np.zeros((rows, 2)) if x is None else np.asarray(x)
    examples = ({"features": x}, labels, *([] if weights is None else [weights]))
    check_examples("data.test.s", examples, LIMITS, start)


@pytest.mark.parametrize(
    "labels",
    [
        {"sign": [0, 2, -1]},
        {"sign": [0.0, 2.0, -1.0]},
        {"depth": [NAN, 1e30]},
        {"part": [[[0, 1], [255, 1]]]},
        {"other": [-7, 1000]},
        {"other": np.array([1, 255], "uint8")},
    ],
)
def test_what_is_allowed(labels):
    check(labels)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"sign": [0, 3]}, "`data.test.s.tasks.sign` must have labels from 0 to 2, as the head has "
         "3 units; `data.test.s.tasks.sign.missing` tells what marks absent ones. "
         "Received: 3 in example 1"),
        ({"sign": [-2, 0]}, "Received: -2 in example 0"),
        ({"part": [[0, 1], [0, 2]]}, "labels from 0 to 1, as the head has 2 units"),
        ({"part": [[0, 1], [0, 2]]}, "Received: 2 in example 1"),
        ({"depth": [0.0, np.inf]}, "`data.test.s.tasks.depth` must have finite labels. "
         "Received: inf in example 1"),
        ({"other": [0.0, NAN]}, "`data.test.s.tasks.other.missing` must be .nan where NaN marks"),
    ],
)  # fmt: skip
def test_labels_that_cannot_be(labels, message):
    with pytest.raises(ValueError) as error:
        check(labels)
    assert message in str(error.value)


@pytest.mark.parametrize("bad", [NAN, np.inf, -np.inf])
def test_inputs_are_finite(bad):
    rule = "`data.test.s` must have inputs that are finite numbers. "
    with pytest.raises(ValueError, match=f"{rule}Received: {bad} in input 'features' of example 1"):
        check(x=[[0.0, 0.0], [0.0, bad]])
    check(x=[[2**31, 0], [0, 1]])


def test_all_examples_are_looked_at_and_counted_from_the_first():
    labels = np.zeros(9001, int)
    labels[9000] = 3
    with pytest.raises(ValueError, match="Received: 3 in example 9100"):
        check({"sign": labels}, start=100)


def test_examples_without_weight_count_as_absent():
    check({"sign": [0, 7]}, weights={"sign": np.array([1.0, 0.0])})
    check({"part": [[0, 1], [0, 2]]}, weights={"part": np.array([[1.0], [0.0]])})
    with pytest.raises(ValueError, match="example 1"):
        check({"sign": [0, 7]}, weights={"sign": np.array([0.0, 1.0])})


def test_what_has_no_labels_has_no_results():
    logs = {"loss": 1.0, "a_loss": 1.0, "b_loss": 0.0}
    assert by_task(logs, ["a", "b"], ["b"]) == {"loss": 1.0, "tasks": {"a": {"loss": 1.0}}}
