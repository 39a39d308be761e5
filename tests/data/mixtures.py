"""Small sources whose rows tell where they come from."""

import numpy as np
import tensorflow as tf

import kmtl

SIZES = {"few": 5, "many": 70, "some": 23}
# What a source's labels add to the number of the row.
TASKS = {"few": {"class": 0}, "many": {"depth": 0.5, "class": 0}, "some": {"edges": 0.25}}


def arrays(name, weighted=False):
    """`x[i]` is `(i, source)`."""
    rows = np.arange(SIZES[name])
    x = np.stack([rows, np.full_like(rows, sorted(SIZES).index(name))], axis=1).astype("float32")
    labels = {
        task: rows.astype("int32") if task == "class" else (rows + add).astype("float32")
        for task, add in TASKS[name].items()
    }
    return (x, labels, {"depth": 1.0 + rows}) if weighted else (x, labels)


def sources(streams=()):
    return {
        name: tf.data.Dataset.from_tensor_slices(arrays(name)) if name in streams else arrays(name)
        for name in SIZES
    }


def mixture(streams=(), **arguments):
    arguments = {"batch_size": 12, "seed": 7, **arguments}
    return kmtl.data.TaskMixture(sources(streams), **arguments)


def read(dataset, steps):
    return list(dataset.take(steps).as_numpy_iterator())


def assert_equal(found, expected):
    assert len(found) == len(expected) > 0
    for a, b in zip(found, expected, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, a, b)
