"""PLE: levels of experts that share more the lower they are."""

import keras

from kmtl.layers.cgc import CGC
from kmtl.layers.checks import check_num_tasks

_KEYS = {"shared_experts", "task_experts", "units"}


@keras.saving.register_keras_serializable(package="kmtl")
class PLE(keras.layers.Layer):
    """`CGC` layers in a row, with a shared stream beside those of the tasks.

    Choose it when one `CGC` is too shallow. All levels but the last also mix all experts, of
    all tasks, into a stream that the next level's shared experts read: what tasks learn from
    each other passes there, level by level, while their own experts stay theirs. With one
    level it is `CGC`.

    ```
    streams[0] = [inputs] * (T + 1)
    streams[l] = CGC_l(streams[l - 1])         # T of the tasks and the shared one
    outputs    = CGC_L(streams[L - 1])         # T of the tasks
    ```

    Args:
        levels: A list of L dicts, from the lowest level to the highest, each with the
            arguments `shared_experts`, `task_experts` and `units` of `CGC`.
        num_tasks: Number of tasks T.
        activation: Activation of each layer of an expert. Defaults to `"relu"`.
        gate: `"softmax"` or a layer, as in `MMoE`. Defaults to `"softmax"`.

    Call arguments:
        inputs: A tensor.

    Input shape: `(batch, ..., features)`.

    Output shape: T times `(batch, ..., units)` of the last level, as a list.

    Raises:
        ValueError: if `levels` is no list of such dicts, or `CGC` refuses one; when called on
            several tensors.

    Example:

    >>> import numpy as np
    >>> import kmtl
    >>> levels = [
    ...     {"shared_experts": 2, "task_experts": 1, "units": 32},
    ...     {"shared_experts": 1, "task_experts": 2, "units": 16},
    ... ]
    >>> outputs = kmtl.layers.PLE(levels, num_tasks=3)(np.ones((4, 8), "float32"))
    >>> print(len(outputs), outputs[0].shape[-1])
    3 16

    Differences from the paper: a level has no shared mixture where no later level has shared
    experts, since nothing would read it. The paper's schedules of loss weights and its masks
    for the sample spaces of tasks are no part of the layer. Its equations were read
    second-hand.

    Reference: H. Tang, J. Liu, M. Zhao, X. Gong (2020), "Progressive Layered Extraction (PLE):
    A Novel Multi-Task Learning (MTL) Model for Personalized Recommendations", RecSys, the
    equations of progressive layered extraction.
    """

    def __init__(self, levels, num_tasks, activation="relu", gate="softmax", **kwargs):
        super().__init__(**kwargs)
        check_num_tasks(num_tasks)
        _check_levels(levels)
        self.levels = [dict(level) for level in levels]
        self.num_tasks = num_tasks
        self.supports_masking = True
        self.cgc_layers = [
            CGC(
                **level,
                num_tasks=num_tasks,
                activation=activation,
                gate=gate,
                output_shared=any(later["shared_experts"] for later in levels[depth + 1 :]),
                name=f"{self.name}_level_{depth}",
                dtype=self.dtype_policy,
            )
            for depth, level in enumerate(levels)
        ]
        self.activation = self.cgc_layers[0].activation
        self.gate = self.cgc_layers[0].gate

    def build(self, input_shape) -> None:
        if isinstance(input_shape[0], (list, tuple)):
            raise ValueError(f"`PLE` must get one tensor. Received: {len(input_shape)} inputs")
        shape = input_shape
        for layer in self.cgc_layers:
            layer.build(shape)
            shape = layer.compute_output_shape(shape)

    def call(self, inputs) -> list:
        streams = inputs
        for layer in self.cgc_layers:
            streams = layer(streams)
        return streams

    def compute_output_shape(self, input_shape) -> list:
        units = self.cgc_layers[-1].experts[-1].units
        return [(*input_shape[:-1], units)] * self.num_tasks

    def compute_mask(self, inputs, previous_mask=None) -> list:
        return [previous_mask] * self.num_tasks

    def fold(self, inputs) -> list:
        """Each level as `CGC` folds it."""
        streams = inputs
        for layer in self.cgc_layers:
            streams = layer.fold(streams)
        return streams

    def get_config(self) -> dict:
        configs = [layer.get_config() for layer in self.cgc_layers]
        return {
            **super().get_config(),
            "levels": [{key: config[key] for key in sorted(_KEYS)} for config in configs],
            "num_tasks": self.num_tasks,
            "activation": keras.activations.serialize(self.activation),
            "gate": self.gate,
        }


def _check_levels(levels):
    good = isinstance(levels, (list, tuple)) and len(levels) > 0
    if not good or not all(isinstance(x, dict) and set(x) == _KEYS for x in levels):
        raise ValueError(
            f"`levels` must be a list of dicts, each with the keys {sorted(_KEYS)}. "
            f"Received: levels={levels}"
        )
