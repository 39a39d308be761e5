"""What may be asked of `export_litert`, with clear errors for the rest."""

from collections.abc import Mapping

import keras
import numpy as np

from kmtl.export.flatbuffers.model_metadata import label_file
from kmtl.export.quantization.recipes import check_quantization
from kmtl.export.quantization_aware.float_parts import quantizations_of
from kmtl.export.quantization_aware.schemes import check_trained_for, is_quantize_aware

INPUT_TYPES = ("float32", "float16", "int32", "int8", "uint8", "bool")


def checked_quantization(model, quantization, overrides, target) -> str:
    """The type of a file, by default that of the target or that a model was trained for."""
    default = "int8_io" if target else "float32"
    if is_quantize_aware(model):
        trained_for = quantizations_of(model)
        if quantization not in (None, *trained_for) or overrides:
            raise ValueError(
                "A model from `quantize_aware` is exported as it was trained, without `overrides` "
                f"and with a `quantization` of {trained_for}. Received: "
                f"quantization={quantization!r}, overrides={overrides}"
            )
        default = default if target else trained_for[0]
        check_trained_for(model, target)
    quantization = quantization or default
    check_quantization(quantization)
    return quantization


def check_batch_size(batch_size) -> None:
    """Raises ValueError unless it is a number of rows, or None."""
    whole = isinstance(batch_size, int) and not isinstance(batch_size, bool)
    if batch_size is not None and not (whole and batch_size >= 1):
        raise ValueError(
            f"`batch_size` must be at least 1, or None. Received: batch_size={batch_size!r}"
        )


def check_deployable(plain: keras.Model) -> None:
    """Raises ValueError for what LiteRT has no form of, before the converter trips over it."""
    tensors = {id(x): f"input {x.name!r}" for x in plain.inputs}
    for task, x in plain.output.items():
        if id(x) in tensors:
            raise ValueError(
                "Every head must compute something of its own, as the converter keeps one name "
                f"for each tensor. Received: head {task!r}, which is {tensors[id(x)]}"
            )
        tensors[id(x)] = f"head {task!r}"
    for x in plain.inputs:
        if None in x.shape[1:]:
            raise ValueError(
                "All sizes of inputs but the batch's must be known, as memory is planned for them. "
                f"Received: {tuple(x.shape[1:])} for input {x.name!r}"
            )
        if x.dtype not in INPUT_TYPES:
            raise ValueError(
                f"Inputs must have one of the types {INPUT_TYPES}, which both LiteRT runtimes "
                f"take. Received: {x.dtype} for input {x.name!r}"
            )


def checked_mapping(argument: str, value) -> dict:
    """A dict, empty for None; raises ValueError for anything else."""
    if not isinstance(value, Mapping | None):
        raise ValueError(f"`{argument}` must be a dict by name. Received: {argument}={value!r}")
    return dict(value or {})


def checked_labels(labels, plain) -> dict:
    """Task -> class names, as text."""
    labels = checked_mapping("labels", labels)
    for task, names in labels.items():
        if isinstance(names, str) or not hasattr(names, "__len__"):
            raise ValueError(
                f"`labels` must give each task a list of names. Received: {names!r} for {task!r}"
            )
        if task not in plain.output:
            raise ValueError(
                f"`labels` must name exported tasks {sorted(plain.output)}. Received: {task!r}"
            )
        if len(names) != plain.output[task].shape[-1]:
            raise ValueError(
                f"`labels` must hold a name for each of the {plain.output[task].shape[-1]} "
                f"outputs of task {task!r}. Received: {len(names)} names"
            )
    labels = {task: [str(n) for n in names] for task, names in labels.items()}
    for task, names in labels.items():
        label_file(task, names)  # refuses what it cannot hold, before any work is done
    return labels


def checked_normalization(normalization, preprocessing, plain) -> dict[str, tuple]:
    """Input name -> (mean, std); 0 and 1 for inputs that the file prepares itself."""
    normalization = checked_mapping("normalization", normalization)
    inputs = {x.name for x in plain.inputs}
    for name, values in normalization.items():
        if name not in inputs or name in preprocessing:
            raise ValueError(
                "`normalization` must name inputs that the application prepares, "
                f"{sorted(inputs.difference(preprocessing))}. Received: {name!r}"
            )
        if not isinstance(values, (tuple, list)) or len(values) != 2:
            raise ValueError(
                f"`normalization` must give each input its (mean, std). Received: {values!r} for "
                f"{name!r}"
            )
        _check_channels(name, values, {x.name: x for x in plain.inputs}[name])
    return normalization | {name: (0.0, 1.0) for name in inputs.intersection(preprocessing)}


def _check_channels(name, values, x) -> None:
    try:
        mean, std = (np.atleast_1d(np.asarray(value, "float64")) for value in values)
        fits = {mean.shape, std.shape} <= {(1,), (x.shape[-1],)}
        sound = np.isfinite([*mean, *std]).all() and (std > 0).all()
    except (TypeError, ValueError):
        fits = sound = False
    if not (fits and sound):
        raise ValueError(
            "`normalization` must give means and positive standard deviations, one or one for "
            f"each of {x.shape[-1]} channels. Received: {values!r} for {name!r}"
        )
