"""What is left of the kernels in a `.tflite` file: zeros and distinct values."""

from collections.abc import Sequence

import keras
import numpy as np

from kmtl.export.compare import VerificationError
from kmtl.export.flatbuffers.inspection import enum_names, read_model
from kmtl.export.flatbuffers.operations import WITH_WEIGHTS, find_operations
from kmtl.export.tfmot.structure import KERNELS


def kernels_in_file(content: bytes, plain: keras.Model) -> dict[str, np.ndarray]:
    """Layer -> the values of its kernel as they stand in the file, integers or floats.

    Args:
        content: A flatbuffer whose tensors are named after the layers, as `to_flatbuffer` does.
        plain: The model that it was converted from.
    """
    types, found = enum_names("TensorType"), {}
    operations = find_operations(content, plain)
    with_kernels = {layer.name for layer in plain.layers if layer.weights}
    with read_model(content, "the file") as (_, model):
        graph = model.subgraphs[0]
        for op, known in zip(graph.operators, operations, strict=True):
            layers = [name for name in known.layers if name in with_kernels]
            if known.kind not in WITH_WEIGHTS or not layers:
                continue
            for tensor in (graph.tensors[i] for i in op.inputs if i >= 0):
                data = model.buffers[tensor.buffer].data
                dtype = types[tensor.type].lower()
                if data is not None and len(tensor.shape) > 1 and dtype in ("int8", "float32"):
                    values = np.frombuffer(bytes(data), dtype).reshape(tensor.shape)
                    found[layers[0]] = values
    return found


def share_of_zeros(kernel: np.ndarray) -> float:
    """The share of zeros."""
    return float(np.mean(kernel == 0))


def distinct(kernel: np.ndarray) -> int:
    """The number of different values."""
    return len(np.unique(kernel))


def check_structure(plain, found, recipe: Sequence[dict]) -> None:
    """Raises VerificationError for kernels of the file without the zeros and few values."""
    options = {entry["method"]: entry for entry in recipe}
    for layer in plain.layers:
        if type(layer).__name__ not in KERNELS or not {"prune", "cluster"} & set(options):
            continue
        kernel = found.get(layer.name)
        if kernel is None:
            raise VerificationError(
                "Every kernel that was pruned or clustered must be in the file. "
                f"Received: no kernel of layer {layer.name!r}"
            )
        if "prune" in options:
            least = min(kernel.size * options["prune"]["sparsity"] - 0.5, kernel.size - 1)
            if np.sum(kernel == 0) < least:
                raise VerificationError(
                    f"A share of {options['prune']['sparsity']} of every kernel in the file must "
                    f"be zero. Received: {share_of_zeros(kernel):.3f} of layer {layer.name!r}"
                )
        if "cluster" in options and distinct(kernel) > options["cluster"]["clusters"]:
            raise VerificationError(
                f"Every kernel in the file must have at most {options['cluster']['clusters']} "
                f"values. Received: {distinct(kernel)} of layer {layer.name!r}"
            )
