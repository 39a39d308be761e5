"""Shows what is inside a .tflite file, without running it: heads, types, labels, operations, bytes.

kmtl inspect model.tflite
"""

import dataclasses
import json

from absl import flags

from kmtl.cli.models import check_file

POSITIONAL = ("MODEL.tflite",)
SHOWN_LABELS = 10  # of each head; `--json` has all


def define_flags(values: flags.FlagValues) -> None:
    """Adds this command's flags."""
    flags.DEFINE_bool("json", False, "Print JSON instead of a table.", flag_values=values)


def main(values: flags.FlagValues, path: str) -> None:
    """Prints what the file at `path` holds."""
    from kmtl.export import inspect_litert

    check_file("MODEL.tflite", path)
    found = inspect_litert(path)
    if values.json:
        print(json.dumps(dataclasses.asdict(found), indent=2))
        return
    print(f"{path}  {found.bytes:,} bytes, signature {found.signature.key!r}")
    others = sorted(set(found.signatures) - {found.signature.key})
    if others:
        print(f"more signatures: {', '.join(others)}")
    if found.metadata:
        print(": ".join(filter(None, (found.metadata.name, found.metadata.description))))
    _section("inputs", {n: _describe(t) for n, t in found.signature.inputs.items()})
    _section("heads", {n: _describe(t) for n, t in found.signature.outputs.items()})
    if found.metadata:
        notes = {name: _feeding(info) for name, info in found.metadata.inputs.items()}
        _section_if_any("feeding", {name: note for name, note in notes.items() if note})
        labels = sorted(found.metadata.labels.items())
        _section_if_any("labels", {task: _listed(names) for task, names in labels})
    _section("operations", {name: _count(name, found) for name in found.ops})
    weights = sorted(found.weight_bytes.items(), key=lambda item: -item[1])
    _section("bytes of constants", {name.lower(): f"{size:,}" for name, size in weights})


def _describe(tensor) -> str:
    shape = " x ".join("any" if size is None else str(size) for size in tensor.shape)
    if tensor.scale is None:
        return f"{tensor.dtype} {shape}"
    return f"{tensor.dtype} {shape}  (integer - {tensor.zero_point}) * {tensor.scale:.6g}"


def _feeding(info) -> str:
    """What the file asks of who feeds an input."""
    notes = [info.description] if info.description else []
    if info.std:
        as_it_is = set(info.mean) == {0.0} and set(info.std) == {1.0}
        prepared = f"(x - {_numbers(info.mean)}) / {_numbers(info.std)}"
        notes.append("as it is" if as_it_is else prepared)
    if info.minimum and info.maximum:
        notes.append(f"values from {_numbers(info.minimum)} to {_numbers(info.maximum)}")
    return "; ".join(notes)


def _numbers(values) -> str:
    texts = [f"{value:.6g}" for value in values]
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"


def _listed(names) -> str:
    shown = ", ".join(names[:SHOWN_LABELS])
    more = len(names) - SHOWN_LABELS
    return f"{shown}, and {more} more" if more > 0 else shown


def _count(name, found) -> str:
    count, in_float = found.ops[name], found.float_ops.get(name, 0)
    note = "" if not in_float else "  float" if in_float == count else f"  {in_float} in float"
    return f"{count:>3}{note}"


def _section_if_any(title, rows) -> None:
    if rows:
        _section(title, rows)


def _section(title, rows) -> None:
    print(f"\n{title}")
    width = max(map(len, rows), default=0)
    for name, text in rows.items():
        print(f"  {name:{width}}  {text}")
