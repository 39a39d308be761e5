"""Examples that a function of the user's returns."""

from collections.abc import Mapping

import tensorflow as tf

from kmtl.training.configuration.entry_points import call
from kmtl.training.readers.labels import standard_label_tensor, standard_labels
from kmtl.training.readers.npz import check_present


def read(source, where: str, split: str):
    """What the function returns: `(x, {task: labels})`, with weights or without, or a dataset.

    An object with the splits as attributes, as `kmtl.datasets` have them, gives this one; one with
    the attributes `x` and `y` is `(x, y)`.
    """
    found = call(f"{where}.function", source.function, source.arguments)
    found = getattr(found, split, found)
    if hasattr(found, "x") and hasattr(found, "y"):
        found = found.x, found.y
    is_dataset = isinstance(found, tf.data.Dataset)
    parts = found.element_spec if is_dataset else found
    if not isinstance(parts, tuple) or len(parts) not in (2, 3) or not _by_task(parts[1:]):
        raise ValueError(
            f"`{where}.function` must return (x, {{task: labels}}), a `tf.data.Dataset` of such "
            f"examples, or an object with the attribute {split!r}. "
            f"Received: {type(found).__name__} from {source.function}"
        )
    if source.tasks is None:
        return _with_named_input(found, is_dataset)
    keys = {name: task.key or name for name, task in source.tasks.items()}
    check_present(keys.values(), parts[1], where, source.function)

    def chosen(x, y, *weights):
        rest = [{n: w[key] for n, key in keys.items() if key in w} for w in weights]
        labels = {name: y[key] for name, key in keys.items()}
        if not is_dataset:
            return x, standard_labels(labels, source.tasks, where), *rest
        for name, task in source.tasks.items():
            labels[name] = standard_label_tensor(labels[name], task, f"{where}.tasks.{name}")
        return x, labels, *rest

    return _with_named_input(found.map(chosen) if is_dataset else chosen(*found), is_dataset)


def _by_task(parts):
    return all(isinstance(part, Mapping) for part in parts)


def _with_named_input(found, is_dataset):
    """A single input is called "input", so that all sources have inputs by name."""

    def named(x, *rest):
        return x if isinstance(x, Mapping) else {"input": x}, *rest

    return found.map(named) if is_dataset else named(*found)
