"""Recipes as data: which rules a type has, and what overrides add to them."""

import copy
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources

from kmtl.export.flatbuffers.operations import Operation

QUANTIZATIONS = (
    "float32",
    "float16",
    "weight_only_int8",
    "weight_only_int4",
    "dynamic_int8",
    "dynamic_int4",
    "dynamic_int4_block32",
    "int8",
    "int8_io",
    "uint8_io",
    "int8x16",
    "int4",
)
# For single layers and heads; `_io` is about a file's inputs and outputs.
OVERRIDES = tuple(name for name in QUANTIZATIONS if not name.endswith("_io"))
_ENDS = ("INPUT", "OUTPUT")


def check_quantization(quantization: str) -> None:
    """Raises ValueError for a name that is no recipe."""
    if quantization not in QUANTIZATIONS:
        raise ValueError(
            f"`quantization` must be one of {QUANTIZATIONS}. "
            f"Received: quantization={quantization!r}"
        )


def check_overrides(overrides: Mapping[str, str] | None) -> dict[str, str]:
    """The overrides as a dict; raises ValueError for a type that a layer cannot have."""
    if not isinstance(overrides, Mapping | None):
        raise ValueError(
            f"`overrides` must be a dict of names and types. Received: overrides={overrides!r}"
        )
    overrides = dict(overrides or {})
    for name, quantization in overrides.items():
        if quantization not in OVERRIDES:
            raise ValueError(
                f"`overrides` must give each layer or head one of {OVERRIDES}. "
                f"Received: {quantization!r} for {name!r}"
            )
    return overrides


def load_recipe(quantization: str) -> list[dict]:
    """The recipe of that name; an empty one for float32."""
    check_quantization(quantization)
    if quantization == "float32":
        return []
    text = (
        resources.files("kmtl.export.quantization")
        .joinpath(f"recipes/{quantization}.json")
        .read_text()
    )
    return json.loads(text)


def per_tensor_dense(recipe: Sequence[dict]) -> list[dict]:
    """An integer recipe whose dense kernels have one scale, not one for each output."""
    rule = copy.deepcopy(recipe[0])
    rule["operation"] = "FULLY_CONNECTED"
    rule["op_config"]["weight_tensor_config"]["granularity"] = "TENSORWISE"
    return [recipe[0], rule, *recipe[1:]]


def needs_data(recipe: Sequence[dict]) -> bool:
    """Whether a recipe has activations on a fixed grid, whose ranges come from data."""
    return any("activation_tensor_config" in rule["op_config"] for rule in recipe)


def calibrated(operations: Sequence[Operation], types: Sequence[str]) -> list[Operation]:
    """The operations whose type needs ranges from data."""
    with_ranges = {name for name in set(types) if needs_data(load_recipe(name))}
    return [op for op, name in zip(operations, types, strict=True) if name in with_ranges]


def assign(
    operations: Sequence[Operation], quantization: str, overrides: Mapping[str, str]
) -> list[str]:
    """The type of each operation.

    Args:
        operations: From `find_operations`.
        quantization: The type of all that no override names.
        overrides: Name of a head (what only it needs) or of a layer -> type. A layer's goes
            before its head's, and a name that is both means the head.

    Raises:
        ValueError: for a name that no operation has, or two types for fused layers.
    """
    heads = {head for op in operations for head in op.heads}
    layers = {layer for op in operations for layer in op.layers}
    alone = {op.heads[0] for op in operations if len(op.heads) == 1}
    absent = sorted(set(overrides) - alone - (layers - heads))
    if absent:
        raise ValueError(
            f"`overrides` must name layers that compute an operation, {sorted(layers)}, or heads "
            f"that have some to themselves, {sorted(alone)}. Received: {', '.join(absent)}"
        )
    return [_type_of(op, quantization, overrides, heads) for op in operations]


def _type_of(op, quantization, overrides, heads) -> str:
    own = {layer: overrides[layer] for layer in op.layers if layer in {*overrides} - heads}
    if len(set(own.values())) > 1:
        raise ValueError(
            f"`overrides` must give layers that the converter makes one operation the same type. "
            f"Received: {own} for {op.kind}"
        )
    if own:
        return next(iter(own.values()))
    if len(op.heads) == 1:
        return overrides.get(op.heads[0], quantization)
    return quantization


def with_overrides(
    quantization: str, operations: Sequence[Operation], types: Sequence[str]
) -> list[dict]:
    """The rules of a recipe and, after them, those of the operations with another type.

    Args:
        quantization: The recipe's name.
        operations: From `find_operations`.
        types: The type of each, from `assign`.
    """
    base = load_recipe(quantization)
    changed = sorted(set(types) - {quantization})
    if not changed:
        return base
    rules = list(base)
    for name in changed:
        scopes = [
            re.escape("".join(f"{output};" for output in op.outputs))
            for op, kind in zip(operations, types, strict=True)
            if kind == name
        ]
        regex = f"^(?:{'|'.join(scopes)})$"
        # Rules of one regex replace each other, so that the first is spelt differently.
        rules.append(_rule(f"(?#only)({regex})", "*"))
        rules += [{**r, "regex": regex} for r in load_recipe(name) if r["operation"] not in _ENDS]
    # The rules above may meet the ends of the file, which go by the names of their tensors.
    ends = {end: _rule("", end) for end in _ENDS}
    ends |= {rule["operation"]: rule for rule in base if rule["operation"] in _ENDS}
    return rules + [{**rule, "regex": "(?#ends).*"} for rule in ends.values()]


def _rule(regex, operation) -> dict:
    """Leave it in float."""
    return {
        "regex": regex,
        "operation": operation,
        "algorithm_key": "no_quantize",
        "op_config": {},
    }
