import keras
import numpy as np
import pytest
from keras import ops

import kmtl
from kmtl.testing import assert_plain

pytestmark = pytest.mark.both_backends


def numpy(tensors):
    return [ops.convert_to_numpy(x) for x in tensors]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def made(layer, x, seed=1):
    """Builds a layer by a call and gives all weights, biases too, random values."""
    layer(x)
    rng = np.random.default_rng(seed)
    for weight in layer.weights:
        weight.assign(rng.normal(size=weight.shape))
    return layer


def showing_its_weights(num_experts, num_tasks, **kwargs):
    """Experts that give unit vectors whatever they read: the outputs are the gates' weights."""
    layer = kmtl.layers.MMoE(num_experts, num_experts, num_tasks, **kwargs)
    layer.build((None, 3))
    layer.experts[0].kernel.assign(np.zeros((3, num_experts, num_experts)))
    layer.experts[0].bias.assign(np.eye(num_experts))
    return layer


def test_value():
    layer = kmtl.layers.MMoE(num_experts=2, units=1, num_tasks=2)
    layer.build((None, 2))
    layer.experts[0].kernel.assign([[[1.0, -1.0]], [[2.0, 3.0]]])
    layer.experts[0].bias.assign([[0.0, 2.0]])
    gates = np.zeros((2, 2, 2))
    gates[1, 0, 1] = np.log(3.0)  # task 1 prefers expert 0 by 3 to 1 where feature 1 is 1
    layer.gates[0].kernel.assign(gates)
    # Experts give relu(3) and relu(4), then relu(1) and relu(1).
    x = np.array([[1.0, 1.0], [1.0, 0.0]])
    first, second = numpy(layer(x))
    np.testing.assert_allclose(first, [[3.5], [1.0]], rtol=1e-6)
    np.testing.assert_allclose(second, [[0.75 * 3 + 0.25 * 4], [1.0]], rtol=1e-6)


@pytest.mark.parametrize("shape", [(4, 6), (2, 5, 6), (2, 3, 2, 6)])
@pytest.mark.parametrize("units", [5, [7, 5]])
def test_equals_experts_and_gates_one_by_one(shape, units):
    x = normal(*shape)
    layer = made(kmtl.layers.MMoE(3, units, num_tasks=2, activation="tanh"), x)
    experts = []
    for i in range(3):
        h = x
        for depth in layer.experts:
            h = np.tanh(h @ depth.get_weights()[0][..., i] + depth.get_weights()[1][:, i])
        experts.append(h)
    for t, output in enumerate(numpy(layer(x))):
        logits = np.exp(x @ layer.gates[0].get_weights()[0][..., t])
        weights = logits / logits.sum(axis=-1, keepdims=True)
        expected = sum(weights[..., i : i + 1] * h for i, h in enumerate(experts))
        np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)


def test_one_expert_is_hard_sharing():
    x = normal(4, 6)
    layer = made(kmtl.layers.MMoE(1, 5, num_tasks=3), x)
    dense = keras.layers.Dense(5, activation="relu")
    dense.build(x.shape)
    dense.set_weights([w[..., 0] for w in layer.get_weights()])  # there are no others
    for output in numpy(layer(x)):
        np.testing.assert_allclose(output, ops.convert_to_numpy(dense(x)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(4, 6), (2, 5, 6)])
def test_gates_sum_to_one(shape):
    x = normal(*shape)
    layer = made(kmtl.layers.MMoE(4, 5, num_tasks=3), x)
    for weights in numpy(layer.gate_weights(x)):
        assert weights.shape == (*shape[:-1], 4)
        assert np.all(weights > 0)
        np.testing.assert_allclose(weights.sum(axis=-1), 1.0, rtol=1e-5)


def test_gates_of_zero_give_the_mean_of_the_experts():
    x = normal(4, 6)
    layer = made(kmtl.layers.MMoE(4, 5, num_tasks=2), x)
    layer.gates[0].kernel.assign(np.zeros((6, 4, 2)))
    mean = np.mean(numpy(layer.expert_outputs(x)), axis=0)
    for output in numpy(layer(x)):
        np.testing.assert_allclose(output, mean, rtol=1e-5)


