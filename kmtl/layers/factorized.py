"""What `FactorizedDense` and `FactorizedConv2D` share: all but the linear map itself."""

import math

import keras
import numpy as np
from keras import ops

from kmtl.layers.checks import check_num_tasks, check_streams, resolve_num_tasks
from kmtl.ops import factorize


class FactorizedLayer(keras.layers.Layer):
    """T layers whose stacked kernel is synthesised from factors.

    A subclass has `_plain(name)`, the built-in layer of one task; `_linear(x, kernel)`, the
    map of that layer without bias; `_channels(shape)`; and passes `kernel_size` and
    `features`, which with the channels make up the shape of one kernel.
    """

    def __init__(
        self,
        *,
        kernel_size,
        features,
        num_tasks,
        method,
        rank,
        rel_error,
        init_from,
        activation,
        use_bias,
        bias_initializer,
        kernel_regularizer,
        bias_regularizer,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_num_tasks(num_tasks)
        _check_factorization(method, rank, rel_error, order=len(kernel_size) + 3)
        self.num_tasks = num_tasks
        self.method = method
        self.rank = rank if rank is None or isinstance(rank, int) else tuple(rank)
        self.rel_error = rel_error
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self._kernel_size = tuple(kernel_size)
        self._features = features
        # The stack is used up here: its factors become the weights, and the config, which is
        # no place for megabytes, holds their ranks.
        self.init_from = None
        self._start_shape = self._start_ranks = self._starts = None
        if init_from is not None:
            self._factorize(_stack(init_from))

    def _factorize(self, stack):
        channels = stack.shape[-3] if stack.ndim > 2 else None
        if stack.shape != self._stack_shape(channels):
            raise ValueError(
                f"`init_from` must have the shape {self._stack_shape('channels')} of the "
                f"stacked kernels, task axis last. Received: init_from of shape {stack.shape}"
            )
        ranks = None
        if self.rank is not None:
            ranks = factorize.resolve_ranks(self.rank, stack.shape, self.method)
        factors = factorize.decompose(stack, self.method, ranks, self.rel_error)
        self._start_shape = stack.shape
        self._start_ranks = ranks or factorize.ranks_of(factors, self.method)
        self._starts = tuple(keras.initializers.Constant(factor) for factor in factors)

    def _stack_shape(self, channels):
        return (*self._kernel_size, channels, self._features, self.num_tasks)

    def build(self, input_shape) -> None:
        channels = self._channels(self._shape_per_task(input_shape)[0])
        if channels is None:
            raise ValueError(
                f"`{type(self).__name__}` must know the number of input channels. "
                f"Received: input_shape={input_shape}"
            )
        shape = self._stack_shape(channels)
        if self._start_shape not in (None, shape):
            raise ValueError(
                "The inputs must have as many channels as the kernels in `init_from`. "
                f"Received: input_shape={input_shape}, init_from of shape {self._start_shape}"
            )
        self.ranks = self._start_ranks or factorize.resolve_ranks(self.rank, shape, self.method)
        shapes = factorize.factor_shapes(shape, self.method, self.ranks)
        starts = self._starts or self._random_starts(shape, len(shapes))
        self._starts = None
        self.factors = [
            # Kernels are synthesised in full precision, hence no autocast.
            self.add_weight(name=f"factor_{n}", shape=size, initializer=start, autocast=False)
            for n, (size, start) in enumerate(zip(shapes, starts, strict=True))
        ]
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=(self.num_tasks, self._features),
                initializer=self.bias_initializer,
                regularizer=self.bias_regularizer,
            )

    def _random_starts(self, shape, count):
        fan_in_and_out = math.prod(self._kernel_size) * (shape[-3] + shape[-2])
        glorot = math.sqrt(2.0 / fan_in_and_out)
        stddev = factorize.random_stddev(glorot, self.method, len(shape), self.ranks)
        # One object each: an initializer object returns the same numbers at every call.
        return [keras.initializers.RandomNormal(stddev=stddev) for _ in range(count)]

    def synthesize(self) -> factorize.Tensor:
        """The kernels of all tasks, stacked along the last axis."""
        return factorize.synthesize(
            [ops.convert_to_tensor(factor) for factor in self.factors], self.method
        )

    def call(self, inputs) -> list:
        stack = self.synthesize()
        if self.kernel_regularizer is not None:
            self.add_loss(self.kernel_regularizer(stack))
        kernels = ops.unstack(ops.cast(stack, self.compute_dtype), self.num_tasks, axis=-1)
        outputs = [
            self._linear(x, kernel)
            for x, kernel in zip(self._per_task(inputs), kernels, strict=True)
        ]
        if self.use_bias:
            biases = ops.unstack(ops.convert_to_tensor(self.bias), self.num_tasks)
            outputs = [y + self._align_bias(bias) for y, bias in zip(outputs, biases, strict=True)]
        return [self.activation(y) for y in outputs]

    def _align_bias(self, bias):
        return bias

    def _per_task(self, inputs):
        if not isinstance(inputs, (list, tuple)):
            return [inputs] * self.num_tasks
        resolve_num_tasks(self, len(inputs))
        return inputs

    def _shape_per_task(self, input_shape):
        if not isinstance(input_shape[0], (list, tuple)):
            return [input_shape] * self.num_tasks
        check_streams(self, input_shape)
        resolve_num_tasks(self, len(input_shape))
        return input_shape

    def compute_output_shape(self, input_shape) -> list:
        plain = self._plain(self.name)
        return [plain.compute_output_shape(shape) for shape in self._shape_per_task(input_shape)]

    def compute_mask(self, inputs, previous_mask=None) -> list | None:
        if previous_mask is None or isinstance(inputs, (list, tuple)):
            return previous_mask
        return [previous_mask] * self.num_tasks

    def fold(self, inputs) -> list:
        """The same outputs by one built-in layer for each task, with its kernel written out."""
        stack = ops.convert_to_numpy(self.synthesize())
        biases = ops.convert_to_numpy(self.bias) if self.use_bias else None
        outputs = []
        for t, x in enumerate(self._per_task(inputs)):
            plain = self._plain(f"{self.name}_task_{t}")  # Keras itself counts with `_{t}`
            plain.build(x.shape)
            plain.set_weights([stack[..., t], biases[t]] if self.use_bias else [stack[..., t]])
            outputs.append(plain(x))
        return outputs

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "num_tasks": self.num_tasks,
            "method": self.method,
            "rank": self._start_ranks if self.rank is None else self.rank,
            "rel_error": self.rel_error,
            "init_from": None,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
        }


def _check_factorization(method, rank, rel_error, order):
    if method not in factorize.METHODS:
        raise ValueError(f"`method` must be one of {factorize.METHODS}. Received: method={method}")
    count = factorize.num_ranks(method, order)
    if rank is not None:
        ranks = rank if isinstance(rank, (list, tuple)) else [rank] * count
        if len(ranks) != count or not all(isinstance(r, int) and r >= 1 for r in ranks):
            raise ValueError(
                "`rank` must be at least 1: None, an integer, or a tuple of integers, one for "
                f"each of the {count} ranks of method={method!r}. Received: rank={rank}"
            )
    if not 0.0 <= rel_error < 1.0:
        raise ValueError(f"`rel_error` must be in [0, 1). Received: rel_error={rel_error}")


def _stack(kernels):
    if isinstance(kernels, (list, tuple)):
        return np.stack([ops.convert_to_numpy(kernel) for kernel in kernels], axis=-1)
    return ops.convert_to_numpy(kernels)
