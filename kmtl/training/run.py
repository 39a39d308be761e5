"""Training by a configuration, from the data to the exported files."""

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf

from kmtl.callbacks import BackupAndResume
from kmtl.training import results
from kmtl.training.building.early_stopping import ResumableEarlyStopping
from kmtl.training.building.epoch_logs import EpochLogs
from kmtl.training.building.strategy import make_strategy
from kmtl.training.building.workers import in_one_line, read_cluster
from kmtl.training.checking.explaining import explaining
from kmtl.training.checking.finite import check_measured, check_weights
from kmtl.training.checking.monitoring import stopping_arguments
from kmtl.training.checking.places import make_folders
from kmtl.training.checking.preparing import check_first, precision, prepare
from kmtl.training.checking.seeds import note_seed
from kmtl.training.configuration.schema import Config
from kmtl.training.writing import write_all

BAR, LINES, SILENT = 1, 2, 0  # of `fit`


def train(config: Config, say: Callable[[str], None] = print) -> None:
    """Trains, saves, evaluates and exports; each worker of several calls it.

    Args:
        config: The configuration.
        say: Shows a text; called on the first worker only.
    """
    cluster = read_cluster(config.training, os.environ)
    first = cluster is None or cluster.index == 0
    check_first(config, writes=first)
    with in_one_line(cluster), precision(config.training.precision):
        strategy = make_strategy(config.training, cluster)
        replicas = strategy.num_replicas_in_sync
        # On TPUs a model runs in compiled steps; there `--check` rehearses, on the CPU.
        host = config.training.strategy != "tpu"
        prepared = prepare(config, strategy.scope(), replicas, rehearsed=host)
        data, model = prepared.data, prepared.model
        if first:
            make_folders(config)
            note_seed(config.training)
            say(f"{data.mixture}\n{model.count_params():,} parameters, {_where(strategy)}")

        def explained():
            return explaining(config, data, prepared.limits, say if first else _in_silence)

        def measure():
            with explained():
                logs = model.evaluate(data.held_out["test"], verbose=0, return_dict=True)
                check_measured(logs)
            return results.by_task(logs, model.task_names, data.unlabelled["test"])

        with explained():
            _fit(model, config, data, first)
            check_weights(model)
        measured = measure if "test" in data.held_out else None
        write_all(model, config, data, measured, strategy, cluster, say)


def check(config: Config, say: Callable[[str], None] = print) -> None:
    """Reads the data, tries the model on a few of them, and shows what would be trained."""
    cluster = read_cluster(config.training, os.environ)
    replicas = cluster.workers if cluster else config.training.logical_cpus or 1
    check_first(config, writes=cluster is None or cluster.index == 0)
    with in_one_line(None), precision(config.training.precision):
        prepared = prepare(config, contextlib.nullcontext(), replicas)
    data, model = prepared.data, prepared.model
    say(f"{data.mixture}")
    for split in data.held_out:
        sizes = ", ".join(f"{name} {size:,}" for name, size in data.sizes[split].items())
        lacking = ", ".join(data.unlabelled[split])
        say(f"{split}: {sizes} examples" + (f", without labels of {lacking}" if lacking else ""))
    inputs = ", ".join(f"{name} {tuple(spec.shape)}" for name, spec in data.inputs.items())
    say(f"inputs: {inputs}; tasks: {', '.join(model.task_names)}")
    steps = data.mixture.steps_per_epoch * config.training.epochs
    workers = "" if cluster is None else f", worker {cluster.index} of {cluster.workers}"
    say(f"{model.count_params():,} parameters, {config.training.epochs} epochs, {steps:,} steps")
    say(f"strategy {config.training.strategy}{workers}, {config.training.precision}")


def _fit(model, config, data, first):
    training = config.training
    verbose = SILENT if not first else BAR if sys.stdout.isatty() else LINES
    callbacks, epochs, stopping = [], training.epochs, None
    folder = None if training.backup is None else Path(training.backup.folder)
    if training.tensorboard is not None:
        callbacks.append(EpochLogs(training.tensorboard if first else None))
    if training.early_stopping is not None:
        arguments = stopping_arguments(model, training, data)
        stopping = ResumableEarlyStopping(folder, first, **arguments)
        callbacks.append(stopping)
        if folder is not None:
            epochs = stopping.epochs_left(folder, epochs)
    if folder is not None:
        backup = training.backup
        callbacks.append(BackupAndResume(folder, backup.every, backup.keep))
    model.fit(
        data.mixture,
        validation_data=data.held_out.get("validation"),
        epochs=epochs,
        callbacks=callbacks,
        verbose=verbose,
    )
    if stopping is not None:
        stopping.restore()


def _where(strategy: tf.distribute.Strategy) -> str:
    count = strategy.num_replicas_in_sync
    name = type(strategy).__name__.lstrip("_")
    return "1 replica" if count == 1 else f"{count} replicas ({name})"


def _in_silence(text: str) -> None:
    """What the other workers say."""
