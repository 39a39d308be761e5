import json

import keras
import numpy as np
import pytest
from keras import ops

import kmtl
from kmtl.models.step.task_penalties import TaskPenalties
from kmtl.regularizers.corresponding import corresponding_weights

pytestmark = pytest.mark.both_backends

RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 4)).astype("float32")
Y = {"a": RNG.normal(size=(8, 1)), "b": RNG.normal(size=(8, 1))}
AcrossTasks, SoftSharing = kmtl.regularizers.AcrossTasks, kmtl.regularizers.SoftSharing


def make_model(units=(5, 3), **widths):
    """Towers of their own, whose first layer is shared."""
    keras.utils.set_random_seed(0)
    x = keras.Input((4,))
    trunk = keras.layers.Dense(6, name="trunk")(x)
    outputs = {}
    for task in ("b", "a"):
        h = trunk
        for k, n in enumerate(widths.get(task, units)):
            h = keras.layers.Dense(n, activation="tanh", name=f"{task}_hidden_{k}")(h)
        outputs[task] = keras.layers.Dense(1, name=f"{task}_head")(h)
    return kmtl.MultiTaskModel(x, outputs)


def kernels(model, name):
    return [model.get_layer(f"{task}_{name}").get_weights()[0] for task in ("a", "b")]


def penalty_of(model, penalty):
    return float(sum(TaskPenalties(model, [penalty])()))


def half_squared_distance(model, *names):
    pairs = [kernels(model, name) for name in names]
    return sum(np.sum((a - b) ** 2) / 2 for a, b in pairs)


@pytest.mark.parametrize(
    "layers",
    [
        "{task}_hidden_*",
        {"a": ["a_hidden_0", "a_hidden_1"], "b": ["b_hidden_0", "b_hidden_1"]},
    ],
)
def test_ways_to_name_layers(layers):
    model = make_model()
    expected = half_squared_distance(model, "hidden_0", "hidden_1")
    found = penalty_of(model, AcrossTasks(SoftSharing(1.0), layers))
    assert found == pytest.approx(expected, rel=1e-5)


def test_one_layer_of_each_task_and_another_weight():
    model = make_model()
    found = penalty_of(model, AcrossTasks(SoftSharing(1.0), {"a": "a_head", "b": "b_head"}))
    assert found == pytest.approx(half_squared_distance(model, "head"), rel=1e-5)
    model.get_layer("a_head").bias.assign([2.0])
    both = AcrossTasks(SoftSharing(1.0), "{task}_head", weight="bias")
    assert penalty_of(model, both) == pytest.approx(2.0)


def test_layers_that_stack_tasks_and_nested_models():
    x = keras.Input((4,))
    stack = keras.Sequential([kmtl.layers.TaskStackedDense(3, num_tasks=2, name="stack")])
    a, b = stack(x)
    model = kmtl.MultiTaskModel(x, {"a": a, "b": b})
    kernel = stack.get_layer("stack").get_weights()[0]
    found = penalty_of(model, AcrossTasks(SoftSharing(1.0), "stack"))
    assert found == pytest.approx(np.sum((kernel[..., 0] - kernel[..., 1]) ** 2) / 2, rel=1e-5)


def test_both_directions_of_a_recurrent_layer():
    x = keras.Input((4, 2))
    outputs = {
        t: keras.layers.Bidirectional(keras.layers.LSTM(3), name=f"{t}_lstm")(x) for t in "ab"
    }
    model = kmtl.MultiTaskModel(x, outputs)
    groups = corresponding_weights(model, ["a", "b"], "{task}_lstm", "kernel")
    assert [len(group) for group in groups] == [2, 2]
    assert "forward" in groups[0][1].path and "backward" in groups[1][1].path


@pytest.mark.parametrize("weighting", [None, "uncertainty", "pcgrad"])
def test_training_draws_towers_together(weighting):
    def train(strength):
        model = make_model()
        tie = AcrossTasks(SoftSharing(strength), "{task}_hidden_*")
        model.compile(keras.optimizers.SGD(0.05), "mse", weighting=weighting, penalties=[tie])
        logs = model.fit(X, Y, epochs=30, verbose=0).history
        return half_squared_distance(model, "hidden_0", "hidden_1"), logs["loss"][0]

    distance, loss = train(1.0)
    free, free_loss = train(0.0)
    assert distance < 0.05 * free
    assert loss > free_loss + 1  # the penalty is shown


