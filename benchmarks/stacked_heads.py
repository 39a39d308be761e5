"""A training step with 100 stacked heads against the same step with one."""

import functools

import keras
import numpy as np

import kmtl
from benchmarks.timing import Comparison, compare, interleave, stopwatch

TARGET = 2.0
TASKS = (100, 1)
TRUNK = (256, 512, 512, 128)
FEATURES = 256
BATCH = 64
STEPS = 5  # in one turn: shorter than most slices of the scheduler
FIT_STEPS = 20
ROUNDS = 150


def run() -> list[Comparison]:
    step_timers, fit_timers = {}, {}
    for num_tasks in TASKS:
        name = _name(num_tasks)
        model, x, y = make_model(num_tasks)
        data = repeated(x, y)
        fit = functools.partial(model.fit, data, steps_per_epoch=FIT_STEPS, verbose=0)
        fit()  # traces the step
        step_timers[name] = stopwatch(functools.partial(take_steps, model, iter(data)))
        fit_timers[name] = stopwatch(fit)
    names = [_name(n) for n in TASKS]
    return [
        compare(f"{STEPS} steps", interleave(step_timers, ROUNDS), *names, TARGET),
        # What `fit` adds: callbacks that read a hundred logs, the set-up of an epoch.
        compare(f"fit of {FIT_STEPS} steps", interleave(fit_timers, ROUNDS // 5), *names, None),
    ]


def make_model(num_tasks: int):
    """A compiled model with its batch of inputs and labels."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((FEATURES,))
    x = inputs
    for units in TRUNK:
        x = keras.layers.Dense(units, activation="relu")(x)
    heads = kmtl.layers.TaskStackedDense(units=1, num_tasks=num_tasks, name="heads")(x)
    tasks = [f"task_{i:03d}" for i in range(num_tasks)]
    model = kmtl.MultiTaskModel(inputs, dict(zip(tasks, heads, strict=True)))
    model.compile(optimizer="adam", loss="mse")
    rng = np.random.default_rng(0)
    features = rng.normal(size=(BATCH, FEATURES)).astype("float32")
    labels = {task: rng.normal(size=(BATCH, 1)).astype("float32") for task in tasks}
    return model, features, labels


def repeated(x, y):
    """The batch as a data set without end."""
    import tensorflow as tf

    return tf.data.Dataset.from_tensors((x, y)).repeat()


def take_steps(model, iterator) -> None:
    """Takes `STEPS` training steps, one after another."""
    for _ in range(STEPS):
        logs = model.train_function(iterator)
    float(logs["loss"])  # waits for the device


def _name(num_tasks: int) -> str:
    return f"{num_tasks} head{'s' if num_tasks > 1 else ''}"
