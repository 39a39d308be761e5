"""What users give as sources, checked."""

from collections.abc import Mapping

import numpy as np

from kmtl.data.sources import ArraySource, StreamSource


def read_sources(sources: Mapping, buffer_size: int) -> list:
    """An `ArraySource` or `StreamSource` for each of the user's, in the order of their names.

    Raises:
        ValueError: for what is no source, and for sources without examples.
    """
    if not isinstance(sources, Mapping) or not sources:
        raise ValueError(
            "`sources` must be a dict of at least one name -> data. "
            f"Received: sources={sources if not sources else type(sources)}"
        )
    found = [_read(name, sources[name], buffer_size) for name in sorted(sources)]
    for source in found:
        if source.size == 0:
            raise ValueError(
                f"Every source must have examples. Received: none in source {source.name!r}"
            )
    return found


def _read(name, data, buffer_size):
    import tensorflow as tf

    if isinstance(data, tf.data.Dataset):
        _check_form(name, data.element_spec)
        return StreamSource(name, data, buffer_size)
    _check_form(name, data)
    for inputs in data[0].values() if isinstance(data[0], Mapping) else [data[0]]:
        if not hasattr(inputs, "__array__") or np.ndim(inputs) == 0:
            raise ValueError(
                "The inputs of a source must be an array or a dict of arrays. "
                f"Received: {type(inputs)} in source {name!r}"
            )
    return ArraySource(name, *data, *([{}] if len(data) == 2 else []))


def _check_form(name, data):
    """Requires `(x, {task: ...})`, or a third element like the second."""
    fits = isinstance(data, tuple) and len(data) in (2, 3)
    if not fits or not all(isinstance(part, Mapping) and part for part in data[1:]):
        kinds = [type(part).__name__ for part in data] if isinstance(data, tuple) else type(data)
        raise ValueError(
            "A source must be (x, {task: labels}) or (x, {task: labels}, {task: sample weights}), "
            f"or a `tf.data.Dataset` of such examples. Received: {kinds} as source {name!r}"
        )
