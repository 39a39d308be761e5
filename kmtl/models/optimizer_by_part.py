"""An optimizer, and so a learning rate, for each task or part of a network."""

import re
from collections.abc import Mapping

import keras

from kmtl.models.step.parting import Parting

SHARED = "shared"


def optimizer_by_part(
    model: keras.Model,
    default: keras.optimizers.Optimizer,
    parts: Mapping[str, keras.optimizers.Optimizer],
) -> "keras.optimizers.MultiOptimizer":
    """One `keras.optimizers.MultiOptimizer` for `compile`, with other settings for some parts.

    Use it where tasks learn at different speeds, or where new heads are put on a trained trunk.
    It works with every weighting and on several replicas.

    Args:
        model: A `kmtl.MultiTaskModel`.
        default: For all variables that no part holds, a weighting's own included.
        parts: Part -> its optimizer. A part is the name of a task (the layers that lead to this
            task alone), `"shared"` (those that lead to several) or the name of a layer, which
            goes before the other two.

    Raises:
        ImportError: before Keras 3.15, which brought `MultiOptimizer`.
        ValueError: for a part that the model does not have or that holds nothing to train, and
            for one optimizer given to several parts.

    Example:

    >>> import keras
    >>> import kmtl
    >>> x = keras.Input((4,))
    >>> h = keras.layers.Dense(8, activation="relu", name="trunk")(x)
    >>> model = kmtl.MultiTaskModel(x, {t: keras.layers.Dense(1)(h) for t in ("old", "new")})
    >>> sgd = keras.optimizers.SGD
    >>> optimizer = kmtl.models.optimizer_by_part(model, sgd(0.01), {"new": sgd(0.1)})
    >>> model.compile(optimizer, loss="mse")

    Reference: J. Howard, S. Ruder (2018), "Universal Language Model Fine-tuning for Text
    Classification", ACL, arXiv:1801.06146, section 3.2, rates that differ by layer.
    """
    if not hasattr(keras.optimizers, "MultiOptimizer"):
        raise ImportError(
            "Optimizers by part need Keras 3.15 or newer: pip install --upgrade keras. Received: "
            f"Keras {keras.__version__}"
        )
    if len({id(x) for x in [default, *parts.values()]}) <= len(parts):
        raise ValueError(
            "Each part must have an optimizer of its own, as its state is that of its variables. "
            f"Received: parts={list(parts)} with fewer optimizers"
        )
    chosen = {}
    for part in sorted(parts, key=lambda part: part in _layers(model)):  # layers come last
        variables = _variables_of(model, part)
        if not variables:
            raise ValueError(
                "A part must hold something to train. Received: "
                f"{part!r} of model {model.name!r}, which has none that is its own"
            )
        chosen |= {v.path: parts[part] for v in variables}
    # Keras reads the keys as patterns.
    patterns = {re.escape(path): optimizer for path, optimizer in chosen.items()}
    return keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(default, patterns))


def _layers(model):
    return {layer.name: layer for layer in model.layers}


def _variables_of(model, part):
    if part in _layers(model):
        return _layers(model)[part].trainable_variables
    if part == SHARED:
        return Parting(model).trunk_variables
    if part in model.task_names:
        return Parting(model).variables_of_task(part)
    raise ValueError(
        f"A part must be a task, {SHARED!r} or a layer. Received: {part!r}; tasks are "
        f"{model.task_names}, layers are {list(_layers(model))}"
    )
