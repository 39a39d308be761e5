import keras
import numpy as np
import pytest
from keras import ops

from kmtl.layers.factorized_conv2d import FactorizedConv2D

pytestmark = pytest.mark.both_backends

METHODS = ["laf", "tucker", "tt"]
ON_JAX = keras.backend.backend() == "jax"


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def numpy(tensors):
    return [ops.convert_to_numpy(x) for x in tensors]


def convolve(x, kernel, **geometry):
    """Keras's own layer with this kernel."""
    plain = keras.layers.Conv2D(kernel.shape[-1], kernel.shape[:2], use_bias=False, **geometry)
    plain.build(x.shape)
    plain.set_weights([kernel])
    return ops.convert_to_numpy(plain(x))


@pytest.mark.parametrize(
    "geometry",
    [
        {},
        {"strides": 2, "padding": "same"},
        {"strides": (2, 1)},
        {"dilation_rate": 2, "padding": "same"},
        pytest.param(
            {"data_format": "channels_first"},
            marks=pytest.mark.skipif(
                not ON_JAX, reason="TensorFlow convolves channels_first on GPUs only"
            ),
        ),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_start_from_single_task_kernels(method, geometry):
    """Maximal ranks reproduce T independent convolutions, for one input and for T inputs."""
    kernels = [normal(3, 2, 4, 5, seed=s) for s in range(3)]
    layer = FactorizedConv2D(5, (3, 2), 3, method, rel_error=0.0, init_from=kernels, **geometry)
    shape = (2, 4, 7, 6) if "data_format" in geometry else (2, 7, 6, 4)
    x = [normal(*shape, seed=s) for s in range(3)]
    for y, a, kernel in zip(numpy(layer(x)), x, kernels, strict=True):
        np.testing.assert_allclose(y, convolve(a, kernel, **geometry), atol=2e-5)
    for y, kernel in zip(numpy(layer(x[0])), kernels, strict=True):
        np.testing.assert_allclose(y, convolve(x[0], kernel, **geometry), atol=2e-5)
    stack = np.stack(kernels, axis=-1)
    error = np.linalg.norm(ops.convert_to_numpy(layer.synthesize()) - stack)
    assert error < 1e-6 * np.linalg.norm(stack)


@pytest.mark.skipif(not ON_JAX, reason="TensorFlow convolves channels_first on GPUs only")
def test_channels_first_bias_lies_along_the_channels():
    layer = FactorizedConv2D(3, 2, 2, data_format="channels_first")
    x = np.zeros((1, 4, 5, 5), "float32")
    layer.build(x.shape)
    layer.bias.assign([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    first, second = numpy(layer(x))
    np.testing.assert_array_equal(first[0, :, 0, 0], [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(second[0, :, -1, -1], [4.0, 5.0, 6.0])


@pytest.mark.parametrize(
    ("method", "rank", "ranks", "weights"),
    [
        ("laf", 2, (2,), 3 * 3 * 4 * 5 * 2 + 2 * 3),
        ("tucker", 2, (2,) * 5, 2**5 + 2 * (3 + 3 + 4 + 5 + 3)),
        ("tt", 2, (2,) * 4, 3 * 2 + 2 * 3 * 2 + 2 * 4 * 2 + 2 * 5 * 2 + 2 * 3),
        ("tt", None, (2, 5, 8, 2), 3 * 2 + 2 * 3 * 5 + 5 * 4 * 8 + 8 * 5 * 2 + 2 * 3),
    ],
)
def test_number_of_weights(method, rank, ranks, weights):
    layer = FactorizedConv2D(5, 3, 3, method, rank=rank, use_bias=False)
    layer.build((None, 8, 8, 4))
    assert layer.ranks == ranks
    assert layer.count_params() == weights


@pytest.mark.parametrize("method", METHODS)
def test_random_start_has_the_variance_of_glorot(method):
    """Draws differ much, for the factors of a 5 x 5 window are small: hence the tolerance."""
    squares = []
    for seed in range(40):
        keras.utils.set_random_seed(seed)
        layer = FactorizedConv2D(8, 5, 12, method, rank=4)
        layer.build((None, 8, 8, 6))
        squares.append(np.mean(ops.convert_to_numpy(layer.synthesize()) ** 2))
    np.testing.assert_allclose(np.mean(squares), 2.0 / (25 * (6 + 8)), rtol=0.25)


def test_fold_gives_convolutions():
    layer = FactorizedConv2D(
        5, 3, 2, strides=2, padding="same", activation="relu", name="c", bias_initializer="ones"
    )
    inputs = [keras.Input((8, 8, 4)), keras.Input((8, 8, 4))]
    model = keras.Model(inputs, layer(inputs))
    plain = keras.Model(inputs, layer.fold(inputs))
    convolutions = [part for part in plain.layers if not hasattr(part, "batch_shape")]
    assert [type(part) for part in convolutions] == [keras.layers.Conv2D] * 2
    assert sorted(part.name for part in convolutions) == ["c_task_0", "c_task_1"]
    x = [normal(2, 8, 8, 4), normal(2, 8, 8, 4, seed=1)]
    for a, b in zip(numpy(plain(x)), numpy(model(x)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_the_regularizer_sees_the_synthesised_kernel():
    layer = FactorizedConv2D(5, 3, 2, kernel_regularizer=keras.regularizers.L1(0.1))
    layer(normal(2, 6, 6, 4))
    expected = 0.1 * np.sum(np.abs(ops.convert_to_numpy(layer.synthesize())))
    np.testing.assert_allclose(float(layer.losses[0]), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"filters": 0}, "filters=0"),
        ({"kernel_size": 0}, "kernel_size"),
        ({"padding": "causal"}, "padding"),
        ({"strides": 2, "dilation_rate": 2}, "dilation_rate"),
        ({"rank": 0}, "Received: rank=0"),
        ({"rank": (2, 2, 2)}, "each of the 5 ranks"),
        ({"init_from": np.ones((3, 3, 4, 5, 3))}, r"\(3, 3, 'channels', 5, 2\)"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        FactorizedConv2D(**{"filters": 5, "kernel_size": 3, "num_tasks": 2, **kwargs})


def test_bad_inputs():
    with pytest.raises(ValueError, match="takes inputs with 4 axes"):
        FactorizedConv2D(5, 3, 2)(normal(2, 6, 4))
    with pytest.raises(ValueError, match="num_tasks=2, 3 inputs"):
        FactorizedConv2D(5, 3, 2)([normal(2, 6, 6, 4)] * 3)
