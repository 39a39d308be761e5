"""SharedPlusSpecificDense: three forms of one model, and its two limits."""

import keras
import numpy as np
import pytest
from keras import ops

from kmtl.layers import TaskStackedDense
from kmtl.layers.shared_plus_specific_dense import SharedPlusSpecificDense

pytestmark = pytest.mark.both_backends

T, N, D = 3, 5, 4
RNG = np.random.default_rng(0)
X = RNG.normal(size=(T, N, D))
Y = RNG.normal(size=(T, N))


def numpy(tensors):
    return [ops.convert_to_numpy(x) for x in tensors]


def built(x, **kwargs):
    layer = SharedPlusSpecificDense(2, T, specific_initializer="normal", **kwargs)
    layer(x)
    return layer


def kernel_solution(shared_penalty, specific_penalty):
    """`(w_0, v_t)` from the kernel `K_st(x, z) = (1 / l_2 + delta_st / c) x.z` and ridge."""
    rows, tasks = X.reshape(-1, D), np.repeat(np.arange(T), N)
    same = tasks[:, None] == tasks[None, :]
    kernel = (1 / shared_penalty + same / specific_penalty) * (rows @ rows.T)
    alpha = np.linalg.solve(kernel + np.eye(len(rows)), Y.ravel())
    weighted = alpha[:, None] * rows
    shared = weighted.sum(axis=0) / shared_penalty
    specific = np.stack([weighted[tasks == t].sum(axis=0) for t in range(T)]) / specific_penalty
    return shared, specific, kernel @ alpha


def test_the_kernel_s_solution_is_where_training_stops():
    """Full penalised least squares: its predictions are the kernel's, and its gradient is 0."""
    shared_penalty, specific_penalty = 0.7, 0.3
    shared, specific, predictions = kernel_solution(shared_penalty, specific_penalty)
    layer = SharedPlusSpecificDense(
        1,
        T,
        use_bias=False,
        shared_regularizer=keras.regularizers.L2(shared_penalty),
        specific_regularizer=keras.regularizers.L2(specific_penalty),
    )
    inputs = [keras.Input((D,)) for _ in range(T)]
    model = keras.Model(inputs, layer(inputs))
    layer.shared_kernel.assign(shared[:, None])
    layer.specific_kernel.assign(specific.T[:, None, :])
    outputs = np.ravel(numpy(layer([x.astype("float32") for x in X])))
    np.testing.assert_allclose(outputs, predictions, rtol=1e-4, atol=1e-5)
    losses = [keras.losses.MeanSquaredError(reduction="sum") for _ in range(T)]
    model.compile(keras.optimizers.SGD(1.0), loss=losses)
    before = model.get_weights()
    model.fit(list(X), [y[:, None] for y in Y], batch_size=N, verbose=0)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_allclose(new, old, atol=2e-5)
    layer.shared_kernel.assign(shared[:, None] + 0.1)  # from elsewhere it does move
    before = model.get_weights()
    model.fit(list(X), [y[:, None] for y in Y], batch_size=N, verbose=0)
    assert max(np.abs(a - b).max() for a, b in zip(before, model.get_weights(), strict=True)) > 0.1


def test_the_penalty_without_the_shared_kernel():
    """Of w_t alone: r_1 sum |w_t|^2 + r_2 sum |w_t - mean|^2, at the best shared one for them."""
    lambda_1, lambda_2 = 0.9, 0.4
    shared, specific, _ = kernel_solution(lambda_2, lambda_1 / T)
    layer = built(
        np.ones((2, D), "float32"),
        shared_regularizer=keras.regularizers.L2(lambda_2),
        specific_regularizer=keras.regularizers.L2(lambda_1 / T),
    )
    layer.shared_kernel.assign(np.stack([shared, 0 * shared], axis=1))
    layer.specific_kernel.assign(np.stack([specific.T, 0 * specific.T], axis=1))
    w = shared + specific
    r_1 = lambda_1 * lambda_2 / (T * (lambda_1 + lambda_2))
    r_2 = lambda_1**2 / (T * (lambda_1 + lambda_2))
    np.testing.assert_allclose(shared, lambda_1 / (lambda_1 + lambda_2) * w.mean(axis=0))
    expected = r_1 * np.sum(w**2) + r_2 * np.sum((w - w.mean(axis=0)) ** 2)
    np.testing.assert_allclose(float(sum(layer.losses)), expected, rtol=1e-5)


def test_without_specific_kernels_it_is_one_dense_layer():
    x = RNG.normal(size=(6, D)).astype("float32")
    layer = SharedPlusSpecificDense(2, T, activation="tanh")  # which is how it starts
    outputs = numpy(layer(x))
    expected = np.tanh(x @ ops.convert_to_numpy(layer.shared_kernel))
    for y in outputs:
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("several", [False, True])
def test_without_a_shared_kernel_it_is_the_stacked_layer(several):
    x = RNG.normal(size=(6, D)).astype("float32")
    x = [x, 2 * x, -x] if several else x
    layer, stacked = built(x, shared_initializer="zeros"), TaskStackedDense(2, T)
    stacked(x)
    stacked.set_weights([layer.specific_kernel, RNG.normal(size=(2, T))])
    layer.specific.bias.assign(stacked.bias)
    for a, b in zip(numpy(layer(x)), numpy(stacked(x)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_shared_kernel_learns_from_all_tasks_the_others_from_one():
    layer = SharedPlusSpecificDense(1, 2, use_bias=False)
    x = keras.Input((D,))
    model = keras.Model(x, layer(x))
    model.compile(keras.optimizers.SGD(0.1), loss=["mse", "mse"], loss_weights=[1.0, 0.0])
    model.fit(X[0], [Y[0][:, None]] * 2, batch_size=N, verbose=0)
    specific = ops.convert_to_numpy(layer.specific_kernel)
    assert np.all(specific[..., 1] == 0.0) and np.all(specific[..., 0] != 0.0)


def test_folds_to_one_dense_layer_for_each_task():
    x = keras.Input((D,))
    layer = built(x)
    alone = keras.Model(x, layer.fold(x)[1])
    assert [type(y) for y in alone.layers[1:]] == [keras.layers.Dense]


def test_masks_pass():
    layer = SharedPlusSpecificDense(2, 2)
    x = keras.layers.Embedding(5, D, mask_zero=True)(np.array([[1, 0]]))
    for y in layer(x):
        np.testing.assert_array_equal(ops.convert_to_numpy(y._keras_mask), [[True, False]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"units": 0}, "`units` must be an integer >= 1. Received: units=0"),
        ({"num_tasks": 0}, "`num_tasks` must be an integer >= 1. Received: num_tasks=0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        SharedPlusSpecificDense(**{"units": 2, "num_tasks": 2, **arguments})


def test_wrong_number_of_inputs():
    with pytest.raises(ValueError, match="`SharedPlusSpecificDense` must.*num_tasks=3, 2 inputs"):
        SharedPlusSpecificDense(2, 3)([keras.Input((D,)), keras.Input((D,))])
    with pytest.raises(ValueError, match="inputs of `SharedPlusSpecificDense` must have one shape"):
        SharedPlusSpecificDense(2, 2)([keras.Input((D,)), keras.Input((D + 1,))])