def test_a_one_hot_gate_picks_an_expert():
    x = np.concatenate([normal(4, 5), np.ones((4, 1), "float32")], axis=-1)
    layer = made(kmtl.layers.MMoE(4, 5, num_tasks=2), x)
    kernel = np.zeros((6, 4, 2))
    kernel[-1, 2, 0] = kernel[-1, 0, 1] = 1000.0
    layer.gates[0].kernel.assign(kernel)
    experts = numpy(layer.expert_outputs(x))
    first, second = numpy(layer(x))
    np.testing.assert_allclose(first, experts[2], rtol=1e-6)
    np.testing.assert_allclose(second, experts[0], rtol=1e-6)


def test_tasks_with_equal_gates_get_equal_features():
    x = normal(4, 6)
    layer = made(kmtl.layers.MMoE(4, 5, num_tasks=3), x)
    kernel = layer.gates[0].get_weights()[0]
    kernel[..., 2] = kernel[..., 0]
    layer.gates[0].kernel.assign(kernel)
    first, second, third = numpy(layer(x))
    np.testing.assert_array_equal(first, third)
    assert np.abs(first - second).max() > 0.1


@pytest.mark.parametrize("gate_shape", [(2, 5, 3), (2, 1, 3)])
def test_gates_with_an_input_of_their_own(gate_shape):
    x, gate_x = normal(2, 5, 6), normal(*gate_shape)
    layer = made(kmtl.layers.MMoE(4, 5, num_tasks=2), [x, gate_x])
    outputs = numpy(layer([x, gate_x]))
    weights = numpy(layer.gate_weights([x, gate_x]))
    experts = numpy(layer.expert_outputs([x, gate_x]))
    for own, output in zip(weights, outputs, strict=True):
        assert own.shape == (*gate_shape[:-1], 4)
        expected = sum(own[..., i : i + 1] * h for i, h in enumerate(experts))
        np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)
    inputs = [keras.Input((None, 6)), keras.Input((gate_shape[1], 3))]
    plain = keras.Model(inputs, layer.fold(inputs))
    for folded, output in zip(numpy(plain([x, gate_x])), outputs, strict=True):
        np.testing.assert_allclose(folded, output, rtol=1e-4, atol=1e-5)


def test_gate_dropout_leaves_experts_out_in_training_only():
    layer = showing_its_weights(4, 2, gate_dropout=0.5)
    x = normal(500, 3)
    whole = numpy(layer.gate_weights(x))
    for own, output in zip(whole, numpy(layer(x, training=False)), strict=True):
        np.testing.assert_allclose(output, own, rtol=1e-5)
    for own, output in zip(whole, numpy(layer(x, training=True)), strict=True):
        np.testing.assert_allclose(output.sum(axis=-1), 1.0, rtol=1e-5)
        out = output == 0.0
        # All four are left out of 1 in 16 examples, whose weights then are the whole ones.
        spared = np.all(np.isclose(output, own, rtol=1e-4), axis=-1)
        assert 0.05 < spared.mean() < 0.25
        assert 0.35 < out.mean() < 0.6
        ratio = np.where(out, 0.0, output / own)
        largest = ratio.max(axis=-1, keepdims=True)
        np.testing.assert_allclose(np.where(out, largest, ratio), largest + 0 * ratio, rtol=1e-4)


@pytest.mark.parametrize("per_example", [True, False])
def test_selecting_gates(per_example):
    """Each task has a gate of its own, with its own start and its own losses."""
    template = kmtl.layers.DSelectKGate(
        num_experts=2, num_selected=2, gamma=0.5, per_example=per_example
    )
    x = normal(4, 6)
    layer = kmtl.layers.MMoE(5, 3, num_tasks=2, gate=template)
    layer(x)
    assert [gate.num_experts for gate in layer.gates] == [5, 5]
    assert [gate.gamma for gate in layer.gates] == [0.5, 0.5]
    starts = [gate.get_weights()[0] for gate in layer.gates]
    assert np.abs(starts[0] - starts[1]).max() > 0
    assert len(layer.losses) == 4  # entropy, and 5 is no power of 2
    made(layer, x)
    experts, outputs = numpy(layer.expert_outputs(x)), numpy(layer(x))
    for gate, output in zip(layer.gates, outputs, strict=True):
        weights = ops.convert_to_numpy(gate(x))
        expected = sum(weights[..., i : i + 1] * h for i, h in enumerate(experts))
        np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)


