"""Kernels that must keep their zeros and their few values while they are trained."""

import dataclasses

import numpy as np

# Layers whose kernels tfmot prunes and clusters, and what it calls them.
KERNELS = {
    "Conv1D": "kernel",
    "Conv2D": "kernel",
    "Conv2DTranspose": "kernel",
    "Conv3D": "kernel",
    "Conv3DTranspose": "kernel",
    "Dense": "kernel",
    "Embedding": "embeddings",
}


@dataclasses.dataclass(frozen=True)
class Hold:
    """Projects a kernel back onto the zeros, or the clusters, that it has now.

    The mean over each cluster is what training the cluster's one value would be. tfmot's own
    schemes do otherwise: its clusters of convolutions are quantised channel by channel, which
    makes them many more, drift (model-optimization#1056), and with 1x1 kernels all become zero
    (#979).

    Attributes:
        kernel: The values at the start.
        zeros: Whether zeros stay.
        clusters: Whether equal values stay equal.
    """

    kernel: np.ndarray
    zeros: bool
    clusters: bool

    def __call__(self, variable):
        """The nearest kernel with the same structure."""
        import tensorflow as tf

        kernel = tf.convert_to_tensor(variable)
        if self.clusters:
            values, members = np.unique(self.kernel, return_inverse=True)
            members = members.reshape(-1)
            means = tf.math.unsorted_segment_mean(
                tf.reshape(kernel, [-1]), members, num_segments=len(values)
            )
            if self.zeros:
                means *= (values != 0).astype(self.kernel.dtype)
            return tf.reshape(tf.gather(means, members), self.kernel.shape)
        return kernel * (self.kernel != 0).astype(self.kernel.dtype) if self.zeros else kernel


def kernels(model) -> dict:
    """Layer -> its kernel, of those that tfmot prunes and clusters, by name.

    Args:
        model: A `tf_keras.Model` as `rebuild` returns it.
    """
    found = [layer for layer in model.layers if type(layer).__name__ in KERNELS]
    return {layer.name: getattr(layer, KERNELS[type(layer).__name__]) for layer in found}


def holds(model, before: dict[str, np.ndarray], zeros: bool, clusters: bool) -> list[tuple]:
    """Pairs of a variable of `model` and its `Hold`.

    Args:
        model: A `tf_keras.Model`, some of whose layers are wrapped under their own names.
        before: Layer -> kernel with the structure.
        zeros: Whether zeros stay.
        clusters: Whether equal values stay equal.
    """
    if not zeros and not clusters:
        return []
    found = []
    for name, kernel in before.items():
        candidates = [
            v
            for v in model.get_layer(name).trainable_variables
            if v.name.split("/")[-1].split(":")[0] in KERNELS.values()
        ]
        found.append((candidates[0], Hold(kernel, zeros, clusters)))
    return found
