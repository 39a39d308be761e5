"""Says op by op and head by head what of a .tflite file an accelerator can run, and why not.

The rules are those that the accelerator's vendor published; nothing is compiled or run. Exits
with 0 also where something stays on the CPU, which is often fine; with --strict then with 1.

  kmtl lint model.tflite --target=edgetpu
"""

import dataclasses
import json

from absl import flags

from kmtl.cli.models import check_file

POSITIONAL = ("MODEL.tflite",)


def define_flags(values: flags.FlagValues) -> None:
    """Adds this command's flags."""
    flags.DEFINE_string(
        "target", "edgetpu", "The accelerator; edgetpu by default.", flag_values=values
    )
    flags.DEFINE_bool(
        "strict", False, "Exit with 1 unless every operation is mapped.", flag_values=values
    )
    flags.DEFINE_bool("json", False, "Print JSON instead of a table.", flag_values=values)


def main(values: flags.FlagValues, path: str) -> None:
    """Lints the file at `path`."""
    from kmtl.export import lint_litert

    check_file("MODEL.tflite", path)
    lint = lint_litert(path, target=values.target)
    if values.json:
        print(json.dumps({**dataclasses.asdict(lint), "passed": lint.passed}, indent=2))
    else:
        _show(path, lint)
    if values.strict and not lint.passed:
        left = sum(not op.mapped for op in lint.ops)
        raise ValueError(
            f"With --strict every operation must map to {lint.target}. "
            f"Received: {path}, {left} of {len(lint.ops)} operations on the CPU"
        )


def _show(path, lint) -> None:
    print(f"{path}  for {lint.target}, signature {lint.signature!r}")
    for refusal in lint.refusals:
        print(f"REFUSED: {refusal}")
    print("\noperations")
    rows = [_cells(op) for op in lint.ops]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for op, row in zip(lint.ops, rows, strict=True):
        print("  " + "  ".join(map(str.ljust, row, widths)).rstrip())
        for reason in op.reasons:
            print(f"       {reason}")
        if op.note:
            print(f"       but: {op.note}")
    print("\nheads")
    for head, share in lint.head_shares.items():
        needed = [op for op in lint.ops if head in op.heads]
        left = sum(not op.mapped for op in needed)
        print(f"  {head}  {_percent(share)}, {left} of {len(needed)} operations on the CPU")
    print(f"\nin all: {_percent(lint.share)}")


def _cells(op) -> tuple[str, ...]:
    return (
        f"{op.index:>3}",
        f"{op.name} v{op.version}",
        "mapped" if op.mapped else "CPU",
        f"{op.macs:,} MACs" if op.macs else "",
        ", ".join(op.heads) or "no head",
    )


def _percent(share) -> str:
    return "no MACs" if share is None else f"{share:.1%} of MACs mapped"
