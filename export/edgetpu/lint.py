"""Says, before a vendor's compiler does, which part of a LiteRT file an accelerator can run."""

import dataclasses
import os
from collections.abc import Iterable

from kmtl.export.edgetpu import rules
from kmtl.export.edgetpu.macs import macs
from kmtl.export.edgetpu.mapped_ops import NOTES
from kmtl.export.flatbuffers.graph import Graph, read_graph

TARGETS = ("edgetpu",)


@dataclasses.dataclass(frozen=True)
class OpLint:
    """One operation of a linted file.

    Attributes:
        index: Its place in the order of execution.
        name: The schema's name, such as `CONV_2D`.
        version: Its version.
        heads: The heads that need it, sorted.
        mapped: Whether the accelerator can run it.
        reasons: Why it falls to the CPU; empty if it is mapped.
        note: What the vendor says about it without a number, else "".
        macs: Its multiply-accumulates.
        tensor: The name of its first output, which begins with the layer's in files from
            `export_litert`; several where the converter made one operation of layers.
    """

    index: int
    name: str
    version: int
    heads: tuple[str, ...]
    mapped: bool
    reasons: tuple[str, ...]
    note: str
    macs: int
    tensor: str


@dataclasses.dataclass(frozen=True)
class Lint:
    """What `lint_litert` found.

    Attributes:
        target: The accelerator.
        signature: The signature that was linted, the file's first.
        ops: A row for each operation, in order.
        refusals: Why the compiler refuses the whole file; empty if it does not.
        head_shares: Head -> share of its multiply-accumulates that is mapped, from 0 to 1; None
            for a head without any. What heads share counts for each.
        share: The same for the whole file.
    """

    target: str
    signature: str
    ops: tuple[OpLint, ...]
    refusals: tuple[str, ...]
    head_shares: dict[str, float | None]
    share: float | None

    @property
    def passed(self) -> bool:
        """Whether every operation is mapped, float inputs and heads included."""
        return not self.refusals and all(op.mapped for op in self.ops)


def lint_litert(path: str | os.PathLike, target: str = "edgetpu") -> Lint:
    """Says op by op and head by head what maps to an accelerator, what does not and why.

    Use it before you hand a file to the vendor's compiler, or where you do not have that. The
    file is read, not run. For `"edgetpu"` the rules are those that Google published
    (`export/edgetpu/rules.py` lists them with their sources); the compiler itself is closed and was
    not at hand to check them against.

    Where one operation falls to the CPU, so does all that depends on it: the compiler cuts the
    graph once. Only what a head needs counts for that head, so that one bad head does not
    condemn the others.

    Args:
        path: The `.tflite` file; of several signatures the first is linted.
        target: The accelerator, `"edgetpu"`. Defaults to `"edgetpu"`.

    Returns:
        A `Lint`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for an unknown target, or a file that is no whole LiteRT model.

    Example:

    ```python
    lint = kmtl.export.lint_litert("model.tflite")
    for op in lint.ops:
        if not op.mapped:
            print(op.index, op.name, op.heads, op.reasons)
    print(lint.head_shares, lint.passed)
    ```
    """
    if target not in TARGETS:
        raise ValueError(f"`target` must be one of {TARGETS}. Received: target={target!r}")
    with open(path, "rb") as file:
        content = file.read()
    with read_graph(content, str(path)) as graph:
        return lint_graph(graph, target)


def lint_graph(graph: Graph, target: str = "edgetpu") -> Lint:
    """`lint_litert` of a graph from `read_graph`."""
    refusals = {
        reason: None  # in the order of their first occurrence
        for operations in (graph.operations, *graph.graphs)
        for reason in map(rules.refusal, operations)
        if reason
    }
    needed, reasons = _needed(graph), _reasons(graph)
    rows = []
    for op in graph.operations:
        why = (*filter(None, [rules.refusal(op)]), *reasons[op.index])
        if refusals and not why:
            why = ("maps by itself, but the compiler refuses the whole file",)
        rows.append(
            OpLint(
                index=op.index,
                name=op.name,
                version=op.version,
                heads=tuple(sorted(h for h, indices in needed.items() if op.index in indices)),
                mapped=not why,
                reasons=why,
                note="" if why else NOTES.get(op.name, ""),
                macs=macs(op, graph.graphs),
                tensor=op.outputs[0].name if op.outputs else "",
            )
        )
    return Lint(
        target=target,
        signature=graph.signature.key,
        ops=tuple(rows),
        refusals=tuple(refusals),
        head_shares={
            head: _share(row for row in rows if head in row.heads) for head in sorted(graph.heads)
        },
        share=_share(rows),
    )


def _reasons(graph: Graph) -> list[tuple[str, ...]]:
    """For each operation why it falls to the CPU, by itself or by what it depends on."""
    inputs, heads = set(graph.inputs.values()), set(graph.heads.values())
    culprits = {}  # tensor -> the first operation on its way that falls to the CPU by itself
    found = []
    for op in graph.operations:
        culprit = next((culprits[i] for i in op.input_ids if i in culprits), None)
        at_the_edge = rules.at_the_edge(op, inputs, heads)
        why = (at_the_edge,) if at_the_edge else rules.reasons(op)
        if culprit is None and why and not (at_the_edge and op.name == "QUANTIZE"):
            culprit = op
        elif culprit is not None:
            why = (*why, f"it depends on op {culprit.index}, {culprit.name}, on the CPU")
        if culprit is not None:
            culprits.update(dict.fromkeys(op.output_ids, culprit))
        found.append(why)
    return found


def _needed(graph: Graph) -> dict[str, set[int]]:
    """Head -> indices of the operations that it is computed from."""
    producers = {i: op for op in graph.operations for i in op.output_ids}
    needed = {}
    for head, tensor in graph.heads.items():
        indices, waiting = set(), [tensor]
        while waiting:
            op = producers.get(waiting.pop())
            if op is not None and op.index not in indices:
                indices.add(op.index)
                waiting += op.input_ids
        needed[head] = indices
    return needed


def _share(rows: Iterable[OpLint]) -> float | None:
    counts = [(row.macs, row.mapped) for row in rows]
    total = sum(count for count, _ in counts)
    return sum(count for count, mapped in counts if mapped) / total if total else None
