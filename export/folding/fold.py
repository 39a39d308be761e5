"""From a trained multi-task model to a plain Keras model with equal outputs."""

from collections.abc import Sequence

import keras
import numpy as np

from kmtl.export.folding.rewrite import in_float32
from kmtl.layers.training_only import TrainingOnly
from kmtl.models.graph import Cloner, ancestors, is_graph, replay, run, run_nested

# Layers that are the identity when not training.
_TRAINING_ONLY = (
    keras.layers.Dropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.AlphaDropout,
    keras.layers.ActivityRegularization,
)
_AUGMENTATIONS = ("RandAugment", "MixUp", "CutMix", "AugMix")


def fold(model: keras.Model, tasks: str | Sequence[str] | None = None) -> keras.Model:
    """Rewrites a trained model with built-in Keras layers only; its outputs stay equal.

    What exists for training's sake disappears: gradient reversal, dropout, noise,
    regularizers, loss weights, factorisations (their kernels are multiplied out), auxiliary
    heads, those of tasks that are left out, and all that only they need. The result is float32 and
    independent of kmtl and of the trained model, whose weights it copies.

    A custom layer of your own is kept as it is, unless it has a method `fold(inputs)` that
    returns its outputs made of built-in layers.

    Args:
        model: A functional model whose outputs are a dict of task name -> tensor.
        tasks: The tasks to keep, a name or several. Defaults to `None`, all of them but those
            that end in `kmtl.layers.TrainingOnly`.

    Returns:
        A `keras.Model` with outputs `{task: tensor}` and the inputs those tasks need: where they
        are several, a dict of them by name, even if `model` took a list.

    Raises:
        ValueError: for unknown tasks, a model without named outputs, a weight that is not
            finite (the message names it), or a kmtl layer inside a wrapper, where it cannot
            be folded.

    Example:

    >>> import keras
    >>> import kmtl.export
    >>> tower = [keras.layers.Dense(8, activation="relu"), keras.layers.Dropout(0.5)]
    >>> heads = {"left": keras.layers.Dense(2), "right": keras.layers.Dense(3)}
    >>> model = kmtl.models.CrossStitchNetwork(tower, heads, inputs=(4,), stitch_after=[1])
    >>> plain = kmtl.export.fold(model, tasks="left")
    >>> print(sorted({type(layer).__name__ for layer in plain.layers}))
    ['Add', 'Dense', 'InputLayer', 'Rescaling']
    """
    outputs = _outputs_by_task(model)
    chosen = _chosen_tasks(tasks, outputs)
    check_finite_weights(model)
    cloner = Cloner(rename=lambda layer: layer.name, edit_config=_plain_config)
    folded = {}  # layer -> what it was first called with, and what came out

    def call(operation, args, kwargs):
        if hasattr(operation, "fold"):
            if id(operation) in folded:  # called again: by the layers that the first call made
                first, outputs = folded[id(operation)]
                return replay(outputs, keras.tree.flatten(first), keras.tree.flatten(args))
            folded[id(operation)] = args, operation.fold(*args)
            return folded[id(operation)][1]
        kwargs = {k: v for k, v in kwargs.items() if k != "training"}  # this is inference
        if _vanishes(operation):
            return args[0] if args else next(iter(kwargs.values()))
        if isinstance(operation, keras.layers.Pipeline):
            for layer in operation.layers:
                args = (call(layer, args, kwargs),)
            return args[0]
        if is_graph(operation):
            return run_nested(operation, args, kwargs, call)
        return cloner(operation, args, kwargs)

    with in_float32():  # also the layers that `fold` methods make
        inputs = [
            keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name) for x in model.inputs
        ]
        tensors = run(model, inputs, call, needed=[outputs[task] for task in chosen])
    used = {id(x) for x in ancestors(tensors)}
    inputs = [x for x in inputs if id(x) in used]
    return keras.Model(
        inputs[0] if len(inputs) == 1 else {x.name: x for x in inputs},
        dict(zip(chosen, tensors, strict=True)),
        name=model.name,
    )


