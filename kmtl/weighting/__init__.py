"""How the losses of several tasks become one."""

import keras

from kmtl.weighting.base import TaskWeighting as TaskWeighting
from kmtl.weighting.uncertainty import UncertaintyWeighting as UncertaintyWeighting

_NAMES = {"uncertainty": UncertaintyWeighting}


def get(identifier) -> TaskWeighting | None:
    """A weighting from an object, a name, a config, or None for the plain sum.

    Args:
        identifier: A `TaskWeighting`, `"uncertainty"`, a serialised config, or None.

    Raises:
        ValueError: for an unknown name; the message lists the known ones.
    """
    if isinstance(identifier, dict):
        identifier = keras.saving.deserialize_keras_object(identifier)
    if identifier is None or isinstance(identifier, TaskWeighting):
        return identifier
    if identifier in _NAMES:
        return _NAMES[identifier]()
    raise ValueError(
        f"`weighting` must be None, a `TaskWeighting` or one of {sorted(_NAMES)}. "
        f"Received: weighting={identifier!r}"
    )


__all__ = ["TaskWeighting", "UncertaintyWeighting", "get"]
