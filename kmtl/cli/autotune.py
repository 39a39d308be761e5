"""Writes the smallest or fastest .tflite file in which every head keeps its budget.

A budget is the largest accepted loss against the float32 file: in percentage points of metrics
of which more is better (accuracies, IoU), in percent of float32's value of errors (mae). Types
are mixed layer by layer; the data are validation data, never test data.

  kmtl autotune model.keras --data=x.npz --labels=y.npz \\
      --metrics=seg:accuracy,depth:mae --budget=seg:0.3,depth:0.5
"""

from pathlib import Path

from absl import flags

from kmtl.cli.arrays import read_arrays
from kmtl.cli.by_head import by_head

POSITIONAL = ("MODEL.keras",)


def define_flags(values: flags.FlagValues) -> None:
    """Adds this command's flags."""
    flags.DEFINE_string(
        "data",
        None,
        "An .npz file with an array of validation inputs for each input, by name.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "labels", None, "An .npz file with labels of the data for each head.", flag_values=values
    )
    flags.DEFINE_list(
        "metrics",
        None,
        "Keras metrics by head, as in seg:accuracy,depth:mae.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "budget", None, "Largest losses by head, as in seg:0.3,depth:0.5.", flag_values=values
    )
    flags.DEFINE_string(
        "target", "bytes", "bytes (the default) or latency, on this machine.", flag_values=values
    )
    flags.DEFINE_list(
        "types",
        None,
        "The types to mix, as in int4,int8,float32; by default all.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "representative_data",
        None,
        "An .npz file with typical inputs, for the ranges of integers; by default of the data.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "output",
        None,
        "The file to write; by default the model's name with the ending .tflite.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "plot", None, "A .png, .svg or .pdf file for the trade-off.", flag_values=values
    )
    flags.DEFINE_integer(
        "batch_size",
        1,
        "Rows that the file computes at a time, 0 for any number; 1 by default.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "max_evaluations", 200, "Largest number of files to measure.", flag_values=values
    )
    for name in ("data", "labels", "metrics", "budget"):
        flags.mark_flag_as_required(name, flag_values=values)


def main(values: flags.FlagValues, model_path: str) -> None:
    """Writes the best file of the model at `model_path`."""
    from kmtl.cli.models import load_model
    from kmtl.export import autotune
    from kmtl.export.tuning.trade_off import check_plot

    metrics = by_head("metrics", values.metrics, "left:accuracy,right:mae")
    budget = _numbers(by_head("budget", values.budget, "left:0.3,right:0.5"))
    if values.plot is not None:
        check_plot(values.plot)
    model = load_model(model_path)
    names = [x.name for x in model.inputs]
    samples = values.representative_data
    if samples is not None:
        samples = read_arrays("representative_data", samples, names)
    found = autotune(
        model,
        values.output or Path(model_path).with_suffix(".tflite"),
        read_arrays("data", values.data, names),
        read_arrays("labels", values.labels, metrics, what="head with a metric"),
        metrics,
        budget,
        target=values.target,
        representative_data=samples,
        types=values.types,
        batch_size=values.batch_size or None,
        max_evaluations=values.max_evaluations,
        progress=print,
    )
    if values.plot is not None:
        found.plot(values.plot)
    print(f"\n{found}\n{found.path}")


def _numbers(budget) -> dict[str, float]:
    numbers = {}
    for head, text in budget.items():
        try:
            numbers[head] = float(text)
        except ValueError:
            raise ValueError(
                f"--budget must give each head a number. Received: {head}:{text}"
            ) from None
    return numbers