def check_finite_weights(model: keras.Model) -> None:
    """Raises ValueError with the names of the weights that hold NaN or infinity."""
    bad = [
        weight.path
        for weight in model.weights
        if "float" in str(weight.dtype)
        and not np.isfinite(keras.ops.convert_to_numpy(weight).astype("float32")).all()
    ]
    if bad:
        raise ValueError(
            "All weights must be finite before a model can be deployed. "
            f"Received: NaN or infinity in {', '.join(bad)}"
        )


def _outputs_by_task(model) -> dict:
    outputs = model.output if is_graph(model) else None
    if not isinstance(outputs, dict):
        raise ValueError(
            "The model must be functional with a dict of task name -> tensor as outputs. "
            f"Received: {model!r} with outputs {outputs}"
        )
    return outputs


def _chosen_tasks(tasks, outputs) -> list[str]:
    if tasks is None:
        chosen = sorted(task for task, x in outputs.items() if not _is_training_only(x))
        if not chosen:
            raise ValueError(
                "At least one task must be for more than training, or be asked for by `tasks`. "
                f"Received: tasks=None with {sorted(outputs)}, which all end in `TrainingOnly`"
            )
        return chosen
    chosen = [tasks] if isinstance(tasks, str) else [*tasks]
    unknown = sorted(set(chosen) - set(outputs))
    if unknown or not chosen:
        raise ValueError(
            f"`tasks` must be among the model's tasks {sorted(outputs)}. Received: tasks={tasks}"
        )
    return chosen


def _is_training_only(x) -> bool:
    """Whether a tensor comes out of `TrainingOnly`, also inside of a nested model."""
    operation, _, tensor_index = x._keras_history
    if is_graph(operation):
        return _is_training_only(operation.outputs[tensor_index])
    return isinstance(operation, TrainingOnly)


def _vanishes(operation) -> bool:
    """Whether the operation is there for training only."""
    if isinstance(operation, _TRAINING_ONLY):
        return True
    # Keras's augmentation layers have no public base class.
    name, built_in = type(operation).__name__, type(operation).__module__.startswith("keras.")
    return (
        built_in
        and isinstance(operation, keras.layers.Layer)
        and (name.startswith("Random") or name in _AUGMENTATIONS)
    )


def _plain_config(layer, config: dict) -> dict:
    """The config of a copy without penalties, constraints and half precision."""
    config = _without_training_parts(config)
    ours = _registered_in_kmtl(config)
    if ours:
        raise ValueError(
            f"Layer {layer.name!r} holds {', '.join(ours)}, which cannot be folded inside "
            f"another layer; use it as a layer of the model. Received: {type(layer).__name__}"
        )
    return config


def _without_training_parts(config):
    if not isinstance(config, dict):
        return config
    return {
        key: None
        if key.endswith(("_regularizer", "_constraint"))
        else "zeros"
        if key.endswith("_initializer") and _registered_in_kmtl(value)
        else "float32"
        if key == "dtype" and _is_other_float(value)
        else _without_training_parts(value)
        for key, value in config.items()
    }


def _is_other_float(dtype) -> bool:
    """Whether a dtype or policy, as it stands in a config, computes in another float type."""
    name = dtype.get("config", {}).get("name") if isinstance(dtype, dict) else dtype
    return "float" in str(name) and name != "float32"


def _registered_in_kmtl(config) -> list[str]:
    if isinstance(config, (list, tuple)):
        return [name for item in config for name in _registered_in_kmtl(item)]
    if not isinstance(config, dict):
        return []
    own = (
        [config["registered_name"]]
        if str(config.get("registered_name")).startswith("kmtl>")
        else []
    )
    return own + [name for value in config.values() for name in _registered_in_kmtl(value)]
