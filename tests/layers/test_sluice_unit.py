import keras
import numpy as np
import pytest
from keras import ops

import kmtl

pytestmark = pytest.mark.both_backends


def streams(*shape, tasks=2):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype("float32") for _ in range(tasks)]


def numpy(tensors):
    return [ops.convert_to_numpy(x) for x in tensors]


@pytest.mark.parametrize("shape", [(4, 6), (2, 5, 6), (2, 4, 4, 6)])
def test_identity_gives_independent_networks_bit_for_bit(shape):
    x = streams(*shape, tasks=3)
    for a, b in zip(x, numpy(kmtl.layers.SluiceUnit(init="identity")(x)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_one_subspace_equals_a_cross_stitch():
    x = streams(3, 4, tasks=3)
    unit = kmtl.layers.SluiceUnit(num_subspaces=1, same_init=0.7)
    stitch = kmtl.layers.CrossStitch(per_channel=False, same_init=0.7)
    for start in (None, np.arange(9.0).reshape(3, 3)):
        if start is not None:
            unit.alpha.assign(start)
            stitch.raw.assign(start)
        for a, b in zip(numpy(unit(x)), numpy(stitch(x)), strict=True):
            np.testing.assert_array_equal(a, b)


def test_rows_are_blocks_of_the_receiving_task():
    x = [np.array([[1.0, 2.0, 3.0, 4.0]]), np.array([[5.0, 6.0, 7.0, 8.0]])]
    unit = kmtl.layers.SluiceUnit()
    unit(x)
    unit.alpha.assign([[0, 0, 0, 1], [0, 0, 2, 0], [1, 10, 100, 0], [0, 0, 0, 0]])
    first, second = numpy(unit(x))
    np.testing.assert_array_equal(first, [[7.0, 8.0, 10.0, 12.0]])
    np.testing.assert_array_equal(second, [[531.0, 642.0, 0.0, 0.0]])


def test_sharing_one_subspace_leaves_the_other_untouched():
    x = streams(2, 4, 4, 6)
    unit = kmtl.layers.SluiceUnit(init="identity")
    unit(x)
    alpha = np.eye(4, dtype="float32")
    alpha[0, 2], alpha[2, 0] = 0.5, 0.25
    unit.alpha.assign(alpha)
    first, second = numpy(unit(x))
    np.testing.assert_array_equal(first[..., 3:], x[0][..., 3:])
    np.testing.assert_array_equal(second[..., 3:], x[1][..., 3:])
    np.testing.assert_allclose(first[..., :3], (x[0] + 0.5 * x[1])[..., :3], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(second[..., :3], (x[1] + x[0] / 4)[..., :3], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("init", "diagonal", "other"), [("balanced", 0.25, 0.25), ("imbalanced", 0.7, 0.1)]
)
def test_starts(init, diagonal, other):
    unit = kmtl.layers.SluiceUnit(init=init, same_init=0.7)
    unit(streams(2, 4))
    expected = other + (diagonal - other) * np.eye(4)
    np.testing.assert_allclose(ops.convert_to_numpy(unit.alpha), expected, rtol=1e-6)


def test_balanced_start_gives_every_block_the_same_average():
    x = streams(2, 4)
    first, second = numpy(kmtl.layers.SluiceUnit(init="balanced")(x))
    average = sum(block for a in x for block in (a[:, :2], a[:, 2:])) / 4
    np.testing.assert_allclose(first, np.tile(average, 2), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(first, second)


def test_fold_leaves_separate_networks_alone():
    inputs = [keras.Input((4,)), keras.Input((4,))]
    unit = kmtl.layers.SluiceUnit(init="identity")
    unit(inputs)
    alpha = np.eye(4, dtype="float32")
    alpha[2, 0] = 0.5
    unit.alpha.assign(alpha)
    first, second = unit.fold(inputs)
    assert first is inputs[0]
    x = [np.ones((1, 4), "float32"), np.zeros((1, 4), "float32")]
    folded = keras.Model(inputs, second)(x)
    np.testing.assert_array_equal(ops.convert_to_numpy(folded), [[0.5, 0.5, 0.0, 0.0]])


def test_channels_that_do_not_divide():
    with pytest.raises(ValueError, match="num_subspaces=2, 5 channels"):
        kmtl.layers.SluiceUnit()([keras.Input((5,)), keras.Input((5,))])


@pytest.mark.parametrize("kwargs", [{"num_tasks": 0}, {"num_subspaces": 0}, {"init": "even"}])
def test_bad_arguments(kwargs):
    with pytest.raises(ValueError, match="Received: " + next(iter(kwargs))):
        kmtl.layers.SluiceUnit(**kwargs)
