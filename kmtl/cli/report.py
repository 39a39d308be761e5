"""Writes an HTML page that shows what each number type costs each head of a trained model.

Exports the model in every type, compares the files with it, and shows metrics, errors, bytes,
latencies and weights. The .tflite files are not kept; `kmtl export` writes the chosen one.

  kmtl report model.keras --data=x.npz --labels=y.npz --metrics=left:accuracy,right:mae
"""

from pathlib import Path

from absl import flags

from kmtl.cli.arrays import read_arrays
from kmtl.cli.by_head import by_head
from kmtl.cli.models import define_measuring_flags, load_model, read_inputs

POSITIONAL = ("MODEL.keras",)


def define_flags(values: flags.FlagValues) -> None:
    """Adds this command's flags."""
    define_measuring_flags(values)
    flags.DEFINE_list(
        "quantizations",
        None,
        "The types to compare with float32, as in float16,int8; by default all.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "output",
        None,
        "The page to write; by default the model's name with the ending .html.",
        flag_values=values,
    )
    flags.mark_flag_as_required("data", flag_values=values)


def main(values: flags.FlagValues, model_path: str) -> None:
    """Writes the report on the model at `model_path`."""
    from kmtl.export import report

    metrics = values.metrics
    if metrics is not None:
        metrics = by_head("metrics", metrics, "left:accuracy,right:mae")
    if (metrics is None) != (values.labels is None):
        given = "--labels" if metrics is None else "--metrics"
        raise ValueError(f"--labels and --metrics must be given together. Received: only {given}")
    model = load_model(model_path)
    data = read_inputs("data", values.data, model)
    labels = None
    if metrics is not None:
        labels = read_arrays("labels", values.labels, metrics, what="head with a metric")
    found = report(
        model,
        values.output or Path(model_path).with_suffix(".html"),
        data,
        labels=labels,
        metrics=metrics,
        quantizations=values.quantizations,
        progress=print,
        representative_data=read_inputs("representative_data", values.representative_data, model),
    )
    for name, why in found.refused.items():
        print(f"no file in {name}: {why}")
    print(found.path)
