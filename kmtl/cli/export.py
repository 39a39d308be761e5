"""Folds, converts and quantises a trained Keras model, runs the file and compares each head.

Writes MODEL.tflite, and MODEL.json with shapes, recipe, sizes and errors, only when every head
agrees with the Keras model. The file holds builtin operations only.

  kmtl export model.keras --quantization=int8 --representative_data=x.npz --output=model.tflite
"""

from pathlib import Path

from absl import flags

from kmtl.cli.arrays import read_arrays

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
    flags.DEFINE_string(
        "representative_data",
        None,
        "An .npz file with an array of typical inputs for each input, by name; integer "
        "activations need it.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "overrides",
        [],
        "Heads or layers with types of their own, as in depth=int8x16,stem=float32.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "output",
        None,
        "The file to write; by default the model's name with the ending .tflite.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "tasks",
        None,
        "The tasks to export, as in left,right; by default all.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "batch_size",
        1,
        "Rows that the file computes at a time, 0 for any number; 1 by default.",
        flag_values=values,
    )


def main(values: flags.FlagValues, model_path: str) -> None:
    """Exports the model at `model_path`."""
    from kmtl.cli.models import load_model
    from kmtl.export import export_litert

    model = load_model(model_path)
    data = values.representative_data
    if data is not None:
        names = [x.name for x in model.inputs]
        data = read_arrays("representative_data", data, names)
    overrides = _read_overrides(values.overrides)
    result = export_litert(
        model,
        values.output or Path(model_path).with_suffix(".tflite"),
        quantization=values.quantization,
        representative_data=data,
        tasks=values.tasks,
        batch_size=values.batch_size or None,
        overrides=overrides,
    )
    print(f"{result.path}  {result.bytes:,} bytes, {result.quantization}")
    for task in result.tasks:
        error = result.errors[task]
        print(
            f"  {task}: largest error {error['max_abs_error']:.3g}, "
            f"relative error {error['relative_error']:.3g}"
        )


def _read_overrides(items) -> dict[str, str]:
    pairs = [item.split("=") for item in items]
    bad = [item for item, pair in zip(items, pairs, strict=True) if len(pair) != 2]
    if bad:
        raise ValueError(f"--overrides must be pairs name=type. Received: {', '.join(bad)}")
    return dict(pairs)
