"""A penalty on the way that weights have come from where they were: their anchors."""

from collections.abc import Iterable

import keras
from keras import ops

from kmtl.regularizers.across_tasks import AcrossTasks
from kmtl.regularizers.checks import check_strength
from kmtl.regularizers.learned import LearnedRegularizer


@keras.saving.register_keras_serializable(package="kmtl")
class Anchor(LearnedRegularizer):
    """Holds weights near the values that they had when their anchors were set.

    Choose it where a task is trained on layers that other tasks have trained before it, and these
    are not to be forgotten: weights may move where it helps, and pay for it by the square of the
    way. `kmtl.models.SuccessiveStages` uses it between the tasks of a hierarchy; by itself it also
    holds a trunk near its weights from another training.

    ```
    penalty  = strength * sum (x - anchor)**2
    gradient = 2 * strength * (x - anchor)
    ```

    It goes into `compile(penalties=[kmtl.regularizers.AcrossTasks(Anchor(...), layer, weight)])`,
    one for each weight, and the anchors are saved with the model. They are 0 at first:
    `move_anchors(penalties)` sets them to the weights as they are, to be called after `compile`
    and again whenever they are to follow. With plain SGD keep `2 * strength * learning_rate` well
    below 1, or a step goes past the anchor.

    Args:
        strength: Factor of the penalty. Defaults to `0.01`.

    Call arguments:
        x: The weights.

    Input shape: any.

    Output shape: `()`.

    Raises:
        ValueError: for a `strength` below 0.

    Example:

    >>> import keras
    >>> import kmtl
    >>> from kmtl.regularizers.anchor import move_anchors
    >>> x = keras.Input((4,))
    >>> model = kmtl.MultiTaskModel(x, {"price": keras.layers.Dense(1, name="out")(x)})
    >>> anchor = kmtl.regularizers.Anchor(strength=0.5)
    >>> penalty = kmtl.regularizers.AcrossTasks(anchor, layers="out")
    >>> model.compile("sgd", loss="mse", penalties=[penalty])
    >>> move_anchors([penalty])
    >>> _ = model.get_layer("out").kernel.assign_add(keras.ops.ones((4, 1)))
    >>> print(round(float(penalty()), 4))
    2.0

    Differences from the paper: it is Hashimoto et al.'s successive regularization where
    `kmtl.models.SuccessiveStages` moves the anchors.

    References:
        - K. Hashimoto, C. Xiong, Y. Tsuruoka, R. Socher (2017), "A Joint Many-Task Model: Growing
          a Neural Network for Multiple NLP Tasks", EMNLP, arXiv:1611.01587, section 3, equations
          6-10, the terms with delta.
        - X. Li, Y. Grandvalet, F. Davoine (2018), "Explicit Inductive Bias for Transfer Learning
          with Convolutional Networks", ICML, arXiv:1802.01483, L2-SP.
    """

    def __init__(self, strength=0.01):
        check_strength(strength)
        self.strength = strength

    def create_state(self, shape, add_weight, name):
        anchor = add_weight(
            name=f"{name}_anchor",
            shape=shape,
            initializer="zeros",
            trainable=False,
            aggregation="only_first_replica",
        )
        return {"anchor": anchor}

    def penalty(self, x, state):
        return self.strength * ops.sum(ops.square(ops.cast(x, "float32") - state["anchor"]))

    def update(self, x, state):
        """Nothing: anchors stay until they are moved."""

    def get_config(self):
        return {"strength": self.strength}


def move_anchors(penalties: Iterable[AcrossTasks]) -> None:
    """Sets anchors to the weights as they are, so that the penalties are 0.

    Args:
        penalties: Those on single weights with an `Anchor`, of a model that was compiled with
            them; not while `fit` runs.
    """
    for penalty in penalties:
        for weight, anchor in zip(penalty.variables, penalty.state.weights, strict=True):
            # By way of NumPy: under JAX the two would else be one buffer, which no step may take.
            anchor.assign(ops.convert_to_numpy(weight))