def test_one_step_is_the_step_of_a_regularizer():
    """Tying two stacked layers through `compile` or in the layer makes no difference."""

    def train(tied_by):
        keras.utils.set_random_seed(0)
        x = keras.Input((4,))
        tie = SoftSharing(0.3)
        own = {"kernel_regularizer": tie} if tied_by == "layer" else {}
        a, b = kmtl.layers.TaskStackedDense(1, num_tasks=2, name="stack", **own)(x)
        model = kmtl.MultiTaskModel(x, {"a": a, "b": b})
        penalties = [AcrossTasks(tie, "stack")] if tied_by == "compile" else None
        model.compile(keras.optimizers.SGD(0.1), "mse", penalties=penalties)
        model.fit(X, Y, verbose=0)
        return model.get_weights()

    for one, other in zip(train("layer"), train("compile"), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_saving_keeps_it(tmp_path):
    model = make_model()
    tie = AcrossTasks(SoftSharing(0.7, "pairwise", [[0, 2], [2, 0]]), "{task}_hidden_*")
    model.compile("adam", "mse", penalties=[tie])
    expected = model.evaluate(X, Y, verbose=0, return_dict=True)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.evaluate(X, Y, verbose=0, return_dict=True) == expected
    assert expected["loss"] > expected["a_loss"] + expected["b_loss"] + 1
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(tie)))
    assert keras.saving.deserialize_keras_object(config).get_config() == tie.get_config()


def test_frozen_towers_pull_the_others():
    model = make_model()
    for name in ("a_hidden_0", "a_hidden_1"):
        model.get_layer(name).trainable = False
    anchor = kernels(model, "hidden_0")[0]
    tie = AcrossTasks(SoftSharing(10.0), "{task}_hidden_*")
    model.compile(keras.optimizers.SGD(0.02), "mse", penalties=[tie])
    model.fit(X, Y, epochs=100, verbose=0)
    frozen, pulled = kernels(model, "hidden_0")
    np.testing.assert_array_equal(frozen, anchor)
    np.testing.assert_allclose(pulled, anchor, atol=0.05)


@pytest.mark.parametrize(
    ("layers", "weight", "message"),
    [
        (
            "{task}_nothing",
            "kernel",
            r"as many as for the others. Received: {'a': \[\], 'b': \[\]}",
        ),
        ({"a": ["a_hidden_0", "a_head"], "b": "b_head"}, "kernel", "as many as for the others"),
        ({"a": "a_hidden_0", "b": "b_hidden_1"}, "kernel", "must have one shape. Received: .*3"),
        ({"a": "a_hidden_9", "b": "b_head"}, "kernel", "Received: 'a_hidden_9'; there are"),
        (
            {"a": "a_head", "typo": "b_head"},
            "kernel",
            r"tasks of the model, \['a', 'b'\]. Received: \['typo'\]",
        ),
        ({"a": "trunk", "b": "trunk"}, "kernel", r"tasks' own; .* \['trunk/kernel'\] for several"),
        ("trunk", "alpha", r"'alpha' for layer 'trunk', which has \['bias', 'kernel'\]"),
    ],
)
def test_layers_that_do_not_fit(layers, weight, message):
    with pytest.raises(ValueError, match=message):
        penalty_of(make_model(), AcrossTasks(SoftSharing(), layers, weight))


