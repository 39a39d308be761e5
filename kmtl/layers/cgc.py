"""CGC: experts of each task beside shared ones, mixed by a gate of each task."""

import keras

from kmtl.layers.checks import check_num_tasks, check_streams
from kmtl.layers.experts import Mixture, check_count


@keras.saving.register_keras_serializable(package="kmtl")
class CGC(Mixture):
    """T mixtures of experts: task t mixes its own experts and the shared ones.

    Choose it over `MMoE` when sharing hurts a task: the experts of a task learn from that
    task alone. Without experts of tasks it is `MMoE`, without shared ones T networks that know
    nothing of each other. The experts run as one product, their kernels in one variable.
    `PLE` is several of these layers.

    ```
    pool[t]    = task t's experts, then the shared experts
    weights[t] = softmax(inputs[t] @ gate_kernel[t])
    outputs[t] = sum_i weights[t][..., i] * pool[t][i]
    outputs[T] = the same for a pool of all experts, on inputs[T]        # output_shared=True
    ```

    Task t's experts read `inputs[t]` and the shared experts read `inputs[T]`; where there is
    one input, all read it.

    Args:
        shared_experts: Number of shared experts, 0 or more.
        task_experts: Number of experts of each task, 0 or more: one integer for all tasks, or
            a list of T.
        units: Features of an expert, or a list of them for experts of several layers.
        num_tasks: Number of tasks T.
        activation: Activation of each layer of an expert. Defaults to `"relu"`.
        gate: `"softmax"` or a layer, as in `MMoE`. Defaults to `"softmax"`.
        output_shared: Whether there is an output more, a mixture of all experts, which the
            shared experts of the next layer read. Defaults to `False`.

    Call arguments:
        inputs: A tensor that all read, or a list of tensors of one shape: one for each task,
            then one for what is shared, if anything is.

    Input shape: `(batch, ..., features)`, or a list of those.

    Output shape: T times `(batch, ..., units)`, as a list, and once more with `output_shared`.

    Raises:
        ValueError: if a count is negative, a task has no expert, or the number of inputs or
            their shapes do not fit.

    Example:

    >>> import numpy as np
    >>> import kmtl
    >>> mixture = kmtl.layers.CGC(shared_experts=2, task_experts=[1, 3], units=16, num_tasks=2)
    >>> outputs = mixture(np.ones((4, 32), "float32"))
    >>> print(len(outputs), mixture.experts[0].kernel.shape)
    2 (32, 16, 6)
    >>> print([weights.shape[-1] for weights in mixture.gate_weights(np.ones((4, 32)))])
    [3, 5]

    Differences from the paper: none that we know of; its equations were read second-hand.

    Reference: H. Tang, J. Liu, M. Zhao, X. Gong (2020), "Progressive Layered Extraction (PLE):
    A Novel Multi-Task Learning (MTL) Model for Personalized Recommendations", RecSys, the
    equations of customized gate control.
    """

    def __init__(
        self,
        shared_experts,
        task_experts,
        units,
        num_tasks,
        activation="relu",
        gate="softmax",
        output_shared=False,
        **kwargs,
    ):
        check_num_tasks(num_tasks)
        check_count("shared_experts", shared_experts, 0)
        counts = _per_task(task_experts, num_tasks, shared_experts)
        owners = [t for t, count in enumerate(counts) for _ in range(count)]
        owners += [num_tasks] * shared_experts
        choices = [
            [i for i, o in enumerate(owners) if o in (t, num_tasks)] for t in range(num_tasks)
        ]
        if output_shared:
            choices.append(list(range(len(owners))))
        super().__init__(
            num_experts=len(owners),
            choices=choices,
            units=units,
            activation=activation,
            gate=gate,
            **kwargs,
        )
        self.shared_experts = shared_experts
        self.task_experts = task_experts
        self.num_tasks = num_tasks
        self.output_shared = output_shared
        self._owners = owners

    def _check(self, shapes):
        if len(shapes) == 1:
            return
        check_streams(self, shapes)
        shared = int(self.shared_experts > 0 or self.output_shared)
        if len(shapes) != self.num_tasks + shared:
            raise ValueError(
                f"`CGC` must get one tensor, or `num_tasks` tensors and {shared} for what is "
                f"shared. Received: num_tasks={self.num_tasks}, {len(shapes)} inputs"
            )

    def _route(self, streams):
        if len(streams) == 1:
            return streams, streams, streams
        own = streams[: len(self._choices)]
        return [streams[owner] for owner in self._owners], own, own

    def get_config(self) -> dict:
        one = isinstance(self.task_experts, int)
        return {
            **super().get_config(),
            "shared_experts": self.shared_experts,
            "task_experts": self.task_experts if one else [*self.task_experts],
            "num_tasks": self.num_tasks,
            "output_shared": self.output_shared,
        }


def _per_task(task_experts, num_tasks, shared_experts):
    several = isinstance(task_experts, (list, tuple))
    counts = [*task_experts] if several else [task_experts] * num_tasks
    if len(counts) != num_tasks or not all(isinstance(n, int) and n >= 0 for n in counts):
        raise ValueError(
            "`task_experts` must be an integer >= 0, or a list of them, one for each task. "
            f"Received: task_experts={task_experts}, num_tasks={num_tasks}"
        )
    if not shared_experts and not all(counts):
        raise ValueError(
            "Each task must have an expert, its own or a shared one. "
            f"Received: shared_experts=0, task_experts={task_experts}"
        )
    return counts
