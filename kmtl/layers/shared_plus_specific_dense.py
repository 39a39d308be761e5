"""Dense layers of T tasks whose kernels are a shared one plus what is specific to each task."""

import keras
from keras import ops

from kmtl.layers.checks import check_num_tasks, check_streams, resolve_num_tasks
from kmtl.layers.experts import fixed_dense
from kmtl.layers.task_stacked_dense import TaskStackedDense


@keras.saving.register_keras_serializable(package="kmtl")
class SharedPlusSpecificDense(keras.layers.Layer):
    """T `Dense` layers that have a kernel in common and differ from it by kernels of their own.

    Choose it for many similar tasks with few examples each, such as one for each user: a penalty
    on the specific part says how far tasks may stray from what they have in common. Without the
    specific part it is one `Dense` layer, without the shared one `TaskStackedDense`. When
    deployed it costs as much as those.

    ```
    kernel[t]  = shared_kernel + specific_kernel[:, :, t]
    outputs[t] = activation(inputs[t] @ kernel[t] + bias[:, t])
    penalty    = shared_regularizer(shared_kernel) + specific_regularizer(specific_kernel)
    ```

    The paper's penalty is `lambda_1 / T * sum_t ||v_t||**2 + lambda_2 * ||w_0||**2`, which is
    `keras.regularizers.L2(lambda_1 / T)` for the specific kernel, with the sum over tasks in it,
    and `L2(lambda_2)` for the shared one. As `lambda_1` grows tasks become one, as `lambda_2`
    grows they become independent. Biases are not penalised.

    Args:
        units: Outputs of each task.
        num_tasks: Number of tasks T.
        activation: Activation, applied to each task on its own. Defaults to `None`.
        use_bias: Whether each task has a bias. Defaults to `True`.
        shared_initializer: Initializer of the shared kernel. Defaults to `"glorot_uniform"`.
        specific_initializer: Initializer of each task's own kernel; tasks start alike if it is
            zeros. Defaults to `"zeros"`.
        bias_initializer: Initializer of each task's bias. Defaults to `"zeros"`.
        shared_regularizer: Regularizer of the `(features, units)` shared kernel.
            Defaults to `None`.
        specific_regularizer: Regularizer of the `(features, units, T)` stack of specific
            kernels. Defaults to `None`.

    Call arguments:
        inputs: A tensor that all tasks read, or a list of T tensors of one shape.

    Input shape: `(batch, ..., features)`, or T times that.

    Output shape: T times `(batch, ..., units)`, as a list.

    Raises:
        ValueError: if a list of inputs differs in shape or in number from `num_tasks`.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import kmtl
    >>> layer = kmtl.layers.SharedPlusSpecificDense(
    ...     units=1, num_tasks=50, specific_regularizer=keras.regularizers.L2(0.02)
    ... )
    >>> outputs = layer(np.ones((8, 32), "float32"))
    >>> print(len(outputs), layer.shared_kernel.shape, layer.specific_kernel.shape)
    50 (32, 1) (32, 1, 50)

    Differences from the paper: any loss, and any layer of a network, where the paper has support
    vector machines. Other penalties give other models: an L1 on the specific kernel lets few
    entries stray. The dirty model of A. Jalali et al. (2010), NIPS, is not this one: its common
    part may differ between tasks in value, and agrees in which features it uses.

    Reference: T. Evgeniou, M. Pontil (2004), "Regularized Multi-Task Learning", KDD, section 2,
    `w_t = w_0 + v_t` and the objective that follows from it.
    """

    def __init__(
        self,
        units,
        num_tasks,
        activation=None,
        use_bias=True,
        shared_initializer="glorot_uniform",
        specific_initializer="zeros",
        bias_initializer="zeros",
        shared_regularizer=None,
        specific_regularizer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_num_tasks(num_tasks)
        self.units = units
        self.num_tasks = num_tasks
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias
        self.shared_initializer = keras.initializers.get(shared_initializer)
        self.specific_initializer = keras.initializers.get(specific_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.shared_regularizer = keras.regularizers.get(shared_regularizer)
        self.specific_regularizer = keras.regularizers.get(specific_regularizer)
        self.supports_masking = True
        self.specific = TaskStackedDense(
            units,
            num_tasks,
            use_bias=use_bias,
            kernel_initializer=self.specific_initializer,
            bias_initializer=self.bias_initializer,
            kernel_regularizer=self.specific_regularizer,
            name=f"{self.name}_specific",
            dtype=self.dtype_policy,
        )

    def build(self, input_shape):
        if isinstance(input_shape[0], (list, tuple)):  # here, as errors name the layer
            check_streams(self, input_shape)
            resolve_num_tasks(self, len(input_shape))
        self.specific.build(input_shape)
        self.shared_kernel = self.add_weight(
            name="shared_kernel",
            shape=tuple(self.specific.kernel.shape[:2]),
            initializer=self.shared_initializer,
            regularizer=self.shared_regularizer,
        )

    @property
    def specific_kernel(self):
        """What each task adds to the shared kernel, `(features, units, T)`."""
        return self.specific.kernel

    def call(self, inputs):
        several = isinstance(inputs, (list, tuple))
        shared = [ops.matmul(x, self.shared_kernel) for x in (inputs if several else [inputs])]
        shared = shared if several else shared * self.num_tasks
        return [self.activation(y + z) for y, z in zip(shared, self.specific(inputs), strict=True)]

    def compute_mask(self, inputs, previous_mask=None):
        return self.specific.compute_mask(inputs, previous_mask)

    def compute_output_shape(self, input_shape):
        return self.specific.compute_output_shape(input_shape)

    def fold(self, inputs):
        """One `Dense` for each task, with the sum of both kernels."""
        if not isinstance(inputs, (list, tuple)):
            inputs = [inputs] * self.num_tasks
        shared, specific = map(ops.convert_to_numpy, (self.shared_kernel, self.specific_kernel))
        bias = ops.convert_to_numpy(self.specific.bias) if self.use_bias else None
        return [
            fixed_dense(
                x,
                shared + specific[..., t],
                None if bias is None else bias[:, t],
                f"{self.name}_task_{t}",  # Keras itself counts with `_{t}`
                self.activation,
            )
            for t, x in enumerate(inputs)
        ]

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "num_tasks": self.num_tasks,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "shared_initializer": keras.initializers.serialize(self.shared_initializer),
            "specific_initializer": keras.initializers.serialize(self.specific_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "shared_regularizer": keras.regularizers.serialize(self.shared_regularizer),
            "specific_regularizer": keras.regularizers.serialize(self.specific_regularizer),
        }
