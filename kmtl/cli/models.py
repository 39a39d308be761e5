"""What the commands on a trained `.keras` file share: its flags, its data, and its result."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import flags

from kmtl.cli.arrays import read_arrays


def define_export_flags(values: flags.FlagValues, data_use: str) -> None:
    """Adds the flags of the commands that export a model.

    Args:
        values: The command's flags.
        data_use: What the representative data is for, to end its help.
    """
    flags.DEFINE_string(
        "representative_data",
        None,
        f"An .npz file with an array of typical inputs for each input, by name; {data_use}.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "tasks",
        None,
        "The tasks to export, as in left,right; by default all.",
        flag_values=values,
    )


def define_file_flags(values: flags.FlagValues) -> None:
    """Adds the flags of the commands that write a .tflite file."""
    flags.DEFINE_string(
        "output",
        None,
        "The file to write; by default the model's name with the ending .tflite.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "batch_size",
        1,
        "Rows that the file computes at a time, 0 for any number; 1 by default.",
        flag_values=values,
    )


def define_measuring_flags(values: flags.FlagValues) -> None:
    """Adds the flags of the commands that measure each head on labelled data."""
    flags.DEFINE_string(
        "data", None, "An .npz file with an array for each input, by name.", flag_values=values
    )
    flags.DEFINE_string(
        "labels",
        None,
        "An .npz file with labels of the data for each head that has a metric, by name.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "metrics",
        None,
        "Keras metrics by head, as in left:accuracy,right:mae.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "representative_data",
        None,
        "An .npz file with typical inputs, for the ranges of integers; by default of the data.",
        flag_values=values,
    )


def check_file(argument: str, path: str) -> None:
    """Raises FileNotFoundError, naming the command's argument, unless the file is there."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{argument} must be an existing file. Received: {path}")


def load_model(path: str):
    """The model that `model.save` wrote to `path`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no whole model, or made of classes that nobody knows.
    """
    import keras

    check_file("MODEL.keras", path)
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:  # zip, HDF5 and JSON errors alike
        raise ValueError(
            "MODEL.keras must be a whole model written by `model.save`, made of classes that "
            f"Keras or kmtl know. Received: {path} ({error})"
        ) from error


def read_inputs(flag: str, path: str | None, model) -> dict[str, np.ndarray] | None:
    """The arrays for the model's inputs that a flag names; None where the flag was not given."""
    return None if path is None else read_arrays(flag, path, [x.name for x in model.inputs])


def show_errors(tasks: Sequence[str], errors: Mapping[str, Mapping[str, float]]) -> None:
    """Prints how far the exported model is from the Keras model, a line for each task."""
    for task in tasks:
        error = errors[task]
        print(
            f"  {task}: largest error {error['max_abs_error']:.3g}, "
            f"relative error {error['relative_error']:.3g}"
        )
