"""The dense heads of T tasks as one product, their kernels in one variable."""

import keras
from keras import ops

from kmtl.layers.checks import check_num_tasks, check_streams, resolve_num_tasks


@keras.saving.register_keras_serializable(package="kmtl")
class TaskStackedDense(keras.layers.Layer):
    """T `Dense` layers of equal size, computed as one matrix product.

    Choose it when there are many tasks, which T small products serve badly, or when a penalty
    is to tie the tasks together: the kernels are one variable with the task axis last, as the
    regularizers of `kmtl.regularizers` with a `task_axis` want it.

    ```
    outputs[t] = activation(inputs    @ kernel[:, :, t] + bias[:, t])    # one shared input
    outputs[t] = activation(inputs[t] @ kernel[:, :, t] + bias[:, t])    # a list of T inputs
    ```

    Args:
        units: Outputs of each task.
        num_tasks: Number of tasks T.
        activation: Activation, applied to each task on its own. Defaults to `None`.
        use_bias: Whether to add a bias. Defaults to `True`.
        kernel_initializer: Initializer of each task's `(features, units)` kernel: fans are
            those of one `Dense` layer, and an integer seed is counted up from task to task.
            Defaults to `"glorot_uniform"`.
        bias_initializer: The same for each task's `(units,)` bias. Defaults to `"zeros"`.
        kernel_regularizer: Regularizer of the whole `(features, units, T)` kernel.
            Defaults to `None`.
        bias_regularizer: Regularizer of the whole `(units, T)` bias. Defaults to `None`.

    Call arguments:
        inputs: A tensor that all tasks read, or a list of T tensors of one shape.

    Input shape: `(batch, ..., features)`, or T times that.

    Output shape: T times `(batch, ..., units)`, as a list.

    Raises:
        ValueError: if a list of inputs differs in shape or in number from `num_tasks`.

    Example:

    >>> import numpy as np
    >>> import kmtl
    >>> heads = kmtl.layers.TaskStackedDense(units=1, num_tasks=100, activation="sigmoid")
    >>> outputs = heads(np.ones((8, 32), "float32"))
    >>> print(len(outputs), outputs[0].shape[-1], heads.kernel.shape)
    100 1 (32, 1, 100)

    Differences from the paper: none; it is ordinary hard sharing, laid out for speed.

    Reference: R. Caruana (1997), "Multitask Learning", Machine Learning 28, section 1. The
    task axis is last as in Y. Yang, T. Hospedales (2017), "Deep Multi-task Representation
    Learning: A Tensor Factorisation Approach", ICLR, arXiv:1605.06391, section 3.
    """

    keeps_tasks_apart = True  # output t has weights of its own, and sees input t only

    def __init__(
        self,
        units,
        num_tasks,
        activation=None,
        use_bias=True,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_num_tasks(num_tasks)
        if not isinstance(units, int) or units < 1:
            raise ValueError(f"`units` must be an integer >= 1. Received: units={units}")
        self.units = units
        self.num_tasks = num_tasks
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.supports_masking = True

    def build(self, input_shape):
        if _is_list(input_shape):
            check_streams(self, input_shape)
            resolve_num_tasks(self, len(input_shape))
            input_shape = input_shape[0]
        self.kernel = self.add_weight(
            name="kernel",
            shape=(input_shape[-1], self.units, self.num_tasks),
            initializer=_each_task(self.kernel_initializer),
            regularizer=self.kernel_regularizer,
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=(self.units, self.num_tasks),
                initializer=_each_task(self.bias_initializer),
                regularizer=self.bias_regularizer,
            )

    def call(self, inputs):
        tasks, units, features = self.num_tasks, self.units, self.kernel.shape[0]
        if isinstance(inputs, (list, tuple)):
            batch_shape, task_axis = ops.shape(inputs[0])[:-1], 0
            x = ops.reshape(ops.stack(inputs), (tasks, -1, features))
            y = ops.matmul(x, ops.transpose(self.kernel, (2, 0, 1)))  # (T, batch, units)
        else:
            batch_shape, task_axis = ops.shape(inputs)[:-1], 1
            kernel = ops.reshape(ops.transpose(self.kernel, (0, 2, 1)), (features, tasks * units))
            y = ops.matmul(ops.reshape(inputs, (-1, features)), kernel)
            y = ops.reshape(y, (-1, tasks, units))
        if self.bias is not None:
            y = y + ops.expand_dims(ops.transpose(self.bias), 1 - task_axis)
        y = self.activation(y)
        # Not `unstack`, whose gradient JAX adds up from T padded tensors.
        outputs = ops.split(y, tasks, axis=task_axis)
        return [ops.reshape(output, (*batch_shape, units)) for output in outputs]

    def compute_mask(self, inputs, mask=None):
        return mask if isinstance(mask, (list, tuple)) else [mask] * self.num_tasks

    def compute_output_shape(self, input_shape):
        shapes = input_shape if _is_list(input_shape) else [input_shape] * self.num_tasks
        return [(*shape[:-1], self.units) for shape in shapes]

    def fold(self, inputs):
        """One `Dense` for each task."""
        if not isinstance(inputs, (list, tuple)):
            inputs = [inputs] * self.num_tasks
        return [self._fold_task(t, x) for t, x in enumerate(inputs)]

    def _fold_task(self, task, x):
        dense = keras.layers.Dense(
            self.units,
            activation=self.activation,
            use_bias=self.use_bias,
            name=f"{self.name}_task_{task}",  # Keras itself counts with `_{task}`
        )
        dense.build(x.shape)
        dense.set_weights([ops.convert_to_numpy(w)[..., task] for w in self.weights])
        return dense(x)

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "num_tasks": self.num_tasks,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
        }


def _is_list(shape) -> bool:
    return isinstance(shape[0], (list, tuple))


def _each_task(initializer):
    """Draws each task's slice, along the last axis, as a layer of its own."""

    def for_task(task):
        # With an integer seed every call gives the same numbers, and all tasks would start alike.
        seed = getattr(initializer, "seed", None)
        if not isinstance(seed, int):
            return initializer
        return type(initializer).from_config({**initializer.get_config(), "seed": seed + task})

    def stacked(shape, dtype=None):
        slices = [for_task(t)(shape[:-1], dtype=dtype) for t in range(shape[-1])]
        return ops.stack(slices, axis=-1)

    return stacked
