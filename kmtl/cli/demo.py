"""Trains two-task networks on overlaid digits, compares them, deploys the best and reports.

Single-task baselines and four ways of sharing, several seeds each; the best network on the
validation images is folded, exported in four number types and verified. Nothing is downloaded.

  kmtl demo --output=runs/demo
"""

from absl import flags

POSITIONAL = ()


def define_flags(values: flags.FlagValues) -> None:
    """Adds this command's flags."""
    flags.DEFINE_string(
        "output", "runs/demo", "The folder to write; runs/demo by default.", flag_values=values
    )
    flags.DEFINE_integer(
        "seeds", None, "Trainings of each network; 3 by default.", flag_values=values
    )
    flags.DEFINE_bool(
        "quick",
        False,
        "A rehearsal: one epoch on few images, one seed unless --seeds says more.",
        flag_values=values,
    )


def main(values: flags.FlagValues) -> None:
    """Runs the demo."""
    from kmtl.demo import run_demo

    run_demo(values.output, seeds=values.seeds, quick=values.quick)
