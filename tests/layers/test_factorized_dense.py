import keras
import numpy as np
import pytest
from keras import ops

from kmtl.layers.factorized_dense import FactorizedDense

pytestmark = pytest.mark.both_backends

METHODS = ["laf", "tucker", "tt"]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def numpy(tensors):
    return [ops.convert_to_numpy(x) for x in tensors]


@pytest.mark.parametrize("shape", [(2, 4), (2, 6, 4), (2, 3, 3, 4)])
@pytest.mark.parametrize("method", METHODS)
def test_start_from_single_task_kernels(method, shape):
    """Maximal ranks reproduce T independent layers, for one input and for T inputs."""
    kernels = normal(4, 5, 3)
    layer = FactorizedDense(5, 3, method, rel_error=0.0, init_from=kernels, activation="tanh")
    x = [normal(*shape, seed=s) for s in range(3)]
    expected = [np.tanh(a @ kernels[..., t]) for t, a in enumerate(x)]
    for a, b in zip(numpy(layer(x)), expected, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)
    for t, y in enumerate(numpy(layer(x[0]))):
        np.testing.assert_allclose(y, np.tanh(x[0] @ kernels[..., t]), atol=2e-6)
    stack = ops.convert_to_numpy(layer.synthesize())
    assert np.linalg.norm(stack - kernels) < 1e-6 * np.linalg.norm(kernels)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX has no float64 by default")
@pytest.mark.parametrize("method", METHODS)
def test_float64_start_is_exact(method):
    kernels = normal(4, 5, 3).astype("float64")
    layer = FactorizedDense(5, 3, method, rel_error=0.0, init_from=kernels, dtype="float64")
    layer.build((None, 4))
    np.testing.assert_allclose(layer.synthesize(), kernels, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("method", "ranks", "weights"),
    [
        ("laf", (3,), 4 * 5 * 3 + 3 * 3),
        ("tucker", (4, 5, 3), 4 * 5 * 3 + 4 * 4 + 5 * 5 + 3 * 3),
        ("tucker", (2, 3, 2), 2 * 3 * 2 + 4 * 2 + 5 * 3 + 3 * 2),
        ("tt", (4, 3), 4 * 4 + 4 * 5 * 3 + 3 * 3),
        ("tt", (2, 1), 4 * 2 + 2 * 5 * 1 + 1 * 3),
    ],
)
def test_number_of_weights(method, ranks, weights):
    layer = FactorizedDense(5, 3, method, rank=ranks, use_bias=False)
    layer.build((None, 4))
    assert layer.ranks == layer.rank == ranks
    assert layer.count_params() == weights
    with_bias = FactorizedDense(5, 3, method, rank=ranks)
    with_bias.build((None, 4))
    assert with_bias.count_params() == weights + 3 * 5


def test_laf_limits_are_hard_sharing_and_independence():
    x = normal(2, 4)
    shared = FactorizedDense(5, 3, "laf", rank=1)
    shared.build(x.shape)
    shared.factors[1].assign(np.ones((1, 3)))
    first, *others = numpy(shared(x))
    for y in others:
        np.testing.assert_array_equal(y, first)

    independent = FactorizedDense(5, 3, "laf", rank=3)
    independent.build(x.shape)
    independent.factors[1].assign(np.eye(3))
    kernels = ops.convert_to_numpy(independent.factors[0])
    for t, y in enumerate(numpy(independent(x))):
        np.testing.assert_allclose(y, x @ kernels[..., t], atol=1e-6)