def test_towers_of_other_widths():
    with pytest.raises(ValueError, match=r"must have one shape. Received: .*\(6, 7\)"):
        penalty_of(make_model(a=(7, 3)), AcrossTasks(SoftSharing(), "{task}_hidden_*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, "stack"), "`regularizer` must be a regularizer. Received: regularizer=None"),
        ((SoftSharing(), ["a", "b"]), "`layers` must be a name, or a dict of at least two"),
        ((SoftSharing(), {"a": "a_head"}), "`layers` must be a name, or a dict of at least two"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        AcrossTasks(*arguments)


def test_penalties_of_another_kind():
    with pytest.raises(ValueError, match="must be a list of `kmtl.regularizers.AcrossTasks`"):
        make_model().compile("sgd", "mse", penalties=[SoftSharing()])


def test_the_penalty_is_a_tensor_under_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = make_model()
        tie = AcrossTasks(SoftSharing(1.0), "{task}_hidden_*")
        model.compile("sgd", "mse", penalties=[tie])
        assert np.isfinite(model.fit(X, Y, verbose=0).history["loss"][0])
        assert ops.dtype(TaskPenalties(model, [tie])()[0]) == "float32"
    finally:
        keras.config.set_dtype_policy("float32")


# Without XLA, JAX would take the steps operation by operation.
COMPILED = [False, True] if keras.backend.backend() == "tensorflow" else [True]


def related(tasks=3, samples=64):
    """Two equal tasks and one opposite to them, of linear functions."""
    rng = np.random.default_rng(1)
    slope = rng.normal(size=(6, 1))
    x = rng.normal(size=(samples, 6)).astype("float32")
    signs = {"a": 1, "b": 1, "c": -1}
    return x, {t: sign * x @ slope for t, sign in signs.items()}


def with_prior(weighting=None, strength=0.2, **kwargs):
    keras.utils.set_random_seed(0)
    x = keras.Input((6,))
    heads = kmtl.layers.TaskStackedDense(1, num_tasks=3, name="heads")(
        keras.layers.Dense(6, name="trunk")(x)
    )
    model = kmtl.MultiTaskModel(x, dict(zip("abc", heads, strict=True)))
    prior = kmtl.regularizers.TensorNormalPrior(strength, update_every=5)
    relations = AcrossTasks(prior, "heads")
    optimizer = keras.optimizers.Adam(0.02)
    model.compile(optimizer, "mse", weighting=weighting, penalties=[relations], **kwargs)
    return model, relations


@pytest.mark.parametrize("weighting", [pytest.param(None, marks=pytest.mark.nightly), "pcgrad"])
@pytest.mark.parametrize("jit_compile", COMPILED)
def test_correlations_are_learned(weighting, jit_compile):
    model, relations = with_prior(weighting, jit_compile=jit_compile)
    model.fit(*related(), epochs=150, verbose=0)
    correlation = relations.task_correlation()
    assert correlation[0, 1] > 0.9 and correlation[0, 2] < -0.9  # 0.5 and -0.1 without the prior
    assert relations.learned()["step"] == 300
    np.testing.assert_allclose(np.diag(correlation), 1, rtol=1e-5)


def test_what_is_learned_is_saved_and_goes_on(tmp_path):
    data = related()
    whole, relations = with_prior()
    whole.fit(*data, epochs=4, shuffle=False, verbose=0)
    model, _ = with_prior()
    model.fit(*data, epochs=2, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    again.fit(*data, epochs=2, shuffle=False, verbose=0)
    assert relations.learned()["step"] == 8
    for one, other in zip(again.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_picture_and_errors_of_correlations():
    pytest.importorskip("matplotlib")
    _, relations = with_prior()
    figure = relations.plot_task_correlation()
    assert figure.axes[0].get_title() == "Learned correlation of tasks"
    with pytest.raises(ValueError, match="Received: SoftSharing, which learns"):
        tie = AcrossTasks(SoftSharing(), "{task}_hidden_*")
        make_model().compile("sgd", "mse", penalties=[tie])
        tie.task_correlation()
    with pytest.raises(ValueError, match="`k` must be from 0 to 0. Received: k=5"):
        relations.task_correlation(5)
    with pytest.raises(ValueError, match="must be compiled with the penalty first"):
        AcrossTasks(SoftSharing(), "heads").learned()


def test_a_penalty_belongs_to_one_model():
    model, relations = with_prior()
    other, _ = with_prior()
    with pytest.raises(ValueError, match="A penalty keeps the state of one model"):
        other.compile("sgd", "mse", penalties=[relations])
    model.compile("sgd", "mse", penalties=[relations])
    assert len(model.penalty_states) == 1
    model.compile("sgd", "mse")
    assert not model.penalty_states
    assert not any("penalty" in v.path for v in model.variables)
