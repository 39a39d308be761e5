"""TensorFlow's errors, in one line; the texts are as TensorFlow 2.2x wrote them."""

import keras
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("kmtl.training is for the TensorFlow backend", allow_module_level=True)

import tensorflow as tf

from kmtl.training.building.workers import Cluster, in_one_line
from kmtl.training.causes import cause

GRAPH = """Graph execution error:

Detected at node SparseSoftmax/SparseSoftmax defined at (most recent call last):
  File "/usr/bin/kmtl", line 8, in <module>

  File "/site-packages/keras/src/backend/tensorflow/nn.py", line 1438, in sparse

Received a label value of 6 which is outside the valid range of [0, 2).  Label values: 6 6
\t [[{{node SparseSoftmax/SparseSoftmax}}]] [Op:__inference_multi_step_on_iterator_1912]"""
ROOTS = """2 root error(s) found.
  (0) INVALID_ARGUMENT:  Key: x, Index: 0. Values size: 5 [[{{node ParseExample}}]]
  (1) INVALID_ARGUMENT:  Key: x, Index: 0.
0 successful operations."""
PARSING = (
    "{{function_node __wrapped__IteratorGetNext_device_/job:localhost/device:CPU:0}} Error in "
    "user-defined function passed to ParallelMapDatasetV2:3 transformation with iterator: "
    "Iterator::Root::Prefetch: Name: <unknown>, Key: b, Index: 0. Data types don't match. "
    "[[{{node ParseExample/ParseExampleV2}}]] [Op:IteratorGetNext] name: "
)
ABORTED = "{{function_node __wrapped__Collective}} Collective ops is aborted by: Socket closed"


def invalid(message):
    return tf.errors.InvalidArgumentError(None, None, message)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (GRAPH, "Received a label value of 6 which is outside the valid range of [0, 2).  Label "
         "values: 6 6"),
        (ROOTS, "Key: x, Index: 0. Values size: 5"),
        (PARSING, "Name: <unknown>, Key: b, Index: 0. Data types don't match."),
        ("", "InvalidArgumentError"),
    ],
)  # fmt: skip
def test_causes(message, expected):
    assert cause(invalid(message)) == expected


def test_a_users_mistake_is_no_failure_of_the_cluster():
    for cluster in (None, Cluster(2, 0)):
        with pytest.raises(ValueError, match="InvalidArgumentError: Received a label value of 6"):
            with in_one_line(cluster):
                raise invalid(GRAPH)


@pytest.mark.parametrize(
    "error", [invalid(ABORTED), tf.errors.UnavailableError(None, None, "Socket closed")]
)
def test_the_end_of_another_worker(error):
    with pytest.raises(ConnectionError, match="go on together; .*: .*Socket closed") as found:
        with in_one_line(Cluster(2, 1)):
            raise error
    assert "{{" not in str(found.value)
