import keras
import numpy as np
import pytest
from keras import ops

import kmtl

pytestmark = pytest.mark.both_backends


def numpy(tensors):
    return [ops.convert_to_numpy(x) for x in tensors]


def test_value_with_a_shared_input_and_with_one_for_each_task():
    layer = kmtl.layers.TaskStackedDense(1, num_tasks=2, activation="relu")
    layer.build((None, 2))
    layer.kernel.assign([[[1.0, -1.0]], [[2.0, 3.0]]])
    layer.bias.assign([[0.5, -0.5]])
    x = np.array([[1.0, 1.0]])
    np.testing.assert_array_equal(numpy(layer(x)), [[[3.5]], [[1.5]]])
    np.testing.assert_array_equal(numpy(layer([x, 2 * x])), [[[3.5]], [[3.5]]])


@pytest.mark.parametrize("shape", [(4, 6), (2, 5, 6)])
@pytest.mark.parametrize("shared", [True, False])
def test_equals_separate_dense_layers(shape, shared):
    rng = np.random.default_rng(0)
    x = [rng.normal(size=shape).astype("float32") for _ in range(3)]
    layer = kmtl.layers.TaskStackedDense(
        4, num_tasks=3, activation="softmax", bias_initializer="normal"
    )
    outputs = numpy(layer(x[0] if shared else x))
    for t, output in enumerate(outputs):
        dense = keras.layers.Dense(4, activation="softmax")
        dense.build(shape)
        dense.set_weights([w[..., t] for w in layer.get_weights()])
        expected = ops.convert_to_numpy(dense(x[0] if shared else x[t]))
        np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("seed", [None, 7])
def test_each_task_starts_as_a_dense_layer_of_its_own(seed):
    layer = kmtl.layers.TaskStackedDense(
        20, num_tasks=3, kernel_initializer=keras.initializers.GlorotUniform(seed=seed)
    )
    layer.build((None, 50))
    kernel = ops.convert_to_numpy(layer.kernel)
    limit = np.sqrt(6.0 / (50 + 20))
    largest = np.max(np.abs(kernel), axis=(0, 1))
    assert np.all((0.99 * limit < largest) & (largest <= limit))
    correlation = np.corrcoef(kernel.reshape(-1, 3).T)
    assert np.all(np.abs(correlation - np.eye(3)) < 0.1)


def test_the_regularizer_sees_all_tasks():
    layer = kmtl.layers.TaskStackedDense(
        2, num_tasks=4, kernel_initializer="ones", kernel_regularizer=keras.regularizers.L1(1.0)
    )
    layer.build((None, 3))
    assert float(layer.losses[0]) == 3 * 2 * 4


def test_variable_length_sequences_and_their_masks():
    layer = kmtl.layers.TaskStackedDense(2, num_tasks=3)
    inputs = keras.Input((None,), dtype="int32")
    outputs = layer(keras.layers.Embedding(5, 4, mask_zero=True)(inputs))
    assert [x.shape for x in outputs] == [(None, None, 2)] * 3
    model = keras.Model(inputs, outputs)
    tokens = np.array([[1, 2, 0]])
    assert [x.shape for x in numpy(model(tokens))] == [(1, 3, 2)] * 3
    embedded = model.layers[1](tokens)
    for output in layer(embedded):
        mask = ops.convert_to_numpy(output._keras_mask)
        np.testing.assert_array_equal(mask, [[True, True, False]])


def test_fold_names_its_layers():
    layer = kmtl.layers.TaskStackedDense(2, num_tasks=2, use_bias=False, name="heads")
    inputs = keras.Input((3,))
    layer(inputs)
    plain = keras.Model(inputs, layer.fold(inputs))
    assert [layer.name for layer in plain.layers[1:]] == ["heads_task_0", "heads_task_1"]


def test_wrong_number_of_inputs():
    with pytest.raises(ValueError, match="num_tasks=3, 2 inputs"):
        kmtl.layers.TaskStackedDense(1, num_tasks=3)([keras.Input((3,)), keras.Input((3,))])


@pytest.mark.parametrize(("units", "num_tasks"), [(0, 2), (2, 0)])
def test_bad_arguments(units, num_tasks):
    name = "num_tasks" if units else "units"
    with pytest.raises(ValueError, match=f"`{name}` must be an integer >= 1. Received: {name}=0"):
        kmtl.layers.TaskStackedDense(units, num_tasks)
