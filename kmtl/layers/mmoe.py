"""MMoE: experts that all tasks share, mixed by a gate of each task."""

import keras
from keras import ops

from kmtl.layers.checks import check_num_tasks
from kmtl.layers.experts import Mixture, check_count


@keras.saving.register_keras_serializable(package="kmtl")
class MMoE(Mixture):
    """T mixtures of the same n experts, each with weights that a gate of its own computes.

    Choose it over one shared trunk when you do not know how related the tasks are: tasks that
    agree can use the same experts, and others different ones, by example. With one expert it
    is hard sharing; with `num_tasks=1`, and all heads on the one output, the plain mixture of
    experts (OMoE). The experts run as one product, their kernels in one variable.

    ```
    experts[i]    = activation(x @ kernel[:, :, i] + bias[:, i])     # or several such layers
    weights[t]    = softmax(gate_x @ gate_kernel[:, :, t])                        # (batch, n)
    outputs[t]    = sum_i weights[t][..., i] * experts[i]
    ```

    Args:
        num_experts: Number of experts n.
        units: Features of an expert, or a list of them for experts of several layers.
        num_tasks: Number of tasks T.
        activation: Activation of each layer of an expert. Defaults to `"relu"`.
        gate: `"softmax"`, linear without bias as above; or a layer such as `DSelectKGate`,
            which each task gets a copy of, with the right `num_experts`. A layer of your own
            takes an argument `num_experts`, which its config holds, maps
            `(batch, ..., features)` to `(batch, ..., num_experts)`, and needs `fold` for the
            export. The attribute and the config hold the layer's config.
            Defaults to `"softmax"`.
        gate_dropout: Chance that a gate leaves an expert out for an example of training; what
            is left then grows to the old sum. Against gates that use one expert only.
            Defaults to `0.0`.

    Call arguments:
        inputs: A tensor x, or a list of two, `[x, gate_x]`, where the gates are to read
            something smaller or else than the experts.

    Input shape: `(batch, ..., features)`. `gate_x` has as many axes; all but the last are as
    long as those of x, or 1.

    Output shape: T times `(batch, ..., units)`, as a list.

    Raises:
        ValueError: if a count is below 1, `gate_dropout` is not in [0, 1), `gate` is neither
            of the above or refuses the number of experts, or `gate_x` does not fit x.

    Example:

    >>> import numpy as np
    >>> import kmtl
    >>> mixture = kmtl.layers.MMoE(num_experts=8, units=16, num_tasks=2)
    >>> outputs = mixture(np.ones((4, 32), "float32"))
    >>> print(len(outputs), outputs[0].shape[-1], mixture.experts[0].kernel.shape)
    2 16 (32, 16, 8)

    Differences from the paper: experts and gates may read different tensors. The dropout of
    gates is not in the paper; it follows Z. Zhao et al. (2019), "Recommending What Video to
    Watch Next", RecSys, whose rate of 0.1 we recall without having checked it. Where it leaves
    out all experts of an example, the weights stay as they were.

    Reference: J. Ma, Z. Zhao, X. Yi, J. Chen, L. Hong, E. Chi (2018), "Modeling Task
    Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts", KDD, equations 6
    to 8.
    """

    def __init__(
        self,
        num_experts,
        units,
        num_tasks,
        activation="relu",
        gate="softmax",
        gate_dropout=0.0,
        **kwargs,
    ):
        check_count("num_experts", num_experts, 1)
        check_num_tasks(num_tasks)
        if not 0.0 <= gate_dropout < 1.0:
            raise ValueError(
                f"`gate_dropout` must be in [0, 1). Received: gate_dropout={gate_dropout}"
            )
        super().__init__(
            num_experts=num_experts,
            choices=[list(range(num_experts))] * num_tasks,
            units=units,
            activation=activation,
            gate=gate,
            **kwargs,
        )
        self.num_experts = num_experts
        self.num_tasks = num_tasks
        self.gate_dropout = gate_dropout
        self._dropout = keras.layers.Dropout(gate_dropout, dtype=self.dtype_policy)

    def _check(self, shapes):
        if len(shapes) > 2:
            raise ValueError(
                "`MMoE` must get one tensor, or two as `[x, gate_x]`. "
                f"Received: {len(shapes)} inputs"
            )
        x, gate_x = shapes[0][1:-1], shapes[-1][1:-1]
        if len(x) != len(gate_x) or any(b not in (a, 1) for a, b in zip(x, gate_x, strict=True)):
            raise ValueError(
                "`gate_x` must have the axes of `x`, as long or of length 1, before the features. "
                f"Received: input shapes {shapes}"
            )

    def _route(self, streams):
        return streams[:1], streams[-1:], streams[:1]

    def call(self, inputs, training=None) -> list:
        weights = self.gate_weights(inputs)
        if training and self.gate_dropout:
            weights = [own if own is None else self._drop(own) for own in weights]
        return self.mix(self.expert_outputs(inputs), weights)

    def _drop(self, weights):
        kept = self._dropout(weights, training=True)
        left = ops.sum(kept, axis=-1, keepdims=True)
        scale = ops.sum(weights, axis=-1, keepdims=True) / ops.where(left > 0.0, left, 1.0)
        return ops.where(left > 0.0, kept * scale, weights)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "num_experts": self.num_experts,
            "num_tasks": self.num_tasks,
            "gate_dropout": self.gate_dropout,
        }
