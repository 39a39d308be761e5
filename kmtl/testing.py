"""One call that proves a class: `check_layer`, `check_regularizer`, `check_weighting` and kin.

For kmtl's own conformance table, and for classes that you write in its style.
"""

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
from keras import ops, tree

SEED = 20170


def check_layer(
    cls: type,
    kwargs: Mapping,
    input_shapes: Sequence | tuple,
    output_shapes: Sequence | tuple,
    *,
    make_inputs: Callable | None = None,
    mixed_precision: bool = True,
    folds: bool = True,
) -> None:
    """Builds, runs, trains, saves, loads and folds a layer, and checks each result.

    Checks, in order: every constructor argument is an attribute and in the config; the config
    goes through JSON and back; symbolic, declared and eager output shapes agree, at two batch
    sizes; one compiled `fit` step gives finite weights, also under XLA; `.keras` saving and
    loading keeps the outputs; mixed precision computes in half precision; `fold` gives the
    same outputs from built-in Keras layers.

    Args:
        cls: The layer's class.
        kwargs: Constructor arguments.
        input_shapes: Shape without the batch axis, or a list of them for a list of inputs.
        output_shapes: The same for the outputs.
        make_inputs: `(shape, rng) -> array`, when normal random numbers will not do.
        mixed_precision: False for a layer that must stay in float32.
        folds: False for a layer that is a built-in layer's equal already, without `fold`.
    """
    keras.utils.set_random_seed(SEED)
    rng = np.random.default_rng(SEED)
    make_inputs = make_inputs or (lambda shape, rng: rng.normal(size=shape).astype("float32"))

    def batch(size):
        return _map_shapes(lambda shape: make_inputs((size, *shape), rng), input_shapes)

    layer = cls(**kwargs)
    _check_config(layer, kwargs)
    model = _wrap(layer, input_shapes)
    expected = [tuple(shape) for shape in _flat_shapes(output_shapes)]
    declared = layer.compute_output_shape(_map_shapes(lambda shape: (None, *shape), input_shapes))
    assert [tuple(s[1:]) for s in _flat_shapes(declared)] == expected, "compute_output_shape"
    assert [tuple(x.shape[1:]) for x in model.outputs] == expected, "symbolic output shape"
    for size in (2, 3):
        eager = tree.flatten(layer(batch(size)))
        assert [tuple(x.shape) for x in eager] == [(size, *s) for s in expected], "eager shape"

    _check_training(model, batch(4), expected)
    x = batch(3)
    reference = _predict(model, x)
    _check_saving(model, x, reference)
    if mixed_precision:
        half = cls(**kwargs, dtype="mixed_bfloat16")
        outputs = tree.flatten(half(batch(2)))
        assert all(keras.backend.standardize_dtype(y.dtype) == "bfloat16" for y in outputs)
        assert all(w.dtype == "float32" for w in half.trainable_weights)
    if folds:
        _check_fold(layer, input_shapes, x, reference)


def check_regularizer(cls: type, kwargs: Mapping, shape: Sequence[int]) -> None:
    """A regularizer's config goes round, and its penalty is one finite number >= 0.

    Args:
        cls: The regularizer's class.
        kwargs: Constructor arguments.
        shape: Shape of a weight that it fits.
    """
    regularizer = cls(**kwargs)
    _check_config(regularizer, kwargs)
    weight = np.random.default_rng(SEED).normal(size=shape).astype("float32")
    value = _penalty(regularizer, weight)
    again = cls.from_config(json.loads(json.dumps(regularizer.get_config())))
    assert tuple(value.shape) == () and float(value) >= 0.0 and np.isfinite(float(value))
    assert float(_penalty(again, weight)) == float(value)


def _penalty(regularizer, weight):
    """The penalty, of one that learns after an update."""
    x = ops.convert_to_tensor(weight)
    if not hasattr(regularizer, "create_state"):
        return regularizer(x)
    state = regularizer.create_state(x.shape, keras.layers.Layer().add_weight, "state")
    regularizer.update(x, state)
    return regularizer.penalty(x, state)


