"""What may be asked of `export_litert`, with clear errors for the rest."""

from kmtl.export.flatbuffers.model_metadata import label_file
from kmtl.export.quantization.recipes import check_quantization
from kmtl.export.quantization_aware.float_parts import quantizations_of
from kmtl.export.quantization_aware.schemes import check_trained_for, is_quantize_aware


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


def checked_labels(labels, plain) -> dict:
    """Task -> class names, as text."""
    labels = dict(labels or {})
    for task, names in labels.items():
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
    normalization, inputs = dict(normalization or {}), {x.name for x in plain.inputs}
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
    return normalization | {name: (0.0, 1.0) for name in inputs.intersection(preprocessing)}
