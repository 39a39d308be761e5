"""Where tasks part: the trunk, the heads, and what lies between them."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmtl
from kmtl.models.step.parting import Parting

pytestmark = pytest.mark.both_backends


def parting_layers(model, names=None):
    return [x._keras_history.operation.name for x in Parting(model, names).tensors]


def hard_sharing():
    x = keras.Input((4,))
    h = layers.Dense(5, activation="tanh", name="trunk_1")(x)
    h = layers.Dense(3, activation="tanh", name="trunk_2")(h)
    heads = {
        "a": layers.Dense(1, name="a")(h),
        "b": layers.Dense(2, name="b_2")(layers.Dense(4, name="b_1")(h)),
    }
    return kmtl.MultiTaskModel(x, heads)


def branching():
    """Tasks "a" and "b" leave the trunk together, "c" before them."""
    x = keras.Input((4,))
    low = layers.Dense(5, name="low")(x)
    high = layers.Dense(3, name="high")(low)
    return kmtl.MultiTaskModel(
        x, {"a": layers.Dense(1)(high), "b": layers.Dense(1)(high), "c": layers.Dense(1)(low)}
    )


def stacked_heads():
    x = keras.Input((4,))
    h = layers.Dense(5, name="trunk")(x)
    hidden = kmtl.layers.TaskStackedDense(3, 3, activation="tanh", name="first")(h)
    outputs = kmtl.layers.TaskStackedDense(1, 3, name="second")(hidden)
    return kmtl.MultiTaskModel(x, dict(zip("abc", outputs, strict=True)))


def stages():
    return [layers.Dense(4, activation="tanh", name=f"stage_{i}") for i in range(3)]


def heads():
    return {"a": layers.Dense(1), "b": layers.Dense(2)}


def cross_stitch():
    return kmtl.models.CrossStitchNetwork(stages(), heads(), inputs=(4,))


def sluice():
    return kmtl.models.SluiceNetwork(stages(), heads(), inputs=(4,))


def factorized():
    return kmtl.models.FactorizedNetwork(stages(), heads(), inputs=(4,))


def several_inputs():
    """Each task has an input of its own beside the common one; "b" also reads it at its head."""
    common, own_a, own_b = (keras.Input((4,), name=n) for n in ("common", "own_a", "own_b"))
    h = layers.Dense(3, name="trunk")(common)
    a = layers.Dense(1)(layers.concatenate([h, layers.Dense(2)(own_a)]))
    b = layers.Dense(1)(layers.concatenate([h, own_b, common]))
    return kmtl.MultiTaskModel([common, own_a, own_b], {"a": a, "b": b})


class Trunk(keras.Model):
    """A subclassed model with two outputs, of which one head reads one and the other both."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.low, self.high = layers.Dense(4, activation="tanh"), layers.Dense(3)

    def call(self, x):
        low = self.low(x)
        return low, self.high(low)


class Head(keras.layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(1)

    def call(self, xs):
        return self.dense(ops.concatenate(xs, axis=-1))


def subclassed():
    x = keras.Input((4,))
    low, high = Trunk(name="trunk")(x)
    return kmtl.MultiTaskModel(x, {"a": Head()([low, high]), "b": Head()([high])})


NETWORKS = {
    f.__name__: f
    for f in (
        hard_sharing,
        subclassed,
        branching,
        stacked_heads,
        cross_stitch,
        sluice,
        factorized,
        several_inputs,
    )
}


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        ("hard_sharing", ["trunk_2"]),
        ("branching", ["low", "high"]),
        # Both outputs of one operation: "a" reads both, "b" the second.
        ("subclassed", ["trunk", "trunk"]),
        ("stacked_heads", ["trunk"]),
        # The features before the last stitch, which all tasks read.
        ("cross_stitch", ["a_stage_2", "b_stage_2"]),
        ("several_inputs", ["trunk"]),
    ],
)
def test_parting_tensors(network, expected):
    assert sorted(parting_layers(NETWORKS[network]())) == sorted(expected)


@pytest.mark.parametrize("network", NETWORKS)
def test_trunk_and_heads_give_the_model_s_outputs(network):
    model = NETWORKS[network]()
    parting = Parting(model)
    rng = np.random.default_rng(0)
    inputs = [ops.array(rng.normal(size=(6, *x.shape[1:])), "float32") for x in model.inputs]
    inputs = inputs[0] if len(inputs) == 1 else inputs
    features, _ = parting.run_trunk(inputs)
    outputs = parting.run_heads(inputs, dict.fromkeys(model.task_names, features))
    expected = model(inputs)
    for task in model.task_names:
        np.testing.assert_allclose(
            ops.convert_to_numpy(outputs[task]), ops.convert_to_numpy(expected[task]), rtol=1e-5
        )


@pytest.mark.parametrize("network", NETWORKS)
def test_every_variable_belongs_to_the_trunk_or_to_the_heads(network):
    model = NETWORKS[network]()
    parting = Parting(model)
    ids = [id(v) for v in parting.trunk_variables + parting.head_variables]
    assert sorted(ids) == sorted(id(v) for v in model.trainable_variables)
    assert {id(v) for v in parting.last_variables} <= {id(v) for v in parting.trunk_variables}


def test_last_shared_layers():
    names = {v.path for v in Parting(hard_sharing()).last_variables}
    assert names == {"trunk_2/kernel", "trunk_2/bias"}


def test_parting_by_name():
    assert parting_layers(hard_sharing(), ["trunk_1"]) == ["trunk_1"]
    assert parting_layers(branching(), ["low"]) == ["low"]


def test_unknown_layer():
    with pytest.raises(ValueError, match=r"`parting` must hold at least one of.*\['nowhere'\]"):
        Parting(hard_sharing(), ["nowhere"])


def test_named_tensors_must_separate():
    with pytest.raises(ValueError, match=r"must separate the trunk.*\['low'\] go past it"):
        Parting(branching(), ["high"])


def test_nothing_shared():
    x = keras.Input((4,))
    model = kmtl.MultiTaskModel(x, {"a": layers.Dense(1)(x), "b": layers.Dense(1)(x)})
    with pytest.raises(ValueError, match=r"needs layers that several tasks share.*\['a', 'b'\]"):
        Parting(model)


def test_nothing_shared_but_a_layer_with_an_output_for_each_task():
    keras.utils.set_random_seed(0)
    x = keras.Input((4,))
    mixed = kmtl.layers.MMoE(num_experts=2, units=3, num_tasks=2, name="mixture")(x)
    heads = {task: layers.Dense(1, name=f"{task}_head") for task in "ab"}
    outputs = {task: head(h) for (task, head), h in zip(heads.items(), mixed, strict=True)}
    model = kmtl.MultiTaskModel(x, outputs)
    with pytest.raises(ValueError, match=r"scope='parameters', parting=\['mixture'\]"):
        Parting(model)
    heads["b"].set_weights(heads["a"].get_weights())
    rule = kmtl.weighting.PCGrad(scope="parameters", parting=["mixture"])
    model.compile("sgd", "mse", weighting=rule)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 4)).astype("float32"), np.ones((8, 1), "float32")
    logs = model.train_on_batch(x, {"a": 9 * y, "b": -9 * y}, return_dict=True)
    assert logs["a_weight"] > 1.0  # opposite labels conflict in the experts
