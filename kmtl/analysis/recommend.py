"""Which tasks to train together, in one call: measures, chooses, and says why."""

import itertools
from collections.abc import Callable, Sequence

import keras
import numpy as np

from kmtl.analysis.label_statistics import label_statistics
from kmtl.analysis.recommendation import Recommendation
from kmtl.analysis.transfer_matrix import transfer_matrix
from kmtl.analysis.validation_losses import batches_of, of_tasks, validation_losses
from kmtl.callbacks import GradientConflicts
from kmtl.callbacks.task_affinity import TaskAffinity
from kmtl.grouping import TaskGrouper, select_task_groups
from kmtl.grouping.search import check_budget, check_number_of_tasks
from kmtl.grouping.task_groups import group_name
from kmtl.models import MultiTaskModel

METHODS = ("affinity", "train")


def recommend(
    model_fn: Callable[[Sequence[str]], MultiTaskModel],
    dataset: tuple,
    validation_data: tuple,
    budget: int,
    method: str = "affinity",
    epochs: int = 3,
    every: int = 10,
    batch_size: int = 32,
    seed: int = 0,
    verbose: bool = True,
) -> Recommendation:
    """Recommends at most `budget` networks, and which tasks each should train.

    Use it before the long trainings, on all of the data or on a part of it.

    ```
    "affinity"   one short training of all tasks, in which TaskAffinity measures; the choice of
                 select_task_groups(affinity, budget, singletons="zero")
    "train"      T + T * (T - 1) / 2 short trainings, of single tasks and of pairs; the choice of
                 TaskGrouper(losses, budget, method="higher_order"), where
                 losses[g][j] = validation loss of j in g / validation loss of j alone
    ```

    `"train"` looks at results and costs as many trainings; `"affinity"` looks at steps and is
    cheap. With either a task may come out alone, and fewer networks than `budget` pays for.
    Networks are trained on `dataset` only, and all that the choice rests on is measured on
    `validation_data` only: keep test data away from both. It is a choice made on a short
    training: compare the networks it names with one for all tasks before you rely on it.

    Args:
        model_fn: From a list of task names to a new, compiled `kmtl.MultiTaskModel` that trains
            these. It is called with all tasks, and for `"train"` with single ones and pairs.
        dataset: `(x, y)` or `(x, y, sample_weight)`, arrays; y, and `sample_weight` if it is a
            dict, by task.
        validation_data: The same, of other examples.
        budget: Largest number of networks.
        method: `"affinity"` or `"train"`. Defaults to `"affinity"`.
        epochs: Length of each training. Defaults to `3`.
        every: Training batches between two measurements of affinities. Defaults to `10`.
        batch_size: Of trainings and measurements. Defaults to `32`.
        seed: Set by `keras.utils.set_random_seed` before each training. Defaults to `0`.
        verbose: Whether to print what is being done. Defaults to `True`.

    Returns:
        A `kmtl.analysis.Recommendation`; print it, or `plot` it.

    Raises:
        ValueError: for another `method`; for data that are no tuples of arrays with labels of
            the same two or more tasks; for a `budget` that is no integer of at least 1, too many
            tasks, and trainings too short to measure anything; if `model_fn` returns another
            model, or one that trains other tasks than it was asked for; and what the choice
            raises. Arguments are checked before a training.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import kmtl
    >>> def model_fn(tasks):
    ...     trunk = [keras.layers.Dense(4, activation="tanh")]
    ...     heads = {task: keras.layers.Dense(1) for task in tasks}
    ...     model = kmtl.models.HardSharing(trunk, heads, inputs=(8,))
    ...     model.compile(keras.optimizers.SGD(0.1), loss="mse")
    ...     return model
    >>> x = np.random.default_rng(0).normal(size=(192, 8)).astype("float32")
    >>> y = {"up": x[:, :1], "left": x[:, 1:2], "down": -x[:, :1]}
    >>> train, held_out = (x[:128], {t: v[:128] for t, v in y.items()}), (
    ...     x[128:], {t: v[128:] for t, v in y.items()})
    >>> recommendation = kmtl.analysis.recommend(
    ...     model_fn, train, held_out, budget=2, every=2, verbose=False
    ... )
    >>> print(sorted(recommendation.affinity), len(recommendation.groups.groups) <= 2)
    ['down', 'left', 'up'] True

    Differences from the papers: TAG measures on the training batches, Standley et al. train
    networks of half the size for single tasks and compare losses as they are. A task on its own
    scores 0 here, so that it gets company only if that helps.

    Reference: C. Fifty et al. (2021), "Efficiently Identifying Task Groupings for Multi-Task
    Learning", NeurIPS, arXiv:2109.04617. T. Standley et al. (2020), "Which Tasks Should Be
    Learned Together in Multi-task Learning?", ICML, arXiv:1905.07553, for `"train"`.
    """
    if method not in METHODS:
        raise ValueError(f"`method` must be one of {METHODS}. Received: method={method!r}")
    tasks = _tasks("dataset", dataset)
    if _tasks("validation_data", validation_data) != tasks:
        raise ValueError(
            f"`validation_data` must have labels of the tasks of `dataset`, {tasks}. "
            f"Received: {_tasks('validation_data', validation_data)}"
        )
    check_budget(budget)
    check_number_of_tasks(tasks)
    group_name(tasks)  # which checks them
    say = print if verbose else lambda text: None

    def train(chosen, callbacks=()):
        keras.utils.set_random_seed(seed)
        model = model_fn(list(chosen))
        if not isinstance(model, MultiTaskModel):
            raise ValueError(
                "`model_fn` must return a compiled `kmtl.MultiTaskModel`. "
                f"Received: {type(model).__name__}"
            )
        if model.trained_tasks != sorted(chosen):
            raise ValueError(
                f"`model_fn` must return a model that trains the tasks {sorted(chosen)}. "
                f"Received: one that trains {model.trained_tasks}"
            )
        x, y, weights = of_tasks(dataset, chosen)
        model.fit(
            x,
            y,
            sample_weight=weights,
            batch_size=batch_size,
            epochs=epochs,
            verbose=0,
            callbacks=list(callbacks),
        )
        return model

    if method == "affinity":
        steps = epochs * len(batches_of(dataset[:1], batch_size))
        found = _by_affinity(train, steps, validation_data, tasks, budget, every, batch_size, say)
    else:
        found = _by_training(train, validation_data, tasks, budget, batch_size, say)
    missing, groups, affinity, evidence = found
    labels = {task: label_statistics(dataset[1][task], missing.get(task)) for task in tasks}
    say(f"Chosen: {', '.join(groups.groups)}")
    return Recommendation(groups, affinity, {"labels": labels, **evidence}, method)


