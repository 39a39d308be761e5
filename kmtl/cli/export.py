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
        "float32",
        "float32 (the default), float16, dynamic_int8 or int8.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "representative_data",
        None,
        "An .npz file with an array of typical inputs for each input, by name; int8 needs it.",
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
        "batch_size", 1, "Rows that the file computes at a time; 1 by default.", flag_values=values
    )


def main(values: flags.FlagValues, model_path: str) -> None:
    """Exports the model at `model_path`."""
    import keras

    from kmtl.export import export_litert

    if not Path(model_path).is_file():
        raise FileNotFoundError(f"MODEL.keras must be an existing file. Received: {model_path}")
    model = _load(keras, model_path)
    data = values.representative_data
    if data is not None:
        names = [x.name for x in model.inputs]
        data = read_arrays("representative_data", data, names)
    result = export_litert(
        model,
        values.output or Path(model_path).with_suffix(".tflite"),
        quantization=values.quantization,
        representative_data=data,
        tasks=values.tasks,
        batch_size=values.batch_size,
    )
    print(f"{result.path}  {result.bytes:,} bytes, {result.quantization}")
    for task in result.tasks:
        error = result.errors[task]
        print(
            f"  {task}: largest error {error['max_abs_error']:.3g}, "
            f"relative error {error['relative_error']:.3g}"
        )


def _load(keras, path):
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:  # zip, HDF5 and JSON errors alike
        raise ValueError(
            "MODEL.keras must be a whole model written by `model.save`, made of classes that "
            f"Keras or kmtl know. Received: {path} ({error})"
        ) from error
