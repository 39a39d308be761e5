"""Runs a .tflite file on the arrays of an .npz file and shows the first answers of each head.

The .npz file holds one array for each input, by name, samples along the first axis. Of a vector
the values are shown and which is the largest, of an image or a sequence the range and the mean.

  kmtl run model.tflite --input=x.npz --output=answers.npz
"""

import numpy as np
from absl import flags

from kmtl.cli.arrays import npz_bytes, read_arrays, write_file
from kmtl.cli.models import check_file

POSITIONAL = ("MODEL.tflite",)

ROWS_SHOWN, VALUES_SHOWN = 5, 10


def define_flags(values: flags.FlagValues) -> None:
    """Adds this command's flags."""
    flags.DEFINE_string("input", None, "The .npz file with the inputs.", flag_values=values)
    flags.DEFINE_string(
        "output",
        None,
        "An .npz file to write the answers to, an array for each head.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "runtime",
        "interpreter",
        "interpreter (the default) or compiled_model.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "signature",
        None,
        "The signature to run, such as a task's; by default the file's first.",
        flag_values=values,
    )
    flags.mark_flag_as_required("input", flag_values=values)


def main(values: flags.FlagValues, path: str) -> None:
    """Runs the file at `path`."""
    from kmtl.export import load_litert

    check_file("MODEL.tflite", path)
    runner = load_litert(path, runtime=values.runtime, signature=values.signature)
    answers = runner(read_arrays("input", values.input, runner.input_details))
    for task, array in answers.items():
        print(f"{task}  {array.dtype} {' x '.join(map(str, array.shape))}")
        for row, answer in enumerate(array[:ROWS_SHOWN]):
            print(f"  row {row}  {_vector(answer.ravel()) if array.ndim < 3 else _map(answer)}")
    if values.output is not None:
        write_file("output", values.output, npz_bytes(answers))
        print(f"{values.output}  {len(next(iter(answers.values())))} rows")


def _vector(answer) -> str:
    shown = " ".join(f"{value:.4g}" for value in answer[:VALUES_SHOWN])
    more = " ..." if answer.size > VALUES_SHOWN else ""
    largest = f"   largest: {np.argmax(answer)}" if answer.size > 1 else ""
    return f"[{shown}{more}]{largest}"


def _map(answer) -> str:
    """Of an image or a sequence, whose place of the largest value says nothing."""
    if not answer.size:
        return "no values"
    least, most = answer.min(), answer.max()
    return f"from {least:.4g} to {most:.4g}, mean {answer.mean(dtype='float64'):.4g}"