def check_weighting(cls: type, kwargs: Mapping, tasks: Sequence[str]) -> None:
    """A weighting's config and state go round, and its weights fit hard losses.

    Args:
        cls: A `kmtl.weighting.TaskWeighting`.
        kwargs: Constructor arguments.
        tasks: Task names.
    """
    rule = cls(**kwargs)
    _check_config(rule, kwargs)
    losses = {task: keras.losses.MeanSquaredError() for task in tasks}
    rule.bind(losses)
    again = cls.from_config(json.loads(json.dumps(rule.get_config())))
    again.bind(losses)
    rng = np.random.default_rng(SEED)
    for variable, copy in zip(rule.state.variables, again.state.variables, strict=True):
        variable.assign(variable + 0.1 * rng.normal(size=variable.shape))
        copy.assign(variable)
    for scale in (0.0, 1e-8, 1.0, 1e8):
        values = ops.convert_to_tensor(np.arange(1, len(tasks) + 1, dtype="float32") * scale)
        weights = ops.convert_to_numpy(rule.weights(values))
        assert weights.shape == (len(tasks),) and np.isfinite(weights).all()
        np.testing.assert_array_equal(ops.convert_to_numpy(again.weights(values)), weights)
    assert np.isfinite(float(rule.penalty())) and float(rule.penalty()) == float(again.penalty())
    described = rule.describe(ops.ones((len(tasks),)))
    assert all(np.isfinite(float(value)) for value in described.values())


def check_gradient_weighting(
    cls: type, kwargs: Mapping, properties: Sequence[str] = (), rtol: float = 1e-3
) -> None:
    """A rule by gradients gives finite updates of hard Jacobians, with the properties it claims.

    Properties, for the update `d` of a Jacobian `J` with a task in each row:

    ```
    "non_conflicting"      J @ d >= 0
    "permutation"          the order of the tasks does not matter
    "homogeneous"          d(c * J) = c * d(J)
    "linear_in_scales"     d(diag(c) @ J) is linear in c
    "scale_invariant"      d(diag(c) @ J) has the direction of d(J)
    "stationary"           d = 0 only if a convex combination of the tasks is 0, and
                           d = 0 where one is, as for opposite gradients of one length
    ```

    Args:
        cls: A `kmtl.weighting.GradientWeighting`.
        kwargs: Constructor arguments.
        properties: Names of the properties that the rule claims.
        rtol: Tolerance relative to the size of the update.
    """
    rng = np.random.default_rng(SEED)
    _check_config(cls(**kwargs), kwargs)

    rules = {}  # one for each shape, as JAX compiles a rule for each

    def combine(jacobian):
        rule = rules.setdefault(jacobian.shape, cls(**kwargs))
        losses = np.arange(1, len(jacobian) + 1, dtype="float32")
        return ops.convert_to_numpy(rule.combine(jacobian.astype("float32"), losses))

    fewest = getattr(cls(**kwargs), "min_tasks", 1)
    for name, jacobian in _hard_jacobians(rng).items():
        if len(jacobian) < fewest:
            continue
        update = combine(jacobian)
        assert update.shape == jacobian.shape[1:], name
        assert np.isfinite(update).all(), f"{name}: {update}"

    known = {"non_conflicting", "permutation", "homogeneous", "linear_in_scales"}
    known |= {"scale_invariant", "stationary"}
    assert set(properties) <= known, f"unknown: {set(properties) - known}"
    for shape in ((2, 5), (4, 6), (3, 4)):
        if shape[0] < fewest:
            continue
        jacobian = rng.normal(size=shape)
        update = combine(jacobian)
        size = np.linalg.norm(update)
        scales = rng.uniform(0.5, 2.0, size=(2, shape[0], 1))
        if "non_conflicting" in properties:
            lengths = np.linalg.norm(jacobian, axis=1)
            assert (jacobian @ update >= -rtol * lengths * size).all(), "non_conflicting"
        if "permutation" in properties:
            again = combine(jacobian[::-1])
            np.testing.assert_allclose(again, update, atol=rtol * size, err_msg="permutation")
        if "homogeneous" in properties:
            for c in (1e-3, 1e3):
                np.testing.assert_allclose(
                    combine(c * jacobian), c * update, atol=rtol * c * size, err_msg="homogeneous"
                )
        if "linear_in_scales" in properties:
            parts = [combine(c * jacobian) for c in scales]
            both = combine((scales[0] + scales[1]) * jacobian)
            np.testing.assert_allclose(
                sum(parts), both, atol=10 * rtol * size, err_msg="linear_in_scales"
            )
        if "scale_invariant" in properties:
            again = combine(scales[0] * jacobian)
            again = again * size / np.linalg.norm(again)
            np.testing.assert_allclose(again, update, atol=rtol * size, err_msg="scale_invariant")
        if "stationary" in properties:
            assert size > 0.0, "stationary"
    if "stationary" in properties:
        opposite = combine(_hard_jacobians(rng)["an opposite pair"])
        np.testing.assert_allclose(opposite, 0.0, atol=10 * rtol, err_msg="stationary")


