import json

import keras
import numpy as np
import pytest
from keras import ops

import kmtl

pytestmark = pytest.mark.both_backends


def penalty(kernel, **kwargs):
    regularizer = kmtl.regularizers.OrthogonalSubspaces(strength=1.0, **kwargs)
    return float(regularizer(ops.convert_to_tensor(np.asarray(kernel, "float32"))))


def test_value_by_hand():
    """Units (1,2) and (0,1) against (3,0) and (1,1): products 3, 3, 0, 1."""
    assert penalty([[1, 0, 3, 1], [2, 1, 0, 1]]) == 9 + 9 + 0 + 1


def test_strength():
    regularizer = kmtl.regularizers.OrthogonalSubspaces()
    assert float(regularizer(ops.ones((1, 2)))) == pytest.approx(0.1)


def test_zero_only_for_orthogonal_subspaces():
    assert penalty([[1, 1, 0, 0], [2, 1, 0, 0], [0, 0, 3, 1], [0, 0, 1, 1]]) == 0
    assert penalty([[1, 1, 0, 0], [2, 1, 0, 0], [0, 0, 3, 1], [0, 0.1, 1, 1]]) > 0


def test_order_of_subspaces_and_of_units_in_them_does_not_matter():
    kernel = np.random.default_rng(0).normal(size=(5, 6))
    expected = penalty(kernel)
    assert penalty(kernel[:, [3, 4, 5, 0, 1, 2]]) == pytest.approx(expected, rel=1e-5)
    assert penalty(kernel[:, [2, 0, 1, 3, 5, 4]]) == pytest.approx(expected, rel=1e-5)


def test_more_subspaces_add_up_over_pairs():
    assert penalty([[1, 10, 100]], num_subspaces=3) == 10**2 + 100**2 + 1000**2


def test_subspaces_lie_inside_each_gate():
    """As Keras lays out an LSTM: gates side by side, each of all units."""
    gates = [[1, 2], [3, 5], [0, 7], [1, 1]]
    kernel = np.concatenate([np.array([gate]) for gate in gates], axis=1)
    assert penalty(kernel, num_gates=4) == 2**2 + 15**2 + 0 + 1
    layer = keras.layers.LSTM(
        6, recurrent_regularizer=kmtl.regularizers.OrthogonalSubspaces(1.0, num_gates=4)
    )
    layer.build((None, 3, 2))
    recurrent = ops.convert_to_numpy(layer.cell.recurrent_kernel)
    expected = sum(
        np.sum((gate[:, :3].T @ gate[:, 3:]) ** 2) for gate in np.split(recurrent, 4, axis=1)
    )
    assert float(layer.losses[0]) == pytest.approx(expected, rel=1e-4)


def test_convolutions():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 2, 4))
    expected = penalty(kernel.reshape(18, 4))
    assert penalty(kernel) == pytest.approx(expected, rel=1e-5)
    assert penalty(np.swapaxes(kernel, -1, -2), axis=-2) == pytest.approx(expected, rel=1e-5)


def test_descent_makes_subspaces_orthogonal():
    inputs = keras.Input((8,))
    dense = keras.layers.Dense(4, kernel_regularizer=kmtl.regularizers.OrthogonalSubspaces(1.0))
    model = keras.Model(inputs, dense(inputs))
    model.compile(keras.optimizers.SGD(0.1), loss=lambda y, p: 0.0 * ops.sum(p, axis=-1))
    before = penalty(dense.get_weights()[0])
    model.fit(np.zeros((200, 8)), np.zeros((200, 4)), batch_size=1, verbose=0)
    assert penalty(dense.get_weights()[0]) < 1e-4 * before


def test_config_round_trip():
    regularizer = kmtl.regularizers.OrthogonalSubspaces(0.3, 3, num_gates=4, axis=-2)
    config = json.loads(json.dumps(keras.regularizers.serialize(regularizer)))
    assert keras.regularizers.deserialize(config).get_config() == regularizer.get_config()


def test_units_that_do_not_divide():
    with pytest.raises(ValueError, match="num_gates=4, num_subspaces=2, 12 units"):
        penalty(np.ones((2, 12)), num_gates=4)


@pytest.mark.parametrize("kwargs", [{"strength": -1.0}, {"num_subspaces": 1}, {"num_gates": 0}])
def test_bad_arguments(kwargs):
    with pytest.raises(ValueError, match="Received: " + next(iter(kwargs))):
        kmtl.regularizers.OrthogonalSubspaces(**kwargs)