def test_tensor_train_with_last_rank_one_shares_up_to_a_scale():
    layer = FactorizedDense(5, 3, "tt", rank=(4, 1))
    outputs = numpy(layer(normal(2, 4)))
    scales = ops.convert_to_numpy(layer.factors[-1])[0]
    for y, scale in zip(outputs, scales, strict=True):
        np.testing.assert_allclose(y * scales[0], outputs[0] * scale, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_only_the_last_factor_knows_the_task(method):
    x = normal(2, 4)
    layer = FactorizedDense(5, 3, method)
    before = numpy(layer(x))
    changed = ops.convert_to_numpy(layer.factors[-1]).copy()
    np.moveaxis(changed, 0 if method == "tucker" else -1, 0)[1] += 1.0
    layer.factors[-1].assign(changed)
    layer.bias.assign([[0.0] * 5, [1.0] * 5, [0.0] * 5])
    after = numpy(layer(x))
    np.testing.assert_array_equal(after[0], before[0])
    np.testing.assert_array_equal(after[2], before[2])
    assert np.abs(after[1] - before[1]).min() > 0.0


@pytest.mark.parametrize("method", METHODS)
def test_random_start_has_the_variance_of_glorot(method):
    squares = []
    for seed in range(40):
        keras.utils.set_random_seed(seed)
        layer = FactorizedDense(10, 12, method)
        layer.build((None, 12))
        squares.append(np.mean(ops.convert_to_numpy(layer.synthesize()) ** 2))
    np.testing.assert_allclose(np.mean(squares), 2.0 / (12 + 10), rtol=0.12)


def test_random_start_follows_the_seed_and_factors_differ():
    starts = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        layer = FactorizedDense(4, 4, "tucker", rank=4)
        layer.build((None, 4))
        starts.append(layer.get_weights())
    np.testing.assert_array_equal(starts[0][1], starts[1][1])
    assert np.abs(starts[0][1] - starts[2][1]).max() > 0.0
    assert np.abs(starts[0][1] - starts[0][2]).max() > 0.0


def test_relative_error_chooses_the_ranks_and_the_config_keeps_them():
    common = normal(4, 5)
    kernels = [common, 2.0 * common, -common]
    layer = FactorizedDense(5, 3, "laf", init_from=kernels)
    config = layer.get_config()
    assert layer.rank is None
    assert config["rank"] == (1,) and config["init_from"] is None
    layer.build((None, 4))
    assert layer.ranks == (1,)
    again = FactorizedDense.from_config(config)
    again.build((None, 4))
    assert [w.shape for w in again.weights] == [w.shape for w in layer.weights]
    assert again.get_config() == layer.get_config()


def test_given_ranks_win_over_the_relative_error():
    layer = FactorizedDense(5, 3, "tucker", rank=2, init_from=normal(4, 5, 3), rel_error=0.0)
    layer.build((None, 4))
    assert layer.rank == 2 and layer.ranks == (2, 2, 2)


def test_clipping_warns():
    layer = FactorizedDense(5, 3, "tt", rank=7)
    with pytest.warns(UserWarning, match="`rank` is above the maximum"):
        layer.build((None, 4))
    assert layer.rank == 7 and layer.ranks == (4, 3)


def test_the_regularizer_sees_the_synthesised_kernel():
    layer = FactorizedDense(
        5, 3, kernel_regularizer=keras.regularizers.L2(0.1), dtype="mixed_bfloat16"
    )
    layer(normal(2, 4))
    expected = 0.1 * np.sum(ops.convert_to_numpy(layer.synthesize()) ** 2)
    assert len(layer.losses) == 1
    np.testing.assert_allclose(float(layer.losses[0]), expected, rtol=1e-5)


def test_masks_reach_every_task():
    layer = FactorizedDense(3, 2)
    embedded = keras.layers.Embedding(5, 4, mask_zero=True)(np.array([[1, 2, 0]]))
    for outputs in (layer(embedded), layer([embedded, embedded])):
        for y in outputs:
            np.testing.assert_array_equal(y._keras_mask, [[True, True, False]])


def test_fold_gives_dense_layers():
    layer = FactorizedDense(5, 2, activation="relu", name="head", bias_initializer="ones")
    x = keras.Input((4,))
    model = keras.Model(x, layer(x))
    plain = keras.Model(x, layer.fold(x))
    assert [type(part) for part in plain.layers[1:]] == [keras.layers.Dense] * 2
    assert [part.name for part in plain.layers[1:]] == ["head_task_0", "head_task_1"]
    for a, b in zip(numpy(plain(normal(3, 4))), numpy(model(normal(3, 4))), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"units": 0}, "Received: units=0"),
        ({"num_tasks": 0}, "Received: num_tasks=0"),
        ({"method": "cp"}, r"`method` must be one of .* Received: method=cp"),
        ({"rank": 0}, "`rank` must be at least 1.* Received: rank=0"),
        ({"rank": (2, 0, 2)}, r"Received: rank=\(2, 0, 2\)"),
        ({"rank": (2, 2)}, r"each of the 3 ranks of method='tucker'. Received: rank=\(2, 2\)"),
        ({"rank": 1.5}, "Received: rank=1.5"),
        ({"rel_error": 1.0}, "Received: rel_error=1.0"),
        ({"init_from": np.ones((4, 5, 2))}, r"\('channels', 5, 3\).*shape \(4, 5, 2\)"),
        ({"init_from": np.ones(3)}, r"Received: init_from of shape \(3,\)"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        FactorizedDense(**{"units": 5, "num_tasks": 3, **kwargs})


def test_bad_inputs():
    with pytest.raises(ValueError, match="num_tasks=3, 2 inputs"):
        FactorizedDense(5, 3)([normal(2, 4), normal(2, 4)])
    with pytest.raises(ValueError, match="as many channels as the kernels in `init_from`"):
        FactorizedDense(5, 3, init_from=normal(4, 5, 3))(normal(2, 6))
    with pytest.raises(ValueError, match="must know the number of input channels"):
        FactorizedDense(5, 3)(keras.Input((None,)))
