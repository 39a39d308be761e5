"""Folds a trained Keras model and writes a SavedModel for servers, with a signature per task.

The folder gets its name only when it was loaded again, every signature was served and every head
agrees with the Keras model. For Cloud TPUs it computes in bfloat16 and is compiled by XLA.

  kmtl saved_model model.keras --target=tpu --batch_size=8 --output=model
"""

from pathlib import Path

from absl import flags

from kmtl.cli.models import define_export_flags, load_model, read_inputs, show_errors

POSITIONAL = ("MODEL.keras",)


def define_flags(values: flags.FlagValues) -> None:
    """Adds this command's flags."""
    flags.DEFINE_string("target", "cpu", "cpu (the default) or tpu.", flag_values=values)
    flags.DEFINE_string(
        "output",
        None,
        "The folder to write; by default the model's name without its ending.",
        flag_values=values,
    )
    define_export_flags(values, "to verify on")
    flags.DEFINE_integer(
        "batch_size",
        None,
        "Rows that the model computes at a time; any number by default; tpu needs one.",
        flag_values=values,
    )


def main(values: flags.FlagValues, model_path: str) -> None:
    """Exports the model at `model_path`."""
    from kmtl.export import export_saved_model

    model = load_model(model_path)
    data = read_inputs("representative_data", values.representative_data, model)
    result = export_saved_model(
        model,
        values.output or Path(model_path).with_suffix(""),
        target=values.target,
        tasks=values.tasks,
        batch_size=values.batch_size,
        representative_data=data,
    )
    print(f"{result.path}  {result.bytes:,} bytes for {result.target}")
    print(f"  signatures: {', '.join(result.signatures)}")
    show_errors(result.tasks, result.errors)
