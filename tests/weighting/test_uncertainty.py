import keras
import numpy as np
import pytest
from keras import layers, ops

import kmtl
from kmtl.weighting import UncertaintyWeighting

pytestmark = pytest.mark.both_backends

# XLA takes seconds to compile and has tests of its own; JAX without it is slower still.
JIT = keras.backend.backend() == "jax"


def bound(tasks=("a",), log_var=None, loss="mse", **options):
    rule = UncertaintyWeighting(**options)
    rule.bind({task: keras.losses.get(loss) for task in tasks})
    if log_var is not None:
        rule.log_var.assign(log_var)
    return rule


def total(rule, *losses):
    weighted = ops.convert_to_numpy(rule.weights(ops.array(losses, "float32"))) * losses
    return float(weighted.sum() + ops.convert_to_numpy(rule.penalty()))


def weight(rule, loss):
    return float(ops.convert_to_numpy(rule.weights(ops.array([loss], "float32")))[0])


GOLDEN = [  # kind, regularizer, loss, optimal log(sigma**2), value there
    ("regression", "log_sigma", 4.0, 1.386294, 1.193147),
    ("classification", "log_sigma", 4.0, 2.079442, 1.539721),
    ("laplace", "log_sigma", 4.0, 2.772589, 2.386294),  # b = 4: 4 / b + log(b)
    ("regression", "log1p", 1.0, 0.0, 1.193147),
    ("regression", "log1p", 3.0, 0.782152, 1.844952),  # sigma**2 = 2.186141
]


@pytest.mark.parametrize(("kind", "regularizer", "loss", "log_var", "value"), GOLDEN)
def test_golden_optima(kind, regularizer, loss, log_var, value):
    rule = bound(kinds=kind, regularizer=regularizer)

    def at(s):
        rule.log_var.assign([s])
        return total(rule, loss)

    np.testing.assert_allclose(at(log_var), value, rtol=1e-5)
    assert at(log_var - 0.1) > at(log_var) + 1e-3
    assert at(log_var + 0.1) > at(log_var) + 1e-3
    np.testing.assert_allclose(at(log_var + 0.01), at(log_var - 0.01), atol=1e-5)


def constant_model(values):
    """Heads that cannot learn: against labels 0 the squared error of task t is values[t]."""
    x = keras.Input((1,))
    outputs = {
        task: layers.Dense(
            1, kernel_initializer="zeros", bias_initializer=keras.initializers.Constant(v**0.5)
        )(x)
        for task, v in values.items()
    }
    model = kmtl.MultiTaskModel(x, outputs)
    for layer in model.layers:
        layer.trainable = False
    return model


def fit_constant(model, steps=1):
    y = {task: np.zeros((steps, 1), "float32") for task in model.task_names}
    return model.fit(np.zeros((steps, 1)), y, batch_size=1, shuffle=False, verbose=0).history


@pytest.mark.parametrize(
    ("regularizer", "losses", "optima"),
    [
        ("log_sigma", {"r": 4.0, "c": 4.0, "l": 4.0}, {"r": 4.0, "c": 8.0, "l": 16.0}),
        ("log1p", {"r": 1.0, "c": 3.0, "l": 3.0}, {"r": 1.0, "c": 2.186141, "l": 2.186141}),
    ],
)
def test_training_finds_the_optima(regularizer, losses, optima):
    kinds = {"r": "regression", "c": "classification", "l": "laplace"}
    model = constant_model(losses)
    rule = UncertaintyWeighting(kinds, regularizer=regularizer)
    model.compile(keras.optimizers.SGD(0.5), loss="mse", weighting=rule, jit_compile=JIT)
    fit_constant(model, steps=150)
    sigma_squared = np.exp(ops.convert_to_numpy(rule.log_var))
    expected = [optima[task] for task in ("c", "l", "r")]  # sorted, as `task_names`
    np.testing.assert_allclose(sigma_squared, expected, rtol=1e-3)


def test_variances_are_those_of_the_noise():
    kinds = {"a": "laplace", "b": "regression"}
    rule = bound(("a", "b"), log_var=[2.0, 3.0], kinds=kinds)
    variances = {task: float(v) for task, v in rule.variances.items()}
    # Laplace noise of scale b has the variance 2 * b**2.
    np.testing.assert_allclose(variances["a"], 2 * np.exp(2.0), rtol=1e-5)
    np.testing.assert_allclose(variances["b"], np.exp(3.0), rtol=1e-5)


