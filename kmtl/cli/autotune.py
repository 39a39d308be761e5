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
from kmtl.cli.models import (
    define_file_flags,
    define_measuring_flags,
    load_model,
    read_inputs,
)

POSITIONAL = ("MODEL.keras",)


def define_flags(values: flags.FlagValues) -> None:
    """Adds this command's flags; the data are validation data."""
    define_measuring_flags(values)
    define_file_flags(values)
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
        "plot", None, "A .png, .svg or .pdf file for the trade-off.", flag_values=values
    )
    flags.DEFINE_integer(
        "max_evaluations", 200, "Largest number of files to measure.", flag_values=values
    )
    for name in ("data", "labels", "metrics", "budget"):
        flags.mark_flag_as_required(name, flag_values=values)


def main(values: flags.FlagValues, model_path: str) -> None:
    """Writes the best file of the model at `model_path`."""
    from kmtl.export import autotune
    from kmtl.export.tuning.trade_off import check_plot

    metrics = by_head("metrics", values.metrics, "left:accuracy,right:mae")
    budget = _numbers(by_head("budget", values.budget, "left:0.3,right:0.5"))
    if values.plot is not None:
        check_plot(values.plot)
    model = load_model(model_path)
    found = autotune(
        model,
        values.output or Path(model_path).with_suffix(".tflite"),
        read_inputs("data", values.data, model),
        read_arrays("labels", values.labels, metrics, what="head with a metric"),
        metrics,
        budget,
        target=values.target,
        representative_data=read_inputs("representative_data", values.representative_data, model),
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
