import keras
import numpy as np
import pytest
from keras import ops

import kmtl
from kmtl.layers.dselect_k_gate import smooth_step

pytestmark = pytest.mark.both_backends


def numpy(x):
    return ops.convert_to_numpy(x)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def built(num_experts, num_selected, features=6, **kwargs):
    gate = kmtl.layers.DSelectKGate(num_experts, num_selected, **kwargs)
    gate.build((None, features))
    return gate


def step(t, gamma):
    return numpy(smooth_step(ops.convert_to_tensor(t, dtype="float32"), gamma))


@pytest.mark.parametrize("gamma", [0.5, 1.0, 4.0])
def test_the_smooth_step_is_the_papers_cubic(gamma):
    ends = np.array([-10.0, -0.5, 0.0, 0.5, 10.0]) * gamma
    np.testing.assert_array_equal(step(ends, gamma), [0.0, 0.0, 0.5, 1.0, 1.0])
    t = np.linspace(-0.5, 0.5, 11) * gamma
    cubic = -2.0 * t**3 / gamma**3 + 3.0 * t / (2.0 * gamma) + 0.5
    np.testing.assert_allclose(step(t, gamma), cubic, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("joint", [-0.5, 0.5])
def test_the_smooth_step_has_slope_zero_at_its_joints(joint):
    """Inside, h before the joint, it is 3 * h**2 - 2 * h**3 away: the slope goes to 0 with h."""
    inside = -np.sign(joint)
    level = step([joint], 1.0)[0]
    for h in (0.1, 0.01):
        difference = abs(step([joint + inside * h], 1.0)[0] - level)
        np.testing.assert_allclose(difference, 3 * h**2 - 2 * h**3, rtol=1e-2)
        assert step([joint - inside * h], 1.0)[0] == level


@pytest.mark.parametrize("num_experts", [2, 4, 8])
def test_selectors_of_a_power_of_two_sum_to_one(num_experts):
    gate = built(num_experts, 1)
    gate.z_kernel.assign(0.1 * normal(*gate.z_kernel.shape))
    weights = numpy(gate(normal(5, 6)))
    assert np.all(weights > 0) and weights.shape == (5, num_experts)
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, rtol=1e-5)


def test_selectors_of_other_numbers_lose_what_no_expert_has():
    """All digits at 1/2: each of the 4 numbers has 1/4, and 3 of them are experts."""
    gate = built(3, 1, per_example=False)
    gate.z_bias.assign([0.0, 0.0])
    np.testing.assert_allclose(gate.constant_weights(), [0.25] * 3, rtol=1e-6)


@pytest.mark.parametrize("num_experts", [2, 3, 5, 8])
def test_saturated_digits_pick_the_expert_that_they_spell(num_experts):
    gate = built(num_experts, 1, gamma=2.0, per_example=False)
    digits = gate.z_bias.shape[0]
    for expert in range(num_experts):
        gate.z_bias.assign([1.0 if expert >> b & 1 else -1.0 for b in range(digits)])
        np.testing.assert_array_equal(gate.constant_weights(), np.eye(num_experts)[expert])


def test_at_most_k_experts_once_digits_are_binary():
    gate = built(8, 3)
    gate.z_kernel.assign(1e4 * normal(*gate.z_kernel.shape))
    gate.a_kernel.assign(normal(*gate.a_kernel.shape))
    weights = numpy(gate(normal(50, 6)))
    support = (weights > 0).sum(axis=-1)
    assert support.max() == 3 and support.min() >= 1
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, rtol=1e-5)


def test_selectors_are_mixed_by_a_softmax():
    gate = built(4, 2, per_example=False)
    gate.z_bias.assign([0.5, 0.5, -0.5, 0.5])  # experts 3 and 2
    gate.a_bias.assign([np.log(3.0), 0.0])
    np.testing.assert_allclose(gate.constant_weights(), [0.0, 0.0, 0.25, 0.75], rtol=1e-6)
    x = normal(2, 5, 6)
    np.testing.assert_allclose(numpy(gate(x)), np.tile([0.0, 0.0, 0.25, 0.75], (2, 5, 1)))