def _by_affinity(train, steps, validation_data, tasks, budget, every, batch_size, say):
    say(f"Training {len(tasks)} tasks together, with a measurement each {every} batches")
    held_out = batches_of(of_tasks(validation_data, tasks), batch_size)
    measured = TaskAffinity(held_out, every)
    if every > steps:
        raise ValueError(
            "The training must be of at least `every` batches to measure anything. "
            f"Received: every={every}, {steps} batches"
        )
    conflicts = GradientConflicts(held_out)
    model = train(tasks, [measured, conflicts])
    say(f"{len(measured.history)} measurements")
    groups = select_task_groups(measured.affinity, budget, singletons="zero")
    agreements = [entry["agreement"]["all shared"] for entry in conflicts.history]
    cosines = np.mean([agreement.cosines for agreement in agreements], axis=0)
    evidence = {
        "cosines": {
            i: dict(zip(tasks, map(float, row), strict=True))
            for i, row in zip(tasks, cosines, strict=True)
        },
        "conflict_rate": float(np.mean([agreement.conflict_rate for agreement in agreements])),
        "measurements": len(measured.history),
    }
    return model.missing, groups, measured.affinity, evidence


def _by_training(train, validation_data, tasks, budget, batch_size, say):
    networks = [(t,) for t in tasks] + list(itertools.combinations(tasks, 2))
    losses, missing = {}, {}
    for n, chosen in enumerate(networks):
        say(f"Training network {n + 1} of {len(networks)}: {', '.join(chosen)}")
        model = train(chosen)
        held_out = of_tasks(validation_data, chosen)
        losses[group_name(chosen)] = validation_losses(model, held_out, batch_size)
        missing |= model.missing
    alone = {task: losses[task][task] for task in tasks}
    pairs = {i: {j: losses[group_name((i, j))][j] for j in tasks if j != i} for i in tasks}
    affinity = transfer_matrix(alone, pairs, higher_is_better=False).values
    relative = {g: {t: own[t] / alone[t] for t in own} for g, own in losses.items()}
    groups = TaskGrouper(relative, cost=1.0, budget=budget, method="higher_order").select()
    return missing, groups, affinity, {"losses": losses}


def _tasks(name, data) -> list[str]:
    labels = data[1] if isinstance(data, tuple) and len(data) in (2, 3) else None
    if not isinstance(labels, dict) or len(labels) < 2:
        of = f"tasks {list(labels)}" if isinstance(labels, dict) else f"type {type(data).__name__}"
        raise ValueError(
            f"`{name}` must be `(x, y)` or `(x, y, sample_weight)`, y a dict of arrays of at "
            f"least two tasks. Received: {name} of {of}"
        )
    return sorted(labels)
