"""Writes a model's description into its LiteRT file, where Android's and MediaPipe's tools look."""

from collections.abc import Mapping, Sequence

import numpy as np

from kmtl.export.flatbuffers import metadata_tables as schema
from kmtl.export.flatbuffers.inspection import check_flatbuffer
from kmtl.export.flatbuffers.model_metadata import ENTRY, InputInfo, label_file
from kmtl.export.flatbuffers.packing import append_files, repack


def with_metadata(
    content: bytes,
    name: str,
    description: str,
    inputs: Mapping[str, InputInfo] | None = None,
    labels: Mapping[str, Sequence[str]] | None = None,
) -> bytes:
    """Adds a description to a LiteRT file, or replaces the one it has.

    Inputs and heads are described under their names of the signature. Label files stand
    behind the model as an uncompressed zip archive, which runtimes skip.

    Args:
        content: The file's bytes.
        name: The model's name.
        description: What it is.
        inputs: Input name -> what an application must know to feed it. Defaults to `None`.
        labels: Task -> class names. Defaults to `None`.

    Raises:
        ValueError: if the bytes are no LiteRT model, for names that it does not have, and for
            labels that are not one line of text each.
    """
    from ai_edge_litert import schema_py_generated as litert

    inputs, labels = dict(inputs or {}), dict(labels or {})
    files = {task: label_file(task, names) for task, names in labels.items()}
    check_flatbuffer(content, "<bytes>")
    model = litert.ModelT.InitFromPackedBuf(content, 0)
    graphs = _graphs(model, inputs, {task: file for task, (file, _) in files.items()})
    packed = schema.pack_table(
        {
            schema.Model.NAME: name,
            schema.Model.DESCRIPTION: description,
            schema.Model.GRAPHS: graphs,
            schema.Model.MIN_PARSER_VERSION: schema.MIN_PARSER_VERSION,
        }
    )
    _put(model, litert.BufferT(data=np.frombuffer(packed, np.uint8)), litert)
    return append_files(repack(model, content), dict(files.values()))


def _graphs(model, inputs, files) -> list[dict]:
    """Describes the graphs up to the last one with a signature; bodies of loops have none."""
    entries = {entry.subgraphIndex: entry for entry in reversed(model.signatureDefs)}
    graphs, known = [], set()
    for index in range(max(entries) + 1):
        entry, graph = entries.get(index), model.subgraphs[index]
        if entry is None:
            graphs.append({})
            continue
        feeds = _named(graph.inputs, entry.inputs, graph)
        heads = _named(graph.outputs, entry.outputs, graph)
        known.update(name for name, _ in (*feeds, *heads))
        graphs.append(
            {
                schema.Graph.NAME: entry.signatureKey.decode(),
                schema.Graph.INPUTS: [
                    _input(name, tensor, inputs.get(name, InputInfo())) for name, tensor in feeds
                ],
                schema.Graph.OUTPUTS: [_head(name, files.get(name)) for name, _ in heads],
            }
        )
    unknown = sorted({*inputs, *files} - known)
    if unknown:
        raise ValueError(
            f"`inputs` and `labels` must name inputs and heads of the file, {sorted(known)}. "
            f"Received: {unknown}"
        )
    return graphs


def _named(indices, entries, graph) -> list[tuple]:
    """(name, tensor) in the graph's order, which is not the signature's.

    A tensor that is two heads has both names; one that no signature shows has its own.
    """
    names, named = {}, []
    for entry in entries or []:
        names.setdefault(entry.tensorIndex, []).append(entry.name)
    for i in indices:
        tensor, waiting = graph.tensors[i], names.get(i)
        named.append(((waiting.pop(0) if waiting else tensor.name).decode(), tensor))
    return named


def _input(name, tensor, info: InputInfo) -> dict:
    sizes = () if tensor.shape is None else tensor.shape
    color = {1: schema.GRAYSCALE, 3: schema.RGB}.get(sizes[-1]) if len(sizes) == 4 else None
    units = [
        {
            schema.Union.TYPE: schema.NORMALIZATION_OPTIONS,
            schema.Union.VALUE: {
                schema.Normalization.MEAN: [float(x) for x in info.mean],
                schema.Normalization.STD: [float(x) for x in info.std],
            },
        }
    ]
    limits = {
        schema.Stats.MAX: [float(x) for x in info.maximum],
        schema.Stats.MIN: [float(x) for x in info.minimum],
    }
    return {
        schema.Tensor.NAME: name,
        schema.Tensor.DESCRIPTION: info.description,
        schema.Tensor.CONTENT: _content(color),
        schema.Tensor.PROCESS_UNITS: units if info.std else [],
        schema.Tensor.STATS: limits if any(limits.values()) else None,
    }


def _head(name, file) -> dict:
    files = [{schema.File.NAME: file, schema.File.TYPE: schema.TENSOR_AXIS_LABELS}]
    return {
        schema.Tensor.NAME: name,
        schema.Tensor.CONTENT: _content(None),
        schema.Tensor.FILES: files if file else [],
    }


def _content(color: int | None) -> dict:
    if color is None:
        return {schema.Union.TYPE: schema.FEATURE_PROPERTIES, schema.Union.VALUE: {}}
    return {
        schema.Union.TYPE: schema.IMAGE_PROPERTIES,
        schema.Union.VALUE: {schema.Image.COLOR_SPACE: color},
    }


def _put(model, buffer, litert) -> None:
    for entry in model.metadata or []:
        if entry.name == ENTRY.encode():
            model.buffers[entry.buffer] = buffer
            return
    model.buffers.append(buffer)
    entry = litert.MetadataT(name=ENTRY, buffer=len(model.buffers) - 1)
    model.metadata = [*(model.metadata or []), entry]
