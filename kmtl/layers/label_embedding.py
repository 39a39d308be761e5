"""Label embeddings: what one task predicts, as a vector that another task reads."""

import keras
from keras import ops

from kmtl.layers.experts import fixed_dense

MODES = ("soft", "hard")


@keras.saving.register_keras_serializable(package="kmtl")
class LabelEmbedding(keras.layers.Layer):
    """Turns the probabilities of a task's classes into one vector.

    Choose it to let a higher task see what a lower one predicts, as in
    `kmtl.models.JointManyTaskModel`: the vector is short however many classes there are, and
    classes that mean the same to the higher task can come close to each other. "soft" passes the
    lower task's doubts on, and the higher task's gradient down; with "hard" the lower task is as
    fixed for the higher one as labels from a file.

    ```
    soft: outputs = sum_c inputs[c] * embeddings[c]
    hard: outputs = embeddings[argmax_c inputs[c]]          # no gradient reaches the inputs
    ```

    Args:
        dim: Size of the vector, at least 1.
        mode: `"soft"` or `"hard"`. Defaults to `"soft"`.
        embeddings_initializer: Initializer of the `(classes, dim)` vectors.
            Defaults to `"uniform"`.

    Call arguments:
        inputs: Probabilities of classes, along the last axis. They are taken as they are: of a
            head that gives logits, call `keras.ops.softmax` first.

    Input shape: `(batch, ..., classes)`.

    Output shape: `(batch, ..., dim)`.

    Raises:
        ValueError: for a `dim` below 1 or another `mode`.

    Example:

    >>> import numpy as np
    >>> import kmtl
    >>> embed = kmtl.layers.LabelEmbedding(dim=2)
    >>> embed.build((None, 3))
    >>> embed.set_weights([np.array([[1.0, 0.0], [0.0, 1.0], [4.0, 4.0]])])
    >>> print(np.array(embed(np.array([[0.25, 0.25, 0.5], [0.0, 1.0, 0.0]]))))
    [[2.25 2.25]
     [0.   1.  ]]

    Differences from the paper: "hard" is not in it. How the paper starts the vectors is not known
    here; "uniform" is what Keras's own `Embedding` does.

    Reference: K. Hashimoto, C. Xiong, Y. Tsuruoka, R. Socher (2017), "A Joint Many-Task Model:
    Growing a Neural Network for Multiple NLP Tasks", EMNLP, arXiv:1611.01587, section 2.2, the
    weighted label embedding.
    """

    def __init__(self, dim, mode="soft", embeddings_initializer="uniform", **kwargs):
        super().__init__(**kwargs)
        if not isinstance(dim, int) or dim < 1:
            raise ValueError(f"`dim` must be an integer >= 1. Received: dim={dim}")
        if mode not in MODES:
            raise ValueError(f"`mode` must be one of {MODES}. Received: mode={mode!r}")
        self.dim = dim
        self.mode = mode
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.supports_masking = True

    def build(self, input_shape):
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(input_shape[-1], self.dim),
            initializer=self.embeddings_initializer,
        )

    def call(self, inputs):
        if self.mode == "soft":
            return ops.matmul(inputs, self.embeddings)
        return ops.take(self.embeddings, ops.argmax(inputs, axis=-1), axis=0)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.dim)

    def fold(self, inputs):
        """A `Dense` without bias, or an `Embedding` of the likeliest class."""
        embeddings = ops.convert_to_numpy(self.embeddings)
        if self.mode == "soft":
            return fixed_dense(inputs, embeddings, None, self.name)
        lookup = keras.layers.Embedding(*embeddings.shape, name=self.name)
        outputs = lookup(ops.argmax(inputs, axis=-1))
        lookup.set_weights([embeddings])
        return outputs

    def get_config(self):
        return {
            **super().get_config(),
            "dim": self.dim,
            "mode": self.mode,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
        }
