"""What computes in float in a quantisation-aware model: what must, and what was asked for."""

from collections.abc import Sequence

import keras

from kmtl.export.folding.simplify import consumers, only_consumer
from kmtl.export.quantization_aware.fake_quantize import FakeQuantize, RoundToGrid
from kmtl.export.quantization_aware.forms import SAME_GRID, has_integer_form, is_fused_with
from kmtl.export.quantization_aware.quantized_layer import KERNELS, QuantizedLayer
from kmtl.export.quantization_aware.schemes import is_quantize_aware, scheme_of
from kmtl.export.quantization_aware.tables import TableActivation
from kmtl.models.graph import ancestors


def float_layers(model: keras.Model) -> list[str]:
    """Names of the layers that compute in float: without an integer form, or kept so.

    Args:
        model: A model from `quantize_aware`, or one from `fold` that is to become one.
    """
    ours = (FakeQuantize, QuantizedLayer, RoundToGrid, TableActivation, keras.layers.InputLayer)
    layers = [x for x in model.operations if not isinstance(x, ours)]
    names = {x.name for x in layers if not has_integer_form(x)}
    if is_quantize_aware(model):
        names |= {x.name for x in layers if type(x).__name__ in KERNELS}  # not wrapped
        ends = [x.input for x in model.layers if isinstance(x, FakeQuantize) and x.after_float]
        ends += [x for x in model.output.values() if not _on_a_grid(x)]
        names |= {x._keras_history.operation.name for x in ends}
    return [x.name for x in layers if x.name in names]


def quantizations_of(model: keras.Model) -> tuple[str, ...]:
    """The types of `export_litert` that a quantisation-aware model can have."""
    scheme = scheme_of(model)
    if scheme != "int8" or float_layers(model):
        return (scheme,)
    return ("int8", "int8_io", "uint8_io")


def _on_a_grid(x) -> bool:
    operation = x._keras_history.operation
    if isinstance(operation, RoundToGrid):
        return True
    if type(operation).__name__ in SAME_GRID:
        return all(map(_on_a_grid, operation._inbound_nodes[0].input_tensors))
    return isinstance(operation, FakeQuantize)


def part_to_keep(plain: keras.Model, names: Sequence[str]) -> set[str]:
    """The layers that stay in float, and those that the file computes as one operation with them.

    Args:
        plain: A model from `simplify`.
        names: Heads (what only this head needs) and layers; a name that is both means the head.

    Raises:
        ValueError: for a name that the model does not have.
    """
    names = [names] if isinstance(names, str) else list(names)
    own = _own_layers(plain)
    layers = [x for x in plain.operations if not isinstance(x, keras.layers.InputLayer)]
    known = {**{x.name: {x.name} for x in layers}, **own}
    absent = sorted({*names} - {name for name, part in known.items() if part})
    if absent:
        raise ValueError(
            f"`keep_float` must name layers, {sorted({x.name for x in layers} - {*own})}, or heads "
            f"that have some to themselves, {sorted(h for h, part in own.items() if part)}. "
            f"Received: {', '.join(absent)}"
        )
    kept = set().union(*(known[name] for name in names))
    consumers_of, before = consumers(plain), None
    while kept != before:
        before = set(kept)
        for layer in layers:
            reader = only_consumer(layer, consumers_of)
            pair = {layer.name, getattr(reader, "name", layer.name)}
            if is_fused_with(layer, reader) and kept & pair:
                kept |= pair
            if type(reader) is keras.layers.Concatenate and layer.name in kept:
                kept |= pair
    return kept


def _own_layers(plain) -> dict[str, set[str]]:
    """Head -> names of the layers that no other head needs."""
    needed = {
        task: {
            y._keras_history.operation.name
            for y in ancestors([x])
            if not isinstance(y._keras_history.operation, keras.layers.InputLayer)
        }
        for task, x in plain.output.items()
    }
    return {
        task: part.difference(*(other for t, other in needed.items() if t != task))
        for task, part in needed.items()
    }
