"""Penalties that learn something beside the weights."""

from collections.abc import Callable

import keras


class LearnedRegularizer(keras.regularizers.Regularizer):
    """Base of penalties with a state, such as covariances of tasks.

    A regularizer of a layer has nowhere to keep a state that is saved, so that these are used by
    `kmtl.regularizers.AcrossTasks`, which gives the model a state for each stack of weights.
    """

    def __call__(self, x):
        raise ValueError(
            f"`{type(self).__name__}` learns, and a regularizer of a layer cannot keep what it "
            "learns: give it to `compile(penalties=[kmtl.regularizers.AcrossTasks(...)])`. "
            f"Received: a call on weights of shape {tuple(x.shape)}"
        )

    def create_state(self, shape: tuple, add_weight: Callable, name: str) -> dict:
        """Makes the variables for weights of a shape: name -> variable."""
        raise NotImplementedError

    def penalty(self, x, state: dict):
        """The penalty on stacked weights `x`, a scalar."""
        raise NotImplementedError

    def update(self, x, state: dict) -> None:
        """Moves the state on in a training step; `x` carries no gradient."""
        raise NotImplementedError
