"""Trains a network by a configuration: data, network, losses, where to run, what to export.

The same file runs on one machine and, where the variable TF_CONFIG names several, on each of
them. Paths and modules in it are looked up from the folder that the command runs in.

  kmtl train --example > config.yaml
  kmtl train config.yaml --check
  kmtl train config.yaml --set=training.epochs=2 --set=model=runs/model.keras
"""

import importlib.resources
import sys

from absl import flags

from kmtl.cli import interrupt

POSITIONAL = ("CONFIG.yaml",)
STANDS_ALONE = ("example",)

PACKAGES = ("pydantic", "yaml", "pandas", "pyarrow")


def define_flags(values: flags.FlagValues) -> None:
    """Adds this command's flags."""
    flags.DEFINE_multi_string(
        "set",
        [],
        "A value that replaces the file's, as in training.epochs=2; may be given several times.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "check",
        False,
        "Read the data, run the network on a few of them, but train nothing.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "example", False, "Print a complete example and do nothing else.", flag_values=values
    )


def main(values: flags.FlagValues, path: str | None = None) -> None:
    """Trains by the configuration at `path`."""
    if values.example:
        print(example(), end="")
        return
    from kmtl.export.reporting.figures import check_packages

    check_packages("`kmtl train`", "train", PACKAGES)
    from kmtl.training.configuration.config import read_config
    from kmtl.training.run import check, train

    config = read_config(path, values.set)
    if values.check:
        check(config, say=_say)
        return
    try:
        train(config, say=_say)
    except BaseException as error:
        if interrupt.is_interruption(error):
            print(_how_to_go_on(config), file=sys.stderr)
        raise


def example() -> str:
    """The commented example."""
    file = importlib.resources.files("kmtl.training").joinpath("example.yaml")
    return file.read_text(encoding="utf-8")


def _say(text):
    print(text, flush=True)  # a job's log is read while it runs


def _how_to_go_on(config):
    if config.training.backup is None:
        return "Nothing was kept; with `training.backup` the same command would go on."
    folder = config.training.backup.folder
    return f"The same command goes on from the last backup in {folder}."
