"""Folds, converts and quantises a trained Keras model, runs the file and compares each head.

Writes MODEL.tflite, and MODEL.json with shapes, recipe, sizes and errors, only when every head
agrees with the Keras model. The file holds builtin operations only.

  kmtl export model.keras --quantization=int8 --representative_data=x.npz --output=model.tflite
"""

import re
from pathlib import Path

from absl import flags

from kmtl.cli.models import (
    define_export_flags,
    define_file_flags,
    load_model,
    read_inputs,
    show_errors,
)

POSITIONAL = ("MODEL.keras",)


def define_flags(values: flags.FlagValues) -> None:
    """Adds this command's flags."""
    flags.DEFINE_string(
        "quantization",
        None,
        "float32 (the default of a model that was not trained for integers), float16, "
        "weight_only_int8, weight_only_int4, dynamic_int8, dynamic_int4, dynamic_int4_block32, "
        "or, with representative data, int8, int8_io, uint8_io, int8x16, int4.",
        flag_values=values,
    )
    define_export_flags(values, "integer activations need it")
    define_file_flags(values)
    flags.DEFINE_list(
        "overrides",
        [],
        "Heads or layers with types of their own, as in depth=int8x16,stem=float32.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "target",
        None,
        "edgetpu, for a file that the compiler of this accelerator takes (int8_io or uint8_io).",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "task_signatures",
        False,
        "Add a signature for each task, which runs only what this task needs.",
        flag_values=values,
    )


def main(values: flags.FlagValues, model_path: str) -> None:
    """Exports the model at `model_path`."""
    from kmtl.export import export_litert

    model = load_model(model_path)
    data = read_inputs("representative_data", values.representative_data, model)
    overrides = _read_overrides(values.overrides)
    result = export_litert(
        model,
        values.output or Path(model_path).with_suffix(".tflite"),
        quantization=values.quantization,
        representative_data=data,
        tasks=values.tasks,
        batch_size=values.batch_size or None,
        overrides=overrides,
        target=values.target,
        task_signatures=values.task_signatures,
    )
    print(f"{result.path}  {result.bytes:,} bytes, {result.quantization}")
    show_errors(result.tasks, result.errors)


def _read_overrides(items) -> dict[str, str]:
    pairs = [re.split("[=:]", item) for item in items]
    bad = [item for item, pair in zip(items, pairs, strict=True) if len(pair) != 2]
    if bad:
        raise ValueError(f"--overrides must be pairs name=type. Received: {', '.join(bad)}")
    return dict(pairs)