def test_experts_that_no_task_selects_are_not_in_the_folded_model():
    template = kmtl.layers.DSelectKGate(num_experts=4, num_selected=1, per_example=False)
    layer = kmtl.layers.MMoE(4, 3, num_tasks=2, gate=template)
    inputs = keras.Input((6,))
    layer(inputs)
    layer.gates[0].z_bias.assign([1.0, 1.0])
    layer.gates[1].z_bias.assign([1.0, -1.0])
    plain = keras.Model(inputs, layer.fold(inputs))
    assert_plain(plain)
    names = [x.name for x in plain.layers if isinstance(x, keras.layers.Dense)]
    assert sorted(names) == [f"{layer.experts[0].name}_task_{i}" for i in (1, 3)]
    x = normal(4, 6)
    for folded, output in zip(numpy(plain(x)), numpy(layer(x)), strict=True):
        np.testing.assert_allclose(folded, output, rtol=1e-5, atol=1e-6)


def test_a_folded_mixture_is_dense_layers_products_and_means():
    layer = kmtl.layers.MMoE(3, 4, num_tasks=2)
    inputs = keras.Input((6,))
    layer(inputs)
    kinds = [type(x).__name__ for x in keras.Model(inputs, layer.fold(inputs)).layers]
    counts = {kind: kinds.count(kind) for kind in set(kinds)}
    assert counts == {
        "InputLayer": 1,
        "Dense": 3 + 2,  # experts and gates
        "Concatenate": 1,  # both tasks read the same experts
        "Reshape": 1 + 2,
        "Multiply": 2,
        "GlobalAveragePooling1D": 2,
        "Rescaling": 2,
    }


def test_variable_length_sequences_and_their_masks():
    layer = kmtl.layers.MMoE(3, 2, num_tasks=2)
    inputs = keras.Input((None,), dtype="int32")
    embedding = keras.layers.Embedding(5, 4, mask_zero=True)
    outputs = layer(embedding(inputs))
    assert [x.shape for x in outputs] == [(None, None, 2)] * 2
    tokens = np.array([[1, 2, 0]])
    for output in layer(embedding(tokens)):
        mask = ops.convert_to_numpy(output._keras_mask)
        np.testing.assert_array_equal(mask, [[True, True, False]])
    # What reads the folded outputs skips the same steps.
    reader = keras.layers.LSTM(3)
    reader.build((None, None, 2))
    plain = keras.Model(inputs, [reader(x) for x in layer.fold(embedding(inputs))])
    for a, b in zip(layer(embedding(tokens)), numpy(plain(tokens)), strict=True):
        np.testing.assert_allclose(b, ops.convert_to_numpy(reader(a)), rtol=1e-5, atol=1e-6)


def test_a_mask_of_one_part_is_not_lost_in_silence():
    layer = kmtl.layers.MMoE(3, 2, num_tasks=2)
    tokens, gate_x = keras.Input((5,), dtype="int32"), keras.Input((5, 3))
    x = keras.layers.Embedding(5, 4, mask_zero=True)(tokens)
    layer([x, gate_x])
    with pytest.raises(ValueError, match="has a mask, or nothing.*3 of 4 with a mask"):
        layer.fold([x, gate_x])


@pytest.mark.parametrize("gate_shape", [(5, 3), (4, 3), (3,)])
def test_unfit_gate_inputs(gate_shape):
    inputs = [keras.Input((6, 3)), keras.Input(gate_shape)]
    with pytest.raises(ValueError, match=r"`gate_x` must have the axes.*Received: input shapes"):
        kmtl.layers.MMoE(2, 3, 2)(inputs)


def test_too_many_inputs():
    with pytest.raises(ValueError, match=r"\[x, gate_x\].*Received: 3 inputs"):
        kmtl.layers.MMoE(2, 3, 2)([keras.Input((3,))] * 3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_experts", 0),
        ("num_experts", 2.0),
        ("units", 0),
        ("units", []),
        ("num_tasks", 0),
        ("gate_dropout", 1.0),
        ("gate", "sigmoid"),
        ("gate", keras.layers.Dense(3)),
    ],
)
def test_bad_arguments(name, value):
    arguments = {"num_experts": 2, "units": 3, "num_tasks": 2, name: value}
    with pytest.raises(ValueError, match=f"`{name}` must .*Received: {name}="):
        kmtl.layers.MMoE(**arguments)


def test_gates_that_do_not_fit():
    with pytest.raises(ValueError, match=r"^`num_selected` must be at most .*=3, num_experts=2$"):
        kmtl.layers.MMoE(2, 3, 2, gate=kmtl.layers.DSelectKGate(4, 3))
    with pytest.raises(ValueError, match=r"Received: gate=Dense$"):
        kmtl.layers.MMoE(2, 3, 2, gate=keras.layers.Dense(2))
