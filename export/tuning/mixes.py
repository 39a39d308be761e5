"""The layers that can have types of their own, and how files that mix types are asked for."""

import dataclasses
from collections import Counter
from collections.abc import Sequence

import keras
import numpy as np

from kmtl.export.flatbuffers.operations import Operation, float_tensors
from kmtl.export.quantization.recipes import assign, load_recipe, needs_data


@dataclasses.dataclass
class Unit:
    """What always has one type: a layer with weights, and what follows.

    Attributes:
        name: As `overrides` takes it: the layer, or a head.
        heads: The tasks that need it.
        weights: Number of weights.
        followers: More such names, of what comes behind up to the next layers with weights.
    """

    name: str
    heads: frozenset[str]
    weights: int
    followers: tuple[str, ...] = ()


def find_units(content: bytes, operations: Sequence[Operation], plain: keras.Model) -> list[Unit]:
    """The units of a model, those with the most weights first.

    What `overrides` cannot name has the type that most units have.

    Args:
        content: The float flatbuffer.
        operations: From `find_operations`.
        plain: The model that it was converted from.
    """
    sizes = {x.name: _size(x) for x in plain.operations}
    floats = float_tensors(content)
    heads = {head for op in operations for head in op.heads}
    units: dict[str, Unit] = {}  # by name, its own and its followers'
    for op in operations:
        if "weights" in floats.get(op.outputs[0], ()):
            # Of layers that are one operation, such as a convolution and its normalisation,
            # `overrides` needs the name of one.
            name = max(_names(op, heads), key=lambda name: sizes.get(name, 0), default=None)
            if name is not None and name not in units:
                weights = sum(sizes[layer] for layer in op.layers)
                units[name] = Unit(name, frozenset(op.heads), weights)
    before: list[Unit] = []
    for op in operations:
        names = _names(op, heads)
        own = [units[name] for name in names if name in units]
        fresh = tuple(name for name in names if name not in units)
        if not own and fresh:
            own = [unit for unit in reversed(before) if unit.heads >= {*op.heads}]
            for unit in own[:1]:
                unit.followers += fresh
                units.update(dict.fromkeys(fresh, unit))
        before += own[:1]
    found = {id(unit): unit for unit in units.values()}.values()
    return sorted(found, key=lambda unit: -unit.weights)


def _names(op, heads) -> list[str]:
    """How `overrides` names an operation; a layer's name that is also a head's means the head."""
    names = [layer for layer in op.layers if layer not in heads]
    return names or [*op.heads][: len(op.heads) == 1]


def _size(layer) -> int:
    return sum(int(np.prod(w.shape)) for w in getattr(layer, "weights", ()))


def spell(
    operations: Sequence[Operation], units: Sequence[Unit], kinds: Sequence[str]
) -> tuple[str, dict[str, str]]:
    """The `quantization` and the fewest `overrides` that give each unit its type.

    Args:
        operations: From `find_operations`.
        units: From `find_units`.
        kinds: The type of each unit.
    """
    quantization = Counter(kinds).most_common(1)[0][0]
    # Where integers meet floats, what has no weights stays with its layer. Elsewhere its type
    # makes no difference.
    everything = any(needs_data(load_recipe(kind)) for kind in set(kinds))
    overrides = {
        name: kind
        for unit, kind in zip(units, kinds, strict=True)
        for name in (unit.name, *unit.followers * everything)
    }
    types = assign(operations, quantization, overrides)
    needed = {name: kind for name, kind in overrides.items() if kind != quantization}
    if assign(operations, quantization, needed) == types:
        return quantization, needed
    for name in [name for name, kind in overrides.items() if kind == quantization]:
        fewer = {other: kind for other, kind in overrides.items() if other != name}
        if assign(operations, quantization, fewer) == types:
            overrides = fewer
    return quantization, overrides
