"""A plain Keras 3 model once more in Keras 2, layer by layer, with equal outputs."""

import inspect

import keras
import numpy as np

from kmtl.export.flatbuffers.convert import scope_of
from kmtl.export.tfmot.layers import affine_of, slice_of
from kmtl.models.graph import run

# Constructor arguments that changed their names.
RENAMED = {"LeakyReLU": {"negative_slope": "alpha"}}
# Operations on two tensors, written as functions or signs, and the layers that do the same.
MERGES = ("Add", "Maximum", "Minimum", "Multiply", "Subtract")
# All of it is trained in float32 from the weights that are there.
_LEFT_OUT = ("dtype", "name", "trainable")
_ENDINGS = ("_initializer", "_regularizer", "_constraint")


def rebuild(plain: keras.Model, inputs: dict[str, np.ndarray], tf_keras):
    """The model in Keras 2, proved equal on `inputs`, layer by layer and as a whole.

    Args:
        plain: A model as `simplify` returns it.
        inputs: Samples by input name.
        tf_keras: The module.

    Returns:
        A `tf_keras.Model` whose outputs are a list, tasks in sorted order, as tfmot cannot
        follow a dict. Its layers are called `scope_of(name)`.

    Raises:
        ValueError: naming a layer that Keras 2 lacks, that computes something else there, or
            that is used at several places, which tfmot cannot follow.
    """
    check_no_recurrence(plain)
    copies, names = {}, set()

    def call(operation, args, kwargs):
        kwargs = {key: value for key, value in kwargs.items() if key != "training"}
        if getattr(operation, "weights", None) and id(operation) in copies:
            raise ValueError(
                "A layer with weights may be used once only, since tfmot cannot follow more. "
                f"Received: layer {operation.name!r}, used at several places"
            )
        name = _free_name(scope_of(operation.name), names)
        copy = _copy(operation, name, args, kwargs, tf_keras)
        copies[id(operation)] = copy
        y = _apply(operation, copy, args, kwargs)
        if getattr(operation, "weights", None):
            copy.set_weights(operation.get_weights())
        return y

    tasks = sorted(plain.output)
    sources = [
        tf_keras.Input(x.shape[1:], dtype=x.dtype, name=_free_name(scope_of(x.name), names))
        for x in plain.inputs
    ]
    outputs = run(plain, sources, call, needed=[plain.output[task] for task in tasks])
    rebuilt = tf_keras.Model(sources, outputs, name=scope_of(plain.name))
    _prove(plain, rebuilt, copies, inputs)
    return rebuilt


def check_no_recurrence(plain: keras.Model) -> None:
    """Raises ValueError with the names of the recurrent layers."""
    recurrent = (keras.layers.RNN, keras.layers.Bidirectional, keras.layers.TimeDistributed)
    found = [layer.name for layer in plain.layers if isinstance(layer, recurrent)]
    if found:
        raise ValueError(
            "The model may not have recurrent layers, which tfmot cannot quantise and whose "
            f"kernels LiteRT runs in a loop. Received: {', '.join(found)}"
        )


def with_weights_of(plain: keras.Model, rebuilt) -> None:
    """Writes the weights of a rebuilt model back into the one that it was made from."""
    for layer in plain.layers:
        if layer.weights:
            layer.set_weights(rebuilt.get_layer(scope_of(layer.name)).get_weights())


def _free_name(name, names):
    candidate, n = name, 0
    while candidate in names:
        n += 1
        candidate = f"{name}_{n}"
    names.add(candidate)
    return candidate


def _apply(operation, copy, args, kwargs):
    if type(operation).__name__ == "GetItem":
        return copy(args[0])
    return copy(list(args), **kwargs) if len(args) > 1 else copy(*args, **kwargs)


def _copy(operation, name, args, kwargs, tf_keras):
    kind = type(operation).__name__
    if not isinstance(operation, keras.layers.Layer):
        tensors = len(args) == 2 and all(hasattr(x, "shape") for x in args) and not kwargs
        if kind in MERGES and tensors:
            return getattr(tf_keras.layers, kind)(name=name)
        copy = slice_of(args[1], name) if kind == "GetItem" and len(args) == 2 else None
        if copy is not None:
            return copy
        raise _refusal(operation, "an operation that is no layer")
    copy = affine_of(operation, name) if kind == "Rescaling" else None
    if copy is not None:
        return copy
    built_in = getattr(keras.layers, kind, None) is type(operation)
    legacy = getattr(tf_keras.layers, kind, None)
    if not built_in or legacy is None:
        raise _refusal(operation, "which Keras 2 does not have")
    return legacy(**_config(operation, legacy, tf_keras), name=name)


def _config(layer, legacy, tf_keras) -> dict:
    """Constructor arguments in Keras 2; those that it does not know must have no effect."""
    known = inspect.signature(legacy.__init__).parameters
    defaults = inspect.signature(type(layer).__init__).parameters
    config = {}
    for key, value in layer.get_config().items():
        if key in _LEFT_OUT or key.endswith(_ENDINGS):
            continue
        name = RENAMED.get(type(layer).__name__, {}).get(key, key)
        if key == "activation":
            config[key] = _activation(layer, tf_keras)
        elif name in known:
            config[name] = value
        elif value and not (key in defaults and value == defaults[key].default):
            raise _refusal(layer, f"whose {key}={value!r} Keras 2 does not know")
    return config


def _activation(layer, tf_keras) -> str:
    name = getattr(layer.activation, "__name__", "")
    if getattr(keras.activations, name, None) is not layer.activation:
        raise _refusal(layer, f"with an activation of your own, {layer.activation!r}")
    try:
        tf_keras.activations.get(name)
    except ValueError:
        raise _refusal(layer, f"whose activation {name!r} Keras 2 does not have") from None
    return name


def _refusal(operation, why) -> ValueError:
    return ValueError(
        "Every layer must exist in Keras 2, on which tfmot works. "
        f"Received: layer {operation.name!r}, {type(operation).__name__}, {why}"
    )


def _prove(plain, rebuilt, copies, inputs) -> None:
    """Raises ValueError unless the difference is 0, layer by layer and as a whole."""

    def call(operation, args, kwargs):
        y = operation(*args, **kwargs)
        kwargs = {key: value for key, value in kwargs.items() if key != "training"}
        answer = np.asarray(_apply(operation, copies[id(operation)], args, kwargs))
        difference = np.abs(np.asarray(y, "float64") - answer).max()
        if difference != 0:
            raise _refusal(operation, f"whose outputs there differ by up to {difference:.3g}")
        return y

    flat = [keras.ops.convert_to_tensor(inputs[x.name]) for x in plain.inputs]
    tasks = sorted(plain.output)
    expected = run(plain, flat, call, needed=[plain.output[task] for task in tasks])
    answers = rebuilt(flat, training=False)
    answers = answers if isinstance(answers, list) else [answers]
    for task, y, answer in zip(tasks, expected, answers, strict=True):
        if np.any(np.asarray(y) != np.asarray(answer)):
            raise ValueError(
                "The model in Keras 2 must give equal outputs. Received: another answer of head "
                f"{task!r}"
            )
