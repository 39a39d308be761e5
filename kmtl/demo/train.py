"""Trains every network for every seed, on all replicas there are, and keeps what happened."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from kmtl.datasets.overlay import Split, Splits
from kmtl.demo.networks import NETWORKS, PLAIN_SUM, SINGLE_TASK, TASKS, single_task
from kmtl.layers import CrossStitch
from kmtl.weighting import UncertaintyWeighting


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much is trained; the same for every network."""

    seeds: int
    epochs: int = 6
    num_train: int = 10_000
    num_validation: int = 2_000
    num_test: int = 2_000
    batch_size: int = 250
    learning_rate: float = 3e-3

    @property
    def trainings(self) -> int:
        """Number of models."""
        return self.seeds * (len(TASKS) + len(NETWORKS))


@dataclasses.dataclass(frozen=True)
class Run:
    """One trained model and its history.

    Attributes:
        network: Name of the network.
        seed: Its seed.
        model: The trained model.
        history: Task -> accuracy on the validation images after each epoch.
        variances: Task -> learned variance in each epoch; empty for a single task.
        alphas: Cross-stitch unit -> its matrix after each epoch, `(epochs, T, T, channels)`.
        test: Task -> accuracy on the test images.
    """

    network: str
    seed: int
    model: keras.Model
    history: dict[str, list[float]]
    variances: dict[str, list[float]]
    alphas: dict[str, np.ndarray]
    test: dict[str, float]

    @property
    def validation(self) -> float:
        """Mean over tasks after the last epoch: what networks are chosen by."""
        return float(np.mean([values[-1] for values in self.history.values()]))


def make_strategy() -> tf.distribute.Strategy:
    """Data parallelism over all GPUs or, where there is none, over two halves of the CPU."""
    if tf.config.list_physical_devices("GPU"):
        return tf.distribute.MirroredStrategy()
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def train_all(plan: Plan, data: Splits, strategy: tf.distribute.Strategy, progress) -> list[Run]:
    """Trains single-task baselines and every network.

    Args:
        plan: How much.
        data: The images.
        strategy: Where.
        progress: A tqdm bar that counts epochs and shows what runs.
    """
    runs = []
    for seed in range(plan.seeds):
        for network, tasks, build in _jobs():
            label = f"{network} {tasks[0]}" if len(tasks) == 1 else network
            progress.set_description(f"seed {seed + 1}/{plan.seeds}  {label}")
            keras.utils.set_random_seed(seed)
            with strategy.scope():
                model = build()
                _compile(model, network, plan)
                runs.append(_fit(model, network, seed, plan, data, progress))
    return runs


def _jobs() -> list[tuple[str, tuple[str, ...], Callable]]:
    """(network, its tasks, how to build it) for every model of one seed."""
    baselines = [(SINGLE_TASK, (task,), lambda task=task: single_task(task)) for task in TASKS]
    return baselines + [(name, TASKS, build) for name, build in NETWORKS.items()]


def _compile(model, network, plan):
    weighted = network not in (SINGLE_TASK, PLAIN_SUM)
    steps = plan.epochs * (plan.num_train // plan.batch_size)
    model.compile(
        optimizer=keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(plan.learning_rate, steps)
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics={task: ["accuracy"] for task in model.task_names},
        weighting=UncertaintyWeighting() if weighted else None,
        jit_compile=False,  # XLA takes longer here than it saves: models are small, trainings many
    )


def _fit(model, network, seed, plan, data, progress) -> Run:
    recorder = _Recorder(progress)
    train = _dataset(data.train, model.task_names, plan.batch_size, shuffle_seed=seed)
    validation = _dataset(data.validation, model.task_names, 1000)
    log = model.fit(
        train,
        validation_data=validation,
        epochs=plan.epochs,
        shuffle=False,  # the data set shuffles
        verbose=0,
        callbacks=[recorder],
    ).history
    test = model.evaluate(_dataset(data.test, model.task_names, 1000), verbose=0, return_dict=True)
    name = {task: _metric_name(model, task) for task in model.task_names}
    return Run(
        network=network,
        seed=seed,
        model=model,
        history={task: log[f"val_{name[task]}"] for task in model.task_names},
        variances={t: log[f"{t}_variance"] for t in model.task_names if f"{t}_variance" in log},
        alphas={unit: np.stack(values) for unit, values in recorder.alphas.items()},
        test={task: float(test[name[task]]) for task in model.task_names},
    )


def _metric_name(model, task):
    return "accuracy" if len(model.task_names) == 1 else f"{task}_accuracy"


def _dataset(split: Split, tasks, batch_size, shuffle_seed=None) -> tf.data.Dataset:
    rows = tf.data.Dataset.from_tensor_slices((split.x, {task: split.y[task] for task in tasks}))
    if shuffle_seed is not None:
        rows = rows.shuffle(len(split.x), seed=shuffle_seed)
    return rows.batch(batch_size, drop_remainder=shuffle_seed is not None).prefetch(2)


class _Recorder(keras.callbacks.Callback):
    """Moves the progress bar and keeps the cross-stitch matrices after each epoch."""

    def __init__(self, progress):
        super().__init__()
        self.progress = progress
        self.alphas = {}

    def on_epoch_end(self, epoch, logs=None):
        for layer in self.model.layers:
            if isinstance(layer, CrossStitch):
                alpha = keras.ops.convert_to_numpy(layer.alpha)
                self.alphas.setdefault(layer.name, []).append(alpha)
        self.progress.update()
