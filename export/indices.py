"""Integers that name something: classes of a head, rows of an embedding. Whether these exist."""

from collections.abc import Collection, Iterator, Mapping

import keras
import numpy as np

from kmtl.losses.task_losses import resolve_loss
from kmtl.models.graph import ancestors
from kmtl.ops.labels import label_form

# "crossentropy", whose form depends on the head and the labels.
_ANY_CROSSENTROPY = resolve_loss("crossentropy").fn


def takes_class_indices(loss: keras.losses.Loss, y_true, y_pred) -> bool:
    """Whether a loss reads these labels as class indices.

    Args:
        loss: As `resolve_loss` returns it.
        y_true: Anything with the labels' shape.
        y_pred: The same of the head's output.
    """
    fn = getattr(loss, "fn", None)
    if fn is _ANY_CROSSENTROPY:
        return label_form(y_true, y_pred) == "sparse"
    return fn is keras.losses.sparse_categorical_crossentropy


def check_class_indices(
    task: str, labels: np.ndarray, classes: int, others: Collection[float] = ()
) -> None:
    """Raises ValueError for labels of a class that the head does not have.

    Args:
        task: Its name.
        labels: Class indices.
        classes: The number of classes.
        others: Values that stand for no class, such as that of a missing label; NaN is allowed.
            Defaults to none.
    """
    known = (labels >= 0) & (labels < classes)
    for value in others:
        known |= np.isnan(labels) if np.isnan(value) else labels == value
    if not known.all():
        raise ValueError(
            f"Labels of task {task!r} must be class indices from 0 to {classes - 1}. "
            f"Received: {labels[~known].min():.10g} to {labels[~known].max():.10g}"
        )


def check_embedded(arrays: Mapping[str, np.ndarray], inputs: Mapping) -> None:
    """Raises ValueError for inputs that name rows which an embedding does not have.

    TensorFlow counts negative ones from the end, LiteRT does not.

    Args:
        arrays: Input name -> values.
        inputs: Input name -> `keras.KerasTensor`; others, of files, are left alone.
    """
    tensors = {name: x for name, x in inputs.items() if isinstance(x, keras.KerasTensor)}
    for layer, x in embedded(tensors.values()):
        made_of = {id(tensor) for tensor in ancestors([x])}
        sources = [name for name, tensor in tensors.items() if id(tensor) in made_of]
        values = keras.Function([tensors[name] for name in sources], x)(
            [arrays[name] for name in sources]
        )
        values = keras.ops.convert_to_numpy(values)
        known = (values > -1) & (values < layer.input_dim)  # the layer cuts off what is behind 0.
        if not known.all():
            raise ValueError(
                f"Input {', '.join(map(repr, sources))} must hold indices from 0 to "
                f"{layer.input_dim - 1} for layer {layer.name!r}. "
                f"Received: {values[~known].min():.10g} to {values[~known].max():.10g}"
            )


def embedded(tensors: Collection[keras.KerasTensor]) -> Iterator[tuple]:
    """Pairs of an embedding and what it reads, where that is inputs without weights on the way.

    Args:
        tensors: A model's inputs.
    """
    pending, seen = list(tensors), set()
    while pending:
        x = pending.pop(0)
        for node in x._keras_history.operation._outbound_nodes:
            if id(node) in seen or not any(tensor is x for tensor in node.input_tensors):
                continue
            seen.add(id(node))
            layer = node.operation
            layer = layer.layer if isinstance(layer, keras.layers.Wrapper) else layer
            if isinstance(layer, keras.layers.Embedding):
                yield layer, node.input_tensors[0]
            elif not getattr(layer, "weights", None):
                pending.extend(node.outputs)
