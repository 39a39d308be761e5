"""Shows what is inside a .tflite file, without running it: heads, types, operations, bytes.

kmtl inspect model.tflite
"""

import dataclasses
import json

from absl import flags

POSITIONAL = ("MODEL.tflite",)


def define_flags(values: flags.FlagValues) -> None:
    """Adds this command's flags."""
    flags.DEFINE_bool("json", False, "Print JSON instead of a table.", flag_values=values)


def main(values: flags.FlagValues, path: str) -> None:
    """Prints what the file at `path` holds."""
    from kmtl.export import inspect_litert

    found = inspect_litert(path)
    if values.json:
        print(json.dumps(dataclasses.asdict(found), indent=2))
        return
    print(f"{path}  {found.bytes:,} bytes, signature {found.signature.key!r}")
    _section("inputs", {n: _describe(t) for n, t in found.signature.inputs.items()})
    _section("heads", {n: _describe(t) for n, t in found.signature.outputs.items()})
    _section("operations", {name: _count(name, found) for name in found.ops})
    weights = sorted(found.weight_bytes.items(), key=lambda item: -item[1])
    _section("bytes of constants", {name.lower(): f"{size:,}" for name, size in weights})


def _describe(tensor) -> str:
    shape = " x ".join("any" if size is None else str(size) for size in tensor.shape)
    if tensor.scale is None:
        return f"{tensor.dtype} {shape}"
    return f"{tensor.dtype} {shape}  (integer - {tensor.zero_point}) * {tensor.scale:.6g}"


def _count(name, found) -> str:
    count, in_float = found.ops[name], found.float_ops.get(name, 0)
    note = "" if not in_float else "  float" if in_float == count else f"  {in_float} in float"
    return f"{count:>3}{note}"


def _section(title, rows) -> None:
    print(f"\n{title}")
    width = max(map(len, rows), default=0)
    for name, text in rows.items():
        print(f"  {name:{width}}  {text}")
