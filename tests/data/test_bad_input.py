"""Every mistake by its message."""

import re

import numpy as np
import pytest
import tensorflow as tf

import kmtl
from tests.data.mixtures import arrays, mixture, read

pytestmark = pytest.mark.both_backends

X, Y = np.zeros((6, 4), "float32"), np.arange(6.0, dtype="float32")
A = (X, {"a": Y})


def stream(*data):
    return tf.data.Dataset.from_tensor_slices(data)


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({}, "`sources` must be a dict of at least one"),
        ([A], "`sources` must be a dict"),
        ({"s": X}, "A source must be (x, {task: labels})"),
        ({"s": (X, Y)}, "Received: ['ndarray', 'ndarray'] as source 's'"),
        ({"s": stream(X, Y)}, "as source 's'"),
        ({"s": (X, {})}, "A source must be"),
        ({"s": ([X, X], {"a": Y})}, "must be an array or a dict of arrays"),
        ({"s": (X[:0], {"a": Y[:0]})}, "Every source must have examples. Received: none in"),
        ({"s": stream(*A).take(0)}, "Every source must have examples"),
        ({"s": stream(*A).repeat()}, "A `tf.data.Dataset` must end"),
        ({"s": stream(*A).batch(4)}, "must be tensors of known shapes"),
        ({"s": (X, {"a": Y[:5]})}, "lengths {'labels/a': 5, 'x': 6} in source 's'"),
        (
            {"s": A, "t": (X[:, :3], {"b": Y})},
            "float32 (4,) in source 's', float32 (3,) in source 't'",
        ),
        (
            {"s": A, "t": (X.astype("int32"), {"b": Y})},
            "float32 (4,) in source 's', int32 (4,) in source 't'",
        ),
        (
            {"s": ({"i": X}, {"a": Y}), "t": ({"i": X, "j": X}, {"b": Y})},
            "input 'j' absent in source 's', float32 (4,) in source 't'",
        ),
        (
            {"s": A, "t": (X, {"a": Y.astype("int32")})},
            "float32 () in source 's', int32 () in source 't' for task 'a'",
        ),
        ({"s": (*A, {"b": Y})}, "Sample weights must be for tasks of their source"),
        (
            {"s": A, "t": (X, {"b": np.array([0, 1, 2, -1, 0, 0])})},
            "Received: labels -1 in source 't'",
        ),
        (
            {"s": A, "t": (X, {"b": np.full(6, 255, "uint8")})},
            "Received: labels 255 in source 't'",
        ),
        ({"s": A, "t": (X, {"b": Y > 2})}, "Received: type bool for task 'b'"),
        ({"s": A, "t": (X, {"b": np.full(6, np.nan)})}, "Every task must have labels"),
    ],
)
def test_bad_sources(sources, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        kmtl.data.TaskMixture(sources, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be an integer >= 1. Received: batch_size=0"),
        ({"batch_size": 2.5}, "`batch_size` must be an integer"),
        ({"seed": -1}, "`seed` must be an integer >= 0"),
        ({"mode": "mixed"}, "`mode` must be one of"),
        ({"steps_per_epoch": 0}, "`steps_per_epoch` must be an integer >= 1"),
        ({"source_input": "source"}, "`source_input` must be a new name in a dict of inputs"),
        ({"missing": {"zebra": 0}}, "`missing` must name tasks of the sources"),
        ({"missing": {"class": 0.5}}, "missing=0.5 for labels of type int32 of task 'class'"),
        ({"missing": {"class": float("nan")}}, "`missing` must give a number that labels can"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        mixture(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start_step": -1}, "`start_step` must be an integer >= 0"),
        ({"num_shards": 5}, "Received: batch_size=12 for 5 shards"),
        ({"num_shards": 24}, "`batch_size` must be a multiple of the number of shards"),
        ({"num_shards": 3, "shard": 3}, "`shard` must be an integer from 0 to 2"),
    ],
)
def test_bad_datasets(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        mixture().dataset(**arguments)


def test_fewer_examples_than_shards():
    with pytest.raises(ValueError, match="5 examples for 8 shards"):
        kmtl.data.TaskMixture({"few": arrays("few")}, 8).dataset(num_shards=8)


def test_a_stream_with_the_default_of_absent_labels():
    sources = {"s": A, "t": stream(X, {"b": np.array([0, 1, 2, -1, 0, 0])})}
    with pytest.raises(tf.errors.InvalidArgumentError, match="Received: labels -1 in source"):
        read(kmtl.data.TaskMixture(sources, 4).dataset(), 4)
    read(kmtl.data.TaskMixture(sources, 4, missing={"b": -1}).dataset(), 4)