def test_a_static_gate_is_one_by_example_that_has_biases_only():
    static, dynamic = built(5, 2, per_example=False), built(5, 2)
    for name in ("z", "a"):
        bias = 0.3 * normal(*getattr(static, f"{name}_bias").shape)
        for gate in (static, dynamic):
            getattr(gate, f"{name}_bias").assign(bias)
        kernel = getattr(dynamic, f"{name}_kernel")
        kernel.assign(np.zeros(kernel.shape))
    x = normal(4, 6)
    np.testing.assert_allclose(numpy(static(x)), numpy(dynamic(x)), rtol=1e-6)
    for a, b in zip(static.losses, dynamic.losses, strict=True):
        np.testing.assert_allclose(float(a), float(b), rtol=1e-6)
    assert len(static.weights) == 2 and dynamic.constant_weights() is None


@pytest.mark.parametrize("per_example", [True, False])
def test_losses_by_hand(per_example):
    """Two selectors with all digits at 1/2: 4 numbers of 1/4 each."""
    x = normal(7, 6)
    for num_experts, reachable in ((4, 4), (3, 3)):
        gate = built(num_experts, 2, entropy=0.1, per_example=per_example)
        for weight in gate.weights:
            weight.assign(np.zeros(weight.shape))
        gate(x)
        entropy = 2 * reachable * 0.25 * np.log(4.0)
        expected = [0.1 * entropy] + ([] if num_experts == 4 else [2 / 0.75])
        np.testing.assert_allclose([float(loss) for loss in gate.losses], expected, rtol=1e-4)


def test_no_entropy_no_loss():
    gate = built(4, 2, entropy=0.0)
    gate(normal(3, 6))
    assert gate.losses == []


@pytest.mark.parametrize("per_example", [True, False])
def test_its_losses_alone_make_it_choose_an_expert_that_exists(per_example):
    gate = kmtl.layers.DSelectKGate(3, 1, entropy=1.0, per_example=per_example)
    inputs = keras.Input((2,))
    model = keras.Model(inputs, gate(inputs))
    model.compile(keras.optimizers.Adam(0.1), loss=lambda y, p: 0.0 * ops.sum(p, axis=-1))
    x = normal(16, 2)
    model.fit(x, np.zeros((16, 3)), batch_size=16, epochs=40, verbose=0)
    weights = numpy(gate(x))
    np.testing.assert_allclose(weights.max(axis=-1), 1.0, atol=1e-2)
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, atol=1e-2)


def test_a_selector_without_experts_has_finite_losses():
    gate = built(3, 1, per_example=False)
    gate.z_bias.assign([0.5, 0.5])  # number 3
    np.testing.assert_array_equal(gate.constant_weights(), [0.0, 0.0, 0.0])
    gate(normal(2, 6))
    assert np.isfinite([float(loss) for loss in gate.losses]).all()


def test_starts():
    gate = built(8, 4, features=200, gamma=0.5)
    for name, limit in (("z", 0.005), ("a", 0.05)):
        largest = np.abs(numpy(getattr(gate, f"{name}_kernel"))).max()
        assert 0.95 * limit < largest <= limit
    np.testing.assert_allclose(numpy(gate(normal(3, 200) / 100)), 1 / 8, rtol=0.05)


@pytest.mark.parametrize("num_selected", [1, 2])
@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 6)])
def test_folded_digits_saturate_too(num_selected, shape):
    gate = built(5, num_selected, gamma=0.5)
    for weight in gate.weights:
        weight.assign(0.3 * normal(*weight.shape, seed=len(weight.shape)))
    inputs = keras.Input(shape[1:])
    plain = keras.Model(inputs, gate.fold(inputs))
    x = normal(*shape)
    expected = numpy(gate(x))
    assert np.any(expected == 0.0) and np.any((expected > 0.01) & (expected < 0.99))
    np.testing.assert_allclose(numpy(plain(x)), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_experts", 1),
        ("num_selected", 0),
        ("num_selected", 5),
        ("gamma", 0.0),
        ("entropy", -1.0),
    ],
)
def test_bad_arguments(name, value):
    arguments = {"num_experts": 4, "num_selected": 2, name: value}
    with pytest.raises(ValueError, match=f"`{name}` must .*Received: {name}={value}"):
        kmtl.layers.DSelectKGate(**arguments)


def test_constant_weights_of_a_gate_that_is_not_built():
    gate = kmtl.layers.DSelectKGate(4, 2, per_example=False, name="gate")
    with pytest.raises(ValueError, match="must be built first. Received: 'gate', not built"):
        gate.constant_weights()
