"""Checks of what `compress` is asked for."""

from kmtl.export.tfmot.methods import CENTROIDS, SCHEDULES

METHODS = ("prune", "cluster", "quantize")  # in this order, whatever order they are asked for


def checked_methods(methods) -> tuple[str, ...]:
    """The methods in the order in which they are done."""
    asked = {methods} if isinstance(methods, str) else set(methods)
    if not asked or not asked <= set(METHODS):
        raise ValueError(f"`methods` must be among {METHODS}. Received: methods={methods!r}")
    return tuple(method for method in METHODS if method in asked)


def check_options(methods, sparsity, schedule, clusters, centroids) -> None:
    """Raises ValueError for options of pruning and clustering out of range."""
    if not 0 <= sparsity < 1:
        raise ValueError(
            f"`sparsity` must be at least 0 and below 1. Received: sparsity={sparsity}"
        )
    if schedule not in SCHEDULES:
        raise ValueError(f"`schedule` must be one of {SCHEDULES}. Received: schedule={schedule!r}")
    least = 3 if {"prune", "cluster"} <= set(methods) else 2
    if clusters < least:
        raise ValueError(
            f"`clusters` must be at least 2, and 3 with pruning, as zero is one of them. "
            f"Received: clusters={clusters}"
        )
    if centroids not in CENTROIDS:
        raise ValueError(
            f"`centroids` must be one of {tuple(CENTROIDS)}. Received: centroids={centroids!r}"
        )


def check_training(epochs, batch_size, learning_rate, tolerance) -> None:
    """Raises ValueError for numbers out of range."""
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1. Received: {name}={value}")
    for name, value in (("learning_rate", learning_rate), ("tolerance", tolerance)):
        if value is not None and not value > 0:
            raise ValueError(f"`{name}` must be positive. Received: {name}={value}")
