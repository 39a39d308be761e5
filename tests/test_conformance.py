"""Every public layer through `kmtl.testing.check_layer`, on both backends."""

import inspect

import keras
import pytest

import kmtl
from kmtl.testing import check_layer

pytestmark = pytest.mark.both_backends

# class, constructor arguments, input shapes, output shapes, options of check_layer
LAYERS = [
    (kmtl.layers.CrossStitch, {"num_tasks": 2}, [(6,), (6,)], [(6,), (6,)], {}),
    (
        kmtl.layers.CrossStitch,
        {"per_channel": False, "same_init": 0.7, "different_init": 0.1},
        [(5, 4), (5, 4), (5, 4)],
        [(5, 4), (5, 4), (5, 4)],
        {},
    ),
    (
        kmtl.layers.CrossStitch,
        {"lr_multiplier": 10.0},
        [(4, 4, 3), (4, 4, 3)],
        [(4, 4, 3), (4, 4, 3)],
        {},
    ),
]


@pytest.mark.parametrize("case", LAYERS, ids=lambda case: f"{case[0].__name__}-{case[2]}")
def test_layer(case):
    cls, kwargs, input_shapes, output_shapes, options = case
    check_layer(cls, kwargs, input_shapes, output_shapes, **options)


def test_every_public_layer_has_a_row():
    public = {
        value
        for value in vars(kmtl.layers).values()
        if inspect.isclass(value) and issubclass(value, keras.layers.Layer)
    }
    assert public == {case[0] for case in LAYERS}
