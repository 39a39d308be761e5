"""A way into a file for each task, which runs only what this task needs."""

import copy

import numpy as np

from kmtl.export.flatbuffers.packing import repack


def with_task_signatures(content: bytes) -> bytes:
    """Adds a signature for each head, named like it, beside the one for all.

    Each enters a graph of its own, with the operations that its head needs and the same
    constants, which are in the file once. So scales are the same, too, and answers equal to the
    last bit; a file needs no calibration by signature.

    Args:
        content: A flatbuffer with one signature, quantised or not.

    Raises:
        ValueError: for a head of the signature's own name.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    (everything,) = model.signatureDefs
    if any(head.name == everything.signatureKey for head in everything.outputs):
        raise ValueError(
            "With `task_signatures` no task may have the name of the signature for all. "
            f"Received: {everything.signatureKey.decode()}"
        )
    graph = model.subgraphs[everything.subgraphIndex]
    for head in sorted(everything.outputs, key=lambda head: head.name):
        operators = _needed(graph, head.tensorIndex)
        used = {head.tensorIndex, *(i for op in operators for i in _tensors(op))}
        part, place = _part(graph, sorted(used), operators)
        part.name = head.name
        inputs = [x for x in everything.inputs if x.tensorIndex in used]
        part.inputs = _moved([x.tensorIndex for x in inputs], place)
        part.outputs = _moved([head.tensorIndex], place)
        entry = schema.SignatureDefT()
        entry.signatureKey, entry.subgraphIndex = head.name, len(model.subgraphs)
        entry.inputs = [_named(x, place) for x in inputs]
        entry.outputs = [_named(head, place)]
        model.subgraphs.append(part)
        model.signatureDefs.append(entry)
    return repack(model, content)


def _needed(graph, tensor):
    """The operations that a tensor is computed from, in order."""
    needed, wanted = [], {tensor}
    for op in reversed(graph.operators):
        if wanted.intersection(op.outputs):
            needed.append(op)
            wanted.update(op.inputs)
    return needed[::-1]


def _tensors(op):
    lists = (op.inputs, op.outputs, op.intermediates)
    return [i for indices in lists if indices is not None for i in indices if i >= 0]


def _part(graph, used, operators):
    """A graph of some of another's tensors and operations, and the tensors' places in it."""
    place = {old: new for new, old in enumerate(used)} | {-1: -1}
    part = copy.copy(graph)
    part.tensors = [graph.tensors[i] for i in used]
    part.operators = [copy.copy(op) for op in operators]
    for op in part.operators:
        for name in ("inputs", "outputs", "intermediates"):
            if getattr(op, name) is not None:
                setattr(op, name, _moved(getattr(op, name), place))
    return part, place


def _moved(indices, place):
    return np.array([place[i] for i in indices], "int32")


def _named(entry, place):
    entry = copy.copy(entry)
    entry.tensorIndex = place[entry.tensorIndex]
    return entry
