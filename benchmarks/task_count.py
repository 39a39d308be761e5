"""A training step with up to 1000 tasks against the same step with 10."""

import functools

import keras
import numpy as np

import kmtl
from benchmarks import memory, stacked_heads
from benchmarks.stacked_heads import BATCH, FEATURES, TRUNK
from benchmarks.timing import (
    Comparison,
    after_another,
    compare,
    compare_values,
    interleave,
    stopwatch,
)

TARGET = 4.0  # for a hundred times the tasks
TASKS = (1, 10, 100, 1000)
FEW, MANY = 10, 1000
NAMED, MATRIX = "an output each", "one output of all"
MISSING = 0.2  # share of the labels in the matrix
FIT_STEPS = 20
ROUNDS = 100
FIT_ROUNDS = 10
MEMORY_PROCESSES = 3


def run() -> list[Comparison]:
    rows = []
    for form in (NAMED, MATRIX):
        rows += step_rows(form)
    return [*rows, *memory_rows()]


def step_rows(form: str) -> list[Comparison]:
    """Every number of tasks, in turns."""
    steps, fits = {}, {}
    for num_tasks in TASKS:
        model, data = make_model(form, num_tasks)
        fit = functools.partial(
            model.fit, data, steps_per_epoch=FIT_STEPS, shuffle=False, verbose=0
        )
        fit()  # traces the step
        steps[name(num_tasks)] = after_another(functools.partial(_step, model, iter(data)))
        if num_tasks in (FEW, MANY):
            fits[name(num_tasks)] = stopwatch(fit)
    seconds = interleave(steps, ROUNDS)
    few, many = name(FEW), name(MANY)
    rows = [
        compare(step_case(form), seconds, one, few, TARGET if one == many else None)
        for one in steps
        if one != few
    ]
    keras.backend.clear_session()
    # What `fit` adds: callbacks that read the logs, the set-up of an epoch.
    case = f"{form}, fit of {FIT_STEPS} steps"
    return [*rows, compare(case, interleave(fits, FIT_ROUNDS), many, few, None)]


def make_model(form: str, num_tasks: int):
    """A compiled model and an endless dataset of one batch."""
    import tensorflow as tf

    if form == NAMED:
        model, x, y = stacked_heads.make_model(num_tasks)
    else:
        model, x, y = one_output(num_tasks)
    return model, tf.data.Dataset.from_tensors((x, y)).repeat()


def one_output(num_tasks: int):
    """As `stacked_heads.make_model`, with all tasks as columns of one output."""
    keras.utils.set_random_seed(0)
    trunk = [keras.layers.Dense(units, activation="relu") for units in TRUNK]
    heads = {"tasks": keras.layers.Dense(num_tasks)}
    model = kmtl.models.HardSharing(trunk, heads, inputs=(FEATURES,))
    model.compile(optimizer="adam", loss=kmtl.losses.MaskedMultiLabelLoss())
    rng = np.random.default_rng(0)
    features = rng.normal(size=(BATCH, FEATURES)).astype("float32")
    labels = rng.integers(0, 2, size=(BATCH, num_tasks)).astype("float32")
    labels[rng.random(labels.shape) < MISSING] = np.nan
    return model, features, {"tasks": labels}


def memory_rows() -> list[Comparison]:
    """The most memory that a process has held after a few steps, all that it imports included."""
    rows = []
    for form in (NAMED, MATRIX):
        cases = memory_cases(form)
        peaks = memory.peaks(take_steps, cases, MEMORY_PROCESSES)
        rows.append(compare_values("memory", peaks, *cases, None, "MiB"))
    return rows


def take_steps(case: str) -> None:
    """A few steps of a form with a number of tasks."""
    form, tasks = case.split(": ")
    model, data = make_model(form, int(tasks.split()[0]))
    model.fit(data, steps_per_epoch=5, shuffle=False, verbose=0)


def _step(model, iterator) -> None:
    float(model.train_function(iterator)["loss"])  # waits for the device


def step_case(form: str) -> str:
    return f"{form}, step"


def memory_cases(form: str) -> tuple[str, str]:
    """Names of the processes with many and with few tasks."""
    return f"{form}: {name(MANY)}", f"{form}: {name(FEW)}"


def name(num_tasks: int) -> str:
    return f"{num_tasks} task{'s' if num_tasks > 1 else ''}"
