"""Entry point of the command `kmtl`: finds the subcommand, parses its flags, reports errors."""

import importlib
import logging
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from absl import flags

from kmtl.cli import interrupt
from kmtl.cli.guard import guarded
from kmtl.version import __version__

# Each command is the module of that name beside this file. It has a docstring (its help),
# POSITIONAL (names of its arguments), `define_flags(flag_values)` and `main(flag_values, *args)`;
# where some flags need no arguments beside them, STANDS_ALONE names these.
# It imports TensorFlow inside `main` only, so that help answers at once.
COMMANDS = {
    "autotune": "write the smallest or fastest .tflite file that keeps each head's budget",
    "benchmark": "measure a .tflite file: latency, memory, time of each operation",
    "demo": "train, compare and deploy small two-task networks; writes a report",
    "export": "turn a trained .keras model into a verified .tflite file",
    "inspect": "show the heads, types, operations and bytes of a .tflite file",
    "lint": "say what of a .tflite file maps to an accelerator, and why the rest does not",
    "report": "show what each number type costs each head, as an HTML page",
    "run": "run a .tflite file on the arrays of an .npz file",
    "saved_model": "turn a trained .keras model into a verified SavedModel for servers and TPUs",
    "train": "train a network by a configuration file, on one machine or many, and export it",
}

HELP = """Multi-task networks, from training to a verified LiteRT file.

usage: kmtl COMMAND [ARGUMENTS] [--flags]

commands:
{commands}

`kmtl COMMAND --help` explains a command, `kmtl --version` prints the version."""

SUCCESS, FAILURE, WRONG_USAGE = 0, 1, 2

# Commands that hand a file of unknown origin to LiteRT, whose code a damaged one may crash.
GUARDED = ("benchmark", "inspect", "lint", "run")


def run() -> None:
    """Runs the command line of this process and exits."""
    interrupt.quit_at_once()
    if "--debug" not in sys.argv:
        _silence_native_code()
    arguments = sys.argv[1:]
    if arguments and arguments[0] in GUARDED:
        code = guarded(lambda: main(arguments), " ".join(arguments))
    else:
        code = main(arguments)
    interrupt.ignore()
    sys.exit(code)


def main(arguments: Sequence[str]) -> int:
    """Runs `kmtl` with these arguments.

    Args:
        arguments: The command line without the program's name.

    Returns:
        The exit code: 0, 1 for an error that was reported, 2 for wrong usage, 130 for Ctrl-C.
    """
    name, *rest = arguments or ["--help"]
    if name in ("--help", "-h", "help"):
        print(HELP.format(commands=_table(COMMANDS)))
        return SUCCESS
    if name == "--version":
        print(f"kmtl {__version__}")
        return SUCCESS
    if name not in COMMANDS:
        _complain(f"unknown command {name!r}. The commands are:\n{_table(COMMANDS)}")
        return WRONG_USAGE
    command = importlib.import_module(f"kmtl.cli.{name}")
    values = _flags_of(command)
    if {"--help", "-h"} & set(rest):
        print(_help(name, command, values))
        return SUCCESS
    try:
        positional = values(["kmtl", *rest])[1:]
        names = _arguments(command, values)
        if len(positional) != len(names):
            wanted = " ".join(names) or "no argument"
            raise flags.Error(f"expected {wanted}. Received: {' '.join(positional) or 'nothing'}")
    except flags.Error as error:
        _complain(f"{_one_line(error)}\n`kmtl {name} --help` explains the command.")
        return WRONG_USAGE
    return _call(command, values, positional)


def _arguments(command, values) -> Sequence[str]:
    """Names of the arguments that are to be given; none beside a flag that stands alone."""
    alone = any(values[flag].value for flag in getattr(command, "STANDS_ALONE", ()))
    return () if alone else command.POSITIONAL


def _call(command, values, positional) -> int:
    os.environ["KERAS_BACKEND"] = "tensorflow"  # before Keras is imported; LiteRT needs it
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    try:
        importlib.import_module("kmtl.export")  # and with it Keras and TensorFlow
        interrupt.unwind()
        command.main(values, *positional)
    except BaseException as error:
        if interrupt.is_interruption(error):
            _complain("interrupted")
            return interrupt.INTERRUPTED
        if values.debug or not isinstance(error, _expected_errors()):
            raise
        _complain(_one_line(_told(error)))
        return FAILURE
    return SUCCESS


def _silence_native_code() -> None:
    """Lets only Python write to the terminal's standard error.

    TensorFlow and LiteRT report devices and processors there, at any time until the process
    ends and whatever TF_CPP_MIN_LOG_LEVEL says.
    """
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="replace")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)


def _expected_errors() -> tuple[type[Exception], ...]:
    """Errors whose message says it all; asked for only when there is one."""
    compare = sys.modules.get("kmtl.export.compare")
    verification = [compare.VerificationError] if compare else []
    # FloatingPointError of training whose losses or weights are no longer finite.
    return (ValueError, OSError, ImportError, FloatingPointError, *verification)


def _told(error) -> str:
    """An error's message; that of the system with the rule and the file before it."""
    if not isinstance(error, OSError) or error.filename is None:
        return str(error) or type(error).__name__
    if "Received: " in error.strerror:  # ours, of a file that could not be written
        return f"{error.strerror}: {error.filename}"
    return (
        "Files must be there and readable, folders there and writable. "
        f"Received: {error.filename} ({error.strerror})"
    )


def _flags_of(command: ModuleType) -> flags.FlagValues:
    values = flags.FlagValues()
    command.define_flags(values)
    flags.DEFINE_bool("debug", False, "Show where an error comes from.", flag_values=values)
    values.set_gnu_getopt(True)  # flags may follow arguments
    return values


def _help(name, command, values) -> str:
    usage = " ".join(["usage: kmtl", name, *command.POSITIONAL, "[--flags]"])
    rows = {f"--{flag}": values[flag].help for flag in values}
    return f"{command.__doc__.strip()}\n\n{usage}\n\nflags:\n{_table(rows)}"


def _table(rows) -> str:
    width = max(map(len, rows))
    return "\n".join(f"  {name:{width}}  {text}" for name, text in rows.items())


def _one_line(message) -> str:
    return " ".join(str(message).split())


def _complain(message) -> None:
    print(f"kmtl: {message}", file=sys.stderr)


if __name__ == "__main__":
    run()
