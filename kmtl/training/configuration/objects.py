"""Objects from their names and arguments, as in `{class: Dense, units: 64}`."""

import inspect
from collections.abc import Mapping, Sequence
from types import ModuleType

import keras

from kmtl.training.configuration.complaints import nearest, shown

# What an argument may be: {class: ...} within {class: ...}.
_NESTED = (
    keras.layers,
    keras.initializers,
    keras.regularizers,
    keras.constraints,
    keras.optimizers.schedules,
    keras.optimizers,
    keras.losses,
)


def make(key: str, specification, modules: Sequence[ModuleType], defaults: Mapping = {}):
    """The object that a specification describes.

    Args:
        key: Where it is in the configuration, for errors.
        specification: The name of a class, or a mapping of `class` and its arguments.
        modules: Where the class is looked for, upper and lower case alike.
        defaults: Arguments of those that the specification does not have.

    Raises:
        ValueError: for a class that is not there, and for arguments that it refuses.
    """
    if isinstance(specification, str):
        specification = {"class": specification}
    if not isinstance(specification, Mapping) or not isinstance(specification.get("class"), str):
        raise ValueError(
            f"`{key}` must be a mapping of `class` and its arguments. "
            f"Received: {shown(specification)}"
        )
    cls = find(f"{key}.class", specification["class"], modules)
    given = {name: value for name, value in specification.items() if name != "class"}
    arguments = {**defaults, **{n: _nested(f"{key}.{n}", value) for n, value in given.items()}}
    try:
        return cls(**arguments)
    except (TypeError, ValueError, AttributeError) as error:
        place, value = _blamed(key, given, str(error))
        raise ValueError(
            f"`{place}` must be what {cls.__name__} takes: {without_received(error)}. "
            f"Received: {shown(value)}"
        ) from error


def without_received(error: Exception) -> str:
    """The rule that an error tells, for a message that tells itself what was received."""
    return str(error).partition(" Received: ")[0].rstrip(".")


def find(key: str, name: str, modules: Sequence[ModuleType]) -> type:
    """The class of that name in the first module that has it."""
    known = {}
    for module in reversed(modules):
        members = {n: v for n, v in vars(module).items() if inspect.isclass(v) and n[0] != "_"}
        known |= members
    by_lower = {other.lower(): other for other in known}
    if name.lower() not in by_lower:
        likely = nearest(name, known)
        hint = "" if likely is None else f"; the nearest is {likely}"
        places = " or ".join(module.__name__.replace("keras._tf_keras.", "") for module in modules)
        raise ValueError(f"`{key}` must be a class of {places}{hint}. Received: {name}")
    return known[by_lower[name.lower()]]


def _nested(key, value):
    if isinstance(value, Mapping) and "class" in value:
        return make(key, value, _NESTED)
    return value


def _blamed(key, arguments, message):
    """The argument that an error speaks of, or all of them."""
    for name, value in arguments.items():
        if f"`{name}`" in message or f"'{name}'" in message or f"{name}=" in message:
            return f"{key}.{name}", value
    return key, arguments
