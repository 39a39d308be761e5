import keras
import numpy as np
import pytest
from keras import ops

import kmtl

pytestmark = pytest.mark.both_backends


def numpy(tensors):
    return [ops.convert_to_numpy(x) for x in tensors]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def randomize(layer):
    rng = np.random.default_rng(1)
    for weight in layer.weights:
        weight.assign(rng.normal(size=weight.shape))


def weighted(weights, experts):
    return sum(weights[..., i : i + 1] * h for i, h in enumerate(experts))


@pytest.mark.parametrize("task_experts", [0, [0, 0, 0]])
def test_without_experts_of_tasks_it_is_mmoe(task_experts):
    x = normal(4, 6)
    layer = kmtl.layers.CGC(4, task_experts, [5, 3], num_tasks=3)
    other = kmtl.layers.MMoE(4, [5, 3], num_tasks=3)
    layer(x), other(x)
    randomize(layer)
    other.set_weights(layer.get_weights())
    for a, b in zip(numpy(layer(x)), numpy(other(x)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("shape", [(4, 6), (2, 5, 6)])
def test_each_task_mixes_its_own_experts_and_the_shared_ones(shape):
    x = normal(*shape)
    layer = kmtl.layers.CGC(2, [1, 0, 3], 5, num_tasks=3, output_shared=True)
    layer(x)
    randomize(layer)
    experts, weights = numpy(layer.expert_outputs(x)), numpy(layer.gate_weights(x))
    assert len(experts) == 6
    pools = [experts[:1] + experts[4:], experts[4:], experts[1:4] + experts[4:], experts]
    assert [own.shape[-1] for own in weights] == [3, 2, 5, 6]
    for pool, own, output in zip(pools, weights, numpy(layer(x)), strict=True):
        np.testing.assert_allclose(own.sum(axis=-1), 1.0, rtol=1e-5)
        np.testing.assert_allclose(output, weighted(own, pool), rtol=1e-4, atol=1e-5)


def test_streams_of_tasks_and_the_shared_one():
    """A task's experts and gate read its stream, shared experts the last."""
    streams = [normal(4, 6, seed=seed) for seed in range(3)]
    layer = kmtl.layers.CGC(1, [2, 1], 5, num_tasks=2, output_shared=True)
    layer(streams)
    randomize(layer)
    kernel, bias = layer.experts[0].get_weights()
    reads = [streams[0], streams[0], streams[1], streams[2]]
    experts = [np.maximum(x @ kernel[..., i] + bias[..., i], 0.0) for i, x in enumerate(reads)]
    widths = {3: [0], 2: [1], 4: [2]}  # of gates: the outputs
    for gate in layer.gates:
        (output,) = widths[gate.units]
        pool = [[0, 1, 3], [2, 3], [0, 1, 2, 3]][output]
        logits = np.exp(streams[output] @ gate.get_weights()[0][..., 0])
        own = logits / logits.sum(axis=-1, keepdims=True)
        expected = weighted(own, [experts[i] for i in pool])
        np.testing.assert_allclose(numpy(layer(streams))[output], expected, rtol=1e-4, atol=1e-5)


def test_streams_that_are_equal_are_one_input():
    x = normal(4, 6)
    layer = kmtl.layers.CGC(2, [1, 2], 5, num_tasks=2)
    one = numpy(layer(x))
    for a, b in zip(one, numpy(layer([x, x, x])), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_without_shared_experts_tasks_are_independent():
    """A step on the loss of task 0 leaves what task 1 has as it was."""
    layer = kmtl.layers.CGC(0, [2, 3], 4, num_tasks=2)
    inputs = keras.Input((6,))
    model = keras.Model(inputs, layer(inputs))
    model.compile(keras.optimizers.SGD(0.1), loss=["mse", "mse"], loss_weights=[1.0, 0.0])
    before = model.get_weights()
    model.fit(normal(8, 6), [np.ones((8, 4))] * 2, batch_size=8, verbose=0)
    for old, new, weight in zip(before, model.get_weights(), model.weights, strict=True):
        if "experts" in weight.path:
            np.testing.assert_array_equal(new[..., 2:], old[..., 2:])
            assert np.all(np.abs(new - old)[..., :2].max(axis=tuple(range(new.ndim - 1))) > 0)
        else:
            of_task_0 = old.shape[1] == 2
            assert np.any(new != old) == of_task_0


def test_a_task_with_one_expert_has_no_gate():
    layer = kmtl.layers.CGC(0, 1, 4, num_tasks=2)
    x = normal(3, 6)
    outputs = numpy(layer(x))
    assert layer.gates == [] and layer.gate_weights(x) == [None, None]
    for a, b in zip(outputs, numpy(layer.expert_outputs(x)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_another_tasks_experts_are_not_in_the_folded_task():
    layer = kmtl.layers.CGC(1, [2, 3], 4, num_tasks=2)
    inputs = keras.Input((6,))
    layer(inputs)
    alone = keras.Model(inputs, layer.fold(inputs)[0])
    assert sum(type(x) is keras.layers.Dense for x in alone.layers) == 2 + 1 + 1  # and a gate
    x = normal(4, 6)
    expected = ops.convert_to_numpy(layer(x)[0])
    np.testing.assert_allclose(ops.convert_to_numpy(alone(x)), expected, rtol=1e-5, atol=1e-6)


def test_masks_of_streams():
    layer = kmtl.layers.CGC(1, 1, 2, num_tasks=2)
    embedding = keras.layers.Embedding(5, 4, mask_zero=True)
    streams = [embedding(np.array([tokens])) for tokens in ([1, 0], [2, 3], [1, 1])]
    masks = [ops.convert_to_numpy(y._keras_mask) for y in layer(streams)]
    np.testing.assert_array_equal(masks, [[[True, False]], [[True, True]]])


@pytest.mark.parametrize(("shared", "count"), [(1, 2), (1, 4), (0, 3)])
def test_wrong_number_of_inputs(shared, count):
    layer = kmtl.layers.CGC(shared, 1, 4, num_tasks=2)
    with pytest.raises(ValueError, match=f"{shared} for what is shared.*{count} inputs"):
        layer([keras.Input((3,)) for _ in range(count)])


def test_unequal_streams():
    with pytest.raises(ValueError, match="must have one shape"):
        kmtl.layers.CGC(1, 1, 4, num_tasks=1)([keras.Input((3,)), keras.Input((4,))])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shared_experts": -1}, "`shared_experts` must be an integer >= 0. Received"),
        ({"task_experts": -1}, "`task_experts` must be .*Received: task_experts=-1"),
        ({"task_experts": [1]}, r"one for each task. Received: task_experts=\[1\]"),
        ({"task_experts": [1, 1.5]}, "`task_experts` must be"),
        ({"shared_experts": 0, "task_experts": [1, 0]}, "must have an expert.*Received"),
        ({"num_tasks": 0}, "`num_tasks` must be"),
    ],
)
def test_bad_arguments(arguments, message):
    arguments = {"shared_experts": 1, "task_experts": 1, "units": 3, "num_tasks": 2, **arguments}
    with pytest.raises(ValueError, match=message):
        kmtl.layers.CGC(**arguments)
