"""Training by a configuration, from the data to the exported files."""

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import keras
import tensorflow as tf

from kmtl.callbacks import BackupAndResume
from kmtl.models import MultiTaskModel
from kmtl.training import results
from kmtl.training.compiling import compile_model
from kmtl.training.data import Loaded, check_files, load
from kmtl.training.early_stopping import ResumableEarlyStopping
from kmtl.training.epoch_logs import EpochLogs
from kmtl.training.network import build
from kmtl.training.schema import Config
from kmtl.training.strategy import make_strategy
from kmtl.training.workers import failing_together, read_cluster
from kmtl.training.writing import make_folders, write_all

BAR, LINES, SILENT = 1, 2, 0  # of `fit`


def train(config: Config, say: Callable[[str], None] = print) -> None:
    """Trains, evaluates, saves and exports; each worker of several calls it.

    Args:
        config: The configuration.
        say: Shows a text; called on the first worker only.
    """
    cluster = read_cluster(config.training, os.environ)
    check_files(config.data)
    first = cluster is None or cluster.index == 0
    strategy = make_strategy(config.training, cluster)
    check_batch(config, strategy.num_replicas_in_sync)
    if first:
        make_folders(config)
    with failing_together(cluster), _precision(config.training.precision):
        data = load(config)
        with strategy.scope():
            model = _compiled(config, data)
        if first:
            say(f"{data.mixture}\n{model.count_params():,} parameters, {_where(strategy)}")
        _fit(model, config, data, first)
        found = None
        if "test" in data.held_out:
            logs = model.evaluate(data.held_out["test"], verbose=0, return_dict=True)
            found = results.by_task(logs, model.task_names)
        write_all(model, config, data, found, strategy, cluster, say)


def check(config: Config, say: Callable[[str], None] = print) -> None:
    """Reads the data and builds the model, and shows what would be trained."""
    cluster = read_cluster(config.training, os.environ)
    check_files(config.data)
    check_batch(config, cluster.workers if cluster else config.training.logical_cpus or 1)
    with _precision(config.training.precision):
        data = load(config)
        model = _compiled(config, data)
    say(f"{data.mixture}")
    for split in data.held_out:
        sizes = ", ".join(f"{name} {size:,}" for name, size in data.sizes[split].items())
        say(f"{split}: {sizes} examples")
    inputs = ", ".join(f"{name} {tuple(spec.shape)}" for name, spec in data.inputs.items())
    say(f"inputs: {inputs}; tasks: {', '.join(model.task_names)}")
    steps = data.mixture.steps_per_epoch * config.training.epochs
    workers = "" if cluster is None else f", worker {cluster.index} of {cluster.workers}"
    say(f"{model.count_params():,} parameters, {config.training.epochs} epochs, {steps:,} steps")
    say(f"strategy {config.training.strategy}{workers}, {config.training.precision}")


def check_batch(config: Config, replicas: int) -> None:
    """Raises ValueError unless the batch can be split over the replicas."""
    if config.data.batch_size % replicas:
        raise ValueError(
            f"`data.batch_size` must be divisible by the number of replicas, {replicas}. "
            f"Received: {config.data.batch_size}"
        )


def _compiled(config, data: Loaded) -> MultiTaskModel:
    keras.utils.set_random_seed(config.training.seed)
    model = build(config, data)
    compile_model(model, config.training, data)
    return model


def _fit(model, config, data, first):
    training = config.training
    verbose = SILENT if not first else BAR if sys.stdout.isatty() else LINES
    callbacks, epochs, stopping = [], training.epochs, None
    folder = None if training.backup is None else Path(training.backup.folder)
    if training.tensorboard is not None:
        callbacks.append(EpochLogs(training.tensorboard if first else None))
    if training.early_stopping is not None:
        arguments = training.early_stopping.model_dump()
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


@contextlib.contextmanager
def _precision(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _where(strategy: tf.distribute.Strategy) -> str:
    count = strategy.num_replicas_in_sync
    name = type(strategy).__name__.lstrip("_")
    return "1 replica" if count == 1 else f"{count} replicas ({name})"