@pytest.mark.parametrize("kind", ["regression", "classification", "laplace"])
def test_scaling_a_loss_shifts_its_optimum_and_leaves_its_pull_unchanged(kind):
    optimum = {  # of log(sigma**2) for a given loss
        "regression": lambda loss: np.log(loss),
        "classification": lambda loss: np.log(2 * loss),
        "laplace": lambda loss: 2 * np.log(loss),
    }[kind]
    small = bound(log_var=[optimum(0.3)], kinds=kind)
    large = bound(log_var=[optimum(0.3 * 7.0)], kinds=kind)
    factor = 2 if kind == "laplace" else 1  # s = 2 * log(b)
    np.testing.assert_allclose(optimum(0.3 * 7.0) - optimum(0.3), factor * np.log(7.0))
    # The gradient of 7 * loss under its weight is that of loss under its own.
    np.testing.assert_allclose(7.0 * weight(large, 2.1), weight(small, 0.3), rtol=1e-5)


def test_log1p_never_goes_below_zero_and_the_paper_form_does():
    for s in (-9.0, -2.0, 0.0, 3.0, 9.0):
        for loss in (0.0, 1e-4, 1.0, 50.0):
            value = total(bound(log_var=[s], regularizer="log1p"), loss)
            np.testing.assert_allclose(
                value, 0.5 * np.exp(-s) * loss + np.log1p(np.exp(s)), rtol=1e-5
            )
            assert value >= 0
    assert total(bound(log_var=[-4.0]), 0.001) < 0


@pytest.mark.parametrize(("log_var", "used"), [(25.0, 2.0), (-25.0, -1.0), (0.5, 0.5)])
def test_log_variances_are_clipped_in_the_formulas(log_var, used):
    rule = bound(log_var=[log_var], clip=(-1.0, 2.0), kinds="classification")
    np.testing.assert_allclose(weight(rule, 1.0), np.exp(-used), rtol=1e-6)
    np.testing.assert_allclose(total(rule, 1.0), np.exp(-used) + 0.5 * used, rtol=1e-5)


def test_gals_toy_recovers_the_noise_of_both_tasks():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(100, 1)).astype("float32")
    y = {
        "noisy": (2 * x + 8 + 10 * rng.normal(size=(100, 1))).astype("float32"),
        "clean": (3 * x + 3 + rng.normal(size=(100, 1))).astype("float32"),
    }
    inputs = keras.Input((1,))
    model = kmtl.MultiTaskModel(inputs, {task: layers.Dense(1)(inputs) for task in y})
    # The first gradients are large; a short memory of their squares gets over them.
    optimizer = keras.optimizers.Adam(0.1, beta_2=0.9)
    model.compile(optimizer, loss="mse", weighting="uncertainty", jit_compile=JIT)
    repeated = {task: np.tile(labels, (300, 1)) for task, labels in y.items()}
    logs = model.fit(
        np.tile(x, (300, 1)), repeated, batch_size=100, shuffle=False, verbose=0
    ).history
    assert {"noisy_variance", "clean_variance"} <= set(logs)
    design = np.hstack([x, np.ones_like(x)])
    for task, true_std in {"noisy": 10.0, "clean": 1.0}.items():
        std = float(model.weighting.variances[task]) ** 0.5
        np.testing.assert_allclose(std, true_std, rtol=0.15)
        residual = y[task] - design @ np.linalg.lstsq(design, y[task], rcond=None)[0]
        np.testing.assert_allclose(std, residual.std(), rtol=0.01)


def distance(y_true, y_pred):
    return ops.abs(y_true - y_pred)


