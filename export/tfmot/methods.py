"""tfmot's three methods, each from a Keras 2 model to a Keras 2 model."""

import numpy as np

from kmtl.export.tfmot.structure import holds, kernels

SCHEDULES = ("constant", "polynomial")
CENTROIDS = {
    "density": "DENSITY_BASED",
    "kmeans++": "KMEANS_PLUS_PLUS",
    "linear": "LINEAR",
    "random": "RANDOM",
}
_MOST_UPDATES = 100


def prune(tfmot, base, fit, steps: int, sparsity: float, schedule: str):
    """Prunes the smallest weights of each kernel while training.

    Args:
        tfmot: The module.
        base: The model.
        fit: `(model, holds=..., callback=...) -> history`.
        steps: Number of training steps.
        sparsity: The share of zeros at the end.
        schedule: One of `SCHEDULES`.

    Returns:
        The pruned model without wrappers, and the history.
    """
    api = tfmot.sparsity.keras
    # The last quarter is for the weights that are left to recover. Masks are renewed at each
    # multiple of `every`, so the last one falls on `end`.
    updates = min(_MOST_UPDATES, max(1, steps * 3 // 4))
    every = max(1, (steps * 3 // 4) // updates)
    end = updates * every
    if schedule == "constant":
        plan = api.ConstantSparsity(sparsity, begin_step=0, end_step=end, frequency=every)
    else:
        plan = api.PolynomialDecay(0.0, sparsity, begin_step=0, end_step=end, frequency=every)
    names = set(kernels(base))

    def wrap(layer):
        if layer.name not in names:
            return layer
        return api.prune_low_magnitude(layer, pruning_schedule=plan)

    wrapped = _cloned(base, wrap)
    history = fit(wrapped, callback=api.UpdatePruningStep())
    return api.strip_pruning(wrapped), history


def cluster(tfmot, base, fit, clusters: int, centroids: str, keep_zeros: bool):
    """Gives each kernel at most `clusters` values and trains them.

    Args:
        tfmot: The module.
        base: The model.
        fit: `(model, holds=..., callback=...) -> history`.
        clusters: The largest number of values, zero among them.
        centroids: How the values begin, one of `CENTROIDS`.
        keep_zeros: Whether zeros stay.

    Returns:
        The clustered model without wrappers, and the history.
    """
    from tensorflow_model_optimization.python.core.clustering.keras.experimental import (
        cluster as experimental,  # the documented place of `preserve_sparsity`
    )

    start = tfmot.clustering.keras.CentroidInitialization[CENTROIDS[centroids]]
    before = {name: kernel.numpy() for name, kernel in kernels(base).items()}
    # Others have few values already, more than which tfmot cannot begin with.
    many = {name for name, kernel in before.items() if len(np.unique(kernel)) > clusters}

    def wrap(layer):
        if layer.name not in many:
            return layer
        return experimental.cluster_weights(
            layer,
            number_of_clusters=clusters,
            cluster_centroids_init=start,
            preserve_sparsity=keep_zeros,
        )

    wrapped = _cloned(base, wrap)
    few = {name: kernel for name, kernel in before.items() if name not in many}
    history = fit(wrapped, holds=holds(wrapped, few, keep_zeros, clusters=True))
    return tfmot.clustering.keras.strip_clustering(wrapped), history


def _cloned(base, wrap):
    import tf_keras

    return tf_keras.models.clone_model(base, clone_function=wrap)