def assert_plain(model: keras.Model) -> None:
    """Every layer of `model` is one of Keras's own."""
    for layer in model._flatten_layers(include_self=False):
        module = type(layer).__module__
        assert module.split(".")[0] == "keras", f"{layer.name} is a {module}.{type(layer)}"


def _hard_jacobians(rng) -> dict:
    ordinary = rng.normal(size=(4, 6))
    return {
        "one task": ordinary[:1],
        "64 tasks": rng.normal(size=(64, 10)),
        "all zero": np.zeros((3, 4)),
        "a zero row": ordinary * np.array([1, 0, 1, 1])[:, None],
        "rank one": np.outer([1.0, 2.0, -3.0], [1.0, 1.0, 0.0, 2.0]),
        "equal rows": np.ones((3, 4)),
        "an opposite pair": np.outer([1.0, -1.0], [1.0, 2.0, 0.0, -1.0, 3.0]),
        "tiny": ordinary * 1e-8,
        "huge": ordinary * 1e8,
        "tiny and huge": ordinary * np.array([1e-8, 1.0, 1e4, 1e8])[:, None],
    }


def _check_config(layer, kwargs):
    for key, value in kwargs.items():
        stored = getattr(layer, key)
        if isinstance(value, (int, float, str, bool, type(None))) and isinstance(
            stored, (int, float, str, bool, type(None))
        ):
            assert stored == value, f"`{key}` is not kept as given: {value!r} became {stored!r}"
    config = layer.get_config()
    assert set(kwargs) <= set(config), f"not in the config: {set(kwargs) - set(config)}"
    again = type(layer).from_config(json.loads(json.dumps(config)))
    assert json.dumps(again.get_config()) == json.dumps(config), "config round trip"


def _check_training(model, x, output_shapes):
    targets = [np.zeros((4, *shape), "float32") for shape in output_shapes]
    for jit_compile in (False, True):
        model.compile("sgd", loss=["mse"] * len(targets), jit_compile=jit_compile)
        model.fit(x, targets, batch_size=4, epochs=1, verbose=0)
    assert all(np.isfinite(w).all() for w in model.get_weights()), "weights after fit"


def _check_saving(model, x, reference):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.keras")
        model.save(path)
        loaded = keras.saving.load_model(path)
    for a, b in zip(_predict(loaded, x), reference, strict=True):
        np.testing.assert_array_equal(a, b, err_msg="outputs after .keras save and load")


def _check_fold(layer, input_shapes, x, reference):
    inputs = _map_shapes(lambda shape: keras.Input(shape), input_shapes)
    plain = keras.Model(inputs, tree.flatten(layer.fold(inputs)))
    assert_plain(plain)
    for a, b in zip(_predict(plain, x), reference, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5, err_msg="fold")


def _wrap(layer, input_shapes):
    inputs = _map_shapes(lambda shape: keras.Input(shape), input_shapes)
    return keras.Model(inputs, tree.flatten(layer(inputs)))


def _predict(model, x):
    return [ops.convert_to_numpy(y) for y in tree.flatten(model(x, training=False))]


def _map_shapes(function, shapes):
    return [function(s) for s in shapes] if isinstance(shapes, list) else function(shapes)


def _flat_shapes(shapes):
    return list(shapes) if isinstance(shapes, list) else [shapes]