@pytest.mark.parametrize(
    ("loss", "kind"),
    [
        ("mse", "regression"),
        ("mae", "laplace"),
        ("mean_absolute_percentage_error", "laplace"),
        ("huber", "regression"),
        (keras.losses.CosineSimilarity(), "regression"),
        (distance, "regression"),
        ("crossentropy", "classification"),
        ("binary_crossentropy", "classification"),
        (keras.losses.SparseCategoricalCrossentropy(from_logits=True), "classification"),
        (keras.losses.BinaryFocalCrossentropy(), "classification"),
        (keras.losses.CategoricalHinge(), "classification"),
        ("kl_divergence", "classification"),
    ],
)
def test_kinds_are_read_off_the_losses(loss, kind):
    x = keras.Input((2,))
    model = kmtl.MultiTaskModel(x, {"a": layers.Dense(1)(x), "b": layers.Dense(1)(x)})
    model.compile(loss={"a": loss, "b": "mse"}, weighting="uncertainty")
    assert model.weighting.task_kinds == {"a": kind, "b": "regression"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": "poisson"}, r"`kinds` must be among .*Received: kinds=poisson"),
        ({"kinds": {"a": "poisson"}}, r"`kinds` must be among"),
        ({"regularizer": "l2"}, r"`regularizer` must be one of .*Received: regularizer=l2"),
        ({"clip": (1.0, -1.0)}, r"`clip` must be \(low, high\).*Received: clip=\(1.0, -1.0\)"),
    ],
)
def test_arguments_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        UncertaintyWeighting(**options)


@pytest.mark.parametrize("tasks", [("a", "b"), ("c",)])
def test_kinds_for_other_tasks(tasks):
    with pytest.raises(ValueError, match=r"`kinds` must name the tasks.*Received: kinds="):
        bound(tasks, kinds={"a": "regression"})


def test_a_rule_keeps_to_its_tasks():
    rule = bound(("a", "b"))
    rule.bind({"b": keras.losses.get("mse"), "a": keras.losses.get("mse")})
    with pytest.raises(ValueError, match=r"keeps to its tasks \['a', 'b'\].*Received: .*'c'"):
        rule.bind({"a": keras.losses.get("mse"), "c": keras.losses.get("mse")})


def decayed(optimizer):
    model = constant_model({"a": 4.0, "b": 1.0})
    rule = UncertaintyWeighting(initial_log_var=3.0)
    model.compile(optimizer, loss="mse", weighting=rule, jit_compile=JIT)
    return model


def test_weight_decay_leaves_the_variances_alone(tmp_path):
    adam = decayed(keras.optimizers.Adam(0.1))
    adamw = decayed(keras.optimizers.AdamW(0.1, weight_decay=0.5))
    for model in (adam, adamw):
        fit_constant(model, steps=3)
    expected = ops.convert_to_numpy(adam.weighting.log_var)
    np.testing.assert_array_equal(ops.convert_to_numpy(adamw.weighting.log_var), expected)
    adamw.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(ops.convert_to_numpy(loaded.weighting.log_var), expected)
    for model in (adam, loaded):
        fit_constant(model, steps=3)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(loaded.weighting.log_var), ops.convert_to_numpy(adam.weighting.log_var)
    )


def test_your_own_exclusions_from_weight_decay_stay():
    optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    x = keras.Input((1,))
    head = layers.Dense(1, bias_initializer="ones")
    model = kmtl.MultiTaskModel(x, {"a": head(x), "b": layers.Dense(1)(x)})
    model.compile(optimizer, loss="mse", weighting="uncertainty", jit_compile=JIT)
    # A prediction that is right leaves the gradient at zero, so only decay could move the bias.
    head.kernel.assign([[0.0]])
    model.fit(np.ones((1, 1)), {"a": np.ones((1, 1)), "b": np.ones((1, 1))}, verbose=0)
    np.testing.assert_array_equal(ops.convert_to_numpy(head.bias), [1.0])


def test_weights_decay_where_they_should():
    x = keras.Input((1,))
    head = layers.Dense(1, bias_initializer="ones", kernel_initializer="zeros")
    model = kmtl.MultiTaskModel(x, {"a": head(x), "b": layers.Dense(1)(x)})
    optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.5)
    model.compile(optimizer, loss="mse", weighting="uncertainty", jit_compile=JIT)
    model.fit(np.ones((1, 1)), {"a": np.ones((1, 1)), "b": np.ones((1, 1))}, verbose=0)
    np.testing.assert_allclose(ops.convert_to_numpy(head.bias), [0.95], rtol=1e-6)
